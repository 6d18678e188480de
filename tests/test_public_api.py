"""The names that users import, and what importing them costs."""

import subprocess
import sys

import pytest

import mvc


def loaded_by(statement):
    """Return the top-level modules that a new interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_names_are_as_published():
    """Append only."""
    assert mvc.__all__ == ["MvcError", "Repository", "__version__", "init", "open"]


def test_every_name_exists():
    """Also those that are imported when they are first used."""
    assert all(getattr(mvc, name) is not None for name in mvc.__all__)
    with pytest.raises(AttributeError, match="no attribute 'clone_everything'"):
        _ = mvc.clone_everything


HEAVY = {"numpy", "sqlalchemy", "torch", "zstandard", "click", "rich"}


def test_importing_the_package_is_cheap():
    """`import mvc` loads nothing heavy."""
    assert not loaded_by("import mvc") & HEAVY


def test_a_dirty_check_is_cheap():
    """What ``mvc status`` needs loads neither NumPy nor SQLAlchemy nor zstandard."""
    found = loaded_by("import mvc.repo.workspace, mvc.repo.status")
    assert not found & HEAVY
    assert "mvc" in found


def test_the_repository_does_not_load_torch():
    """PyTorch is an extra, imported where tensors of it are made."""
    found = loaded_by("import mvc.repo.repository")
    assert "torch" not in found
    assert "numpy" in found
