"""Figures of smaller models: that the committed tables and drawing are those of the committed runs."""

import importlib.util
import json
import re
from dataclasses import asdict
from xml.etree import ElementTree as ET

import pytest

from benchmarks.derive.plot import DRAWING, RESULTS, draw, figures, sizes, speeds
from benchmarks.drawing import fingerprint
from benchmarks.lossy.seeds import grouped

GIVEN = json.loads(RESULTS.read_text(encoding="utf-8"))
SVG = "{http://www.w3.org/2000/svg}"
LABELS = {"Speed and answers": ["target x", "way"], "Bytes": ["target x", "way"], "Chain": ["of", "step"]}


@pytest.mark.parametrize("table", LABELS)
def test_the_committed_tables_are_those_of_their_fine_tunes(table):
    """Means and extremes are those of the rows beside them."""
    rows = [row for row in GIVEN["each"][table] if row.get("way") != "dense"]
    assert {row["fine-tune"] for row in rows} <= {row["fine-tune"] for row in GIVEN["results"]["Accuracy"]}
    assert rows
    made = json.loads(json.dumps(grouped(rows, LABELS[table], "fine-tune"), default=asdict))
    assert made == GIVEN["results"][table]


def test_the_drawing_shows_the_committed_figures():
    """It names their hash, and has every line."""
    texts = {element.text for element in ET.parse(DRAWING).iter(f"{SVG}text")}
    assert fingerprint(figures(GIVEN)) in DRAWING.read_text(encoding="utf-8"), "run python -m benchmarks.derive.plot"
    assert speeds(GIVEN).keys() | sizes(GIVEN).keys() <= texts


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="needs matplotlib")
def test_the_drawing_is_drawn_again(tmp_path):
    """Byte for byte, with the same matplotlib."""
    draw(GIVEN, tmp_path / "again")
    versions = [re.findall(r"Matplotlib v[\d.]+", path.read_text()) for path in (tmp_path / "again", DRAWING)]
    assert versions[0] != versions[1] or (tmp_path / "again").read_bytes() == DRAWING.read_bytes()
