"""Minimum-cost arborescences: the cheapest way to reach every node of a directed graph from one root."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["Arc", "minimum_arborescence"]

_NONE: Final = -1
"""No arc, no node, no seen."""


class Arc(NamedTuple):
    """One way to reach a node.

    Parameters
    ----------
    tail, head : int
        From and to.
    cost : float
        Finite; may be negative.
    """

    tail: int
    head: int
    cost: float


def minimum_arborescence(nodes: int, arcs: Sequence[Arc]) -> list[int]:
    """Return for each of the nodes 0 to ``nodes - 1`` the arc by which it is reached from the root, node `nodes`.

    Parameters
    ----------
    nodes : int
        Number of nodes, the root not counted.
    arcs : sequence of Arc
        At least one way from the root to every node. Arcs to the root and from a node to itself are ignored.

    Returns
    -------
    list of int
        Indices of `arcs`; the sum of their costs is the least possible.

    Raises
    ------
    ValueError
        If a node cannot be reached.

    Notes
    -----
    Time O(E log V). Edmonds' algorithm as grown along a path by Tarjan ("Finding optimum branchings", Networks 1977),
    in the form of Gabow et al. (Combinatorica 1986), section 2: walk backwards along cheapest arcs, contract every
    circle into a node of its own, and take the circles apart at the end. No recursion.

    Examples
    --------
    >>> arcs = [Arc(2, 0, 10.0), Arc(2, 1, 11.0), Arc(0, 1, 3.0), Arc(1, 0, 1.0)]
    >>> minimum_arborescence(2, arcs)
    [3, 1]
    """
    return _Contraction(nodes, arcs).run()


class _Contraction:
    """The graph while circles are contracted: nodes, the root, and a further node for each circle."""

    def __init__(self, nodes: int, arcs: Sequence[Arc]) -> None:
        self._nodes, self._arcs = nodes, arcs
        self._queues = _Queues([arc.cost for arc in arcs])
        self._queue = [_NONE] * (nodes + 1)
        self._inside = [_NONE] * (nodes + 1)
        """The circle that a node was contracted into."""
        self._top = list(range(nodes + 1))
        """A circle further out that a node lies in, or itself."""
        self._chosen = [_NONE] * (nodes + 1)
        for index, arc in enumerate(arcs):
            if arc.head != nodes:
                self._queue[arc.head] = self._queues.merge(self._queue[arc.head], index)

    def run(self) -> list[int]:
        """Contract circles until every node hangs on the root; return the arcs that are left, taken apart again."""
        done = [False] * (self._nodes + 1)
        done[self._nodes] = True
        for node in range(self._nodes):
            path = self._grow(self._outermost(node), done)
            for item in path:
                done[item] = True
        return self._taken_apart()

    def _grow(self, node: int, done: list[bool]) -> list[int]:
        """Walk from a node against cheapest arcs until something done is met; return the nodes that were passed."""
        path: list[int] = []
        while not done[node]:
            path.append(node)
            self._chosen[node] = self._cheapest(node)
            node = self._outermost(self._arcs[self._chosen[node]].tail)
            if not done[node] and self._chosen[node] != _NONE:  # on the path
                node = self._contract(path, node)
                done.append(False)
        return path

    def _cheapest(self, node: int) -> int:
        """Take the cheapest arc from outside off the queue of a node, and its cost off the others."""
        while self._queue[node] != _NONE:
            index, cost = self._queue[node], self._queues.cost[self._queue[node]]
            self._queue[node] = self._queues.rest(index)
            if self._outermost(self._arcs[index].tail) != node:
                self._queues.add(self._queue[node], -cost)
                return index
        raise ValueError("a node cannot be reached from the root")

    def _contract(self, path: list[int], first: int) -> int:
        """Replace the end of the path, a circle that begins with `first`, by a new node."""
        circle = len(self._top)
        queue = _NONE
        while True:
            node = path.pop()
            self._inside[node] = self._top[node] = circle
            queue = self._queues.merge(queue, self._queue[node])
            if node == first:
                break
        self._top.append(circle)
        self._inside.append(_NONE)
        self._queue.append(queue)
        self._chosen.append(_NONE)
        return circle

    def _outermost(self, node: int) -> int:
        """Return the circle that a node lies in, and halve the way to it for the next time."""
        top = self._top
        while top[node] != node:
            top[node] = top[top[node]]
            node = top[node]
        return node

    def _taken_apart(self) -> list[int]:
        """Return the arcs of the nodes themselves: one that enters a circle replaces that of the node that it enters.

        Circles are numbered from the inside out, so that whatever contains a node comes before it.
        """
        settled = [False] * len(self._chosen)
        for outer in range(len(self._chosen) - 1, -1, -1):
            if settled[outer] or outer == self._nodes:
                continue
            index, node = self._chosen[outer], self._arcs[self._chosen[outer]].head
            while True:
                settled[node], self._chosen[node] = True, index
                if node == outer:
                    break
                node = self._inside[node]
        return self._chosen[: self._nodes]


class _Queues:
    """Priority queues of arcs that can be merged, and whose costs can be changed at once: skew heaps.

    A queue is its cheapest arc, or `_NONE`. Sleator and Tarjan, "Self-adjusting heaps", SIAM J. Comput. 1986: merging
    takes O(log n) on average. Of equal costs, any arc comes first, but always the same one.
    """

    def __init__(self, cost: list[float]) -> None:
        self.cost = cost
        """Of the arcs that lead their queue; what stands further down lacks what `_pending` says above it."""
        self._pending = [0.0] * len(cost)
        self._left, self._right = [_NONE] * len(cost), [_NONE] * len(cost)

    def add(self, queue: int, cost: float) -> None:
        """Add to the cost of every arc of a queue."""
        if queue != _NONE:
            self.cost[queue] += cost
            self._pending[queue] += cost

    def rest(self, queue: int) -> int:
        """Return a queue without its cheapest arc."""
        self._hand_down(queue)
        return self.merge(self._left[queue], self._right[queue])

    def merge(self, one: int, other: int) -> int:
        """Return a queue of the arcs of two."""
        if _NONE in (one, other):
            return max(one, other)
        one, other = self._sorted(one, other)
        first = one
        while True:
            self._hand_down(one)
            below = self._right[one]
            self._right[one] = self._left[one]
            if below == _NONE:
                self._left[one] = other
                return first
            below, other = self._sorted(below, other)
            self._left[one] = one = below

    def _sorted(self, one: int, other: int) -> tuple[int, int]:
        return (one, other) if self.cost[one] <= self.cost[other] else (other, one)

    def _hand_down(self, queue: int) -> None:
        if pending := self._pending[queue]:
            self._pending[queue] = 0.0
            self.add(self._left[queue], pending)
            self.add(self._right[queue], pending)
