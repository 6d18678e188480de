"""The tree of errors: what handlers rely on, pinned."""

import inspect

import pytest

from mvc import errors
from mvc.errors import MvcError, StorageError

TREE = {
    "MvcError": ("Exception", "error"),
    "NotFoundError": ("MvcError LookupError", "not-found"),
    "AmbiguousRefError": ("NotFoundError", "ambiguous-ref"),
    "ThinnedError": ("NotFoundError", "thinned"),
    "AlreadyExistsError": ("MvcError", "already-exists"),
    "ConflictError": ("MvcError", "conflict"),
    "DirtyWorkTreeError": ("ConflictError", "dirty-work-tree"),
    "InvalidInputError": ("MvcError ValueError", "invalid-input"),
    "SpecMismatchError": ("InvalidInputError", "spec-mismatch"),
    "DamagedFileError": ("InvalidInputError", "damaged-file"),
    "IntegrityError": ("MvcError", "integrity"),
    "MalformedError": ("IntegrityError", "malformed"),
    "FormatError": ("MvcError", "format"),
    "ReadOnlyError": ("MvcError", "read-only"),
    "RemoteError": ("MvcError", "remote"),
    "AuthenticationError": ("RemoteError", "authentication"),
    "NoRepositoryError": ("RemoteError", "no-repository"),
    "StorageError": ("MvcError", "storage"),
}
"""Append only: names, bases and kinds are what scripts and handlers depend on."""


def test_the_tree_is_as_published():
    """Every class, its bases and its machine code."""
    members = (value for _, value in inspect.getmembers(errors, inspect.isclass))
    classes = [value for value in members if issubclass(value, MvcError)]
    found = {cls.__name__: (" ".join(base.__name__ for base in cls.__bases__), cls.kind) for cls in classes}
    assert found == TREE
    assert set(errors.__all__) == set(TREE)


def test_the_drawing_shows_every_class():
    """The module's docstring is what people read."""
    assert errors.__doc__ is not None
    assert all(name in errors.__doc__ for name in TREE)


def test_kinds_are_different():
    """A code names one class."""
    kinds = [kind for _, kind in TREE.values()]
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize("name", TREE)
def test_message_and_hint(name):
    """Both are attributes; the message alone is the text."""
    error = getattr(errors, name)("it broke", hint="mend it")
    assert (str(error), error.message, error.hint) == ("it broke", "it broke", "mend it")
    assert isinstance(error, MvcError)
    assert getattr(errors, name)("x").hint is None


def test_storage_errors_say_whether_trying_again_helps():
    """Permanent unless said otherwise."""
    assert [StorageError("x").transient, StorageError("x", transient=True).transient] == [False, True]
