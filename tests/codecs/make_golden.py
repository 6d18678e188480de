"""Write tests/golden/codecs, once. Run again only to add a file: what is there is decoded for ever.

    python tests/codecs/make_golden.py

Each file holds one frame: what went in, the codec, and the stored bytes. ``pinned`` says that the encoder's choice is
pinned too; it is not where zstd takes part, whose output may differ from release to release, nor where the writer
chooses tables of its own. Entropy-coded planes are written by compiled kernels only.
"""

import json
from pathlib import Path

import numpy as np

from mvc.codecs import (
    ContextDelta,
    FrameSpec,
    Grid,
    GridDelta,
    LowRank,
    Planes,
    Raw,
    Selection,
    Slice,
    SortedDelta,
    SortedPlanes,
    SparseDelta,
    StepDelta,
)
from mvc.codecs.plane_choice import Way
from mvc.codecs.plane_coding import decode_planes, encode_planes
from mvc.testing.codecs import special_words
from mvc.types import DTYPES, dtype_of
from mvc.types.factors import Factored, moved, product
from mvc.types.steps import step_of, stepped
from mvc.types.values import from_float64

GOLDEN = Path(__file__).parent.parent / "golden" / "codecs"


def golden(codec, dtype, frame, sides, row_words, start=0):
    """Return the content of one file."""
    spec = FrameSpec(dtype, len(frame) // dtype.word_bytes, row_words, start)
    stored = codec.encode(frame, sides, spec)
    return {
        "codec": codec.name,
        "parameters": {k: v.hex() if isinstance(v, bytes) else v for k, v in codec.parameters.items()},
        "dtype": dtype.name,
        "words": spec.words,
        "row_words": row_words,
        **({"start": start} if start else {}),
        "frame": frame.tobytes().hex(),
        "sides": [side.tobytes().hex() for side in sides],
        "stored": stored.hex(),
        "pinned": b"\x28\xb5\x2f\xfd" not in stored and codec.name != "context-delta",
    }


def free(content):
    """Return the content of a file whose tables, stripes and lanes a writer is free to choose."""
    return content | {"pinned": False}


def in_stripes(content):
    """Return the content of a file of sorted words whose planes are stored in mode 4, as writers are free to do."""
    stored, word_bytes = memoryview(bytes.fromhex(content["stored"])), dtype_of(content["dtype"]).word_bytes
    start = 4 + int.from_bytes(stored[:4], "little")
    planes = decode_planes(stored[start:], word_bytes, content["words"])
    coded = encode_planes([np.frombuffer(plane, dtype=np.uint8) for plane in planes], skewed=Way.STRIPES)
    return free(content | {"stored": stored[:start].hex() + coded.hex()})


def lowered(frame, dtype, row_words):
    """Return `frame` with the exponents of its rows 0, 6 or 12 lower: they stay above or at 0."""
    words = frame.view(f"<u{dtype.word_bytes}").copy()
    lower = np.arange(len(words)) // row_words % 3 * 6
    exponent = words >> dtype.mantissa_bits & (1 << dtype.exponent_bits) - 1
    words -= np.minimum(lower.astype(words.dtype), exponent) << dtype.mantissa_bits
    return words.view(np.uint8)


def weights(dtype, words, seed):
    """Return normal weights of a float dtype by cutting fp64 or fp32 bits; any bits for other dtypes."""
    rng = np.random.default_rng(seed)
    if dtype.name in {"F32", "BF16"}:
        bits = rng.standard_normal(words).astype("<f4").view("<u4") >> (32 - 8 * dtype.word_bytes)
        return bits.astype(f"<u{dtype.word_bytes}").view(np.uint8)
    if dtype.name == "F16":
        return rng.standard_normal(words).astype("<f2").view(np.uint8)
    return rng.integers(0, 256, words * dtype.word_bytes, dtype=np.uint8)


def near(frame, dtype, row_words):
    """Return `frame` with a change of each word but those of the first row, growing from row to row."""
    rng = np.random.default_rng(9)
    words = frame.view(f"<u{dtype.word_bytes}").copy()
    rows = np.arange(len(words)) // row_words
    words += (rng.integers(0, 4, len(words)) << np.minimum(2 * rows, 6)).astype(words.dtype) * (rows > 0)
    return words.view(np.uint8)


def sparse(frame, dtype, share):
    """Return `frame` with a change of so many words, by one or two units in the last place."""
    rng = np.random.default_rng(9)
    words = frame.view(f"<u{dtype.word_bytes}").copy()
    changed = rng.random(len(words)) < share
    changed[len(words) // 2] = True
    words[changed] += rng.choice(np.array([1, 2, -1]), int(changed.sum())).astype(words.dtype)
    return words.view(np.uint8)


def on_grid(dtype, bits, seed, largest):
    """Return 3000 multiples of ``2**-bits`` up to `largest` times that, and NaN, -0.0 and infinity among them."""
    numbers = np.rint(np.random.default_rng(seed).standard_normal(3000) * largest / 5)
    frame = from_float64(dtype, numbers * 2.0**-bits)
    frame.view(f"<u{dtype.word_bytes}")[[5, 700, 2999]] = special_words(dtype).view(f"<u{dtype.word_bytes}")[[-1, 9, 5]]
    return frame


def grids():
    """Yield the golden files of grids: magnitudes of one to four planes, changes in contexts and sorted."""
    for name, bits, largest in (
        ("F32", 6, 100),
        ("F32", 23, 2**22),
        ("BF16", 9, 250),
        ("F16", -2, 1000),
        ("F64", 90, 2**30),
    ):
        dtype = dtype_of(name)
        frame, base = on_grid(dtype, bits, 7, largest), on_grid(dtype, bits + 1, 7, largest)
        moved = on_grid(dtype, bits, 7, largest * 0.999)
        yield f"grid-{name}-{bits}", free(golden(Grid(bits), dtype, frame, (), 300))
        yield f"grid-delta-{name}-{bits}", free(golden(GridDelta(bits), dtype, frame, (moved,), 300))
        yield f"grid-delta-{name}-{bits}-far", free(golden(GridDelta(bits), dtype, frame, (base,), 300))
    for name in ("F32", "I16"):
        dtype = dtype_of(name)
        edges = special_words(dtype)
        yield f"grid-{name}-edges", golden(Grid(3), dtype, edges, (), 5)
        yield f"grid-delta-{name}-edges", golden(GridDelta(3), dtype, edges, (np.roll(edges, dtype.word_bytes),), 5)


def in_steps(dtype, scale, *, by_row, exceptions):
    """Return the content of a file of `step-delta`: the second frame of a tensor with rows of 40 words."""
    rng = np.random.default_rng(7)
    base = weights(dtype, 2400, 8).view(f"<u{dtype.word_bytes}").reshape(60, 40)
    sizes = rng.uniform(0, 2, (60, 1) if by_row else (1, 40))
    codes = np.rint(rng.standard_normal((60, 40)) * sizes * scale).astype(np.int32)
    rows = rng.uniform(0.001, 0.01, 100 if by_row else 1).astype(np.float32)
    columns = rng.integers(120, 137, 1 if by_row else 40, dtype=np.uint8)
    words = stepped(dtype, base, codes, step_of(rows[40:] if by_row else rows, columns))
    words.reshape(-1)[rng.choice(2400, exceptions, replace=False)] ^= words.dtype.type(1 << dtype.mantissa_bits)
    frame, side = (np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in (words, base))
    return free(golden(StepDelta.of(rows, columns), dtype, frame, (side,), 40, start=1600))


def foretold(dtype, *, by_row):
    """Return the content of a file of `step-delta` whose lines are alike: rows, or columns if sizes differ by row."""
    rng = np.random.default_rng(11)
    base = weights(dtype, 2960, 12).view(f"<u{dtype.word_bytes}").reshape(37, 80)
    strengths = rng.standard_normal((37, 1)) * rng.standard_normal((1, 80)) + rng.standard_normal((37, 80)) / 2
    sizes = np.exp(rng.standard_normal((37, 1) if by_row else (1, 80)))
    codes = np.rint(strengths * sizes / 2).astype(np.int32)
    codes[20, 30], codes[36, 79] = 5000, -40
    rows = np.array([0.002], np.float32)
    columns = (128 + 2 * np.rint(rng.standard_normal(80))).astype(np.uint8)
    words = stepped(dtype, base, codes, step_of(rows, columns))
    frame, side = (np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in (words, base))
    return free(golden(StepDelta.of(rows, columns), dtype, frame, (side,), 80))


def step_deltas():
    """Yield name and content of the files of `step-delta`."""
    for name in ("F32", "BF16", "F16"):
        dtype = dtype_of(name)
        yield f"step-delta-{name}-columns", in_steps(dtype, 0.5, by_row=False, exceptions=0)
        yield f"step-delta-{name}-rows", in_steps(dtype, 1, by_row=True, exceptions=9)
    yield "step-delta-F32-large", in_steps(dtype_of("F32"), 100, by_row=False, exceptions=3)
    for name in ("F32", "BF16"):
        for by_row in (False, True):
            yield (
                f"step-delta-{name}-foretold-{'columns' if by_row else 'rows'}",
                foretold(dtype_of(name), by_row=by_row),
            )
    yield "step-delta-F32-sorted", in_steps(dtype_of("F32"), 1, by_row=False, exceptions=600)


def low_ranks():
    """Yield name and content of the files of `low-rank`: the second frame of a tensor, and one that is no product."""
    rng = np.random.default_rng(9)
    for name in ("F32", "BF16", "F16"):
        dtype = dtype_of(name)
        left, right = (rng.integers(-127, 128, shape, dtype=np.int8) for shape in ((100, 3), (3, 40)))
        made = Factored(left, right, np.array([2.0**-18, 1e-5, 3e-6], np.float32))
        base = weights(dtype, 2400, 8).view(f"<u{dtype.word_bytes}").reshape(60, 40)
        words = moved(dtype, base, product(left.T[:, 40:, None], right[:, None, :], made.scales))
        frame, side = (np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in (words, base))
        yield f"low-rank-{name}-product", golden(LowRank.of(made), dtype, frame, (side,), 40, start=1600)
    other = near(side, dtype, 40)
    yield "low-rank-F16-sorted", golden(LowRank.of(made), dtype, other, (side,), 40, start=1600)


def slices():
    """Yield name and content of the files of `slice`: a frame that is all that is left, and one that was changed."""
    dtype = dtype_of("BF16")
    codec = Slice(Selection.of((9, 12, 3), [[0, 2, 3, 8], range(0, 12, 5), None]))
    part = weights(dtype, 36, 1)
    yield "slice-BF16-equal", golden(codec, dtype, part, (part,), 9)
    yield "slice-BF16-changed", golden(codec, dtype, near(part, dtype, 9), (part,), 9)
    yield "slice-U8-all", golden(Slice(Selection.of((5,), [None])), dtype_of("U8"), part[:5], (part[:5],), 5)


def files():
    """Yield name and content of every golden file."""
    for dtype in DTYPES.values():
        edges = special_words(dtype)
        yield f"planes-{dtype.name}-edges", golden(Planes(), dtype, edges, (), 5)
        for mantissa in sorted({0, min(3, dtype.mantissa_bits), min(7, dtype.mantissa_bits)}):
            name = f"sorted-delta-{mantissa}-{dtype.name}-edges"
            yield name, golden(SortedDelta(mantissa), dtype, edges, (np.roll(edges, dtype.word_bytes),), 5)
        for mantissa in sorted({0, min(1, dtype.mantissa_bits), min(7, dtype.mantissa_bits)}):
            name = f"sorted-planes-{mantissa}-{dtype.name}-edges"
            yield name, golden(SortedPlanes(mantissa), dtype, edges, (np.roll(edges, 3 * dtype.word_bytes),), 5)
    for name in ("F32", "BF16", "F16", "F8_E4M3", "I16", "F4"):
        dtype = dtype_of(name)
        frame = weights(dtype, 230, 1)
        yield f"planes-{name}-weights", golden(Planes(), dtype, frame, (), 64)
        yield f"sorted-delta-0-{name}-rows", golden(SortedDelta(0), dtype, near(frame, dtype, 64), (frame,), 64)
        scaled = np.where(np.arange(len(frame)) < len(frame) // 2, frame, np.roll(frame, 64 * dtype.word_bytes)) // 3
        yield f"sorted-planes-0-{name}-rows", golden(SortedPlanes(0), dtype, scaled, (frame,), 64)
        yield f"sparse-delta-{name}-few", golden(SparseDelta(), dtype, sparse(frame, dtype, 0.05), (frame,), 64)
    for dtype in DTYPES.values():
        frame = weights(dtype, 3000, 2)
        for mantissa in sorted({0, min(3, dtype.mantissa_bits)}):
            name = f"context-delta-{mantissa}-{dtype.name}-rows"
            yield name, golden(ContextDelta(mantissa), dtype, near(frame, dtype, 500), (frame,), 500)
    noise = np.random.default_rng(3).integers(0, 256, (2, 400), dtype=np.uint8)
    yield "context-delta-0-F16-noise", golden(ContextDelta(0), dtype_of("F16"), noise[0], (noise[1],), 200)
    for name in ("F32", "BF16", "F8_E5M2", "I64", "U8"):
        dtype = dtype_of(name)
        frame = weights(dtype, 3000, 2)
        yield f"sparse-delta-{name}-classes", golden(SparseDelta(), dtype, sparse(frame, dtype, 0.02), (frame,), 64)
        noise = weights(dtype, 20, 3)
        yield f"sparse-delta-{name}-raw", golden(SparseDelta(), dtype, noise, (noise[::-1].copy(),), 5)
    for name, mask in (("signs", 1 << 31), ("signs-repeats", 0xFFFFFFFF)):
        rng = np.random.default_rng(4)
        words = np.resize(rng.integers(0, 1 << 31, 256), 1000) | rng.integers(0, 2, 1000) << 31
        yield (
            f"planes-F32-{name}",
            golden(Planes(), dtype_of("F32"), (words & mask).astype("<u4").view(np.uint8), (), 8),
        )
    for name in ("F32", "BF16", "F16"):
        dtype = dtype_of(name)
        frame = weights(dtype, 3000, 5)
        yield f"planes-{name}-entropy", free(golden(Planes(), dtype, frame[: 1000 * dtype.word_bytes], (), 64))
        yield f"planes-{name}-entropy-rows", free(golden(Planes(), dtype, lowered(frame, dtype, 250), (), 250))
        moved = near(frame, dtype, 250)
        yield f"sorted-delta-0-{name}-entropy", in_stripes(golden(SortedDelta(0), dtype, moved, (frame,), 250))
    skewed = np.random.default_rng(6).geometric(0.7, 16_399).astype(np.uint8)
    yield "planes-U8-entropy", free(golden(Planes(), dtype_of("U8"), skewed, (), 384))
    yield from grids()
    yield from step_deltas()
    yield from low_ranks()
    yield from slices()
    zeros = np.zeros(600, dtype=np.uint8)
    yield "raw-U8", golden(Raw(), dtype_of("U8"), np.arange(256, dtype=np.uint8), (), 256)
    yield "planes-BF16-constant", golden(Planes(), dtype_of("BF16"), zeros, (), 300)
    yield "sparse-delta-BF16-equal", golden(SparseDelta(), dtype_of("BF16"), zeros, (zeros,), 100)
    yield "sorted-delta-0-BF16-equal", golden(SortedDelta(0), dtype_of("BF16"), zeros, (zeros,), 100)


if __name__ == "__main__":
    for name, content in files():
        path = GOLDEN / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="ascii")
