"""Histories that Hypothesis makes up, done to a repository and to a model of it, by one process for each core.

Each process takes one part after the other; a part has a seed of its own, so that one that fails can be taken alone.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Final

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from mvc.testing.machine import RepositoryMachine

__all__ = ["Part", "run_parts"]

STEPS: Final = 200
"""Of each history, at most."""
_HISTORIES: Final = 25
"""Of a part: some minutes, so that progress is seen."""
_SEEDS: Final = 1_000
"""Parts whose seeds follow that of the run: more than there are."""


@dataclass(frozen=True, slots=True)
class Part:
    """What came of a part.

    Parameters
    ----------
    seed : int
        Of its random numbers.
    counts : dict of str to int
        Examples and steps; actions that were done, refused or crashed in.
    cpu_seconds : float
        Processor time.
    wrong : str
        The shortest history that fails, and how; empty if none does.
    """

    seed: int
    counts: dict[str, int]
    cpu_seconds: float
    wrong: str


def run_parts(histories: int, start: int) -> Iterator[Part]:
    """Do `histories` to repositories, with seeds that follow from `start`; yield each part when it is finished."""
    sizes = [_HISTORIES] * (histories // _HISTORIES) + [histories % _HISTORIES]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = [pool.submit(_run, size, start * _SEEDS + place) for place, size in enumerate(sizes) if size]
        yield from (part.result() for part in as_completed(parts))


def _run(histories: int, number: int) -> Part:
    """Do some histories in this process."""
    logging.disable()  # warnings of what crashes leave
    chosen = settings(
        max_examples=histories,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    RepositoryMachine.tally.clear()
    start, wrong = time.process_time(), ""
    try:
        run_state_machine_as_test(seed(number)(RepositoryMachine), settings=chosen)
    except Exception:  # noqa: BLE001 (the other parts are still worth doing)
        wrong = traceback.format_exc()
    return Part(number, dict(RepositoryMachine.tally), time.process_time() - start, wrong)
