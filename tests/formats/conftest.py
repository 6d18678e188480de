"""Golden files, and what PyTorch and safetensors said about them when they were written."""

import json
from pathlib import Path

import pytest

collect_ignore = ["make_golden.py"]  # needs torch, and is not to be run again

GOLDEN = Path(__file__).parent.parent / "golden" / "formats"


@pytest.fixture(scope="session")
def golden():
    """Return the directory of golden files."""
    return GOLDEN


@pytest.fixture(scope="session")
def expected():
    """Return the tensors of each golden file: file name to list of name, dtype, shape, first, sha256."""
    return json.loads((GOLDEN / "expected.json").read_text())
