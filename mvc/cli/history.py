"""Commits as documents and as text, for ``log`` and ``show``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import click

from mvc.cli.text import counted, facts, iso_time, local_time, printable, short
from mvc.index import CommitRecord
from mvc.objects.commit import Metadata
from mvc.objects.refnames import BRANCHES, HEAD, REMOTES, TAGS
from mvc.repo.metrics import Metrics
from mvc.repo.notes import Notes
from mvc.repo.refs import RefState
from mvc.repo.session import Session
from mvc.repo.tips import ref_names
from mvc.types import ObjectId

__all__ = ["RefNames", "commit_document", "full_text", "one_line"]


_ADAPTED: Final = "adapt"
"""The method of commits that have lost nothing, and have an adapter beside the weights of another commit."""


class RefNames:
    """Which refs hold which commit, and what is noted of it.

    Parameters
    ----------
    session : Session
        The repository.
    """

    def __init__(self, session: Session) -> None:
        self.state: RefState = session.refs.state()
        self._session = session
        self._names: Mapping[ObjectId, Sequence[str]] = ref_names(session, self.state)
        self._notes = Notes(session, self.state)
        self._thinned = self.state.thinned

    def of(self, commit: ObjectId) -> list[str]:
        """Return the full names of the refs at `commit`, sorted."""
        return list(self._names.get(commit, ()))

    def evaluations(self, commit: ObjectId) -> Metrics:
        """Return the metrics of a commit that were measured later."""
        return self._notes.of(commit)

    def values(self, record: CommitRecord) -> Metadata:
        """Return what a commit records, and what was measured later, which wins."""
        return {**record.metadata, **self._notes.of(record.id)}

    def thinned(self, commit: ObjectId) -> dict[str, object] | None:
        """Return what ``--json`` says of a commit whose contents were let go; None of any other."""
        if commit not in self._thinned:
            return None
        stand_in = self._thinned[commit]
        return {"stand_in": stand_in, "method": None if stand_in is None else self._method(stand_in)}

    def _method(self, stand_in: ObjectId) -> str | None:
        found = self._session.records([stand_in]).get(stand_in)
        return None if found is None else found.method

    def fate(self, commit: ObjectId) -> str | None:
        """Return the same in words."""
        if commit not in self._thinned:
            return None
        stand_in = self._thinned[commit]
        if stand_in is None:
            return "dropped"
        return f"{printable(self._method(stand_in) or 'lossy')}, stand-in {short(stand_in)}"

    def decoration(self, commit: ObjectId) -> str:
        """Return them as git shows them: `` (HEAD -> main, tag: v1)``, or nothing."""
        names = sorted(self.of(commit), key=lambda name: (name not in {HEAD, self.state.branch}, name))
        if not names:
            return ""
        shown = click.style(", ", fg="yellow").join(map(self._styled, names))
        return f" {click.style('(', fg='yellow')}{shown}{click.style(')', fg='yellow')}"

    def _styled(self, name: str) -> str:
        shown = printable(name.removeprefix(BRANCHES).removeprefix(TAGS).removeprefix(REMOTES))
        if name == self.state.branch:
            return click.style("HEAD -> ", fg="cyan", bold=True) + click.style(shown, fg="green", bold=True)
        if name.startswith(TAGS):
            return click.style(f"tag: {shown}", fg="yellow", bold=True)
        return click.style(shown, fg="cyan" if name == HEAD else "green", bold=True)


def commit_document(record: CommitRecord, names: RefNames) -> dict[str, object]:
    """Return what ``--json`` says of a commit."""
    return {
        "id": record.id,
        "parents": record.named,
        "message": record.message,
        "time": iso_time(record.time),
        "author": record.author,
        "metadata": record.metadata,
        "refs": names.of(record.id),
        "absent": record.absent,
        "derivation": {"method": record.method, "source": record.source} if record.method else None,
        "evaluations": names.evaluations(record.id),
        "thinned": names.thinned(record.id),
    }


def one_line(record: CommitRecord, names: RefNames) -> str:
    """Return a commit as one line: id, refs, subject, metadata and evaluations."""
    subject = printable(record.message.partition("\n")[0])
    line = f"{click.style(short(record.id), fg='yellow')}{names.decoration(record.id)} {subject}"
    if record.method:
        line += f"  {click.style(_derived(record), fg='magenta')}"
    if fate := names.fate(record.id):
        line += f"  {click.style(f'thinned: {fate}', fg='magenta')}"
    known = names.values(record)
    return f"{line}  {click.style(facts(known), dim=True)}" if known else line


def full_text(record: CommitRecord, names: RefNames) -> list[str]:
    """Return a commit as lines, in the manner of ``git log``."""
    lines = [click.style(f"commit {record.id}", fg="yellow") + names.decoration(record.id)]
    if len(record.named) > 1:
        lines.append("Merge:   " + " ".join(map(short, record.named)))
    if record.absent:
        lines.append(f"Shallow: {counted(len(record.absent), 'parent')} not here; mvc fetch --unshallow")
    if record.method:
        title = "Adapter: " if record.method == _ADAPTED else "Lossy:   "
        lines.append(click.style(title + _derived(record), fg="magenta"))
    if fate := names.fate(record.id):
        lines.append(click.style(f"Thinned: {fate}", fg="magenta"))
    lines.append(f"Author:  {printable(record.author)}")
    lines.append(f"Date:    {local_time(record.time)}")
    if record.metadata:
        lines.append(f"Data:    {facts(record.metadata)}")
    if evaluations := names.evaluations(record.id):
        lines.append(f"Eval:    {facts(evaluations)}")
    return [*lines, "", *(f"    {line}".rstrip() for line in printable(record.message).split("\n"))]


def _derived(record: CommitRecord) -> str:
    """Return what a commit with a loss is."""
    source = short(record.source) if record.source else "what was never committed"
    return f"{printable(record.method or '')} of {source}"
