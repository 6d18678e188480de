"""Merges of real repositories, and what everything else makes of commits with two parents."""

import os
from contextlib import contextmanager

import pytest

from mvc.errors import ConflictError, DirtyWorkTreeError, InvalidInputError, NotFoundError
from mvc.objects.operation import RefChange
from mvc.repo.branches import delete_branch
from mvc.repo.gc import gc
from mvc.repo.graph import graph
from mvc.repo.log import history
from mvc.repo.merge import MergeRequest, merge
from mvc.repo.merge_plan import MergeConflict, MergedFile
from mvc.repo.reindex import reindex
from mvc.repo.repack import repack
from mvc.repo.revisions import resolve
from mvc.repo.undo import undo
from mvc.settings import Gc
from mvc.store.local_fs import LocalFileSystem

NOTHING_KEPT = Gc(grace_hours=0.0, retention_days=0.0)


class Meanwhile(LocalFileSystem):
    """The local file system, on which something else happens once, when a directory is about to be made durable."""

    def __init__(self, directory, action):
        super().__init__()
        self._directory, self._action = directory, action

    def fsync_dir(self, path):
        """Have it happen, then go on."""
        if path.name == self._directory and self._action:
            action, self._action = self._action, None
            action()
        super().fsync_dir(path)


def state(lab):
    """Return what a refused merge must not change: the operation log, the work tree and the stored objects."""
    stored = sorted(item.oid for item in lab.again().session.store.locations())
    return lab.session.refs.newest(), lab.tree(), stored


@pytest.fixture
def parted(lab):
    """Return a repository on main, whose weights changed there and whose bias changed on side, and the merged files."""
    base = lab.model()
    tuned = lab.tuned(base, 1)
    lab.write("model.safetensors", base)
    lab.write("notes.txt", "base")
    lab.write("old.txt", "to be removed")
    lab.commit("base")
    lab.repo.branch("side")
    ours = {**base, "layer.weight": tuned["layer.weight"]}
    lab.committed(ours, message="weight")
    lab.repo.switch("side")
    lab.write("model.safetensors", {**base, "layer.bias": tuned["layer.bias"], "step": tuned["step"]})
    lab.write("sub/new.txt", "new")
    (lab.root / "old.txt").unlink()
    lab.commit("bias")
    lab.repo.switch("main")
    merged = {**ours, "layer.bias": tuned["layer.bias"], "step": tuned["step"]}
    expected = {"notes.txt": b"base", "sub/new.txt": b"new", "model.safetensors": lab.write("x", merged).read_bytes()}
    (lab.root / "x").unlink()
    lab.settle()
    return lab, expected


@pytest.fixture
def conflicting(lab):
    """Return a repository on main, two tensors and a text of which changed there and on side; and the files of both."""
    base = lab.model()
    lab.write("notes.txt", "base")
    lab.committed(base)
    lab.repo.branch("side")
    lab.write("notes.txt", "ours")
    lab.committed({**base, **{name: lab.tuned(base, 1)[name] for name in ("layer.weight", "layer.bias")}})
    ours = lab.tree()
    lab.repo.switch("side")
    lab.write("notes.txt", "theirs")
    lab.committed({**base, **{name: lab.tuned(base, 2)[name] for name in ("layer.weight", "layer.bias")}})
    theirs = lab.tree()
    lab.repo.switch("main")
    return lab, ours, theirs


class TestThreeWay:
    """Both sides have commits that the other has not."""

    def test_tensors_and_files(self, parted):
        """Each side's changes are in the tree, and it is told how many tensors came from where."""
        lab, expected = parted
        parents = tuple(resolve(lab.session, name).commit for name in ("main", "side"))
        result = lab.repo.merge("side")
        assert lab.tree() == expected
        record = lab.again().session.record(result.commit)
        assert (record.parents, record.message) == (parents, "Merge branch 'side'")
        assert (result.kind, result.branch, result.resolved) == ("merge", "refs/heads/main", ())
        assert result.bases == (resolve(lab.session, "side^").commit,)
        assert result.files == (
            MergedFile("model.safetensors", "both", False, 1, 2, 1),
            MergedFile("old.txt", "theirs", True, 0, 0, 0),
            MergedFile("sub/new.txt", "theirs", False, 0, 0, 0),
        )
        assert (result.written, result.removed) == (2, 1)
        assert lab.again().status() == ((), (), ())
        assert lab.check().clean

    def test_nothing_is_encoded(self, parted):
        """A merge stores a manifest and a commit."""
        lab, _ = parted
        before = {item.oid for item in lab.session.store.locations()}
        result = lab.repo.merge("side")
        record = lab.session.record(result.commit)
        assert {item.oid for item in lab.again().session.store.locations()} - before == {record.id, record.manifest}

    def test_both_ways(self, parted, tmp_path):
        """The other branch merges to the same tree."""
        lab, expected = parted
        lab.repo.switch("side")
        lab.repo.merge("main", message="the other way")
        assert lab.tree() == expected
        assert lab.exported("side", tmp_path / "out") == expected

    def test_a_detached_head(self, parted):
        """HEAD itself moves; the branch stays."""
        lab, expected = parted
        before = resolve(lab.session, "main").commit
        lab.repo.checkout(before)
        result = lab.repo.merge("side")
        refs = lab.again().repo.status().refs
        assert (refs.head, refs.branch, refs.refs["refs/heads/main"]) == (result.commit, None, before)
        assert lab.tree() == expected
        undo(lab.session, lab.repo.actor("undo"))
        assert lab.repo.status().refs.head == before
        assert lab.repo.status().clean

    @pytest.mark.parametrize(
        ("ref", "message"),
        [
            ("side", "Merge branch 'side'"),
            ("refs/heads/side", "Merge branch 'side'"),
            ("v1", "Merge tag 'v1'"),
            ("side~0", "Merge commit 'side~0'"),
        ],
    )
    def test_messages(self, parted, ref, message):
        """The message says what was merged, in git's words."""
        lab, _ = parted
        lab.repo.tag("v1", "side", message="an object of its own")
        assert lab.session.record(lab.repo.merge(ref).commit).message == message

    def test_what_both_did_alike(self, lab):
        """Equal changes do not conflict, and the merge is recorded."""
        lab.write("a", "base")
        lab.commit()
        lab.repo.branch("side")
        lab.write("a", "changed")
        ours = lab.commit("ours").commit
        lab.repo.switch("side")
        lab.write("a", "changed")
        theirs = lab.commit("theirs").commit
        lab.repo.switch("main")
        result = lab.repo.merge("side")
        assert (lab.session.record(result.commit).parents, result.files) == ((ours, theirs), ())
        assert lab.manifest(result.commit) == lab.manifest(ours)

    def test_crosswise(self, parted):
        """Of several best common ancestors the newest is taken, and all are told."""
        lab, expected = parted
        tips = {name: resolve(lab.session, name).commit for name in ("main", "side")}
        lab.repo.merge("side")
        lab.repo.branch("old", tips["main"])
        lab.repo.switch("side")
        lab.repo.merge("old")
        lab.write("notes.txt", "after")
        lab.commit("after")
        result = lab.repo.merge("main")
        newest = max(tips.values(), key=lambda oid: lab.session.record(oid).position)
        assert set(result.bases) == set(tips.values())
        assert result.bases[0] == newest
        assert lab.tree() == {**expected, "notes.txt": b"after"}

    def test_torch_archives_conflict_as_a_whole(self, lab, torch_archive):
        """They hold checksums of their tensors, which nobody could put together."""
        for number, branch in enumerate(("base", "main", "side")):
            lab.write("a.pt", torch_archive(lab.weights("F32", (16, 16), number)))
            lab.commit(branch)
            if branch == "base":
                lab.repo.branch("side")
            elif branch == "main":
                lab.repo.switch("side")
        with pytest.raises(ConflictError, match=r"a.pt \(changed on both sides\)"):
            lab.repo.merge("main")


class TestConflicts:
    """Both sides changed the same."""

    def test_nothing_is_changed(self, conflicting):
        """The error names tensors and files, and nothing is stored, written or moved."""
        lab, _, _ = conflicting
        before = state(lab)
        with pytest.raises(ConflictError) as raised:
            lab.repo.merge("side")
        assert state(lab) == before
        assert raised.value.message == (
            "3 conflicts, and nothing was changed: model.safetensors: layer.bias (changed on both sides); "
            "model.safetensors: layer.weight (changed on both sides); notes.txt (changed on both sides)"
        )
        assert "mvc merge -X theirs side" in (raised.value.hint or "")

    def test_few_are_listed(self, lab):
        """Of many the first are named, and all are counted."""
        for branch in ("base", "main", "side"):
            for number in range(9):
                lab.write(f"{number}.txt", branch)
            lab.commit(branch)
            if branch == "base":
                lab.repo.branch("side")
            elif branch == "main":
                lab.repo.switch("side")
        with pytest.raises(
            ConflictError, match=r"9 conflicts, .*: 0\.txt .*; 4\.txt \(changed on both sides\); \.\.\.$"
        ):
            lab.repo.merge("main")

    @pytest.mark.parametrize("favour", ["ours", "theirs"])
    def test_a_favoured_side(self, conflicting, favour):
        """It is taken where they conflict, and that is told."""
        lab, *sides = conflicting
        result = lab.repo.merge("side", favour=favour)
        assert lab.tree() == sides[favour == "theirs"]
        assert [(item.path, item.tensor) for item in result.resolved] == [
            ("model.safetensors", "layer.bias"),
            ("model.safetensors", "layer.weight"),
            ("notes.txt", None),
        ]
        assert lab.check().clean

    def test_a_resolution_of_ones_own(self, conflicting):
        """It is committed first, and then ours is favoured: the way that the hint tells."""
        lab, _, _ = conflicting
        lab.write("notes.txt", "both")
        lab.commit("resolve")
        lab.repo.merge("side", favour="ours")
        assert lab.read("notes.txt") == b"both"
        assert lab.repo.merge("side").kind == "up-to-date"

    def test_unrelated_histories(self, lab):
        """They are refused, unless that is allowed; then what is not the same conflicts."""
        lab.write("a", "one")
        first = lab.commit("one").commit
        lab.session.refs.update(lambda found: (RefChange("refs/heads/main", first, None),), lab.repo.actor("forget"))
        lab.write("a", "two")
        lab.write("b", "two")
        lab.commit("two")
        with pytest.raises(InvalidInputError, match="no history in common"):
            lab.repo.merge(first)
        with pytest.raises(ConflictError, match=r"a \(added on both sides\)"):
            lab.repo.merge(first, allow_unrelated=True)
        result = lab.repo.merge(first, allow_unrelated=True, favour="theirs")
        assert (lab.tree(), result.bases) == ({"a": b"one", "b": b"two"}, ())
        assert result.resolved == (MergeConflict("a", None, "added on both sides"),)


class TestFastForward:
    """One side has nothing of its own."""

    @pytest.fixture
    def behind(self, lab):
        """Return a repository on main, and the commit of side, which is one ahead."""
        lab.write("a", "one")
        lab.commit("one")
        lab.repo.switch("main")
        lab.repo.branch("side")
        lab.repo.switch("side")
        lab.write("a", "two")
        tip = lab.commit("two").commit
        lab.repo.switch("main")
        return lab, tip

    @pytest.mark.parametrize("allowed", ["auto", "only"])
    def test_the_branch_moves(self, behind, allowed):
        """No commit is made; a second time there is nothing to do."""
        lab, tip = behind
        result = lab.repo.merge("side", fast_forward=allowed)
        assert (result.kind, result.commit, result.written) == ("fast-forward", tip, 1)
        assert lab.repo.status().refs.head == tip
        assert lab.tree() == {"a": b"two"}
        assert lab.repo.status().clean
        before = state(lab)
        assert lab.repo.merge("side", fast_forward="never").kind == "up-to-date"
        assert lab.repo.merge("side~1").kind == "up-to-date"
        assert state(lab) == before

    def test_never(self, behind):
        """A commit is made although none is needed."""
        lab, tip = behind
        old = lab.repo.status().refs.head
        result = lab.repo.merge("side", fast_forward="never", message="  on purpose ")
        record = lab.session.record(result.commit)
        assert (result.kind, record.parents, record.message) == ("merge", (old, tip), "on purpose")
        assert lab.tree() == {"a": b"two"}

    def test_only(self, parted):
        """What needs a commit is refused."""
        lab, _ = parted
        before = state(lab)
        with pytest.raises(ConflictError, match="a fast-forward is not possible"):
            lab.repo.merge("side", fast_forward="only")
        assert state(lab) == before

    def test_a_branch_without_commits(self, behind):
        """It begins where the other one is."""
        lab, tip = behind
        lab.session.refs.update(
            lambda found: (RefChange("HEAD", "ref: refs/heads/main", "ref: refs/heads/empty"),), lab.repo.actor("x")
        )
        (lab.root / "a").unlink()
        with pytest.raises(InvalidInputError, match="no commit yet"):
            lab.repo.merge("side", fast_forward="never")
        lab.repo.merge("side")
        assert lab.repo.status().refs.head == tip
        assert lab.tree() == {"a": b"two"}


class TestWorkTree:
    """Changes that no commit holds."""

    @pytest.mark.parametrize("path", ["model.safetensors", "old.txt", "sub/new.txt"])
    def test_they_are_not_lost(self, parted, path):
        """A changed or unknown file that would be overwritten or removed stops the merge before anything happens."""
        lab, _ = parted
        lab.write(path, "mine")
        before = state(lab)
        with pytest.raises(DirtyWorkTreeError, match=path):
            lab.repo.merge("side")
        assert state(lab) == before

    def test_other_files_keep_them(self, parted):
        """A changed file that both sides hold alike, or neither, does not matter."""
        lab, expected = parted
        lab.write("notes.txt", "mine")
        lab.write("unknown.txt", "mine")
        lab.repo.merge("side")
        assert lab.tree() == {**expected, "notes.txt": b"mine", "unknown.txt": b"mine"}
        assert lab.again().status() == (("unknown.txt",), ("notes.txt",), ())

    def test_a_merge_that_was_interrupted(self, parted):
        """Files that are already what the merge makes of them are no hindrance."""
        lab, expected = parted
        for path, content in expected.items():
            lab.write(path, content)
        lab.repo.merge("side")
        assert lab.tree() == expected
        assert lab.repo.status().clean


class TestRefusals:
    """What cannot be merged."""

    def test_unknown_revisions(self, lab):
        """A name that does not exist."""
        lab.committed(lab.model())
        with pytest.raises(NotFoundError, match="nowhere"):
            lab.repo.merge("nowhere")

    def test_an_empty_message(self, parted):
        """A message must say something."""
        lab, _ = parted
        with pytest.raises(InvalidInputError, match="empty"):
            lab.repo.merge("side", message=" \n")

    def test_a_branch_that_moves_before_the_work_tree_is_touched(self, parted, actor):
        """The commit of the other process stays, and nothing is written."""
        lab, _ = parted
        files, others = lab.tree(), []
        racing = lab.again(Meanwhile("packs", lambda: others.append(lab.commit("faster", allow_empty=True).commit)))
        with pytest.raises(ConflictError, match="moved by another process"):
            merge(racing.session, "side", MergeRequest(), actor)
        assert [lab.again().repo.status().refs.head] == others
        assert lab.tree() == files
        assert lab.again().repo.merge("side").kind == "merge"

    def test_a_branch_that_moves_meanwhile(self, parted, actor):
        """The commit of the other process stays, the merge is not recorded, and the same command completes it."""
        lab, expected = parted
        others = []

        @contextmanager
        def working(_, total):
            """Commit while the work tree is written."""
            others.append(lab.again().commit("faster", allow_empty=True, paths=("notes.txt",)).commit)
            yield lambda done: None

        with pytest.raises(ConflictError, match="moved by another process"):
            merge(lab.session, "side", MergeRequest(), actor, working)
        assert [lab.again().repo.status().refs.head] == others
        result = lab.again().repo.merge("side")
        assert lab.session.record(result.commit).parents[:1] == tuple(others)
        assert lab.tree() == expected
        assert lab.again().repo.status().clean


class TestEverythingElse:
    """Commits with two parents, in history, undo and upkeep."""

    def test_history(self, parted):
        """Every commit is listed once, children first; ``^2`` and ``~N`` lead to the parents."""
        lab, _ = parted
        ours, theirs = (resolve(lab.session, name).commit for name in ("main", "side"))
        made = lab.repo.merge("side").commit
        messages = [record.message for record in lab.repo.log()]
        assert messages == ["Merge branch 'side'", "bias", "weight", "base"]
        for text, expected in (("HEAD^", ours), ("HEAD^1", ours), ("HEAD^2", theirs), ("HEAD~1", ours)):
            assert resolve(lab.session, text).commit == expected, text
        assert resolve(lab.session, "HEAD~2").commit == resolve(lab.session, "HEAD^2~1").commit
        with pytest.raises(NotFoundError, match="has 2 parents"):
            resolve(lab.session, "HEAD^3")
        rows = list(graph(history(lab.session, [made])))
        assert rows[0].edges == ((0, 0), (0, 1))
        assert max(row.before for row in rows) == 2
        positions = {record.id: record.position for record in lab.repo.log()}
        assert positions[made] > max(positions[ours], positions[theirs])

    @pytest.mark.parametrize("kind", ["merge", "fast-forward", "one step"])
    def test_undo(self, parted, actor, kind):
        """The work tree goes back with the branch, and forward again; the merged branch stays."""
        lab, expected = parted
        if kind != "merge":
            lab.repo.merge("side")
            lab.repo.switch("side")
            if kind == "one step":
                lab.repo.merge("main")
                lab.repo.branch("next")
                lab.repo.switch("next")
                lab.write("notes.txt", "one step more")
                lab.commit("one step more")
                expected = lab.tree()
                lab.repo.switch("side")
        other = {"merge": "side", "fast-forward": "main", "one step": "next"}[kind]
        before, files = lab.repo.status().refs, lab.tree()
        made = lab.repo.merge(other).commit
        assert lab.tree() == expected
        undo(lab.session, actor)
        assert lab.repo.status().refs.refs == before.refs
        assert lab.tree() == files
        assert lab.repo.status().clean
        undo(lab.session, actor)
        assert lab.repo.status().refs.head == made
        assert lab.tree() == expected
        lab.write("notes.txt" if kind == "one step" else "model.safetensors", "mine")
        with pytest.raises(DirtyWorkTreeError):
            undo(lab.session, actor)

    def test_undo_of_a_commit_on_a_merge(self, parted, actor):
        """A commit on top of a merge commit is a commit: the files stay."""
        lab, _ = parted
        made = lab.repo.merge("side").commit
        lab.write("notes.txt", "more")
        lab.commit("more")
        undo(lab.session, actor)
        assert lab.repo.status().refs.head == made
        assert lab.read("notes.txt") == b"more"
        undo(lab.session, actor)
        assert lab.read("notes.txt") == b"more"
        assert lab.repo.status().clean

    def test_upkeep(self, parted, actor, tmp_path):
        """What only the second parent leads to is kept by ``gc``, packed by ``repack`` and found by ``reindex``."""
        lab, expected = parted
        side = lab.exported("side", tmp_path / "side")
        lab.repo.merge("side")
        delete_branch(lab.session, "side", actor)
        for path in (lab.root / ".mvc/packs").iterdir():
            os.utime(path, (0, 0))
        gc(lab.again().session, NOTHING_KEPT)
        repack(lab.again().session, NOTHING_KEPT, level="fast")
        gc(lab.again().session, NOTHING_KEPT)
        lab = lab.again()
        assert lab.exported("HEAD^2", tmp_path / "again") == side
        assert lab.exported("HEAD", tmp_path / "merged") == expected
        positions = {record.id: record.position for record in lab.repo.log()}
        reindex(lab.session)
        assert {record.id: record.position for record in lab.again().repo.log()} == positions
        assert lab.check().clean
        assert lab.check().commits == 4

    def test_a_merge_that_is_undone_is_garbage(self, parted, actor):
        """After it is undone, and its operation forgotten, ``gc`` removes it and keeps both sides."""
        lab, _ = parted
        made = lab.repo.merge("side").commit
        undo(lab.session, actor)
        for path in (lab.root / ".mvc/packs").iterdir():
            os.utime(path, (0, 0))
        gc(lab.again().session, NOTHING_KEPT)
        assert made not in {item.oid for item in lab.again().session.store.locations()}
        assert lab.check().clean

    def test_commits_after_a_merge(self, parted):
        """They are deltas on the merged tree; a second merge of the same branch takes what is new there."""
        lab, expected = parted
        lab.repo.merge("side")
        lab.repo.switch("side")
        lab.write("sub/new.txt", "newer")
        tip = lab.commit("newer").commit
        lab.repo.switch("main")
        lab.write("notes.txt", "changed")
        lab.commit("changed")
        result = lab.repo.merge("side")
        assert lab.session.record(result.commit).parents[1] == tip
        assert lab.tree() == {**expected, "sub/new.txt": b"newer", "notes.txt": b"changed"}
