"""Ref names: git's grammar, and what other file systems add to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.errors import InvalidInputError
from mvc.objects.refnames import branch_ref, check_ref_names, check_short_name, is_ref_name, tag_ref

GOOD = [
    "main",
    "sweep/lr-3e-5",
    "a/b/c/d",
    "v1.0",
    "heads",
    "a@b",
    "@a",
    "a{b",
    "head",
    "Head/x",
    "HEAD/x",
    "x-",
    "a.lockx",
    "lock",
    "console",
    "com",
    "com0",
    "com10",
    "lpt",
    "nulls",
    "xcon",
    "é",
    "实验",
    "a!b#c$d%e&f'(g)",
    "0123abcd",
    "a" * 63,
    "g" * 64,
    "x" * 255,
]
BAD = {
    "empty": "",
    "dot at the front": ".a",
    "dot at the front of a component": "a/.b",
    "two dots": "a..b",
    "dot at the end": "a.",
    "slash at the end": "a/",
    "slash at the front": "/a",
    "two slashes": "a//b",
    "ends with .lock": "a.lock",
    "component ends with .lock": "a.lock/b",
    ".LOCK": "a.LOCK",
    "@": "@",
    "@{": "a@{1}",
    "HEAD": "HEAD",
    "space": "a b",
    "tab": "a\tb",
    "NUL": "a\0b",
    "line feed at the end": "a\n",
    "DEL": "a\x7f",
    "tilde": "a~1",
    "caret": "a^",
    "colon": "a:b",
    "question mark": "a?",
    "asterisk": "a*",
    "bracket": "a[b",
    "backslash": "a\\b",
    "dash at the front": "-a",
    "256 bytes": "x" * 256,
    "256 bytes of UTF-8": "é" * 128,
    "not NFC": "e\u0301",
    "lone surrogate": "\ud800",
    "a full name": "refs/heads/x",
    "an id": "a" * 64,
    "an id in capitals": "A" * 64,
    "con": "con",
    "CON in a directory": "a/CON",
    "nul with an extension": "nul.txt",
    "com1": "Com1",
    "lpt9 with an extension": "x/lpt9.tar.gz",
    "aux": "aux/b",
    "prn": "PrN",
}


@pytest.mark.parametrize("name", GOOD)
def test_names_that_git_allows(name):
    """Branches and tags may be called so."""
    assert check_short_name(name) == name
    assert branch_ref(name) == f"refs/heads/{name}"
    assert tag_ref(name) == f"refs/tags/{name}"
    assert is_ref_name(branch_ref(name))
    assert is_ref_name(tag_ref(name))
    assert is_ref_name(f"refs/notes/{name}")


@pytest.mark.parametrize("name", BAD.values(), ids=BAD.keys())
def test_names_that_are_refused(name):
    """With the reason, and in every function."""
    for function in (check_short_name, branch_ref, tag_ref):
        with pytest.raises(InvalidInputError, match="cannot name a branch or tag"):
            function(name)
    assert not is_ref_name(f"refs/heads/{name}")
    assert not is_ref_name(f"refs/tags/{name}")
    assert not is_ref_name(f"refs/notes/{name}")


@pytest.mark.parametrize(
    "name", ["", "main", "refs", "refs/", "refs/heads", "refs/heads/", "refs/stash/a", "refs/notes/", "head"]
)
def test_what_is_no_full_name(name):
    """Only HEAD and names of the kinds there are."""
    assert not is_ref_name(name)


def test_what_says_that_a_commit_is_thinned():
    """A whole id in lower case, and nothing else."""
    assert is_ref_name(f"refs/thinned/{'ab' * 32}")
    wrong = ("", "ab" * 31, "AB" * 32, "ab" * 32 + "/x", "ab" * 32 + "\n")
    assert not any(is_ref_name(f"refs/thinned/{name}") for name in wrong)


def test_head_is_a_ref():
    """And the only one outside of refs/."""
    assert is_ref_name("HEAD")


@pytest.mark.parametrize(
    "names",
    [("a", "A"), ("a/b", "A/b"), ("\u00e9", "\u00c9"), ("a", "a/b"), ("A", "a/b/c"), ("x/y", "x/Y/z")],
    ids="-".join,
)
def test_refs_that_clash_are_refused(names):
    """On a file system that folds case they would be one file, or a file and a directory."""
    with pytest.raises(InvalidInputError):
        check_ref_names({branch_ref(name) for name in names})


def test_branches_and_tags_do_not_clash():
    """They live apart; so do names that only begin alike."""
    names = {"refs/heads/a", "refs/tags/A", "refs/tags/c/b", "refs/heads/ab", "refs/heads/b/a", "refs/remotes/a/a"}
    check_ref_names(names)  # raises if they clash
    assert all(is_ref_name(name) for name in names)


@given(st.text(max_size=40))
def test_no_accepted_name_is_dangerous(name):
    """Whatever is accepted can be a path below refs/ and cannot be taken for an option or an expression."""
    try:
        check_short_name(name)
    except InvalidInputError:
        return
    assert not name.startswith("-")
    assert all(part not in {"", ".", ".."} for part in name.split("/"))
    assert not set(name) & set(" ~^:?*[\\\0")
    assert "@{" not in name
