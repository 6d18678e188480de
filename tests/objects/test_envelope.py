"""The envelope of blobs: round trips, exact bytes, and the refusal of everything else."""

import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from mvc.errors import FormatError, IntegrityError, InvalidInputError, MalformedError, MvcError
from mvc.objects.blob import FRAME_SLACK, MAX_FRAME_WORDS, PREFIX_BYTES, Envelope, Reference, header_length
from mvc.objects.canonical import decode, encode
from mvc.types import DTYPES, TensorSpec, dtype_of, object_id

MAGIC = b"\x89MVCB\r\n\x1a"
ONE, TWO = object_id(bytes([1]) * 32), object_id(bytes([2]) * 32)
OIDS = st.binary(min_size=32, max_size=32).map(object_id)


def envelope(**change):
    """Return a delta of two frames, but for what is given."""
    values: dict[str, Any] = {
        "kind": "tensor",
        "id": ONE,
        "spec": TensorSpec(dtype_of("BF16"), (3, 4)),
        "codec": "sorted-delta",
        "parameters": {"mantissa": 2},
        "references": (Reference("base", TWO, 1),),
        "frame_words": 8,
        "table": ((80, 11), (5, 22)),
    }
    return Envelope(**(values | change))


def rewritten(index, value, *, name="header"):
    """Return the envelope's bytes with one field of the header replaced, and right checksums."""
    fields: Any = decode(envelope().header[PREFIX_BYTES:])
    if index is not None:
        fields[index] = value
    body = encode(fields if index is not None else value)
    prefix = struct.pack("<8sHHI", MAGIC, 1, 0, len(body))
    return prefix + struct.pack("<Q", xxh3_64_intdigest(prefix + body)) + body


@st.composite
def envelopes(draw):
    """Draw envelopes that a writer could write."""
    kind = draw(st.sampled_from(["literal", "tensor"]))
    dtype = draw(st.sampled_from(sorted(DTYPES))) if kind == "tensor" else "U8"
    shape = (
        draw(st.lists(st.integers(0, 6), max_size=4).map(tuple)) if kind == "tensor" else (draw(st.integers(0, 99)),)
    )
    if TensorSpec(dtype_of("U8"), shape).count * DTYPES[dtype].bits % 8:
        shape = (*shape, 8)
    spec = TensorSpec(DTYPES[dtype], shape)
    frame_words = draw(st.integers(1, 64))
    frames = Envelope.frame_count(spec, frame_words)
    table = draw(
        st.lists(st.tuples(st.integers(0, 64), st.integers(0, (1 << 64) - 1)), min_size=frames, max_size=frames)
    )
    references = draw(st.lists(st.builds(Reference, st.just("base"), OIDS, st.integers(0, 64)), max_size=8))
    parameters = draw(st.dictionaries(st.text("abc", max_size=3), st.integers(0, 9), max_size=3))
    codec = draw(st.text("abc-", max_size=32))
    return Envelope(kind, draw(OIDS), spec, codec, parameters, tuple(references), frame_words, tuple(table))


@given(envelopes(), st.binary(max_size=30))
def test_round_trip(made, behind):
    """An envelope is read from the beginning of a blob, whatever follows."""
    again = Envelope.decode(made.header + behind)
    assert again == made
    assert replace(again).header == again.header == made.header  # encoded again, and as it was read
    assert header_length(made.header) == len(made.header) - PREFIX_BYTES
    assert Envelope.fetch(len(made.header + behind), reader(made.header + behind)) == made


def reader(blob):
    """Return a function that reads ranges, all of which must lie inside of `blob`."""

    def read(offset, length):
        assert 0 <= offset <= offset + length <= len(blob)
        return memoryview(blob)[offset : offset + length]

    return read


def test_a_long_header_is_fetched_whole():
    """Also when it is longer than what is read at first."""
    spec = TensorSpec(DTYPES["U8"], (5000,))
    made = Envelope("tensor", object_id("1" * 64), spec, "raw", {}, (), 1, ((1, 7),) * 5000)
    assert len(made.header) > 60_000
    assert Envelope.fetch(made.stored_bytes, reader(made.header + bytes(5000))) == made


@given(envelopes())
def test_frames_cover_the_tensor(made):
    """Frames lie one after the other, in the blob and in the tensor, and nothing is left."""
    offset, start = len(made.header), 0
    for frame, (length, checksum) in zip(made.frames, made.table, strict=True):
        assert (frame.offset, frame.length, frame.checksum, frame.start) == (offset, length, checksum, start)
        assert 1 <= frame.words <= made.frame_words
        offset, start = offset + length, start + frame.words
    assert start == made.spec.words
    assert made.stored_bytes == offset


@given(st.binary(max_size=120))
def test_arbitrary_bytes_are_refused(data):
    """Only the errors of malformed and of newer data come out, also behind a right magic."""
    for blob in (data, MAGIC + data, struct.pack("<8sHHI", MAGIC, 1, 0, len(data)) + data):
        with pytest.raises((MalformedError, FormatError)):
            Envelope.decode(blob)


def test_every_byte_of_a_header_is_covered():
    """Each of the 255 other values of each byte is noticed."""
    good = envelope().header
    for place, byte in enumerate(good):
        for wrong in range(256) if place < PREFIX_BYTES else (byte ^ 1, byte ^ 0x80, byte ^ 0xFF):
            if wrong != byte:
                bad = good[:place] + bytes([wrong]) + good[place + 1 :]
                with pytest.raises((MalformedError, FormatError)):
                    Envelope.decode(bad)


def test_every_truncation_is_refused():
    """A header is complete or none."""
    good = envelope().header
    for length in range(len(good)):
        with pytest.raises(MalformedError):
            Envelope.decode(good[:length])
        with pytest.raises(MalformedError):
            Envelope.fetch(length, reader(good[:length]))


def test_a_newer_version_says_so():
    """Not corruption, but a matter of release."""
    good = bytearray(envelope().header)
    good[8] = 2
    with pytest.raises(FormatError, match="version 2"):
        Envelope.decode(bytes(good))


@pytest.mark.parametrize("flags", [1, 0x8000])
def test_flags_must_be_zero(flags):
    """Even with right checksums."""
    body = envelope().header[PREFIX_BYTES:]
    prefix = struct.pack("<8sHHI", MAGIC, 1, flags, len(body))
    with pytest.raises(MalformedError, match="flags"):
        Envelope.decode(prefix + struct.pack("<Q", xxh3_64_intdigest(prefix + body)) + body)


def test_a_header_of_more_than_256_mib_is_refused_unread():
    """Its length is looked at first."""
    prefix = struct.pack("<8sHHIQ", MAGIC, 1, 0, (256 << 20) + 1, 0)
    with pytest.raises(MalformedError, match="header of"):
        header_length(prefix)


WRONG = {
    "not an array": (None, {}),
    "nine fields": (None, [0] * 9),
    "eleven fields": (None, [0] * 11),
    "kind 2": (0, 2),
    "kind true": (0, True),
    "id short": (1, bytes(31)),
    "dtype a number": (2, 1),
    "dtype too long": (2, "F" * 33),
    "shape not an array": (3, 12),
    "negative dimension": (3, [-3, 4]),
    "shape of 33": (3, [1] * 33),
    "shape beyond 2**62 bytes": (3, [1 << 61, 4]),
    "size too small": (4, 23),
    "size too large": (4, 25),
    "size of another shape": (3, [3, 5]),
    "codec a number": (5, 1),
    "codec too long": (5, "c" * 33),
    "codec too long in bytes": (5, "é" * 17),
    "parameters an array": (6, []),
    "parameters null": (6, None),
    "references null": (7, None),
    "reference of two": (7, [["base", bytes(32)]]),
    "reference without an id": (7, [["base", None, 0]]),
    "reference of depth 65": (7, [["base", bytes(32), 65]]),
    "reference of depth -1": (7, [["base", bytes(32), -1]]),
    "role a number": (7, [[1, bytes(32), 0]]),
    "role too long": (7, [["r" * 33, bytes(32), 0]]),
    "nine references": (7, [["base", bytes(32), 0]] * 9),
    "no words in a frame": (8, 0),
    "too many words in a frame": (8, MAX_FRAME_WORDS + 1),
    "fewer frames than words": (8, 4),
    "more frames than words": (8, 12),
    "table not bytes": (9, []),
    "table of 23 bytes": (9, bytes(23)),
    "table of one frame": (9, bytes(12)),
    "table of three frames": (9, bytes(36)),
    "no table": (9, b""),
    "first frame too long": (9, struct.pack("<IQIQ", 8 * 2 + FRAME_SLACK + 1, 0, 5, 0)),
    "last frame too long for its words": (9, struct.pack("<IQIQ", 80, 0, 4 * 2 + FRAME_SLACK + 1, 0)),
    "literal of BF16": (0, 0),
}


@pytest.mark.parametrize(("index", "value"), WRONG.values(), ids=WRONG.keys())
def test_wrong_headers_are_refused(index, value):
    """Each limit of section 5 has a reader that enforces it, even where every checksum is right."""
    with pytest.raises(MalformedError):
        Envelope.decode(rewritten(index, value))


def test_the_example_is_right():
    """So each refusal above is for its change."""
    assert Envelope.decode(rewritten(0, 1)) == envelope()
    assert envelope().depth == 2
    assert envelope(references=()).depth == 0
    longest = (8 * 2 + FRAME_SLACK, 0), (4 * 2 + FRAME_SLACK, 0)
    assert envelope(table=longest).table == longest


def test_an_unknown_dtype_is_a_matter_of_release():
    """Not corruption."""
    with pytest.raises(FormatError, match="dtype"):
        Envelope.decode(rewritten(2, "F3_E1M1"))


def test_the_writer_obeys_the_limits_too():
    """What the reader would refuse cannot be made."""
    wrong: list[dict[str, Any]] = [
        {"frame_words": 0},
        {"frame_words": MAX_FRAME_WORDS + 1},
        {"table": ((1, 1),)},
        {"kind": "literal"},
        {"references": (Reference("base", TWO, 0),) * 9},
        {"table": ((8 * 2 + FRAME_SLACK + 1, 0), (0, 0))},
        {"table": ((0, 0), (4 * 2 + FRAME_SLACK + 1, 0))},
    ]
    for change in wrong:
        with pytest.raises(InvalidInputError):
            envelope(**change)


def test_a_frame_is_checked_against_its_checksum():
    """Both values are in the message."""
    data = b"stored bytes"
    frame = envelope(table=((len(data), xxh3_64_intdigest(data)), (0, 0))).frames[0]
    frame.check(data, ONE)
    with pytest.raises(IntegrityError, match=f"{frame.checksum:016x}.*{xxh3_64_intdigest(b'x'):016x}"):
        frame.check(b"x", ONE)


@given(envelopes(), st.data())
def test_a_right_checksum_does_not_make_a_wrong_header_right(made, data):
    """A header changed together with its checksum is refused, or is the envelope of just these bytes."""
    body = bytearray(made.header[PREFIX_BYTES:])
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    prefix = struct.pack("<8sHHI", MAGIC, 1, 0, len(body))
    blob = prefix + struct.pack("<Q", xxh3_64_intdigest(prefix + bytes(body))) + bytes(body)
    try:
        found = Envelope.decode(blob)
    except MvcError as error:
        assert isinstance(error, MalformedError | FormatError)  # noqa: PT017 (either outcome is right)
    else:
        assert found.header == blob
