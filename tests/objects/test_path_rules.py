"""Paths of a manifest: what every file system can hold, and keep apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.errors import InvalidInputError
from mvc.objects.paths import MAX_PATH_BYTES, check_path, check_paths, folded

GOOD = [
    "a",
    "model.safetensors",
    "checkpoint-500/model-00001-of-00002.safetensors",
    "...",
    "..a",
    "a..",
    ".hidden",
    ".mvcignore",
    "mvc",
    "x.mvc",
    ".mvcx/a",
    "a b",
    " ",
    "-rf",
    "~",
    "con",
    "a:b",
    "模型/权重.bin",
    "é",
    "\U0001f600",
    "a" * MAX_PATH_BYTES,
]
BAD = {
    "empty": "",
    "root": "/",
    "absolute": "/a",
    "ends with a slash": "a/",
    "empty component": "a//b",
    "dot": ".",
    "dot inside": "a/./b",
    "dot dot": "..",
    "dot dot at the front": "../a",
    "dot dot inside": "a/../../b",
    "dot dot at the end": "a/..",
    ".mvc": ".mvc",
    ".mvc inside": "a/.mvc/b",
    ".mvc in capitals": ".MVC/x",
    ".mvc in mixed case": "a/.Mvc",
    "backslash": "a\\b",
    "NUL": "a\0b",
    "line feed": "a\nb",
    "escape": "a\x1bb",
    "DEL": "a\x7fb",
    "C1 control": "a\x85b",
    "lone surrogate": "a\udcff",
    "too long": "a" * (MAX_PATH_BYTES + 1),
    "too long in bytes": "é" * (MAX_PATH_BYTES // 2 + 1),
}


@pytest.mark.parametrize("path", GOOD, ids=range(len(GOOD)))
def test_plain_relative_paths_are_accepted(path):
    """Whatever names people give to files."""
    assert check_path(path) == path


@pytest.mark.parametrize("path", BAD.values(), ids=BAD.keys())
def test_other_paths_are_refused(path):
    """What would leave the tree, reach into .mvc, or mean something else elsewhere."""
    with pytest.raises(InvalidInputError):
        check_path(path)


CLASHES = {
    "equal": ("a", "a"),
    "case": ("Model", "model"),
    "case of a directory": ("Run/a", "run/a"),
    "normalisation": ("\u00e9", "e\u0301"),
    "case and normalisation": ("\u00c9", "e\u0301"),
    "sharp s": ("straße", "STRASSE"),
    "file and directory": ("a", "a/b"),
    "directory and file": ("a/b/c", "a/b"),
    "file and directory in another case": ("A", "a/b/c"),
    "deep": ("a/b/c/d/e", "A/B"),
}


@pytest.mark.parametrize("paths", CLASHES.values(), ids=CLASHES.keys())
def test_paths_that_clash_somewhere_are_refused(paths):
    """In either order, and with others between."""
    for order in (paths, paths[::-1], (paths[0], "other", paths[1])):
        with pytest.raises(InvalidInputError, match="same file"):
            check_paths(order)


def test_paths_that_only_look_alike_stand_side_by_side():
    """Prefixes that are no directories, and names in different directories."""
    check_paths(["a", "ab", "ab-c", "b/a", "c/a", "a.b", "d/e/f", "d/e-f"])


@given(st.text(max_size=20))
def test_folding_is_idempotent(text):
    """Folding twice changes nothing more, so that folded names can be compared."""
    assert folded(folded(text)) == folded(text)


@given(st.text(max_size=30))
def test_no_accepted_path_leaves_the_tree(path):
    """An accepted path has only plain components."""
    try:
        check_path(path)
    except InvalidInputError:
        return
    parts = path.split("/")
    assert all(part not in {"", ".", ".."} and part.lower() != ".mvc" for part in parts)
    assert not path.startswith("/")
    assert "\0" not in path
