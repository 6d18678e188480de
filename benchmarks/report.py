"""What every benchmark writes beside its figures: the machine, the versions, the spread; and how to print a table."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mvc.codecs import IMPLEMENTATION
from mvc.version import __version__

__all__ = [
    "RESULTS",
    "RUNS",
    "Range",
    "Spread",
    "Timing",
    "columns_of",
    "environment",
    "print_table",
    "rate",
    "text",
    "time_runs",
    "write_json",
]

RESULTS = Path("benchmarks/results")
RUNS = 5  # of everything that is timed: a median and a spread that an odd run does not move
LIBRARIES = (
    *("numpy", "zstandard", "blake3", "xxhash", "sqlalchemy", "torch"),
    *("zipnn", "openzl", "moonclip", "deltatensors", "lz4"),
)


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and extremes of some runs, in the unit of the column."""

    median: float
    min: float
    max: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some measured values, at least one.

        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(median=2.0, min=1.0, max=3.0, runs=3)
        """
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True, slots=True)
class Range:
    """Mean and extremes over some seeds, in the unit of the column: too few for a median."""

    mean: float
    min: float
    max: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Range:
        """Return the range of some measured values, at least one.

        >>> Range.of([3.0, 1.0, 2.0])
        Range(mean=2.0, min=1.0, max=3.0, runs=3)
        """
        return cls(statistics.fmean(values), min(values), max(values), len(values))


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall and processor seconds of each of some runs."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]

    @property
    def cells(self) -> dict[str, Spread]:
        """Both as columns."""
        return {"wall s": Spread.of(self.wall), "CPU s": Spread.of(self.cpu)}


def time_runs(
    run: Callable[[], object],
    runs: int,
    prepare: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.process_time,
) -> Timing:
    """Time `run`, each time after an untimed `prepare`; `clock` tells the processor time used so far."""
    wall, cpu = [], []
    for _ in range(runs):
        prepare()
        start, cpu_start = time.perf_counter(), clock()
        run()
        wall.append(time.perf_counter() - start)
        cpu.append(clock() - cpu_start)
    return Timing(tuple(wall), tuple(cpu))


def rate(nbytes: int, seconds: Sequence[float]) -> Spread:
    """Return MB/s of each run."""
    return Spread.of([nbytes / 1e6 / second for second in seconds])


def environment() -> dict[str, object]:
    """Return the day, the machine and the versions that figures were measured with."""
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "commit": _commit(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory GB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load": round(os.getloadavg()[0], 1),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "kernels": IMPLEMENTATION,
        "libraries": {"mvc": __version__, **{name: found for name in LIBRARIES if (found := _version(name))}},
    }


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def write_json(path: Path, claim: str, results: object, each: Mapping[str, object] | None = None) -> None:
    """Write one benchmark's figures with the environment that they hold for and the command that made them.

    `each`: the tables of single runs, which are kept, but not on the page.
    """
    main = sys.modules["__main__"].__spec__
    command = " ".join(["python -m", main.name if main else Path(sys.argv[0]).stem, *sys.argv[1:]])
    document = {"claim": claim, "command": command, "environment": environment(), "results": results}
    document |= {"each": each} if each else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, default=asdict) + "\n", encoding="utf-8")


def columns_of(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the keys of all rows, in the order in which they first come up."""
    return list(dict.fromkeys(key for row in rows for key in row))


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows as an aligned table; a key that a row does not have is left empty."""
    if not rows:
        return
    columns = columns_of(rows)
    cells = [columns, *([text(row[key]) if key in row else "" for key in columns] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    for row in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)), flush=True)


def text(value: object) -> str:
    """Return a cell: a spread as its median and extremes."""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, Spread):
        return f"{value.median:,.2f} ({value.min:,.2f}-{value.max:,.2f})"
    if isinstance(value, Range):
        return f"{value.mean:,.3f} ({value.min:,.3f}-{value.max:,.3f})"
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
