"""Measuring again what commits say that their tensors have lost, wherever the exact tensors are stored, too."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from mvc.errors import InvalidInputError
from mvc.lossy import Loss, Precision, grid_of, measured
from mvc.objects.commit import Commit
from mvc.objects.derivation import Derivation, DerivedTensor
from mvc.repo.check_copies import WRONG, Copies
from mvc.repo.materialize import ContentReader
from mvc.repo.parallel import ordered_map
from mvc.repo.progress import Progress
from mvc.repo.session import Session
from mvc.repo.smaller import SMALLER
from mvc.repo.transforms import PrecisionTransform, bound_of
from mvc.store.layout import Location
from mvc.types import DType, ObjectId, TensorSpec
from mvc.types.values import REALS

__all__ = ["LossCheck", "WrongLoss", "check_losses"]

_KEPT_BYTES: Final = 256 << 20
"""Bytes of decoded frames kept for the deltas that come next: two of the largest matrices of most models in bf16."""

_ROUNDING: Final = 2.0**-20
"""Share by which a record may differ from what is measured: squares are summed of 24 leading bits (spec-v1, section 4),
and another writer may round otherwise."""

_Pair: TypeAlias = tuple[ObjectId, ObjectId]
"""A tensor, and what stands for it."""

_Losses: TypeAlias = Callable[[Callable[[int], Loss], Iterable[int]], Generator[Loss]]
"""Measures frames, given by their first words, in threads."""


@dataclass(frozen=True, slots=True)
class WrongLoss:
    """What a commit says of the loss of a tensor, and what does not hold.

    Parameters
    ----------
    commit : ObjectId
        The commit.
    tensor : DerivedTensor
        What it says.
    problem : str
        What is measured instead.
    """

    commit: ObjectId
    tensor: DerivedTensor
    problem: str


@dataclass(frozen=True, slots=True)
class LossCheck:
    """The outcome.

    Parameters
    ----------
    measured : int
        Pairs of tensors that were compared, each once, however many commits speak of it.
    wrong : tuple of WrongLoss
        What does not hold.
    """

    measured: int = 0
    wrong: tuple[WrongLoss, ...] = ()


@dataclass(frozen=True, slots=True)
class _Claim:
    """What one commit says of one pair."""

    commit: ObjectId
    derivation: Derivation
    tensor: DerivedTensor

    def problems(self, loss: Loss, dtype: DType) -> Iterator[str]:
        """Yield what does not hold of it."""
        tensor, bound = self.tensor, self._bound(loss, dtype)
        if bound is not None and not loss.largest <= bound:
            yield f"an element differs by {loss.largest:.9g}, and none may by more than {bound:.9g}"
        if not _agree(loss.largest, tensor.largest):
            yield f"the largest error is {loss.largest:.9g}, where {tensor.largest:.9g} is recorded"
        if not _agree(loss.relative, tensor.relative):
            yield f"the relative error is {loss.relative:.9g}, where {tensor.relative:.9g} is recorded"

    def _bound(self, loss: Loss, dtype: DType) -> float | None:
        """Return what no element may differ by more than: as recorded, and as the setting of the method has it."""
        bounds = [self.tensor.bound]
        if self.derivation.method == PrecisionTransform.method:
            with suppress(InvalidInputError):  # of a later release
                precision = Precision.of(str(self.derivation.parameters.get("precision")))
                bounds.append(bound_of(grid_of(precision, dtype, loss.values)))
        return min((bound for bound in bounds if bound is not None), default=None)


def _agree(one: float, other: float) -> bool:
    """Return whether two numbers are the same but for rounding; NaN agrees with nothing."""
    return abs(one - other) <= _ROUNDING * other


def check_losses(session: Session, copies: Copies, commits: Iterable[Commit], progress: Progress) -> LossCheck:
    """Measure the loss of each derived tensor whose source is stored as well, a frame at a time.

    Tensors that cannot be read are left out, since a check of copies says so; those of types that nothing rounds; and
    those that `mvc.repo.smaller` has taken rows or columns of, for commits do not record which.

    Parameters
    ----------
    session : Session
        The repository.
    copies : Copies
        What is stored.
    commits : iterable of Commit
        Those whose records to check.
    progress : callable
        Told how far the work is.
    """
    claims = _claims(copies, commits)
    if not claims:
        return LossCheck()
    count, wrong = 0, list[WrongLoss]()
    total = sum(copies.good[oid].raw_bytes for _, oid in claims)
    with session.pool() as pool, progress("measuring", total) as tick:
        reader = ContentReader(session, pool, partial(_locate, copies), keep_bytes=_KEPT_BYTES)
        losses = partial(ordered_map, pool, window=2 * session.threads)
        for pair in _in_order(copies, claims):
            with suppress(*WRONG):
                wrong += list(_contradicted(reader, pair, claims[pair], losses))
                count += 1
            tick(copies.good[pair[1]].raw_bytes)
    return LossCheck(count, tuple(wrong))


def _claims(copies: Copies, commits: Iterable[Commit]) -> dict[_Pair, list[_Claim]]:
    """Return what is said of each pair of which both are stored."""
    found: dict[_Pair, list[_Claim]] = {}
    for commit in commits:
        for tensor in commit.derivation.tensors if commit.derivation else ():
            if commit.derivation and tensor.source in copies.good and tensor.id in copies.good:
                if commit.derivation.method == SMALLER and _is_less(copies, tensor):
                    continue
                claim = _Claim(commit.id, commit.derivation, tensor)
                found.setdefault((tensor.source, tensor.id), []).append(claim)
    return found


def _is_less(copies: Copies, tensor: DerivedTensor) -> bool:
    """Return whether there is less of a tensor than of what it stands for."""
    return copies.good[tensor.id].raw_bytes < copies.good[tensor.source].raw_bytes


def _in_order(copies: Copies, pairs: Iterable[_Pair]) -> list[_Pair]:
    """Return pairs in the order in which their sources were checked: what these are deltas of was decoded just now."""
    places = {oid: place for place, oid in enumerate(copies.by_id)}
    return sorted(pairs, key=lambda pair: (places[pair[0]], places[pair[1]]))


def _locate(copies: Copies, ids: Iterable[ObjectId]) -> dict[ObjectId, Location]:
    """Return where good copies lie."""
    return {oid: copies.good[oid].location for oid in ids if oid in copies.good}


def _contradicted(reader: ContentReader, pair: _Pair, claims: Iterable[_Claim], losses: _Losses) -> Iterator[WrongLoss]:
    """Measure a pair; yield what does not hold of what is said of it."""
    source, derived = (reader.open(oid).envelope for oid in pair)
    spec, step = derived.spec, derived.frame_words
    if source.spec != spec:
        problem = f"it is {_kind(spec)}, and what it stands for {_kind(source.spec)}"
        yield from (WrongLoss(claim.commit, claim.tensor, problem) for claim in claims)
    elif spec.dtype.name in REALS:
        frames = losses(partial(_loss_of_frame, reader, pair, spec, step), range(0, spec.words, step))
        loss = sum(frames, Loss())
        for claim in claims:
            if problems := list(claim.problems(loss, spec.dtype)):
                yield WrongLoss(claim.commit, claim.tensor, "; ".join(problems))


def _loss_of_frame(reader: ContentReader, pair: _Pair, spec: TensorSpec, step: int, start: int) -> Loss:
    """Measure the words of a frame that begins at `start`."""
    source, derived = (reader.words(oid, start, min(step, spec.words - start)) for oid in pair)
    return measured(source, derived, spec.dtype)


def _kind(spec: TensorSpec) -> str:
    return f"{spec.dtype.name}{list(spec.shape)}"
