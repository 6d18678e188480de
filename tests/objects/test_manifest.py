"""Manifests: round trips, and every rule of the specification on both sides."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.errors import FormatError, InvalidInputError, MalformedError, MvcError
from mvc.objects.canonical import Value, decode, encode
from mvc.objects.ids import MANIFEST, digest
from mvc.objects.manifest import FileEntry, Manifest, ManifestDecoder, Segment, TensorEntry
from mvc.types import DTYPES, TensorSpec, View, dtype_of, object_id

A, B, C = (object_id(bytes([number]) * 32) for number in (1, 2, 3))
A_RAW, B_RAW = (bytes([number]) * 32 for number in (1, 2))
F32 = dtype_of("F32")


def spec(*shape, dtype="F32"):
    """Return a spec."""
    return TensorSpec(dtype_of(dtype), shape)


@st.composite
def manifests(draw):
    """Draw manifests that a commit could hold."""
    stems = draw(st.lists(st.text("abcdeé模-_. ", min_size=1, max_size=6), max_size=4, unique=True))
    paths = sorted((f"d{number}/{stem}x" for number, stem in enumerate(stems)), key=str.encode)
    files, tensors = [], []
    for place, path in enumerate(paths):
        segments, names = [], draw(st.lists(st.text(min_size=1, max_size=8), max_size=4, unique=True))
        names = [name for name in names if name.isprintable()]
        for number, name in enumerate(sorted(names, key=str.encode)):
            dtype = draw(st.sampled_from(sorted(DTYPES)))
            shape = draw(st.lists(st.integers(0, 4), max_size=3).map(tuple))
            if math.prod(shape) * DTYPES[dtype].bits % 8:
                shape = (*shape, 8)
            stored, oid = (
                TensorSpec(DTYPES[dtype], shape),
                object_id(bytes([place, number]) + draw(st.binary(min_size=30, max_size=30))),
            )
            if draw(st.booleans()):
                segments.append(Segment("literal", oid, draw(st.integers(1, 1 << 40))))
            if stored.nbytes:
                segments.append(Segment("tensor", oid, stored.nbytes))
            view = None
            if len(shape) == 2 and stored.nbytes and DTYPES[dtype].kind != "packed" and draw(st.booleans()):
                view = View(0, (1, shape[0]))
            tensors.append(TensorEntry(name, place, oid, stored, view))
        segments = [
            s
            for before, s in zip([None, *segments], segments, strict=False)
            if not (before and before.kind == s.kind == "literal")
        ]
        files.append(FileEntry(path, draw(st.sampled_from([0o644, 0o755])), "safetensors", tuple(segments)))
    return Manifest(tuple(files), tuple(tensors))


@given(manifests())
def test_round_trip(manifest):
    """A manifest comes back equal, from the same bytes, under the same id."""
    again = Manifest.decode(manifest.encoded)
    assert again == manifest
    assert again.encoded == manifest.encoded
    assert manifest.id == again.id == digest(MANIFEST, manifest.encoded)


@given(manifests(), st.data())
def test_damage_is_refused_or_another_manifest(manifest, data):
    """A changed byte raises our own errors, or makes a manifest with just these bytes."""
    raw = bytearray(manifest.encoded)
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    try:
        found = Manifest.decode(bytes(raw))
    except MvcError as error:
        assert isinstance(error, MalformedError | FormatError)  # noqa: PT017 (either outcome is right)
    else:
        assert found.encoded == bytes(raw)
        assert found != manifest


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data):
    """Only the errors of malformed and of newer data come out."""
    with pytest.raises((MalformedError, FormatError)):
        Manifest.decode(data)


def file(path="a", mode=0o644, segments=((1, A, 16),)):
    """Return the canonical value of a file."""
    return [path, mode, "safetensors", [[kind, bytes.fromhex(oid), length] for kind, oid, length in segments]]


def tensor(name="t", number=0, oid=A, dtype="F32", shape=(4,), view=None):
    """Return the canonical value of a tensor."""
    return [name, number, bytes.fromhex(oid), dtype, list(shape), *([view[0], list(view[1])] if view else [])]


def manifest(files=None, tensors=None, **more):
    """Return the encoding of a manifest that is right but for what is given."""
    return encode(
        {"files": [file()] if files is None else files, "tensors": [tensor()] if tensors is None else tensors} | more
    )


ALLOWED = {
    "empty": manifest([], []),
    "file without segments": manifest([file(segments=())], []),
    "tensor segment without a name": manifest(tensors=[]),
    "two neighbouring tensors": manifest([file(segments=[(1, A, 16), (1, B, 4)])]),
    "tied names": manifest(tensors=[tensor("a"), tensor("b")]),
    "the same tensor in two files": manifest([file("a"), file("b")], [tensor(number=0), tensor(number=1)]),
    "empty tensor": manifest(tensors=[tensor(oid=B, shape=(0, 4))]),
    "transposed view": manifest(tensors=[tensor(shape=(2, 2), view=(0, (1, 2)))]),
    "overlapping view": manifest(tensors=[tensor(shape=(3, 2), view=(0, (1, 1)))]),
    "view of a part": manifest(tensors=[tensor(shape=(2,), view=(2, (1,)))]),
    "view without elements": manifest(tensors=[tensor(shape=(0, 2), view=(0, (1, 1)))]),
    "0-d view": manifest(tensors=[tensor(shape=(), view=(3, ()))]),
    "sorted by bytes, not by length": manifest([file("B"), file("a"), file("aa"), file("é")], []),
    "1000 files": manifest([file(f"{number:04}") for number in range(1000)], []),
    "longest name": manifest(tensors=[tensor("n" * 4096)]),
}


@pytest.mark.parametrize("data", ALLOWED.values(), ids=ALLOWED.keys())
def test_what_the_specification_allows(data):
    """Unusual but right manifests are read, and written as they were."""
    assert Manifest.decode(data).encoded == data


REFUSED = {
    "not a map": encode([]),
    "unknown field": manifest(more=1),
    "files missing": encode({"tensors": []}),
    "files not an array": manifest({}),
    "file of three": manifest([file()[:3]]),
    "file of five": manifest([[*file(), 0]]),
    "path not text": manifest([[b"a", *file()[1:]]]),
    "path absolute": manifest([file("/a")]),
    "path with ..": manifest([file("a/../b")]),
    "path into .mvc": manifest([file(".MVC/config")]),
    "path too long": manifest([file("a" * 4097)]),
    "mode 0600": manifest([file(mode=0o600)]),
    "mode with file type": manifest([file(mode=0o100644)]),
    "mode true": manifest([file(mode=True)]),
    "format not text": manifest([["a", 0o644, 1, []]]),
    "format too long": manifest([["a", 0o644, "f" * 65, []]], []),
    "segment of two": manifest([["a", 0o644, "f", [[0, bytes(32)]]]], []),
    "segment kind 2": manifest([file(segments=[(2, A, 1)])], []),
    "segment kind true": manifest([file(segments=[(True, A, 1)])], []),
    "segment id short": manifest([["a", 0o644, "f", [[0, bytes(31), 1]]]], []),
    "segment id text": manifest([["a", 0o644, "f", [[0, "0" * 32, 1]]]], []),
    "segment of length 0": manifest([file(segments=[(0, A, 0)])], []),
    "segment of negative length": manifest([file(segments=[(0, A, -1)])], []),
    "neighbouring literals": manifest([file(segments=[(0, A, 1), (0, B, 1)])], []),
    "files not in order": manifest([file("b"), file("a")], []),
    "path twice": manifest([file("a"), file("a")], []),
    "paths that differ by case": manifest([file("A"), file("a")], []),
    "paths that differ by normalisation": manifest([file("e\u0301"), file("\u00e9")], []),
    "file and directory": manifest([file("a"), file("a/b")], []),
    "file and directory in another case": manifest([file("A"), file("a/b")], []),
    "tensor of four": manifest(tensors=[tensor()[:4]]),
    "tensor of six": manifest(tensors=[[*tensor(), 0]]),
    "name not text": manifest(tensors=[[1, *tensor()[1:]]]),
    "name too long": manifest(tensors=[tensor("n" * 4097)]),
    "name too long in bytes": manifest(tensors=[tensor("é" * 2049)]),
    "no such file": manifest(tensors=[tensor(number=1)]),
    "negative file": manifest(tensors=[tensor(number=-1)]),
    "tensor of another file": manifest([file("a"), file("b", segments=())], [tensor(number=1)]),
    "id is no segment": manifest(tensors=[tensor(oid=B)]),
    "id is a literal": manifest([file(segments=[(0, A, 16)])]),
    "shape too small": manifest(tensors=[tensor(shape=(3,))]),
    "shape too large": manifest(tensors=[tensor(shape=(5,))]),
    "empty shape on a full segment": manifest(tensors=[tensor(shape=(0,))]),
    "dtype too wide": manifest(tensors=[tensor(dtype="F64")]),
    "negative dimension": manifest(tensors=[tensor(shape=(-4,))]),
    "33 dimensions": manifest(tensors=[tensor(shape=(*([1] * 32), 4))]),
    "shape overflows": manifest(tensors=[tensor(shape=(1 << 62, 1 << 62))]),
    "part of a byte": manifest([file(segments=[(1, A, 2)])], [tensor(dtype="F4", shape=(3,))]),
    "view leaves the segment": manifest(tensors=[tensor(shape=(2, 2), view=(1, (1, 2)))]),
    "view behind the segment": manifest(tensors=[tensor(shape=(1,), view=(4, (1,)))]),
    "view with a stride too few": manifest(tensors=[tensor(shape=(2, 2), view=(0, (1,)))]),
    "view that runs backwards": manifest(tensors=[tensor(shape=(2,), view=(1, (-1,)))]),
    "negative offset": manifest(tensors=[tensor(shape=(2,), view=(-1, (1,)))]),
    "name twice in a file": manifest(tensors=[tensor(), tensor()]),
    "names not in order": manifest(tensors=[tensor("b"), tensor("a")]),
    "tensors not in the order of files": manifest([file("a"), file("b")], [tensor(number=1), tensor(number=0)]),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_what_the_specification_forbids(data):
    """Each rule has a reader that enforces it."""
    with pytest.raises(MalformedError):
        Manifest.decode(data)


def test_an_unknown_dtype_is_a_matter_of_release():
    """A dtype that a later release may know is a FormatError, not corruption."""
    with pytest.raises(FormatError, match="F3_E1M1"):
        Manifest.decode(manifest(tensors=[tensor(dtype="F3_E1M1")]))


def test_the_writer_obeys_the_rules_too():
    """What the reader would refuse cannot be made."""
    one = FileEntry("a", 0o644, "f", (Segment("tensor", A, 16),))
    wrong_files = [
        (FileEntry("a", 0o600, "f", ()),),
        (FileEntry("../a", 0o644, "f", ()),),
        (FileEntry("a", 0o644, "f", (Segment("literal", A, 1), Segment("literal", B, 1))),),
        (one, one),
        (FileEntry("a", 0o644, "f", (Segment("tensor", A, 16), Segment("tensor", A, 24))),),
        (one, FileEntry("b", 0o644, "f", (Segment("tensor", A, 24),))),
    ]
    for files in wrong_files:
        with pytest.raises(InvalidInputError):
            Manifest(files, ())
    wrong_tensors = [
        TensorEntry("t", 1, A, spec(4)),
        TensorEntry("n" * 4097, 0, A, spec(4)),
        TensorEntry("t", 0, A, spec(2, 2), View(0, (1,))),
        TensorEntry("t", 0, C, spec(4)),
    ]
    for entry in wrong_tensors:
        with pytest.raises(InvalidInputError):
            Manifest((one,), (entry,))


def test_a_content_of_two_lengths_is_refused():
    """Merging its segments by id would hide one of them."""

    def encoded(second: int) -> bytes:
        segments: Value = [[0, A_RAW, 3], [1, B_RAW, 4], [0, A_RAW, second]]
        return encode({"files": [["a", 0o644, "f", segments]], "tensors": []})

    assert Manifest.decode(encoded(3)).size == 10
    with pytest.raises(MalformedError, match="3 bytes, and 5 in 'a'"):
        Manifest.decode(encoded(5))


def test_sizes_and_segments():
    """Size of a file is that of its segments; each content is listed once."""
    files = (
        FileEntry("a", 0o644, "f", (Segment("literal", A, 10), Segment("tensor", B, 16), Segment("tensor", B, 16))),
        FileEntry("b", 0o755, "opaque", (Segment("literal", B, 5), Segment("tensor", B, 16))),
    )
    found = Manifest(files, ())
    assert (found.size, files[0].size, found.by_path["b"].size) == (63, 42, 21)
    assert found.segments() == {("literal", A): 10, ("tensor", B): 16, ("literal", B): 5}


def test_a_million_tensors_are_the_most():
    """Reader and writer count before they look at any of them."""
    with pytest.raises(MalformedError, match="at most 1000000"):
        Manifest.decode(encode({"files": [], "tensors": [0] * 1_000_001}))
    with pytest.raises(InvalidInputError, match="at most 1000000"):
        Manifest((), (TensorEntry("t", 0, A, spec(4)),) * 1_000_001)


def test_the_decoded_value_is_the_documented_one():
    """A standard CBOR reader finds what section 4 describes."""
    value = decode(manifest(tensors=[tensor(shape=(2, 2), view=(0, (1, 2)))]))
    assert value == {
        "files": [["a", 0o644, "safetensors", [[1, bytes([1]) * 32, 16]]]],
        "tensors": [["t", 0, bytes([1]) * 32, "F32", [2, 2], 0, [1, 2]]],
    }


@given(st.lists(manifests(), min_size=1, max_size=4), st.data())
def test_a_decoder_of_many_says_what_is_said_of_each(drawn, data):
    """Also after damaged ones, and if what manifests have in common lies in other places."""
    decoder = ManifestDecoder()
    for _ in range(8):
        raw = bytearray(data.draw(st.sampled_from(drawn)).encoded)
        if data.draw(st.booleans()):
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        outcomes: list[object] = []
        for decode_manifest in (Manifest.decode, decoder.decode):
            try:
                outcomes.append(decode_manifest(bytes(raw)))
            except MvcError as error:
                outcomes.append((type(error), error.message))
        assert outcomes[0] == outcomes[1]


def test_what_two_manifests_have_in_common_is_decoded_once():
    """A tensor and a segment that stay are the same objects; one that is new is another."""
    files = [
        FileEntry("f", 0o644, "safetensors", (Segment("tensor", A, 8), Segment("tensor", oid, 8))) for oid in (B, C)
    ]
    first, second = (
        Manifest(
            (file,),
            tuple(TensorEntry(name, 0, s.id, spec(2)) for name, s in zip("ab", file.segments, strict=True)),
        )
        for file in files
    )
    decoder = ManifestDecoder()
    before, after = decoder.decode(first.encoded), decoder.decode(second.encoded)
    assert (before, after) == (first, second)
    assert after.tensors[0] is before.tensors[0]
    assert after.files[0].segments[0] is before.files[0].segments[0]
