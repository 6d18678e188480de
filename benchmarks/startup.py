"""Claim: ``mvc status`` answers within 250 ms when nothing changed, and start-up loads no heavy library.

Run ``python -m benchmarks.startup [--out FILE.json]``. Bare ``python -c pass`` is measured beside it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from benchmarks.cli import mvc_command
from benchmarks.report import print_table, write_json

RUNS = 15


def seconds(command: list[str]) -> float:
    """Return the wall time of one run."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def repository(root: Path) -> None:
    """Make a repository with a few checkpoint files, committed."""
    root.mkdir()
    for place in range(5):
        weights = np.random.default_rng(place).standard_normal((512, 512)).astype(np.float32)
        save_file({"weight": weights}, root / f"model-{place}.safetensors")
    for arguments in (["init"], ["commit", "-m", "first"]):
        subprocess.run(mvc_command(root, *arguments), check=True, stdout=subprocess.DEVNULL)


def measure(root: Path) -> list[dict[str, object]]:
    """Return medians of alternating runs."""
    mvc = mvc_command(root)
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "mvc --version": [*mvc, "--version"],
        "mvc status": [*mvc, "status"],
        "mvc log": [*mvc, "log"],
        "mvc branch": [*mvc, "branch"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            times[name].append(seconds(command))
    return [
        {"command": name, "median ms": 1000 * statistics.median(found), "min ms": 1000 * min(found)}
        for name, found in times.items()
    ]


def main() -> None:
    """Measure in a temporary repository."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/startup.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "repository"
        repository(root)
        rows = measure(root)
    print_table(rows)
    write_json(options.out, "startup", {"start-up": rows})


if __name__ == "__main__":
    main()
