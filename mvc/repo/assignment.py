"""One way to store each content, and what follows from it: depths, bytes read, and moves that keep both in bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

__all__ = ["Assignment", "Choice", "Problem", "grow", "summits"]


class Choice(NamedTuple):
    """One way to store a node.

    Parameters
    ----------
    sides : tuple of int
        The nodes that are needed to decode it.
    cost : float
        Stored bytes.
    """

    sides: tuple[int, ...]
    cost: float


@dataclass(frozen=True, slots=True)
class Problem:
    """Nodes 0, 1, ... and how they may be stored.

    Parameters
    ----------
    choices : sequence of sequence of Choice
        By node: at least one, the cheapest first.
    most_depth : sequence of int
        By node: largest depth.
    most_read : sequence of float
        By node: largest number of stored bytes that a rebuild may read.
    safe_depth, safe_read : sequence of int, of float
        By node: the same, but so much lower that what has only one choice, and needs the node, is within its bounds,
        whatever becomes of the rest.
    """

    choices: Sequence[Sequence[Choice]]
    most_depth: Sequence[int]
    most_read: Sequence[float]
    safe_depth: Sequence[int]
    safe_read: Sequence[float]
    near: Sequence[Sequence[int]] = field(init=False)
    """By node: those that may be stored with its help, ascending."""

    def __post_init__(self) -> None:
        near: list[dict[int, None]] = [{} for _ in self.choices]
        for node, choices in enumerate(self.choices):
            for choice in choices:
                for side in choice.sides:
                    near[side][node] = None
        object.__setattr__(self, "near", [[*found] for found in near])

    @property
    def size(self) -> int:
        """Number of nodes."""
        return len(self.choices)


class Assignment:
    """A choice for every node, without circles.

    Parameters
    ----------
    problem : Problem
        The nodes.
    chosen : sequence of int
        By node: index of its choice.
    order : iterable of int
        The nodes, each behind all that it needs.
    """

    def __init__(self, problem: Problem, chosen: Sequence[int], order: Iterable[int]) -> None:
        self.problem = problem
        self.chosen = list(chosen)
        self.depth = [0] * problem.size
        self.read = [0.0] * problem.size
        self._users: list[dict[int, None]] = [{} for _ in range(problem.size)]
        for node in order:
            self._measure(node)
            for side in self.choice(node).sides:
                self._users[side][node] = None

    def choice(self, node: int) -> Choice:
        """Return how a node is stored."""
        return self.problem.choices[node][self.chosen[node]]

    @property
    def cost(self) -> float:
        """Stored bytes of all nodes."""
        return sum(self.choice(node).cost for node in range(self.problem.size))

    def fits(self, node: int) -> bool:
        """Return True if a node is within its bounds."""
        return self.depth[node] <= self.problem.most_depth[node] and self.read[node] <= self.problem.most_read[node]

    def measured(self, choice: Choice) -> tuple[int, float]:
        """Return the depth and the bytes read of what is stored in a way, its sides being as they are."""
        sides, cost = choice
        if not sides:
            return 0, cost
        if len(sides) == 1:
            return self.depth[sides[0]] + 1, self.read[sides[0]] + cost
        return 1 + max(self.depth[side] for side in sides), cost + sum(self.read[side] for side in sides)

    def would_fit(self, node: int, index: int) -> bool:
        """Return True if a node would be within its bounds with another choice, were its sides as they are."""
        depth, read = self.measured(self.problem.choices[node][index])
        return depth <= self.problem.most_depth[node] and read <= self.problem.most_read[node]

    def users(self, node: int) -> list[int]:
        """Return a node and all that need it, at any depth, each behind all that it needs."""
        users = self._users
        if not users[node]:
            return [node]
        left, seen = [], {node}
        path = [(node, iter(users[node]))]
        while path:
            item, pending = path[-1]
            for user in pending:
                if user not in seen:
                    seen.add(user)
                    path.append((user, iter(users[user])))
                    break
            else:
                left.append(item)
                path.pop()
        return left[::-1]

    def needed(self, nodes: Iterable[int]) -> Iterator[int]:
        """Yield `nodes` and all that they need, at any depth, each once."""
        seen: set[int] = set()
        pending = [*nodes]
        while pending:
            node = pending.pop()
            if node not in seen:
                seen.add(node)
                yield node
                pending += self.choice(node).sides

    def is_circle(self, node: int, index: int) -> bool:
        """Return True if a node would need itself with another choice."""
        return any(other == node for other in self.needed(self.problem.choices[node][index].sides))

    def put(self, node: int, index: int) -> list[int]:
        """Give a node another choice, whatever the bounds, with which it does not need itself.

        Returns
        -------
        list of int
            The nodes that were measured again: it and its users, in order.
        """
        for side in self.choice(node).sides:
            self._users[side].pop(node, None)
        self.chosen[node] = index
        for side in self.choice(node).sides:
            self._users[side][node] = None
        behind = self.users(node)
        for item in behind:
            self._measure(item)
        return behind

    def move(self, node: int, index: int) -> list[int]:
        """Give a node another choice if it and its users stay within their bounds.

        Returns
        -------
        list of int
            The nodes that were measured again; none if it was left as it is.
        """
        before = self.chosen[node]
        if not self.would_fit(node, index) or not self._borne(node, index) or self.is_circle(node, index):
            return []
        behind = self.put(node, index)
        if all(map(self.fits, behind)):
            return behind
        self.put(node, before)
        return []

    def _borne(self, node: int, index: int) -> bool:
        """Return True if the users of a node would stay within their bounds, as far as each has one side only."""
        depth, read = self.measured(self.problem.choices[node][index])
        more_depth, more_read = depth - self.depth[node], read - self.read[node]
        if more_depth <= 0 and more_read <= 0:
            return True
        most_depth, most_read = self.problem.most_depth, self.problem.most_read
        pending = [*self._users[node]]
        while pending:
            user = pending.pop()
            if self.depth[user] + more_depth > most_depth[user] or self.read[user] + more_read > most_read[user]:
                return False
            pending += self._users[user]
        return True

    def _measure(self, node: int) -> None:
        self.depth[node], self.read[node] = self.measured(self.problem.choices[node][self.chosen[node]])


def summits(chosen: Sequence[Choice]) -> list[int]:
    """Return the nodes that are stored in given ways, each behind all that it needs; not those in or behind circles."""
    users: list[list[int]] = [[] for _ in chosen]
    missing = [len(choice.sides) for choice in chosen]
    for node, choice in enumerate(chosen):
        for side in choice.sides:
            users[side].append(node)
    order = [node for node, count in enumerate(missing) if not count]
    for node in order:  # which grows
        for user in users[node]:
            missing[user] -= 1
            if not missing[user]:
                order.append(user)
    return order


def grow(problem: Problem, preferred: Mapping[int, int]) -> Assignment | None:
    """Return an assignment within the bounds, made by adding the cheapest node again and again; None if that fails.

    Parameters
    ----------
    problem : Problem
        The nodes.
    preferred : mapping
        By node: the index of a choice that is taken before all others where it stays within the bounds.

    Notes
    -----
    Time O(E log E). With nothing preferred it is the Modified Prim's algorithm of Bhattacherjee et al., "Principles of
    Dataset Versioning" (VLDB 2015), section 4.2. With that of a cheapest arborescence it does what their LAST does: it
    follows that one down, and where a bound breaks, the subtree hangs on something else.
    """
    return _Growth(problem, preferred).run()


class _Growth:
    """Nodes that are placed already, and the choices of others that need nothing else."""

    def __init__(self, problem: Problem, preferred: Mapping[int, int]) -> None:
        self._problem, self._preferred = problem, preferred
        self._chosen = [-1] * problem.size
        self._depth, self._read = [0] * problem.size, [0.0] * problem.size
        self._ready: list[tuple[bool, float, int, int]] = []
        self._waiting: list[list[tuple[int, int]]] = [[] for _ in range(problem.size)]
        self._missing = [[len(choice.sides) for choice in choices] for choices in problem.choices]
        for node, choices in enumerate(problem.choices):
            for index, choice in enumerate(choices):
                for side in choice.sides:
                    self._waiting[side].append((node, index))
                if not choice.sides:
                    self._push(node, index)

    def run(self) -> Assignment | None:
        """Store what is ready until nothing is; return None if something cannot be stored."""
        order = []
        while self._ready:
            _, _, node, index = heappop(self._ready)
            if self._chosen[node] < 0 and self._place(node, index):
                order.append(node)
                self._release(node)
        return Assignment(self._problem, self._chosen, order) if len(order) == self._problem.size else None

    def _push(self, node: int, index: int) -> None:
        later = self._preferred.get(node) != index
        heappush(self._ready, (later, self._problem.choices[node][index].cost, node, index))

    def _place(self, node: int, index: int) -> bool:
        """Store a node in one way; return False if that breaks a bound."""
        sides, cost = self._problem.choices[node][index]
        depth = 1 + max(self._depth[side] for side in sides) if sides else 0
        read = cost + sum(self._read[side] for side in sides)
        if depth > self._problem.safe_depth[node] or read > self._problem.safe_read[node]:
            return False
        self._chosen[node], self._depth[node], self._read[node] = index, depth, read
        return True

    def _release(self, placed: int) -> None:
        """Note that nobody has to wait for a node any more."""
        for node, index in self._waiting[placed]:
            self._missing[node][index] -= 1
            if not self._missing[node][index] and self._chosen[node] < 0:
                self._push(node, index)
