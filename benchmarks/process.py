"""Run a command and measure the whole process: wall and processor time, and the memory that is its own."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

INTERVAL = 0.05  # seconds between samples of the memory: reading them takes well under a millisecond
PRIVATE = re.compile(r"^Private_\w+:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process took.

    Parameters
    ----------
    wall, cpu : float
        Seconds; processor time of all threads and children, user and system.
    private : float
        MB: the largest sampled sum of private pages (mapped files of others not counted). Short peaks are missed.
    output : str
        What it printed.
    """

    wall: float
    cpu: float
    private: float
    output: str


def run_process(command: list[str]) -> Usage:
    """Run a command that must succeed.

    Raises
    ------
    RuntimeError
        If it does not, with what it wrote to standard error.
    """
    start = time.perf_counter()
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        sampler = Sampler(process.pid)
        sampler.start()
        assert process.stdout is not None
        output = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        sampler.stop()
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{errors.read().decode()}")
    return Usage(wall, usage.ru_utime + usage.ru_stime, sampler.peak / 1e3, output)


class Sampler(threading.Thread):
    """Read the private memory of a process until told to stop; `peak` is in units of 1000 bytes."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.path = Path(f"/proc/{pid}/smaps_rollup")
        self.done = threading.Event()
        self.peak = 0.0

    def run(self) -> None:
        """Sample."""
        while not self.done.wait(INTERVAL):
            try:
                text = self.path.read_text(encoding="ascii")
            except (OSError, ValueError):
                return  # the process is gone
            self.peak = max(self.peak, sum(map(int, PRIVATE.findall(text))) * 1.024)

    def stop(self) -> None:
        """Wait for the last sample."""
        self.done.set()
        self.join()


def copy_and_sync(source: Path, target: Path) -> list[str]:
    """Return the command that is the floor for every other: copy a file and wait until the disk has it."""
    return ["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", str(source), str(target)]
