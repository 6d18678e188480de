"""Write the golden files of `tests/golden/wire`. Run once, for version 1 of the wire; never again.

Made from the specification with `struct` and the few rules of CBOR that it takes, without a line of `mvc`.
"""

import struct
from pathlib import Path

GOLDEN = Path(__file__).parent.parent / "golden" / "wire"
PROBE = "probe/" + "0123456789abcdef" * 2
BODY = b"golden bytes"


def head(major: int, number: int) -> bytes:
    """Return the shortest head of a CBOR item."""
    if number < 24:
        return bytes([major << 5 | number])
    size = next(power for power in range(4) if number < 1 << (8 << power))
    return bytes([major << 5 | 24 + size]) + number.to_bytes(1 << size, "big")


def cbor(value) -> bytes:
    """Return the deterministic encoding of a value (RFC 8949, 4.2.1): keys in the order of their encodings."""
    if value is None or isinstance(value, bool):
        return {None: b"\xf6", True: b"\xf5", False: b"\xf4"}[value]
    if isinstance(value, int):
        return head(0, value)
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    pairs = sorted((cbor(key), cbor(item)) for key, item in value.items())
    return head(5, len(pairs)) + b"".join(key + item for key, item in pairs)


def message(**fields) -> bytes:
    """Return a message."""
    data = cbor(fields)
    return struct.pack("<I", len(data)) + data


def body(data: bytes) -> bytes:
    """Return a body of one chunk, or of none."""
    return (struct.pack("<I", len(data)) + data if data else b"") + struct.pack("<I", 0)


def ok(result) -> bytes:
    """Return a reply."""
    return message(status="ok", result=result)


HELLO = b"\x89MVCW\r\n\x1a" + struct.pack("<H", 1)
CLIENT = [
    HELLO,
    message(verb="list", prefix="packs/"),
    message(verb="create", key=PROBE, size=len(BODY)) + body(BODY),
    message(verb="create", key=PROBE, size=1) + body(b"x"),
    message(verb="read", key=PROBE, offset=7, length=5),
    message(verb="read_all", key=PROBE, limit=1000),
    message(verb="touch", key=PROBE),
    message(verb="delete", key=PROBE),
]
SERVER = [
    HELLO + ok({"checked": False, "connections": 4, "worktree": False}),
    ok(None) + body(b""),
    ok(True),
    ok(False),
    ok(None) + body(BODY[7:]),
    ok(len(BODY)) + body(BODY),
    ok(True),
    ok(None),
]


def main():
    """Write the files; refuse to write over one."""
    for name, parts in (("client", CLIENT), ("server", SERVER)):
        with (GOLDEN / f"{name}.bin").open("xb") as file:
            file.write(b"".join(parts))


if __name__ == "__main__":
    main()
