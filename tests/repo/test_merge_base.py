"""Best common ancestors: against a definition that looks at every pair, and on long histories."""

from hypothesis import given
from hypothesis import strategies as st

from mvc.index import CommitRecord
from mvc.repo.merge_base import merge_bases
from mvc.types import ObjectId


def record(number, parents, position):
    """Return a commit whose id tells its number."""
    ids = tuple(ObjectId(f"{parent:064x}") for parent in parents)
    oid = ObjectId(f"{number:064x}")
    return CommitRecord(oid, oid, ids, position, 0, "Ada", "m", {}, 0)


def history(parents, gaps=None):
    """Return commits by id; `parents` holds the numbers of the parents of each, all of them lower."""
    positions: list[int] = []
    for number, above in enumerate(parents):
        below = max((positions[parent] for parent in above), default=0)
        positions.append(below + 1 + (gaps[number] if gaps else 0))
    made = (record(number, above, positions[number]) for number, above in enumerate(parents))
    return {item.id: item for item in made}


def numbers(ids):
    """Return the numbers of commits."""
    return [int(oid, 16) for oid in ids]


def bases(commits, ours, theirs):
    """Return the numbers of the best common ancestors."""
    return numbers(merge_bases(commits.__getitem__, ObjectId(f"{ours:064x}"), ObjectId(f"{theirs:064x}")))


@st.composite
def graphs(draw):
    """Return parents of some commits, two of these, and how far time went on between them."""
    count = draw(st.integers(1, 14))
    parents = [()] + [
        tuple(draw(st.lists(st.integers(0, number - 1), max_size=3, unique=True))) for number in range(1, count)
    ]
    numbers = st.integers(0, count - 1)
    gaps = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    return parents, draw(numbers), draw(numbers), gaps


@given(graphs())
def test_the_definition(graph):
    """A base is a common ancestor that no other one descends from; the newest is first; sides do not matter."""
    parents, ours, theirs, gaps = graph
    reach: list[set[int]] = []
    for number, above in enumerate(parents):
        reach.append({number}.union(*(reach[parent] for parent in above)))
    common = reach[ours] & reach[theirs]
    best = {one for one in common if not any(one in reach[other] and one != other for other in common)}
    commits = history(parents, gaps)
    found = bases(commits, ours, theirs)
    assert set(found) == best
    assert len(found) == len(best)
    order = [commits[ObjectId(f"{number:064x}")].position for number in found]
    assert order == sorted(order, reverse=True)
    assert bases(commits, theirs, ours) == found


def test_crosswise_merges():
    """Two branches that were merged into each other meet in two commits."""
    commits = history([(), (0,), (0,), (1, 2), (2, 1)])
    assert sorted(bases(commits, 3, 4)) == [1, 2]


def test_a_long_history():
    """Each commit is met once: 10,000 on each side, and a common line that is as long is not walked at all."""
    length = 10_000
    line = [()] + [(number,) for number in range(length - 1)]
    ours = [(length - 1 if not number else length + number - 1,) for number in range(length)]
    theirs = [(length - 1 if not number else 2 * length + number - 1,) for number in range(length)]
    commits = history([*line, *ours, *theirs])
    asked = []

    def look(oid):
        asked.append(oid)
        return commits[oid]

    tips = (ObjectId(f"{2 * length - 1:064x}"), ObjectId(f"{3 * length - 1:064x}"))
    assert numbers(merge_bases(look, *tips)) == [length - 1]
    assert len(set(asked)) == 2 * length + 2
    assert len(asked) <= 2 * len(set(asked))


def test_unrelated_histories():
    """There is none where nothing is common."""
    assert bases(history([(), (), (0,), (1,)]), 2, 3) == []
