"""The page of benchmarks is a function of committed results."""

import json

import pytest

from benchmarks.page import DOCUMENTS, PAGE, SECTIONS, load, render

ENVIRONMENT = {
    "date": "2001-02-03", "commit": "abc1234", "processor": "Test CPU", "cores": 2, "memory GB": 1.0, "load": 0.1,
    "system": "Linux", "python": "3.11.0", "kernels": "native", "libraries": {"zipnn": "0.0.1"},
}  # fmt: skip


def document(rows):
    """Return results of one table."""
    return {"command": "python -m benchmarks.x", "environment": ENVIRONMENT, "results": {"a table": rows}}


def test_committed_page_is_what_its_results_give():
    """Nobody wrote a figure by hand."""
    assert PAGE.read_text(encoding="utf-8") == render(load(DOCUMENTS)), "run python -m benchmarks.page"


def test_missing_results_are_said_to_be_missing():
    """Every claim without a file says so."""
    assert render({}).count("No result yet") == len(SECTIONS)


@pytest.mark.parametrize("claim", SECTIONS)
def test_page_states_figures_day_machine_and_versions(claim):
    """All of it from the JSON."""
    spread = {"median": 3.0, "min": 2.0, "max": 4.0, "runs": 5}
    page = render({claim: json.loads(json.dumps(document([{"coder": "x", "MB/s": spread, "exact": False}])))})
    assert "| x | 3.00 (2.00-4.00) | **NO** |" in page
    assert all(text in page for text in ("2001-02-03", "Test CPU", "zipnn 0.0.1", "abc1234", "a table"))
    assert page.count("No result yet") == len(SECTIONS) - 1


def test_rows_may_have_different_columns():
    """A coder that failed has no speed."""
    page = render(
        {"sparse": document([{"coder": "x", "stored %": "failed: crashed"}, {"coder": "y", "stored %": 1.5}])}
    )
    assert "| x | failed: crashed |\n| y | 1.500 |" in page
