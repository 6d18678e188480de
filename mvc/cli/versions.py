"""What this installation consists of, for bug reports."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from mvc.codecs import IMPLEMENTATION

__all__ = ["component_versions"]

_LIBRARIES = ("numpy", "zstandard", "blake3", "xxhash", "sqlalchemy", "click", "rich", "pathspec", "torch")


def component_versions() -> dict[str, str]:
    """Return by component: which kernels run, and versions of Python and of the libraries that are installed."""
    found = {"kernels": IMPLEMENTATION, "python": platform.python_version(), "platform": sys.platform}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
