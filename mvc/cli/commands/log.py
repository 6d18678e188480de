"""``mvc log``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import click

from mvc.cli.app import App
from mvc.cli.documents import emit
from mvc.cli.graph import draw, reduced
from mvc.cli.group import command as make_command
from mvc.cli.history import RefNames, commit_document, full_text, one_line
from mvc.cli.options import complete_ref, json_option, max_count_option
from mvc.index import CommitRecord
from mvc.objects.refnames import NOTES
from mvc.repo.graph import graph
from mvc.repo.log import history, parse_condition
from mvc.repo.revisions import resolve
from mvc.repo.session import Session
from mvc.repo.tips import commits_of_refs


@make_command(
    "log", "mvc log --oneline -n 10", "mvc log --graph --all", "mvc log main --where 'loss<0.3' --where 'epoch>=2'"
)
@click.argument("ref", metavar="[REF]", shell_complete=complete_ref, default="HEAD")
@max_count_option
@click.option(
    "--where", "conditions", metavar="COND", multiple=True, help="Only commits whose metadata or evaluations meet COND."
)
@click.option("--graph", "with_graph", is_flag=True, help="Draw the lines of history.")
@click.option("--oneline", is_flag=True, help="One line for each commit.")
@click.option("--all", "everything", is_flag=True, help="History of all branches and tags.")
@json_option
@click.pass_obj
def command(
    app: App,
    /,
    *,
    ref: str,
    max_count: int | None,
    conditions: tuple[str, ...],
    with_graph: bool,
    oneline: bool,
    everything: bool,
    as_json: bool,
) -> None:
    """Show commits, newest first.

    A commit comes before its parents. COND compares a value that was recorded with --metric or --meta, or noted by
    mvc evaluate, which wins: one of = != < <= > >= between a name and a value; commits without the value do not meet
    it.
    """
    session = Session.find(app.start)
    names = RefNames(session)
    records = _selected(session, names, ref, everything=everything, conditions=conditions, keep_lines=with_graph)
    records = islice(records, max_count)
    if as_json:
        emit("mvc.log/1", commits=[commit_document(record, names) for record in records])
        return
    for line in _lines(records, names, with_graph=with_graph, oneline=oneline):
        click.echo(line)


def _selected(
    session: Session, names: RefNames, ref: str, *, everything: bool, conditions: Iterable[str], keep_lines: bool
) -> Iterable[CommitRecord]:
    wanted = [parse_condition(text) for text in conditions]
    held = commits_of_refs(session, names.state) if everything else {}
    tips = {oid for name, oid in held.items() if not name.startswith(NOTES)}
    if not everything or ref != "HEAD":
        tips.add(resolve(session, ref).commit)
    records = history(session, tips)
    if not wanted:
        return records

    def meets(record: CommitRecord) -> bool:
        """Return whether a commit meets all conditions."""
        values = names.values(record)
        return all(condition(values) for condition in wanted)

    return reduced(records, meets) if keep_lines else filter(meets, records)


def _lines(records: Iterable[CommitRecord], names: RefNames, *, with_graph: bool, oneline: bool) -> Iterator[str]:
    if with_graph:
        for row in graph(records):
            text = [one_line(row.record, names)] if oneline else [*full_text(row.record, names), ""]
            yield from draw(row, text)
        return
    for number, record in enumerate(records):
        if oneline:
            yield one_line(record, names)
        else:
            yield from [""] if number else []
            yield from full_text(record, names)
