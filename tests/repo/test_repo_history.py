"""History: revisions, log, graph, branches, tags, the operation log, undo."""

import itertools

import pytest

from mvc.errors import (
    AlreadyExistsError,
    AmbiguousRefError,
    ConflictError,
    DirtyWorkTreeError,
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
)
from mvc.index import CommitRecord
from mvc.objects.commit import Commit
from mvc.objects.operation import RefChange
from mvc.repo.branches import create_branch, create_tag, delete_branch, delete_tag, rename_branch
from mvc.repo.checkout import move_refs
from mvc.repo.graph import graph
from mvc.repo.log import history, parse_condition, parse_scalar
from mvc.repo.refs import RefLog
from mvc.repo.revisions import resolve
from mvc.repo.tips import commits_of_refs, ref_names
from mvc.repo.undo import undo
from mvc.store.layout import EntryKind
from mvc.store.metadata import wrap_metadata
from mvc.types import object_id


def record_commit(lab, actor, *, parents=(), time=0, branch="main", message="m"):
    """Put a commit of the tree of HEAD into the store and move a branch there."""
    session = lab.session
    state = session.refs.state()
    made = Commit(session.record(state.head).manifest, tuple(parents), "Ada", time, message)
    with session.store.begin() as batch:
        batch.put(EntryKind.COMMIT, made.id, wrap_metadata(made.encoded))
        batch.commit()
    ref = f"refs/heads/{branch}"
    session.refs.update(lambda _: (RefChange(ref, state.refs.get(ref), made.id),), actor)
    session.refresh()
    return made.id


@pytest.fixture
def three(lab):
    """Return a repository of three commits on main, and their ids, oldest first."""
    lab.write("a", "x")
    return lab, [lab.commit(f"commit {number}", allow_empty=True).commit for number in range(3)]


class TestRevisions:
    """What may be typed for a commit."""

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("HEAD", 2),
            ("@", 2),
            ("main", 2),
            ("refs/heads/main", 2),
            ("HEAD~", 1),
            ("HEAD~0", 2),
            ("HEAD~1", 1),
            ("HEAD~2", 0),
            ("HEAD~~", 0),
            ("~2", 0),
            ("^", 1),
            ("main^", 1),
            ("main^0", 2),
            ("main^1~1", 0),
            ("@~", 1),
            ("v1", 0),
            ("refs/tags/v1", 0),
            ("noted", 1),
            ("noted~", 0),
            ("sweep/a", 1),
            ("@{1}~1", 1),
        ],
    )
    def test_forms(self, three, text, place):
        """Names, steps, operations."""
        lab, commits = three
        lab.repo.branch("sweep/a", "HEAD~1")
        lab.repo.tag("v1", "HEAD~2")
        lab.repo.tag("noted", "HEAD~1", message="an object of its own")
        assert resolve(lab.session, text).commit == commits[place]

    def test_ids_may_be_abbreviated(self, three):
        """To four digits or more, if that fits one commit only."""
        lab, commits = three
        for oid in commits:
            assert resolve(lab.session, oid).commit == oid
            assert resolve(lab.session, oid[:12]).commit == oid
            assert resolve(lab.session, f"{oid[:16]}~0").commit == oid

    def test_an_ambiguous_prefix(self, three, actor):
        """The candidates are listed."""
        lab, commits = three
        manifest = lab.session.record(commits[0]).manifest
        times: dict[str, int] = {}
        for late in itertools.count():
            oid = Commit(manifest, (), "Ada", late, "m").id
            early = times.setdefault(oid[:4], late)
            if early != late:
                break
        record_commit(lab, actor, time=early, branch="one")
        record_commit(lab, actor, time=late, branch="two")
        with pytest.raises(AmbiguousRefError, match="begins several commits"):
            resolve(lab.session, oid[:4])
        assert resolve(lab.session, oid[:10]).commit == oid

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("", InvalidInputError),
            ("main~x", InvalidInputError),
            ("main^^{commit}", InvalidInputError),
            ("HEAD~" + "9" * 5000, InvalidInputError),
            ("HEAD~3", NotFoundError),
            ("HEAD~999999999999999999", NotFoundError),
            ("HEAD^2", NotFoundError),
            ("nothing", NotFoundError),
            ("abc", NotFoundError),
            ("0000000", NotFoundError),
            ("g" * 64, NotFoundError),
            ("A" * 64, NotFoundError),
            ("refs/heads/HEAD", NotFoundError),
            ("@{99}", NotFoundError),
            ("@{" + "9" * 5000 + "}", NotFoundError),
            ("@{-1}", NotFoundError),
            ("main@{1}", NotFoundError),
        ],
    )
    def test_what_leads_nowhere(self, three, text, error):
        """Our own error, whatever is typed."""
        lab, _ = three
        with pytest.raises(error):
            resolve(lab.session, text)

    def test_before_the_first_commit(self, lab):
        """HEAD and the branch exist, but have no commit yet."""
        for text in ("HEAD", "main", "@{0}"):
            with pytest.raises(NotFoundError, match="no commit yet"):
                resolve(lab.session, text)

    def test_a_name_of_a_branch_and_of_a_tag(self, three, actor):
        """Is not made here; made elsewhere, it is ambiguous, and full names tell them apart."""
        lab, commits = three
        lab.repo.branch("x", "HEAD~1")
        with pytest.raises(AlreadyExistsError):
            lab.repo.tag("x", "HEAD~2")
        move_refs(lab.session, [RefChange("refs/tags/x", None, commits[0])], actor)
        with pytest.raises(AmbiguousRefError, match="a branch and a tag"):
            resolve(lab.session, "x")
        assert resolve(lab.session, "refs/heads/x").commit == commits[1]
        assert resolve(lab.session, "refs/tags/x").commit == commits[0]

    def test_earlier_operations(self, three):
        """`@{N}` is HEAD N operations ago."""
        lab, commits = three
        lab.repo.checkout("HEAD~2")
        assert resolve(lab.session, "@{0}").commit == commits[0]
        assert resolve(lab.session, "@{1}").commit == commits[2]
        assert resolve(lab.session, "@{2}").commit == commits[1]


class TestLog:
    """Newest first, children before parents."""

    def test_order(self, three):
        """Each commit once."""
        lab, commits = three
        assert [record.id for record in lab.repo.log()] == commits[::-1]
        assert [record.id for record in lab.repo.log("HEAD~1")] == commits[1::-1]

    def test_clock_skew(self, three, actor):
        """A child with a clock far behind still comes before its parent."""
        lab, commits = three
        late = record_commit(lab, actor, parents=[commits[2]], time=5, message="from 1970")
        last = record_commit(lab, actor, parents=[late], time=3)
        assert [record.id for record in lab.repo.log()] == [last, late, *commits[::-1]]
        assert lab.session.record(last).time == 3

    def test_merges(self, three, actor):
        """Both sides, in the order of time, the common part once."""
        lab, commits = three
        now = lab.session.record(commits[2]).time
        side = record_commit(lab, actor, parents=[commits[0]], time=now + 10, branch="side")
        main = record_commit(lab, actor, parents=[commits[2]], time=now + 20)
        merge = record_commit(lab, actor, parents=[main, side], time=now + 30)
        assert [record.id for record in lab.repo.log()] == [merge, main, side, *commits[::-1]]
        assert resolve(lab.session, "HEAD^2").commit == side
        assert resolve(lab.session, "HEAD^^").commit == commits[2]

    def test_several_tips(self, three, actor):
        """History of all branches."""
        lab, commits = three
        other = record_commit(lab, actor, time=1, branch="orphan")
        assert {record.id for record in history(lab.session, [commits[2], other])} == {*commits, other}

    def test_many_commits(self, lab, actor):
        """More than a page of them."""
        lab.write("a", "x")
        parent = lab.commit().commit
        made = []
        with lab.session.store.begin() as batch:
            for time in range(300):
                commit = Commit(lab.session.record(lab.session.refs.state().head).manifest, (parent,), "Ada", time, "m")
                batch.put(EntryKind.COMMIT, commit.id, wrap_metadata(commit.encoded))
                parent = commit.id
                made.append(parent)
            batch.commit()
        state = lab.session.refs.state()
        move_refs(lab.session, [RefChange("refs/heads/main", state.head, parent)], actor)
        lab.session.refresh()
        assert [record.id for record in lab.repo.log()][:-1] == made[::-1]

    def test_a_missing_commit(self, three, actor):
        """History that is not complete says so."""
        lab, _ = three
        record_commit(lab, actor, parents=[object_id("1" * 64)], time=1)
        with pytest.raises(IntegrityError, match="missing"):
            list(lab.repo.log())

    @pytest.mark.parametrize(
        ("text", "metadata", "expected"),
        [
            ("loss<0.3", {"loss": 0.2}, True),
            ("loss < 0.3", {"loss": 0.3}, False),
            ("loss<=0.3", {"loss": 0.3}, True),
            ("epoch>=2", {"epoch": 2}, True),
            ("epoch>2", {"epoch": 2}, False),
            ("epoch>1.5", {"epoch": 2}, True),
            ("epoch>1", {"epoch": True}, False),
            ("run=a7", {"run": "a7"}, True),
            ("run==a7", {"run": "a8"}, False),
            ("run!=a7", {"run": "a8"}, True),
            ("run!=a7", {}, False),
            ("run<b", {"run": "a"}, True),
            ("run<1", {"run": "a"}, False),
            ("best=true", {"best": True}, True),
            ("note=null", {"note": None}, True),
            ("a=b=c", {"a": "b=c"}, True),
            ("loss<nan", {"loss": 1.0}, False),
        ],
    )
    def test_conditions(self, text, metadata, expected):
        """A commit without the value, or with one of another kind, does not meet it."""
        assert parse_condition(text)(metadata) is expected

    @pytest.mark.parametrize("text", ["", "loss", "<3", "loss<", "a b<3", "=", "loss 3"])
    def test_what_is_no_condition(self, text):
        """Refused, with an example."""
        with pytest.raises(InvalidInputError, match="not a condition"):
            parse_condition(text)

    def test_scalars(self):
        """Numbers, booleans, null, or text."""
        texts = ("3", "-1", "1e-3", "TRUE", "false", "null", "a7", "3px", "")
        assert [parse_scalar(text) for text in texts] == [3, -1, 0.001, True, False, None, "a7", "3px", ""]


def drawn(*commits):
    """Return the rows of a graph given as ``(name, *parents)``, as text: column/lanes: edges."""
    oids = {name: object_id(f"{number:064x}") for number, (name, *_) in enumerate(commits)}
    records = [
        CommitRecord(oids[name], oids[name], tuple(oids[parent] for parent in parents), 0, 0, "", "", {}, 0)
        for name, *parents in commits
    ]
    return [f"{row.column}/{row.before}: " + " ".join(f"{a}>{b}" for a, b in row.edges) for row in graph(records)]


class TestGraph:
    """Lanes of a few shapes, drawn by hand."""

    def test_a_line(self):
        """One lane."""
        assert drawn(("c", "b"), ("b", "a"), ("a",)) == ["0/1: 0>0", "0/1: 0>0", "0/1: "]

    def test_a_merge(self):
        """Two lanes between a merge and the fork: ``m`` over ``s`` on the right and ``m1`` on the left, over ``a``."""
        rows = drawn(("m", "m1", "s"), ("s", "a"), ("m1", "a"), ("a",))
        assert rows == ["0/1: 0>0 0>1", "1/2: 0>0 1>1", "0/2: 0>0 1>0", "0/1: "]

    def test_two_branches(self):
        """Two tips, ``x`` on the left and ``y`` on the right, whose lanes join in ``a``."""
        assert drawn(("x", "a"), ("y", "a"), ("a",)) == ["0/1: 0>0", "1/2: 0>0 1>0", "0/1: "]

    def test_an_octopus(self):
        """Three parents, three lanes."""
        rows = drawn(("o", "a", "b", "c"), ("a", "r"), ("b", "r"), ("c", "r"), ("r",))
        assert rows == ["0/1: 0>0 0>1 0>2", "0/3: 0>0 1>1 2>2", "1/3: 0>0 1>0 2>1", "1/2: 0>0 1>0", "0/1: "]

    def test_roots_end_their_lanes(self):
        """Lanes to the right move over."""
        assert drawn(("x",), ("y", "z"), ("z",)) == ["0/1: ", "0/1: 0>0", "0/1: "]
        assert drawn(("x", "p"), ("y",), ("p",)) == ["0/1: 0>0", "1/2: 0>0", "0/1: "]

    def test_nothing(self):
        """No commits, no rows."""
        assert drawn() == []


class TestBranchesAndTags:
    """Names for commits."""

    def test_branches(self, three, actor):
        """Made, moved by force, renamed, deleted."""
        lab, commits = three
        lab.repo.branch("x", "HEAD~1")
        with pytest.raises(AlreadyExistsError):
            lab.repo.branch("x")
        create_branch(lab.session, "x", commits[0], actor, force=True)
        rename_branch(lab.session, "x", "y", actor)
        assert lab.repo.status().refs.branches() == {"main": commits[2], "y": commits[0]}
        assert delete_branch(lab.session, "y", actor) == commits[0]
        assert lab.repo.status().refs.branches() == {"main": commits[2]}

    def test_the_current_branch(self, three, actor):
        """It cannot be moved or deleted, but renamed: HEAD follows."""
        lab, commits = three
        with pytest.raises(InvalidInputError, match="current"):
            create_branch(lab.session, "main", commits[0], actor, force=True)
        with pytest.raises(InvalidInputError, match="current"):
            delete_branch(lab.session, "main", actor, force=True)
        rename_branch(lab.session, "main", "trunk", actor)
        state = lab.repo.status().refs
        assert (state.branch, state.head) == ("refs/heads/trunk", commits[2])

    def test_a_branch_without_commits_can_be_renamed(self, lab, actor):
        """As after `init` with the wrong name."""
        rename_branch(lab.session, "main", "trunk", actor)
        assert lab.repo.status().refs.branch == "refs/heads/trunk"

    def test_what_is_not_there(self, three, actor):
        """Nothing to rename or delete; a name that is taken."""
        lab, _ = three
        for action in (
            lambda: rename_branch(lab.session, "no", "x", actor),
            lambda: delete_branch(lab.session, "no", actor),
            lambda: delete_tag(lab.session, "no", actor),
        ):
            with pytest.raises(NotFoundError):
                action()
        lab.repo.branch("x")
        with pytest.raises(AlreadyExistsError):
            rename_branch(lab.session, "x", "main", actor)

    @pytest.mark.parametrize("keeper", ["nothing", "branch", "tag", "note"])
    def test_commits_of_a_deleted_branch(self, three, actor, keeper):
        """If no other branch or tag holds them, that takes force."""
        lab, commits = three
        tip = record_commit(lab, actor, parents=[commits[2]], time=1, branch="side")
        if keeper == "branch":
            lab.repo.branch("other", "side")
        elif keeper != "nothing":
            lab.repo.tag("kept", "side", message="m" if keeper == "note" else None)
        else:
            with pytest.raises(InvalidInputError, match="no other branch or tag"):
                delete_branch(lab.session, "side", actor)
        assert delete_branch(lab.session, "side", actor, force=keeper == "nothing") == tip

    @pytest.mark.parametrize("name", ["Main", "main/x", "a..b", "HEAD", "con"])
    def test_names_that_clash_or_are_none(self, three, name):
        """Refused, nothing recorded."""
        lab, _ = three
        before = lab.session.refs.newest()
        with pytest.raises(InvalidInputError):
            lab.repo.branch(name)
        assert lab.session.refs.newest() == before

    def test_tags(self, three, actor):
        """Plain, and as an object with a message; force replaces."""
        lab, commits = three
        lab.repo.tag("plain")
        lab.repo.tag("noted", "HEAD~1", message="why")
        refs = lab.repo.status().refs.refs
        assert refs["refs/tags/plain"] == commits[2]
        tag = lab.session.tag(object_id(refs["refs/tags/noted"]))
        assert (tag.target, tag.message, tag.author) == (commits[1], "why", actor.author)
        with pytest.raises(AlreadyExistsError):
            lab.repo.tag("plain", "HEAD~2")
        create_tag(lab.session, "plain", commits[0], actor, force=True)
        assert commits_of_refs(lab.session, lab.repo.status().refs) == {
            "refs/heads/main": commits[2],
            "refs/tags/noted": commits[1],
            "refs/tags/plain": commits[0],
        }
        assert delete_tag(lab.session, "noted", actor) == tag.id
        assert lab.check().clean

    def test_names_by_commit(self, three):
        """For `log`: every ref at its commit, HEAD only if it is detached."""
        lab, commits = three
        lab.repo.tag("v1", "HEAD~2", message="m")
        assert ref_names(lab.session, lab.repo.status().refs) == {
            commits[0]: ["refs/tags/v1"],
            commits[2]: ["refs/heads/main"],
        }
        lab.repo.checkout("v1")
        assert ref_names(lab.session, lab.repo.status().refs)[commits[0]] == ["HEAD", "refs/tags/v1"]

    def test_a_repository_locked_by_a_feature(self, three, actor):
        """No name is made, and nothing undone."""
        lab, _ = three
        path = lab.session.layout.format
        path.write_text(path.read_text().replace("write = []", 'write = ["zones"]'))
        before = lab.session.refs.newest()
        for action in (
            lambda: lab.repo.branch("x"),
            lambda: lab.repo.tag("x"),
            lambda: lab.repo.tag("x", message="m"),
            lambda: undo(lab.session, actor),
            lambda: lab.repo.checkout("HEAD~1"),
        ):
            with pytest.raises(FormatError, match="zones"):
                action()
        assert lab.session.refs.newest() == before
        assert len(list(lab.repo.log())) == 3


class TestUndo:
    """Every move of the refs can be taken back."""

    def test_a_commit(self, lab, actor):
        """The branch goes back, the files stay and show up as modified; undoing the undoing restores it."""
        first = lab.committed(lab.model())
        second = lab.committed(lab.tuned(lab.model(), 1))
        files = lab.tree()
        result = undo(lab.session, actor)
        assert (lab.repo.status().refs.head, result.command) == (first, "test")
        assert lab.tree() == files
        assert lab.status() == ((), ("model.safetensors",), ())
        undo(lab.session, actor)
        assert lab.repo.status().refs.head == second
        assert lab.status() == ((), (), ())

    def test_the_first_commit(self, lab, actor):
        """The branch is without commits again."""
        first = lab.committed(lab.model())
        undo(lab.session, actor)
        assert lab.repo.status().refs.head is None
        assert lab.status() == (("model.safetensors",), (), ())
        undo(lab.session, actor)
        assert lab.repo.status().refs.head == first

    def test_a_switch(self, lab, actor):
        """The work tree goes back with HEAD, if that loses nothing."""
        lab.write("a", "one")
        lab.commit()
        lab.repo.branch("one")
        lab.write("a", "two")
        lab.commit()
        lab.repo.switch("one")
        lab.write("a", "mine")
        with pytest.raises(DirtyWorkTreeError):
            undo(lab.session, actor)
        lab.write("a", "one")
        undo(lab.session, actor)
        assert (lab.tree(), lab.repo.status().refs.branch) == ({"a": b"two"}, "refs/heads/main")
        undo(lab.session, actor)
        assert (lab.tree(), lab.repo.status().refs.branch) == ({"a": b"one"}, "refs/heads/one")

    def test_names(self, three, actor):
        """Branches and tags that were made, renamed or deleted."""
        lab, _ = three
        before = lab.repo.status().refs.refs
        actions = (
            lambda: lab.repo.branch("x"),
            lambda: lab.repo.tag("x"),
            lambda: lab.repo.tag("y", message="m"),
            lambda: rename_branch(lab.session, "main", "z", actor),
        )
        for action in actions:
            action()
            after = lab.repo.status().refs.refs
            assert after != before
            undo(lab.session, actor)
            assert lab.repo.status().refs.refs == before
            undo(lab.session, actor)
            assert lab.repo.status().refs.refs == after
            undo(lab.session, actor)

    def test_the_beginning(self, lab, actor):
        """Before the first operation there is nothing."""
        with pytest.raises(InvalidInputError, match="nothing to undo"):
            undo(lab.session, actor)

    def test_a_commit_on_a_detached_head(self, lab, actor):
        """HEAD goes back, the files stay, as with a commit on a branch."""
        lab.write("a", "one")
        first = lab.commit().commit
        lab.repo.checkout(first)
        lab.write("a", "two")
        lab.commit()
        lab.write("a", "mine")
        undo(lab.session, actor)
        state = lab.repo.status().refs
        assert (state.head, state.branch) == (first, None)
        assert lab.tree() == {"a": b"mine"}

    def test_a_work_tree_that_would_be_lost(self, lab, actor):
        """Unless forced, nothing moves."""
        lab.write("a", "one")
        first = lab.commit().commit
        lab.write("a", "two")
        lab.commit()
        lab.repo.checkout(first)
        lab.write("a", "mine")
        before = lab.session.refs.newest()
        with pytest.raises(DirtyWorkTreeError):
            undo(lab.session, actor)
        assert lab.session.refs.newest() == before
        undo(lab.session, actor, force=True)
        assert lab.tree() == {"a": b"two"}


class TestOperationLog:
    """What happened to the refs, back to the beginning."""

    def test_more_than_a_view_apart(self, three, actor):
        """The state after every one of 65 operations is the one that was, and is found within 64 steps."""
        lab, commits = three
        log, states = lab.session.refs, {}
        for number in range(31):
            lab.repo.branch(f"b{number}", f"HEAD~{number % 3}")
            states[log.newest()[1]] = log.state().refs
            lab.repo.tag(f"t{number}")
            states[log.newest()[1]] = log.state().refs
        fresh = lab.again().session.refs
        walked = list(fresh.walk())
        assert [operation.number for _, operation in walked] == list(range(65, -1, -1))
        assert all(fresh.state(oid).refs == refs for oid, refs in states.items())
        assert [operation.number for _, operation in walked if operation.view is not None] == [64, 0]
        assert lab.check().clean
        assert len(commits) == 3

    def test_commands_and_authors_are_recorded(self, lab, actor):
        """Who, where, by what."""
        lab.committed(lab.model())
        _, operation = next(lab.session.refs.walk())
        assert (operation.author, operation.command, operation.host) == (actor.author, "test", actor.host)
        assert operation.time > 1_600_000_000_000_000

    def test_no_change_is_no_operation(self, three, actor):
        """Nothing is recorded for a ref that stays."""
        lab, commits = three
        before = lab.session.refs.newest()
        assert move_refs(lab.session, [RefChange("refs/heads/main", commits[2], commits[2])], actor).head == commits[2]
        assert lab.session.refs.newest() == before

    def test_a_repository_begins_once(self, lab, actor):
        """A second first operation is a conflict."""
        with pytest.raises(ConflictError):
            lab.session.refs.start({"HEAD": "ref: refs/heads/other"}, actor)

    def test_a_missing_operation(self, three):
        """There is no going on without it, and fsck names it."""
        lab, _ = three
        oid = lab.session.refs.newest()[1]
        lab.session.store.operations.delete(oid)
        with pytest.raises(IntegrityError, match="missing"):
            lab.session.refs.state()
        assert [fault.object for fault in lab.check().faults] == ["operation log"]

    def test_a_log_without_a_view(self, three):
        """Is corrupt."""
        lab, _ = three

        class NoViews(RefLog):
            def walk(self, start=None):
                return iter(())

        log = NoViews(lab.session.store.operations, lab.session.store.head)
        with pytest.raises(IntegrityError, match="view"):
            log.state()

    def test_a_directory_without_operations(self, lab):
        """Losing the pointer is corruption, not a new repository."""
        for path in (lab.root / ".mvc" / "op_head").iterdir():
            path.unlink()
        with pytest.raises(IntegrityError, match="pointer"):
            lab.session.refs.newest()
