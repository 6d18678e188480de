"""``mvc thin``: let go of the contents of old epochs, and keep their ids and, if wanted, something that stands in.

Beside other processes: what is read to be compressed is pinned by a lease, which keeps its contents, thinned or not;
what is new is younger than that lease, and what is stored already is touched. All refs are set by one operation, which
is refused if another process has made a ref to one of the commits meanwhile, or thinned it; and who makes a ref is
refused in the same way if the commit has been thinned. `gc` runs before that operation, and finds nothing thinned, or
after it; what it has begun to remove it looks up again in the newest refs and leases (docs/decisions/011).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from mvc.errors import ConflictError, InvalidInputError, ReadOnlyError, StorageError
from mvc.index import CommitRecord
from mvc.lossy import Precision
from mvc.objects.operation import RefChange, apply_changes
from mvc.objects.refnames import BRANCHES, HEAD, REMOTES, TAGS, thinned_ref
from mvc.repo.clock import Actor
from mvc.repo.features import may_be_thinned, set_feature
from mvc.repo.gc import BASES, foresee
from mvc.repo.gptq_transform import EntropyCoded, GptqTransform
from mvc.repo.notes import Notes
from mvc.repo.press import CompressRequest, CompressResult, Press, shared_tensors, stored_tensors
from mvc.repo.progress import Progress, silent
from mvc.repo.prune_plan import SHARED, PrunePlan
from mvc.repo.refs import RefState
from mvc.repo.renewing import renewing
from mvc.repo.session import Session
from mvc.repo.survey import survey
from mvc.repo.thin_plan import Epoch, Keep, ThinPlan, check_scored, plan_thin
from mvc.repo.tips import commits_of_refs, ref_names
from mvc.repo.transforms import PrecisionTransform, Transform
from mvc.settings import Level
from mvc.store.leases import Lease
from mvc.types import ObjectId

__all__ = ["Foresight", "Older", "StandIn", "ThinRequest", "ThinResult", "thin"]

_STEP: Final = re.compile(r"delta-gptq:([0-9.eE+-]{1,24})")
_LOSSY: Final = "lossy already, and not compressed again"
_EXACT: Final = "holds nothing that could be stored with a loss"
_NOUNS: Final = {BRANCHES: "branch", TAGS: "tag", REMOTES: "branch of a remote"}


@dataclass(frozen=True, slots=True)
class Older:
    """What becomes of epochs that are not kept; dropped if neither is given.

    Parameters
    ----------
    precision : Precision or None
        Rounded stand-ins, each stored against the one of the epoch before.
    step : float or None
        Stand-ins by ``delta-gptq`` with such a step, in standard deviations of the delta, against the nearest older
        epoch that is kept.
    """

    precision: Precision | None = None
    step: float | None = None

    @classmethod
    def parse(cls, text: str) -> Older:
        """Return what ``precision:19`` (or any other precision), ``delta-gptq:STEP`` or ``drop`` says.

        Raises
        ------
        InvalidInputError
            If it is of another form.

        Examples
        --------
        >>> Older.parse("delta-gptq:8").step
        8.0
        """
        if text == "drop":
            return cls()
        if text.startswith("precision:"):
            return cls(precision=Precision.of(text))
        with suppress(ValueError):
            if (found := _STEP.fullmatch(text)) and 0 < float(found[1]) < float("inf"):
                return cls(step=float(found[1]))
        raise InvalidInputError(
            f"{text[:40]!r} says not what becomes of older epochs", hint="precision:19, delta-gptq:8 or drop"
        )

    @property
    def is_drop(self) -> bool:
        """Whether nothing stands in."""
        return self.precision is None and self.step is None

    def transform(self) -> Transform:
        """Return the method, for one commit."""
        if self.precision is not None:
            return PrecisionTransform(self.precision)
        assert self.step is not None, "what is dropped is not compressed"
        return GptqTransform(EntropyCoded(self.step), None)


@dataclass(frozen=True, slots=True)
class ThinRequest:
    """What to thin.

    Parameters
    ----------
    tip : ObjectId
        The commit whose line of first parents is the run.
    keep : Keep
        Which epochs stay.
    older : Older
        What becomes of the others.
    level : Level
        How hard to try to be small.
    dry_run : bool
        Weigh everything, and change nothing.
    """

    tip: ObjectId
    keep: Keep
    older: Older
    level: Level = "default"
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class StandIn:
    """What stands in for a commit.

    Parameters
    ----------
    commit : ObjectId
        The new commit; of a dry run, one that is not stored.
    tensor_bytes : int
        What its tensors take that are not those of the stand-in, or epoch, which it is stored against.
    """

    commit: ObjectId
    tensor_bytes: int


@dataclass(frozen=True, slots=True)
class Foresight:
    """What garbage collection will make of it, when the operation log and the grace period have let go.

    Parameters
    ----------
    freed : int
        Bytes that `gc` frees beyond what it would have freed before.
    bases : int
        Stored bytes of what then stays only since others are deltas of it: `repack` stores these in another way if that
        is smaller.
    shared : int
        Stored bytes of what then stays only since most of its pack does.
    """

    freed: int = 0
    bases: int = 0
    shared: int = 0


@dataclass(frozen=True, slots=True)
class ThinResult:
    """What was done, or would be.

    Parameters
    ----------
    plan : ThinPlan
        What becomes of each epoch.
    stand_ins : mapping of ObjectId to StandIn
        By thinned commit; none for what is dropped.
    stored_bytes : int
        By which the store grew, or would.
    foresight : Foresight
        What will be freed.
    logical_bytes : mapping of ObjectId to int
        Bytes of the files of each epoch.
    """

    plan: ThinPlan
    stand_ins: Mapping[ObjectId, StandIn]
    stored_bytes: int
    foresight: Foresight
    logical_bytes: Mapping[ObjectId, int]


def thin(session: Session, request: ThinRequest, actor: Actor, progress: Progress = silent) -> ThinResult:
    """Let go of the contents of old epochs: of those commits of a run that nothing keeps.

    They keep ids, metadata and manifests. `gc` then frees what no other commit needs, once the operation log has let go
    of the operation; until then `undo` brings everything back.

    Parameters
    ----------
    session : Session
        The repository.
    request : ThinRequest
        What to do.
    actor : Actor
        Who, and by which command.
    progress : callable
        Told how far the work is.

    Raises
    ------
    InvalidInputError
        If the method cannot be applied to an epoch, or no epoch has a number of a metric by which the best is kept.
    ConflictError
        If another process has made a ref to one of them meanwhile.
    IntegrityError
        If something that a ref reaches is missing or corrupt.
    """
    session.check_writable()
    state, run = session.refs.state(), _run(session, request.tip)
    epochs = _epochs(session, state, run)
    check_scored(epochs, request.keep)
    plan = _allowed(plan_thin(epochs, request.keep), run, request.older)
    sizes = {record.id: record.logical_bytes for record in run}
    if not plan.of("thinned"):
        return ThinResult(plan, {}, 0, Foresight(), sizes)
    with session.index.connected(), session.store.leases.take("thin", _pins(plan, state)) as lease:
        return _Thinning(session, request, state, actor, renewing(lease, progress)).run(plan, sizes, lease)


def _run(session: Session, tip: ObjectId) -> list[CommitRecord]:
    """Return the line of first parents that ends at `tip`, oldest first, as far as it is here."""
    found = [session.record(tip)]
    while (parent := found[-1].first_parent) is not None:
        found.append(session.record(parent))
    return found[::-1]


def _epochs(session: Session, state: RefState, run: Iterable[CommitRecord]) -> list[Epoch]:
    thinned, names = state.thinned, ref_names(session, state)
    held: dict[ObjectId, list[str]] = {oid: [_named(name) for name in found] for oid, found in names.items()}
    for oid, stand_in in thinned.items():
        if stand_in is not None:
            held.setdefault(stand_in, []).append(f"stands in for {oid[:12]}")
    notes = Notes(session, state)
    return [
        Epoch(
            record.id,
            {**record.metadata, **notes.of(record.id)},
            tuple(held.get(record.id, ())),
            record.id in thinned,
        )
        for record in run
    ]


def _named(ref: str) -> str:
    for prefix, noun in _NOUNS.items():
        if ref.startswith(prefix):
            return f"{noun} {ref.removeprefix(prefix)}"
    return HEAD


def _allowed(plan: ThinPlan, run: Iterable[CommitRecord], older: Older) -> ThinPlan:
    """Return the plan with those kept that cannot be compressed."""
    if older.is_drop:
        return plan
    chosen = {*plan.of("thinned")}
    plan = plan.keeping({record.id: _LOSSY for record in run if record.method is not None and record.id in chosen})
    return plan if older.step is None else plan.with_bases()


def _pins(plan: ThinPlan, state: RefState) -> list[ObjectId]:
    """Return what is read, or may be stored against."""
    before = (state.thinned.get(oid) for oid in plan.of("already"))
    return [*plan.of("thinned"), *plan.of("kept"), *(oid for oid in before if oid is not None)]


class _Thinning:
    """One thinning under way."""

    def __init__(
        self, session: Session, request: ThinRequest, state: RefState, actor: Actor, progress: Progress
    ) -> None:
        self._session = session
        self._request = request
        self._state = state
        self._actor = actor
        self._progress = progress
        self._made: dict[ObjectId, CompressResult] = {}

    def run(self, plan: ThinPlan, sizes: Mapping[ObjectId, int], lease: Lease) -> ThinResult:
        """Make stand-ins, weigh what goes, and set the refs."""
        session = self._session
        found = survey(session.store)  # before anything is added
        begin = session.store.rehearse if self._request.dry_run else session.store.begin
        with session.pool() as pool, begin() as batch:
            if not self._request.older.is_drop:
                press = Press(session, pool, batch, self._request.level)
                plan = plan.keeping(self._compress(press, plan))
                if self._made:
                    press.commit()
            changes = [RefChange(thinned_ref(oid), None, self._value(oid)) for oid in plan.of("thinned")]
            before = foresee(session, found, self._state, (), session.settings.gc)
            emptied = [replace(change, new=oid) for change, oid in zip(changes, plan.of("thinned"), strict=True)]
            state = replace(self._state, refs=apply_changes(self._state.refs, emptied))
            shared = (oid for made in self._made.values() for _, oid in made.manifest.segments())
            after = foresee(session, found, state, shared, session.settings.gc)
        if changes and not self._request.dry_run:
            self._move(changes, plan, lease)
        stand_ins = {oid: StandIn(made.commit.id, made.tensor_bytes) for oid, made in self._made.items()}
        return ThinResult(plan, stand_ins, batch.stored_bytes, _difference(before, after), sizes)

    def _value(self, commit: ObjectId) -> ObjectId:
        return self._made[commit].commit.id if commit in self._made else commit

    def _compress(self, press: Press, plan: ThinPlan) -> dict[ObjectId, str]:
        """Make stand-ins, oldest first; return the commits that have none, and why."""
        exact: dict[ObjectId, str] = {}
        for oid in plan.of("thinned"):
            if not any(True for _ in stored_tensors(self._session.manifest(oid))):
                exact[oid] = _EXACT
                continue
            base = self._base(press, plan, oid)
            request = CompressRequest(oid, self._request.older.transform(), base, level=self._request.level)
            made = press.compress(request, self._actor, self._progress)
            if made is None:
                exact[oid] = _EXACT
            else:
                self._made[oid] = made
        return exact

    def _base(self, press: Press, plan: ThinPlan, commit: ObjectId) -> ObjectId | None:
        """Return what a stand-in is stored against, if there is anything that shares tensors with it."""
        base = plan.base_of(commit) if self._request.older.step is not None else self._stand_in_before(plan, commit)
        if base is None or not shared_tensors(self._session.manifest(commit), press.manifest(base)):
            return None
        return base

    def _stand_in_before(self, plan: ThinPlan, commit: ObjectId) -> ObjectId | None:
        """Return the nearest older stand-in of the same method and settings, of this thinning or an earlier one."""
        ids = [verdict.id for verdict in plan.verdicts]
        for oid in reversed(ids[: ids.index(commit)]):
            if oid in self._made:
                return self._made[oid].commit.id
            stand_in = self._state.thinned.get(oid)
            if stand_in is not None and self._is_alike(stand_in):
                return stand_in
        return None

    def _is_alike(self, stand_in: ObjectId) -> bool:
        found, wanted = self._session.commit(stand_in).derivation, self._request.older.transform()
        return found is not None and (found.method, dict(found.parameters)) == (wanted.method, dict(wanted.parameters))

    def _move(self, changes: list[RefChange], plan: ThinPlan, lease: Lease) -> None:
        """Set the refs, all at once."""
        session = self._session
        thinned = {*plan.of("thinned")}

        def decide(current: RefState) -> tuple[RefChange, ...]:
            """Return the changes, unless another process has come to rely on one of the commits."""
            held = {*commits_of_refs(session, current).values(), *current.thinned, *current.thinned.values()}
            if not held.isdisjoint(thinned):
                raise ConflictError(
                    "another process has made a ref to one of these commits, or thinned it; nothing was thinned",
                    hint="run the command again",
                )
            return tuple(changes)

        decide(session.refs.state())  # before the feature is set, which stays
        if not may_be_thinned(session.layout):
            with session.store.leases.take_maintenance("thin"):
                set_feature(session, "thinned", present=True)
        if not lease.renew():
            raise ConflictError("this process was taken for dead, and what it stored may be gone", hint="thin again")
        session.refs.update(decide, self._actor)
        with suppress(StorageError, ReadOnlyError):  # derived: the next command will see to it
            session.refresh(force=True)


def _difference(before: PrunePlan, after: PrunePlan) -> Foresight:
    def grown(reason: str) -> int:
        """Return by how many stored bytes more stays for a reason."""
        sizes = [plan.kept[reason].stored_bytes if reason in plan.kept else 0 for plan in (before, after)]
        return sizes[1] - sizes[0]

    return Foresight(after.freed.stored_bytes - before.freed.stored_bytes, grown(BASES), grown(SHARED))
