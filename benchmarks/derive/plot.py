"""Draw accuracy against speed, and against bytes, from committed results of `benchmarks.derive.ziplm`.

Needs ``pip install matplotlib``. Run ``python -m benchmarks.derive.plot``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.drawing import draw_committed, draw_level, draw_line, draw_panels

RESULTS: Final = Path("docs/benchmarks/derive-ziplm.json")
DRAWING: Final = Path("docs/benchmarks/derive-speed-accuracy.svg")
ACCURACY: Final = "accuracy"
SPEED: Final = "achieved x"
COMMIT: Final = "derived tensors"
STORED: Final = "encoder stored"
RIVALS: Final = "fewer layers"

Lines = dict[str, list[tuple[Mapping[str, float], Mapping[str, float]]]]


def speeds(document: Mapping[str, Any]) -> Lines:
    """Return way to its points, by target: speed-up and accuracy."""
    found: Lines = {}
    for row in document["results"]["Speed and answers"]:
        found.setdefault(row["way"], []).append((row[SPEED], row[ACCURACY]))
    return found


def sizes(document: Mapping[str, Any]) -> Lines:
    """Return label to its points: bytes and accuracy, of commits by target, and of what is made of them by step."""
    results = document["results"]
    answers = {(row["target x"], row["way"]): row[ACCURACY] for row in results["Speed and answers"]}
    found: Lines = {}
    for row in results["Bytes"]:
        found.setdefault(f"{row['way']}: commit", []).append((row[COMMIT], answers[row["target x"], row["way"]]))
    for row in results["Chain"]:
        if row["of"] == "dense" or row["step"] not in {"distilled", "80 % zeros"}:
            found.setdefault(f"{row['of']}, {row['step']}", []).append((row[STORED], row[ACCURACY]))
    return found


def figures(document: Mapping[str, Any]) -> object:
    """Return all that the drawing shows."""
    return [speeds(document), sizes(document), document["results"]["Accuracy"]]


def draw(document: Mapping[str, Any], to: Path) -> None:
    """Draw results into an SVG file."""
    dense = [row["dense"] for row in document["results"]["Accuracy"]]

    def fill(panels: Sequence[Any]) -> None:
        """Draw speeds on the left, sizes on the right."""
        for axes, lines in zip(panels, (speeds(document), sizes(document)), strict=True):
            for label, points in lines.items():
                draw_line(axes, label, *zip(*points, strict=True), linestyle=":" if RIVALS in label else "-")
            draw_level(axes, sum(dense) / len(dense), "dense", "-")
            axes.set(ylabel=ACCURACY)
            axes.grid(alpha=0.3)
            axes.legend(fontsize="x-small")
        panels[0].set(xlabel="speed-up, measured")
        panels[1].set(xlabel="bytes that the encoder takes beside that of the dense model", xscale="log")

    draw_panels(to, "Speed and bytes against accuracy", figures(document), fill)


if __name__ == "__main__":
    draw_committed(draw, RESULTS, DRAWING)
