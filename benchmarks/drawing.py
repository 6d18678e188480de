"""Drawings of committed results: functions of the figures and of the version of matplotlib, both of which they name."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Figures = Mapping[str, float]
"""Mean and extremes over seeds, as committed results have them."""


def draw_committed(draw: Callable[[Mapping[str, Any], Path], None], results: Path, drawing: Path) -> None:
    """Draw committed results, as the command line says."""
    parser = argparse.ArgumentParser(description=f"Draw {results}.")
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument("--out", type=Path, default=drawing)
    options = parser.parse_args()
    draw(json.loads(options.results.read_text(encoding="utf-8")), options.out)


def fingerprint(shown: object) -> str:
    """Return what a drawing says about the figures that it shows: their SHA-256."""
    return f"figures {hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()}"


def draw_panels(to: Path, title: str, shown: object, fill: Callable[[Sequence[Any]], None], panels: int = 2) -> None:
    """Write an SVG file of some panels that `fill` fills; the same figures give the same bytes with one matplotlib."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "mvc", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        fill([*figure.subplots(1, panels)])
        metadata = {"Date": None, "Title": title, "Description": fingerprint(shown)}
        figure.savefig(to, format="svg", metadata=metadata)


def draw_line(axes: Any, label: str, x: Sequence[Figures], y: Sequence[Figures], **style: Any) -> None:  # noqa: ANN401
    """Draw means, and bars from the lowest to the highest seed."""
    means = [[point["mean"] for point in points] for points in (x, y)]
    axes.errorbar(*means, xerr=_bars(x), yerr=_bars(y), label=label, marker=".", linewidth=1, elinewidth=0.7, **style)


def _bars(ranges: Sequence[Figures]) -> list[list[float]]:
    """Return how far the extremes lie below and above the means."""
    return [[max(0.0, r["mean"] - r["min"]) for r in ranges], [max(0.0, r["max"] - r["mean"]) for r in ranges]]


def draw_level(axes: Any, value: float, text: str, style: str) -> None:  # noqa: ANN401 - matplotlib is optional
    """Draw a level to compare with."""
    axes.axhline(value, color="0.5", linestyle=style, linewidth=0.8)
    axes.annotate(text, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize="small")
