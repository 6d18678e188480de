"""Run one coder on one case, in a child process, on a copy, with its round trip verified.

A child, because a peer may crash or overwrite its input; a failure is a result like any other.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np

from benchmarks.peers import Coder, Stored, UnsupportedError
from benchmarks.report import Spread, Timing, rate, time_runs
from benchmarks.tensors import Data, Tensors, size_of

Case = tuple[Tensors, Tensors | None]
"""Tensors to store, and those of the base for deltas."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a coder did to a case.

    Parameters
    ----------
    stored, raw : int
        Bytes.
    encode, decode : Timing
        Seconds of every run.
    timed : bool
        Whether these are the coder's own.
    """

    stored: int
    raw: int
    encode: Timing
    decode: Timing
    timed: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there are no figures."""

    reason: str


Coders = Callable[[], Coder]
Cases = Callable[[], Case]


def run(coder: Coders, case: Cases, runs: int) -> Outcome | Failure:
    """Run a coder in a child process that makes both coder and case itself (so both are picklable callables)."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(run_here, coder, case, runs).result()
        except BrokenProcessPool:
            return Failure("failed: crashed")


def run_here(coder: Coders, case: Cases, runs: int) -> Outcome | Failure:
    """Run a coder in this process."""
    tensors, base = case()
    try:
        return measure(coder(), tensors, base, runs)
    except UnsupportedError as error:
        return Failure(str(error))
    except ImportError as error:
        return Failure(f"not installed ({error.name})")
    except Exception as error:  # noqa: BLE001  (a peer may raise anything; that is its result)
        print(f"{coder}: {error!r}", file=sys.stderr)
        return Failure(f"failed: {type(error).__name__}")


def measure(coder: Coder, tensors: Tensors, base: Tensors | None, runs: int) -> Outcome | Failure:
    """Encode and decode `runs` times, each time from a copy, and compare after the last time."""
    coder.prepare()
    specs = {name: tensor.spec for name, tensor in tensors.items()}
    box: dict[str, Tensors] = {}

    def copy() -> None:
        box["input"] = {name: tensor._replace(data=bytearray(tensor.data)) for name, tensor in tensors.items()}

    last: dict[str, Stored] = {}
    encode = time_runs(lambda: last.update(stored=coder.encode(box["input"], base)), runs, copy)
    stored = last["stored"]
    back: dict[str, Data] = {}
    decode = time_runs(lambda: back.update(coder.decode(stored, specs, base)), runs)
    if not all(equal(tensors[name].data, back[name]) for name in tensors):
        return Failure("failed: NOT LOSSLESS")
    size = sum(len(piece) for pieces in stored.values() for piece in pieces)
    return Outcome(size, size_of(tensors), encode, decode, coder.timed)


def share(outcome: Outcome | Failure) -> object:
    """Return the stored share in %, or why there is none."""
    return outcome.reason if isinstance(outcome, Failure) else 100 * outcome.stored / outcome.raw


def speeds(outcome: Outcome) -> dict[str, Spread]:
    """Return the speeds in raw bytes by wall time, and the processor time, if they are the coder's own."""
    if not outcome.timed:
        return {}
    return {
        "encode MB/s": rate(outcome.raw, outcome.encode.wall),
        "decode MB/s": rate(outcome.raw, outcome.decode.wall),
        "encode CPU s": Spread.of(outcome.encode.cpu),
        "decode CPU s": Spread.of(outcome.decode.cpu),
    }


def equal(left: Data, right: Data) -> bool:
    """Return whether two byte strings are the same."""
    return np.array_equal(np.frombuffer(left, np.uint8), np.frombuffer(right, np.uint8))
