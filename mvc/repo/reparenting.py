"""Local search on assignments: give nodes cheaper choices, and mend what that breaks, while it pays."""

from __future__ import annotations

from typing import Final

from mvc.repo.assignment import Assignment

__all__ = ["improve"]

_MOST_PASSES: Final = 64
"""Passes over all nodes. Each makes the total smaller, so that it ends by itself; ten were enough for random graphs of
2,000 nodes."""

_MOST_HELPERS: Final = 24
"""Moves of other nodes that are tried for the sake of one, the cheapest first. A chain of the default depth offers
about twice as many, of which the dearer ones hardly ever pay."""

_MOST_MENDED: Final = 256
"""Users of a node that may have to be looked at when a move breaks their bounds; keeps a move on what thousands depend
on from taking as long as all of them."""


def improve(assignment: Assignment) -> None:
    """Move single nodes, and pairs of them, until no such move makes the total smaller.

    Every step keeps all bounds, if they were kept before.

    Parameters
    ----------
    assignment : Assignment
        Changed in place.
    """
    for _ in range(_MOST_PASSES):
        moved = [_improve(assignment, node) for node in range(assignment.problem.size)]
        if not any(moved):
            return


def _improve(a: Assignment, node: int) -> bool:
    """Give a node the cheapest choice that it can have; return True if that is another than before."""
    now = a.choice(node).cost
    for index, choice in enumerate(a.problem.choices[node]):
        gain = now - choice.cost
        if gain <= 0:
            return False
        if a.move(node, index) or _helped(a, node, index, gain) or _mended(a, node, index, gain):
            return True
    return False


def _helped(a: Assignment, node: int, index: int, gain: float) -> bool:
    """Move something that a choice of a node needs, so that the node can have it: to where it is read with less, or,
    if it needs the node itself, to where it does not.
    """
    helpers = [
        (choice.cost - a.choice(other).cost, other, number)
        for other in a.needed(a.problem.choices[node][index].sides)
        if other != node
        for number, choice in enumerate(a.problem.choices[other])
        if number != a.chosen[other] and choice.cost - a.choice(other).cost < gain
    ]
    for _, other, number in sorted(helpers)[:_MOST_HELPERS]:
        before = a.chosen[other]
        if a.move(other, number):
            if a.move(node, index):
                return True
            a.put(other, before)
    return False


def _mended(a: Assignment, node: int, index: int, gain: float) -> bool:
    """Give a node a choice that its users cannot bear, and these the cheapest that they can."""
    if not a.would_fit(node, index):
        return False
    done = [(node, a.chosen[node])]
    behind = a.put(node, index)
    if behind is None:
        return False
    for user in behind if len(behind) <= _MOST_MENDED else ():
        if not a.fits(user):
            before = a.choice(user).cost
            done.append((user, a.chosen[user]))
            if not _settled(a, user):
                break
            gain -= a.choice(user).cost - before
    if gain > 0 and all(map(a.fits, behind)):
        return True
    for item, earlier in reversed(done):
        a.put(item, earlier)
    return False


def _settled(a: Assignment, node: int) -> bool:
    """Give a node that breaks its bounds the cheapest choice with which it keeps them; return False if there is none."""
    for index in range(len(a.problem.choices[node])):
        if index != a.chosen[node] and a.would_fit(node, index) and a.put(node, index) is not None:
            return True
    return False
