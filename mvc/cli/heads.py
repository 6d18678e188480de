"""What ``switch``, ``checkout`` and ``restore`` brought, as a document and as text."""

from __future__ import annotations

import click

from mvc.cli.notes import tell
from mvc.cli.text import printable, short
from mvc.objects.refnames import BRANCHES
from mvc.repo.checkout import CheckoutResult
from mvc.repo.revisions import Revision
from mvc.repo.session import Session

__all__ = ["explain_detached", "explain_stand_in", "head_document"]


def head_document(result: CheckoutResult) -> dict[str, object]:
    """Return what ``--json`` says of a move of HEAD."""
    branch = result.branch.removeprefix(BRANCHES) if result.branch else None
    return {"commit": result.commit, "branch": branch, "written": result.written, "removed": result.removed}


def explain_detached(session: Session, result: CheckoutResult) -> None:
    """Say where HEAD is, and what it means that no branch follows."""
    assert result.commit is not None, "HEAD is detached at a commit"
    subject = printable(session.record(result.commit).message.partition("\n")[0])
    click.echo(f"HEAD is now at {click.style(short(result.commit), fg='yellow')} {subject}")
    tell("note", "HEAD is detached: commits made here are on no branch")
    tell("hint", "mvc switch -c NAME makes a branch here, mvc switch NAME goes to one")


def explain_stand_in(session: Session, revision: Revision | None) -> None:
    """Say which commit was asked for, if what was brought only stands in for it."""
    if revision is not None and revision.stands_in_for is not None:
        wanted, method = short(revision.stands_in_for), printable(session.record(revision.commit).method or "")
        tell("note", f"{wanted} was thinned: this is {short(revision.commit)}, which stands in for it by {method}")
