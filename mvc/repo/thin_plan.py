"""Which epochs of a run stay as they are, and what becomes of the others: decided, not done."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mvc.errors import InvalidInputError
from mvc.objects.fields import Scalar
from mvc.types import ObjectId

__all__ = ["Best", "Epoch", "Fate", "Keep", "ThinPlan", "Verdict", "check_scored", "parse_best", "plan_thin"]

Fate = Literal["kept", "thinned", "already"]
"""What becomes of an epoch: it stays as it is; its contents may go; or they could go before."""

_EPOCH = "epoch"
"""Metadata that counts epochs, by which every K-th is told where all commits have it."""


@dataclass(frozen=True, slots=True)
class Best:
    """The epoch to keep for what it scored.

    Parameters
    ----------
    metric : str
        Name of the value in the metadata or the notes.
    least : bool
        Lower is better.
    """

    metric: str
    least: bool = False


def parse_best(text: str) -> Best:
    """Return what ``METRIC``, ``METRIC:max`` or ``METRIC:min`` stands for.

    Raises
    ------
    InvalidInputError
        If there is no name.

    Examples
    --------
    >>> parse_best("loss:min")
    Best(metric='loss', least=True)
    """
    name, _, order = text.rpartition(":")
    if order not in {"min", "max"}:
        name, order = text, "max"
    if not name:
        raise InvalidInputError(f"{text!r} names no metric", hint="write it like accuracy or loss:min")
    return Best(name, order == "min")


@dataclass(frozen=True, slots=True)
class Keep:
    """Which epochs to keep. At least one of the three must be given.

    Parameters
    ----------
    last : int or None
        So many of the newest.
    every : int or None
        Every so-manieth, by the metadata ``epoch`` if all have it as an integer, else counted from the oldest, which is
        the first.
    best : tuple of Best
        The best by each; of equals the newest.

    Raises
    ------
    InvalidInputError
        If nothing is given, or a number is less than 1.
    """

    last: int | None = None
    every: int | None = None
    best: tuple[Best, ...] = ()

    def __post_init__(self) -> None:
        if self.last is None and self.every is None and not self.best:
            raise InvalidInputError(
                "nothing says which epochs to keep", hint="pass --keep-last N, --keep-every K or --keep-best METRIC"
            )
        if any(number is not None and number < 1 for number in (self.last, self.every)):
            raise InvalidInputError("numbers of epochs to keep are 1 or more")


@dataclass(frozen=True, slots=True)
class Epoch:
    """What must be known of a commit.

    Parameters
    ----------
    id : ObjectId
        The commit.
    metadata : mapping
        What it records, and what is noted of it.
    held_by : tuple of str
        What else keeps it, in words: refs that name it, commits that it stands in for.
    thinned : bool
        It is already.
    """

    id: ObjectId
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    held_by: tuple[str, ...] = ()
    thinned: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one epoch.

    Parameters
    ----------
    id : ObjectId
        The commit.
    fate : Fate
        What becomes of it.
    reasons : tuple of str
        Why it is kept; none if it is not.
    """

    id: ObjectId
    fate: Fate
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ThinPlan:
    """What becomes of a run.

    Parameters
    ----------
    verdicts : tuple of Verdict
        In the order of the run, oldest first.
    """

    verdicts: tuple[Verdict, ...]

    def of(self, fate: Fate) -> tuple[ObjectId, ...]:
        """Return the commits of one fate, oldest first."""
        return tuple(verdict.id for verdict in self.verdicts if verdict.fate == fate)

    def keeping(self, more: Mapping[ObjectId, str]) -> ThinPlan:
        """Return the plan with some more commits kept, for the reasons given."""
        kept = (
            Verdict(item.id, "kept", (*item.reasons, more[item.id])) if item.id in more else item
            for item in self.verdicts
        )
        return ThinPlan(tuple(kept))

    def with_bases(self) -> ThinPlan:
        """Return the plan with the oldest kept if it is not, so that every other one has a kept one below it."""
        oldest = next((item for item in self.verdicts if item.fate != "already"), None)
        return self.keeping({oldest.id: "the base of those after it"} if oldest and oldest.fate == "thinned" else {})

    def base_of(self, commit: ObjectId) -> ObjectId | None:
        """Return the nearest kept epoch that is older than a commit."""
        ids = [verdict.id for verdict in self.verdicts]
        below = reversed(self.verdicts[: ids.index(commit)])
        return next((item.id for item in below if item.fate == "kept"), None)


def plan_thin(epochs: Sequence[Epoch], keep: Keep) -> ThinPlan:
    """Decide what becomes of each epoch.

    Those that are thinned already are counted for every K-th only: the newest N are N that are whole.

    Parameters
    ----------
    epochs : sequence of Epoch
        A line of history, oldest first.
    keep : Keep
        Which to keep.

    Examples
    --------
    >>> run = [Epoch(ObjectId(str(number) * 64)) for number in (1, 2, 3)]
    >>> [item.fate for item in plan_thin(run, Keep(last=1)).verdicts]
    ['thinned', 'thinned', 'kept']
    """
    whole = [epoch for epoch in epochs if not epoch.thinned]
    newest = {epoch.id for epoch in whole[len(whole) - min(keep.last or 0, len(whole)) :]}
    regular = _regular(epochs, keep.every)
    winners = {(best.metric, _best(whole, best)) for best in keep.best}

    def verdict(epoch: Epoch) -> Verdict:
        """Return what becomes of an epoch."""
        if epoch.thinned:
            return Verdict(epoch.id, "already")
        reasons = [
            *epoch.held_by,
            *([f"one of the newest {keep.last}"] if epoch.id in newest else []),
            *([f"one of every {keep.every}"] if epoch.id in regular else []),
            *(f"best {metric}" for metric, oid in sorted(winners, key=str) if oid == epoch.id),
        ]
        return Verdict(epoch.id, "kept" if reasons else "thinned", tuple(reasons))

    return ThinPlan(tuple(map(verdict, epochs)))


def check_scored(epochs: Sequence[Epoch], keep: Keep) -> None:
    """Refuse metrics that no epoch which is whole has: of a name with a slip of the pen nothing would be kept.

    Raises
    ------
    InvalidInputError
        If there is one.
    """
    whole = [epoch for epoch in epochs if not epoch.thinned]
    for best in keep.best:
        if _best(whole, best) is None:
            raise InvalidInputError(
                f"no epoch has a number {best.metric!r}", hint="mvc show REF says what a commit has"
            )


def _regular(epochs: Sequence[Epoch], every: int | None) -> Collection[ObjectId]:
    """Return every so-manieth epoch."""
    if every is None:
        return ()
    numbers = [epoch.metadata.get(_EPOCH) for epoch in epochs]
    counted = [number for number in numbers if isinstance(number, int) and not isinstance(number, bool)]
    if len(counted) < len(epochs):
        counted = list(range(1, len(epochs) + 1))
    return {epoch.id for epoch, number in zip(epochs, counted, strict=True) if number % every == 0}


def _best(epochs: Sequence[Epoch], best: Best) -> ObjectId | None:
    """Return the best epoch; those without a number do not compete."""
    scored = [(score, epoch.id) for epoch in epochs if (score := _number(epoch.metadata.get(best.metric))) is not None]
    if not scored:
        return None
    top = (min if best.least else max)(score for score, _ in scored)
    return next(oid for score, oid in reversed(scored) if score == top)


def _number(value: Scalar) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    return float(value) if usable and value is not None else None
