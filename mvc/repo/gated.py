"""``mvc compress --gate``: a compressed commit gets its branch only if it still does what its source does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mvc.errors import InvalidInputError
from mvc.repo.branches import check_new_branch, create_branch
from mvc.repo.clock import Actor
from mvc.repo.compress import compress
from mvc.repo.evaluate import Evaluator, measure
from mvc.repo.gates import Finding, Gate
from mvc.repo.metrics import Metrics
from mvc.repo.notes import Notes, record_metrics
from mvc.repo.press import CompressRequest, CompressResult
from mvc.repo.progress import Progress, silent
from mvc.repo.session import Session

__all__ = ["GateRequest", "GateResult", "compress_gated"]


@dataclass(frozen=True, slots=True)
class GateRequest:
    """What a compressed commit must do.

    Parameters
    ----------
    gate : Gate
        Conditions on its metrics.
    evaluator : Evaluator
        What measures them.
    tries : int
        Settings to try, each finer than the one before.
    """

    gate: Gate
    evaluator: Evaluator
    tries: int = 1


@dataclass(frozen=True, slots=True)
class GateResult:
    """A commit that has passed.

    Parameters
    ----------
    compressed : CompressResult
        The commit.
    findings : tuple of Finding
        What became of each clause.
    tries : int
        Settings that were tried.
    """

    compressed: CompressResult
    findings: tuple[Finding, ...]
    tries: int


def compress_gated(
    session: Session, request: CompressRequest, asked: GateRequest, actor: Actor, progress: Progress = silent
) -> GateResult:
    """Compress, measure source and result, and make the branch if the gate lets it pass; else try a finer setting.

    The source is not measured if all metrics of the gate are noted of it. Those of both are noted in the end.

    Parameters
    ----------
    session, request, actor, progress
        As for `compress`.
    asked : GateRequest
        The gate.

    Raises
    ------
    InvalidInputError
        If no setting passes, and as for `compress`, `measure` and `Gate.judge`. No ref has moved then.
    """
    session.check_writable()
    if request.branch is not None:
        check_new_branch(session.refs.state(), request.branch)
    source = _metrics_of_source(session, request, asked, progress)
    failed: list[tuple[str, tuple[Finding, ...]]] = []
    trial: CompressRequest | None = replace(request, branch=None, gate=str(asked.gate))
    while trial is not None and len(failed) < asked.tries:
        result = compress(session, trial, actor, progress)
        derived = measure(session, result.commit.id, asked.evaluator, progress)
        findings = asked.gate.judge(source, derived)
        if all(finding.passed for finding in findings):
            record_metrics(session, {request.source: source, result.commit.id: derived}, actor)
            if request.branch is not None:
                create_branch(session, request.branch, result.commit.id, actor)
            return GateResult(result, findings, len(failed) + 1)
        failed.append((trial.transform.summary, findings))
        finer = trial.transform.finer
        trial = replace(trial, transform=finer) if finer else None
    raise _refusal(asked, failed)


def _metrics_of_source(session: Session, request: CompressRequest, asked: GateRequest, progress: Progress) -> Metrics:
    """Return what is noted of the source, or if that lacks something what the command finds."""
    noted = Notes(session, session.refs.state()).of(request.source)
    if asked.gate.metrics <= noted.keys():
        return noted
    found = measure(session, request.source, asked.evaluator, progress)
    asked.gate.judge(found, found)  # a metric that is missing is noticed before anything is compressed
    return found


def _refusal(asked: GateRequest, failed: Sequence[tuple[str, tuple[Finding, ...]]]) -> InvalidInputError:
    tried = "; with ".join(
        f"{setting}: {', '.join(str(finding) for finding in findings if not finding.passed)}"
        for setting, findings in failed
    )
    more = "" if len(failed) == asked.tries else ", and there is no finer setting"
    return InvalidInputError(
        f"gate {asked.gate} is not passed with {tried}{more}; no branch was made",
        hint="keep more bits, or let it try finer settings: --gate-tries N",
    )
