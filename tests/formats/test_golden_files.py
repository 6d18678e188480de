"""Files written once by PyTorch and safetensors are read forever, without either of them."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mvc.formats import locate, segments
from mvc.testing.formats import read_tensors
from mvc.types import View

FILES = sorted(json.loads((Path(__file__).parent.parent / "golden/formats/expected.json").read_text()))


@pytest.mark.parametrize("name", FILES)
def test_every_tensor_is_found_with_its_elements(golden, expected, name):
    """Names, dtypes, shapes and elements are those that the framework reported."""
    data = (golden / name).read_bytes()
    found = read_tensors(locate(name, memoryview(data)), data)
    rows = {row["name"]: (row["dtype"], tuple(row["shape"]), row["sha256"]) for row in expected[name]}
    assert {key: (dtype, shape, hashlib.sha256(raw).hexdigest()) for key, (dtype, shape, raw) in found.items()} == rows


@pytest.mark.parametrize("name", FILES)
def test_first_elements_lie_where_the_framework_reads_them(golden, expected, name):
    """The offset in the file is one at which PyTorch's reader has that storage."""
    data = (golden / name).read_bytes()
    rows = {row["name"]: row["first"] for row in expected[name]}
    for region in locate(name, memoryview(data)).regions:
        for logical in region.names:
            skipped = logical.view.offset * logical.spec.dtype.bits // 8 if logical.view else 0
            assert not rows[logical.name] or region.offset + skipped in rows[logical.name]


@pytest.mark.parametrize("name", FILES)
def test_pieces_are_the_file(golden, name):
    """Concatenating the pieces gives the file."""
    data = (golden / name).read_bytes()
    pieces = segments(locate(name, memoryview(data)), len(data))
    assert b"".join(data[piece.offset : piece.offset + piece.length] for piece in pieces) == data


def test_both_formats_give_a_state_dict_the_same_tensors(golden):
    """Names, specs and elements of a .pt and a .safetensors of one state dict are equal, so they share ids."""
    plain, other = ((golden / name).read_bytes() for name in ("plain.pt", "plain.safetensors"))
    assert read_tensors(locate("a.pt", memoryview(plain)), plain) == read_tensors(
        locate("a.safetensors", memoryview(other)), other
    )


def test_tied_tensors_are_one_region(golden):
    """Names that share a whole storage share its region, without views."""
    data = (golden / "tied.bin").read_bytes()
    names = [[item.name for item in region.names] for region in locate("tied.bin", memoryview(data)).regions]
    assert names == [["embed.weight", "head.weight"], ["bias"]]


def test_views_share_a_region_and_tiles_do_not(golden):
    """Storages that are partly or doubly viewed are one-dimensional; those filled side by side are split."""
    data = (golden / "views.pt").read_bytes()
    regions = locate("views.pt", memoryview(data)).regions
    shapes = {item.name: region.spec.shape for region in regions for item in region.names}
    views = {item.name: item.view for region in regions for item in region.names}
    assert (shapes["tile.0"], shapes["tile.1"], shapes["empty.slice"]) == ((4, 2), (6, 2), (0, 2))
    assert views["tile.0"] is views["tile.1"] is views["empty.slice"] is None
    assert (shapes["transposed"], views["transposed"]) == ((12,), View(0, (1, 3)))
    assert shapes["base"] == shapes["base.row"] == shapes["base.columns"] == (24,)
    assert (shapes["expanded"], views["expanded"]) == ((3,), View(0, (1, 0)))


def test_malicious_pickle_is_not_run(golden):
    """The golden file would touch a file if it were loaded; the tensors around the attack are found all the same."""
    data = (golden / "malicious.pt").read_bytes()
    assert b"posix\nsystem\n" in data
    assert b"touch /tmp/mvc-golden-pickle-was-run" in data
    assert set(read_tensors(locate("malicious.pt", memoryview(data)), data)) == {"before", "after"}
    assert not Path("/tmp/mvc-golden-pickle-was-run").exists()


def test_locating_imports_no_framework(golden):
    """Neither torch nor safetensors is imported to read any golden file."""
    script = (
        "import sys, pathlib\n"
        "from mvc.formats import locate\n"
        "for path in pathlib.Path(sys.argv[1]).iterdir():\n"
        "    locate(path.name, memoryview(path.read_bytes()))\n"
        "print([name for name in ('torch', 'safetensors') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, golden], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
