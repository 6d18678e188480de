"""The property that everything else serves: what was committed comes back, bit for bit."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.testing.codecs import special_words
from mvc.types import DTYPES

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)


@st.composite
def tensors(draw):
    """Draw a tensor of any type: random words, special ones (NaN payloads, -0.0, subnormals), or one word repeated."""
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(st.sampled_from([(), (0,), (1,), (3, 0, 2), (7,), (2, 3), (5, 1, 4), (40, 33)]))
    if math.prod(shape) * dtype.bits % 8:
        shape = (*shape, 8)
    size = math.prod(shape) * dtype.bits // 8
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    kind = draw(st.sampled_from(["random", "special", "constant"]))
    if kind == "random":
        data = rng.bytes(size)
    elif kind == "special":
        words = special_words(dtype).view(f"u{dtype.word_bytes}")
        data = rng.choice(words, size // dtype.word_bytes).tobytes()
    else:
        data = rng.bytes(dtype.word_bytes) * (size // dtype.word_bytes)
    return dtype.name, shape, data


def changed(data, rng, share):
    """Return bytes of which a share is another by one bit."""
    result = np.frombuffer(data, np.uint8).copy()
    places = rng.random(result.size) < share
    result[places] ^= np.uint8(1 << int(rng.integers(0, 8)))
    return result.tobytes()


@settings(max_examples=25)
@given(
    st.dictionaries(NAMES.filter(lambda name: name != "__metadata__"), tensors(), max_size=8), st.integers(0, 1 << 32)
)
def test_any_tensors_in_two_versions(lab, drawn, seed):
    """Of every type and shape; the second version as deltas where they pay; files and arrays equal."""
    rng = np.random.default_rng(seed)
    raw = type(lab.weights("F32", (1,)))
    first = {name: raw(*tensor) for name, tensor in drawn.items()}
    second = {name: tensor._replace(data=changed(tensor.data, rng, 0.05)) for name, tensor in first.items()}
    for number, model in enumerate((first, second)):
        lab.write("m.safetensors", model)
        lab.write("n", str(number))
        lab.commit("m", allow_empty=True)
    again = lab.again()
    for back, model in enumerate((second, first)):
        expected = lab.write("expected", model).read_bytes()
        (lab.root / "expected").unlink()
        again.repo.checkout(f"HEAD~{back}", to=lab.root.parent / "out", paths=["m.safetensors"])
        assert (lab.root.parent / "out" / "m.safetensors").read_bytes() == expected
        loaded = again.repo.load(f"HEAD~{back}", framework="numpy")
        assert {name: array.tobytes() for name, array in loaded.items()} == {
            name: tensor.data for name, tensor in model.items()
        }
        for name, array in loaded.items():
            if DTYPES[model[name].dtype].kind != "packed":
                assert array.shape == model[name].shape


@settings(max_examples=15)
@given(st.dictionaries(st.text("abc/.", min_size=1, max_size=8), st.binary(max_size=300), max_size=6))
def test_any_files(lab, drawn):
    """Bytes of no format at all."""
    for path in list(lab.tree()):
        (lab.root / path).unlink()
    for path, data in drawn.items():
        parts = [part for part in path.split("/") if part.strip(".")]
        if parts and not any((lab.root / "/".join(parts[: end + 1])).is_file() for end in range(len(parts) - 1)):
            target = lab.root / "/".join(parts)
            if not target.is_dir():
                lab.write("/".join(parts), data)
    expected = lab.tree()
    commit = lab.commit("m", allow_empty=True).commit
    out = lab.root.parent / f"out-{commit[:12]}"
    assert lab.exported(commit, out) == expected
