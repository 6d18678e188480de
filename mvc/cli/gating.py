"""The options of ``compress`` that hold the new commit to what its source does, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import click

from mvc.cli.app import App
from mvc.cli.text import printable
from mvc.repo.evaluate import Evaluator
from mvc.repo.gated import GateRequest, GateResult
from mvc.repo.gates import Gate

__all__ = ["gate_document", "gate_lines", "gate_options", "gate_request"]

_OPTIONS: Final = (
    click.option("--gate", metavar="COND", help="Only if its metrics meet COND: 'acc >= 0.98*source'."),
    click.option("--gate-cmd", metavar="CMD", help="With --gate: what measures, as for mvc evaluate."),
    click.option(
        "--gate-tries", type=click.IntRange(min=1), metavar="N", help="With --gate: try up to N settings, ever finer."
    ),
)


def gate_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--gate``, ``--gate-cmd`` and ``--gate-tries``."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def gate_request(app: App, gate: str | None, command: str | None, tries: int | None) -> GateRequest | None:
    """Return what these options ask for; None if there is no gate."""
    if gate is None and command is None and tries is None:
        return None
    if gate is None or command is None:
        raise click.UsageError("a gate takes both --gate and --gate-cmd", click.get_current_context())
    return GateRequest(Gate.parse(gate), Evaluator(command, app.environment), tries or 1)


def gate_document(result: GateResult, gate: Gate) -> dict[str, object]:
    """Return what ``--json`` says of a gate that was passed."""
    metrics = [
        {
            "name": found.clause.metric,
            "operator": found.clause.operator,
            "limit": found.limit,
            "source": found.source,
            "value": found.value,
        }
        for found in result.findings
    ]
    return {"condition": str(gate), "tries": result.tries, "metrics": metrics}


def gate_lines(result: GateResult) -> Iterator[str]:
    """Yield what a person is told."""
    for found in result.findings:
        yield f"gate: {printable(str(found))}"
    if result.tries > 1:
        yield f"gate: the first {result.tries - 1} of {result.tries} settings did not pass"
