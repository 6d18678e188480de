"""Draw size against accuracy, and against the error of the logits, from committed results of `benchmarks.lossy.gptq`.

The drawing is a function of the results and of the version of matplotlib, both of which it names. Needs ``pip install
matplotlib``. Run ``python -m benchmarks.lossy.plot``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.drawing import draw_committed, draw_level, draw_line, draw_panels

RESULTS: Final = Path("docs/benchmarks/lossy-gptq.json")
DRAWING: Final = Path("docs/benchmarks/lossy-size-accuracy.svg")
TABLE: Final = "MiniLM fp32, 36 linear layers"
BITS: Final = "stored bits a parameter"
PANELS: Final = {"accuracy": "linear", "logit error": "log"}
"""Column to the scale of its axis."""
SIZES: Final = (0.1, 0.2, 0.5, 1, 2, 5)
"""Bits that the axis names."""
SERIES: Final = {
    "delta entropy-coded": "delta, entropy-coded",
    "delta GPTQ 4 bit,": "delta, 4 bit grid, sparse",
    "delta GPTQ 3 bit,": "delta, 3 bit grid, sparse",
    "delta GPTQ 2 bit,": "delta, 2 bit grid, sparse",
    "delta GPTQ": "delta, dense grid",
    "weights GPTQ": "weights, dense grid",
}
"""How names of rows begin, the first that fits, to the label of their line."""

Points = dict[str, list[dict[str, Mapping[str, float]]]]


def points(document: Mapping[str, Any]) -> Points:
    """Return label to the points of a line, by size: each the ranges of size and of what the panels show."""
    found: Points = {label: [] for label in SERIES.values()}
    for row in document["results"][TABLE]:
        label = next((SERIES[start] for start in SERIES if row["method"].startswith(start)), None)
        if label:
            found[label].append({key: row[key] for key in (BITS, *PANELS)})
    return {label: sorted(line, key=lambda point: point[BITS]["mean"]) for label, line in found.items() if line}


def figures(document: Mapping[str, Any]) -> object:
    """Return all that the drawing shows."""
    return [points(document), document["results"]["Accuracy"]]


def draw(document: Mapping[str, Any], to: Path) -> None:
    """Draw results into an SVG file."""

    def fill(panels: Sequence[Any]) -> None:
        """Draw every line in every panel."""
        for axes, (column, scale) in zip(panels, PANELS.items(), strict=True):
            _panel(axes, points(document), column, scale)
        _accuracies(panels[0], document["results"]["Accuracy"])
        panels[1].legend(loc="lower left", fontsize="small")

    draw_panels(to, "Size against accuracy", figures(document), fill)


def _panel(axes: Any, lines: Points, column: str, scale: str) -> None:  # noqa: ANN401 - matplotlib is optional
    """Draw every line."""
    for label, line in lines.items():
        draw_line(axes, label, *([point[key] for point in line] for key in (BITS, column)))
    axes.set(xscale="log", yscale=scale, xlabel=f"{BITS} of the linear layers", ylabel=column)
    axes.set_xticks(SIZES, [f"{size:g}" for size in SIZES])
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def _accuracies(axes: Any, rows: Sequence[Mapping[str, float]]) -> None:  # noqa: ANN401
    """Draw the mean accuracies of the tuned models and of those with the layers of the base."""
    for column, style in (("tuned", "-"), ("with the linear layers of the base", ":")):
        draw_level(axes, sum(row[column] for row in rows) / len(rows), column, style)


if __name__ == "__main__":
    draw_committed(draw, RESULTS, DRAWING)
