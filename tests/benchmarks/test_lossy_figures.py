"""Figures of lossy methods: how they are put together, and that the committed drawing shows the committed ones."""

import importlib.util
import json
import math
import re
from xml.etree import ElementTree as ET

import pytest

from benchmarks.drawing import fingerprint
from benchmarks.lossy.equal_quality import bits_at, compare
from benchmarks.lossy.plot import DRAWING, RESULTS, TABLE, draw, figures, points
from benchmarks.lossy.seeds import over_seeds
from benchmarks.report import Range

GIVEN = json.loads(RESULTS.read_text(encoding="utf-8"))
SVG = "{http://www.w3.org/2000/svg}"


def row(method, bits, error, gain):
    """Return a row of the table of one seed."""
    return {"method": method, "stored bits a parameter": bits, "logit error": error, "gain kept %": gain}


def test_the_committed_table_is_that_of_its_seeds():
    """Means and extremes are those of the tables beside them, and so is the comparison at equal quality."""
    tables = list(GIVEN["each"].values())
    assert len(tables) == len(GIVEN["results"]["Accuracy"])
    made = json.loads(json.dumps(over_seeds("method", tables), default=vars_of))
    assert made == GIVEN["results"][TABLE]
    made = json.loads(json.dumps(compare(tables), default=vars_of))
    assert made == GIVEN["results"]["Stored bits a parameter at equal quality"]


def vars_of(value):
    """Return a range as JSON has it."""
    return {"mean": value.mean, "min": value.min, "max": value.max, "runs": value.runs}


def test_what_beats_another_setting_counts():
    """A setting that takes more bits for worse results does not bend the line; nothing is guessed beyond it."""
    assert bits_at([(1.0, 8.0), (2.0, 9.0), (3.0, 0.0)], 4.0) == 2.0
    assert math.isnan(bits_at([(1.0, 8.0), (3.0, 0.0)], 8.1))


def test_both_modes_at_equal_quality():
    """Where the better mode takes half the bits, the ratio is 2; a quality that one seed does not reach is left out."""
    table = [
        *(row("delta GPTQ 2 bit", 2.0, 0.001, 96.0), row("delta GPTQ 2 bit, 90%", 0.5, 0.1, 60.0)),
        *(row("delta entropy-coded, 4 sd", 1.0, 0.001, 96.0), row("delta entropy-coded, 9 sd", 0.25, 0.1, 60.0)),
    ]
    found = {line["quality"]: line["paper / ec"] for line in compare([table, table])}
    assert found.keys() == {f"logit error {e}" for e in ("0.001", "0.01", "0.03", "0.1")} | {
        f"gain kept {g} %" for g in (95, 90, 80)
    }
    assert all((ratio.mean, ratio.runs) == (pytest.approx(2.0), 2) for ratio in found.values())


def test_ranges_need_the_same_rows():
    """Tables of other rows are not put together."""
    assert over_seeds("b", [[{"b": 1, "x": 2.0}]]) == [{"b": 1, "x": Range(2.0, 2.0, 2.0, 1)}]
    with pytest.raises(AssertionError, match="same rows"):
        over_seeds("b", [[{"b": 1}], [{"b": 2}]])


def test_the_drawing_shows_the_committed_figures():
    """It names their hash, and has a line for each group of settings."""
    tree = ET.parse(DRAWING)
    texts = {element.text for element in tree.iter(f"{SVG}text")}
    assert fingerprint(figures(GIVEN)) in DRAWING.read_text(encoding="utf-8"), "run python -m benchmarks.lossy.plot"
    assert points(GIVEN).keys() <= texts


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="needs matplotlib")
def test_the_drawing_is_drawn_again(tmp_path):
    """Byte for byte, with the same matplotlib; with another one, at least twice the same."""
    for name in ("one", "other"):
        draw(GIVEN, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    versions = [re.findall(r"Matplotlib v[\d.]+", path.read_text()) for path in (tmp_path / "one", DRAWING)]
    assert versions[0] != versions[1] or (tmp_path / "one").read_bytes() == DRAWING.read_bytes()
