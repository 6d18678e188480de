"""Draw size against accuracy, and against the error of the logits, from committed results of `benchmarks.lossy.gptq`.

The drawing is a function of the results and of the version of matplotlib, both of which it names. Needs ``pip install
matplotlib``. Run ``python -m benchmarks.lossy.plot``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

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


def fingerprint(document: Mapping[str, Any]) -> str:
    """Return what the drawing says about the figures it shows: the SHA-256 of them and of the accuracies."""
    text = json.dumps([points(document), document["results"]["Accuracy"]], sort_keys=True)
    return f"figures {hashlib.sha256(text.encode()).hexdigest()}"


def draw(document: Mapping[str, Any], to: Path) -> None:
    """Draw results into an SVG file; the same ones give the same bytes with the same matplotlib."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "mvc", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        for axes, (column, scale) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
            _panel(axes, points(document), column, scale)
        _accuracies(figure.axes[0], document["results"]["Accuracy"])
        figure.axes[1].legend(loc="lower left", fontsize="small")
        metadata = {"Date": None, "Title": "Size against accuracy", "Description": fingerprint(document)}
        figure.savefig(to, format="svg", metadata=metadata)


def _panel(axes: Any, lines: Points, column: str, scale: str) -> None:  # noqa: ANN401 - matplotlib is optional
    """Draw every line: means, and bars from the lowest to the highest seed."""
    for label, line in lines.items():
        x, y = ([point[key]["mean"] for point in line] for key in (BITS, column))
        bars = [_bars([point[key] for point in line]) for key in (BITS, column)]
        axes.errorbar(x, y, xerr=bars[0], yerr=bars[1], label=label, marker=".", linewidth=1, elinewidth=0.7)
    axes.set(xscale="log", yscale=scale, xlabel=f"{BITS} of the linear layers", ylabel=column)
    axes.set_xticks(SIZES, [f"{size:g}" for size in SIZES])
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def _bars(ranges: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """Return how far the extremes lie below and above the means."""
    return [[max(0.0, r["mean"] - r["min"]) for r in ranges], [max(0.0, r["max"] - r["mean"]) for r in ranges]]


def _accuracies(axes: Any, rows: Sequence[Mapping[str, float]]) -> None:  # noqa: ANN401
    """Draw the mean accuracies of the tuned models and of those with the layers of the base."""
    for column, style in (("tuned", "-"), ("with the linear layers of the base", ":")):
        mean = sum(row[column] for row in rows) / len(rows)
        axes.axhline(mean, color="0.5", linestyle=style, linewidth=0.8)
        axes.annotate(column, (1, mean), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize="small")


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=DRAWING)
    options = parser.parse_args()
    draw(json.loads(options.results.read_text(encoding="utf-8")), options.out)


if __name__ == "__main__":
    main()
