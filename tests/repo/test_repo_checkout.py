"""Checking out: byte for byte, and never over what no commit holds."""

import os
import shutil

import pytest

from mvc.errors import DirtyWorkTreeError, IntegrityError, InvalidInputError, MvcError, NotFoundError
from mvc.objects.operation import RefChange
from mvc.repo.checkout import check_out_paths, move_refs, switch
from mvc.repo.revisions import resolve


@pytest.fixture
def two(lab):
    """Return a repository with branches `old` and `main`, whose trees differ, `main` being checked out."""
    lab.write("same", "same")
    lab.write("changed", "old")
    lab.write("dir/removed", "old")
    lab.commit("old")
    lab.repo.branch("old")
    lab.write("changed", "new")
    lab.write("added/deep/file", "new")
    shutil.rmtree(lab.root / "dir")
    lab.commit("new")
    return lab


OLD = {"same": b"same", "changed": b"old", "dir/removed": b"old"}
NEW = {"same": b"same", "changed": b"new", "added/deep/file": b"new"}


class TestSwitch:
    """The whole work tree and HEAD."""

    def test_there_and_back(self, two):
        """Files are written and removed, empty directories go, HEAD follows the branch."""
        result = two.repo.switch("old")
        assert (two.tree(), result.branch, result.written, result.removed) == (OLD, "refs/heads/old", 2, 1)
        assert not (two.root / "added").exists()
        assert two.status() == ((), (), ())
        two.repo.switch("main")
        assert two.tree() == NEW
        assert not (two.root / "dir").exists()
        assert two.status() == ((), (), ())
        assert two.repo.status().refs.branch == "refs/heads/main"

    def test_a_commit_detaches_head(self, two):
        """By id, by REF~N, and by tag."""
        two.repo.tag("v1", "old")
        for ref in ("main~1", "v1", resolve(two.session, "old").commit):
            two.repo.checkout(ref, force=True)
            assert two.repo.status().refs.branch is None
            assert two.tree() == OLD
            two.repo.switch("main")

    def test_a_branch_that_does_not_exist(self, two):
        """HEAD and files stay."""
        with pytest.raises(NotFoundError):
            two.repo.switch("nothing")
        assert two.tree() == NEW

    def test_a_new_branch(self, two, actor):
        """Made at the commit, and followed."""
        commit = resolve(two.session, "HEAD").commit
        switch(two.session, commit, actor, branch="refs/heads/topic", create=True)
        state = two.repo.status().refs
        assert (state.branch, state.branches()["topic"]) == ("refs/heads/topic", commit)

    def test_a_new_branch_without_commits(self, lab, actor):
        """HEAD may follow a branch that does not exist yet."""
        switch(lab.session, None, actor, branch="refs/heads/topic")
        lab.write("a", "x")
        assert lab.commit().branch == "refs/heads/topic"

    def test_a_changed_file_is_not_overwritten(self, two):
        """Refused before anything happens; with `force` it is lost, as asked."""
        two.write("changed", "mine")
        with pytest.raises(DirtyWorkTreeError, match="changed"):
            two.repo.switch("old")
        assert two.tree() == NEW | {"changed": b"mine"}
        assert two.repo.status().refs.branch == "refs/heads/main"
        two.repo.switch("old", force=True)
        assert two.tree() == OLD

    def test_a_changed_file_is_not_removed(self, two):
        """Nor is one that the other commit does not have."""
        two.write("added/deep/file", "mine")
        with pytest.raises(DirtyWorkTreeError, match="removed"):
            two.repo.switch("old")
        assert two.tree() == NEW | {"added/deep/file": b"mine"}

    def test_an_unknown_file_is_not_overwritten(self, two):
        """Unless it is just what the other commit holds."""
        two.write("dir/removed", "mine")
        with pytest.raises(DirtyWorkTreeError, match="dir/removed"):
            two.repo.switch("old")
        assert two.read("dir/removed") == b"mine"
        two.write("dir/removed", "old")
        two.repo.switch("old")
        assert two.tree() == OLD

    def test_changes_to_files_that_are_alike_on_both_sides_stay(self, two):
        """As in git."""
        two.write("same", "mine")
        two.write("unknown", "mine")
        two.repo.switch("old")
        assert two.tree() == OLD | {"same": b"mine", "unknown": b"mine"}
        assert two.status() == (("unknown",), ("same",), ())
        two.repo.switch("main", force=True)
        assert two.tree() == NEW | {"unknown": b"mine"}

    def test_deleted_files_and_directories(self, two):
        """What is gone already need not be removed, and comes back where the other commit has it."""
        shutil.rmtree(two.root / "added")
        (two.root / "changed").unlink()
        two.repo.switch("old")
        assert two.tree() == OLD

    def test_a_directory_in_the_place_of_a_removed_file(self, two):
        """Its unknown content stays."""
        (two.root / "added" / "deep" / "file").unlink()
        two.write("added/deep/file/mine", "mine")
        two.repo.switch("old")
        assert two.tree() == OLD | {"added/deep/file/mine": b"mine"}

    @pytest.mark.parametrize("obstacle", ["dir", "changed/mine"])
    def test_what_is_in_the_way_is_refused_first(self, two, obstacle):
        """An unknown file for a directory, or a directory for a file: nothing has been touched."""
        if obstacle == "changed/mine":
            (two.root / "changed").unlink()
        two.write(obstacle, "mine")
        before = two.tree()
        for force in (False, True):
            with pytest.raises(InvalidInputError, match="in the way"):
                two.repo.switch("old", force=force)
            assert two.tree() == before

    def test_a_file_becomes_a_directory_and_back(self, lab):
        """Both ways, by switching."""
        lab.write("a", "file")
        lab.commit()
        lab.repo.branch("file")
        (lab.root / "a").unlink()
        lab.write("a/b/c", "deep")
        lab.commit()
        lab.repo.switch("file")
        assert lab.tree() == {"a": b"file"}
        lab.repo.switch("main")
        assert lab.tree() == {"a/b/c": b"deep"}

    def test_an_interrupted_switch_is_completed_by_the_same_command(self, two):
        """Half of the files are already those of the other commit: that is no change to lose."""
        two.write("changed", "old")
        (two.root / "added" / "deep" / "file").unlink()
        two.repo.switch("old")
        assert two.tree() == OLD
        assert two.status() == ((), (), ())

    def test_a_link_in_the_work_tree_is_refused(self, two, tmp_path):
        """Nothing outside is written or removed through it."""
        outside = tmp_path / "outside"
        (outside / "deep").mkdir(parents=True)
        (outside / "deep" / "file").write_text("theirs")
        shutil.rmtree(two.root / "added")
        (two.root / "added").symlink_to(outside)
        two.repo.switch("old", force=True)
        assert (outside / "deep" / "file").read_text() == "theirs"
        with pytest.raises(InvalidInputError, match="nothing is written through it"):
            two.repo.switch("main", force=True)
        assert (outside / "deep" / "file").read_text() == "theirs"

    def test_modes_come_back(self, lab):
        """A script stays executable."""
        lab.write("run.sh", "#!/bin/sh\n").chmod(0o755)
        lab.commit()
        lab.repo.branch("x")
        (lab.root / "run.sh").chmod(0o644)
        lab.commit()
        lab.repo.switch("x")
        assert (lab.root / "run.sh").stat().st_mode & 0o777 == 0o755
        lab.repo.switch("main")
        assert (lab.root / "run.sh").stat().st_mode & 0o777 == 0o644

    def test_a_moved_head_is_a_conflict(self, two, actor):
        """Whoever decides on an old state is told."""
        state = two.repo.status().refs
        two.repo.switch("old")
        with pytest.raises(MvcError, match="moved by another process"):
            move_refs(two.session, [RefChange("HEAD", state.refs["HEAD"], state.head)], actor)


class TestExport:
    """Into any directory, without touching the repository."""

    def test_every_commit_byte_for_byte(self, lab, tmp_path):
        """Models, scripts, empty files, deep and foreign names."""
        trees = []
        model = lab.model()
        for epoch in range(4):
            lab.write("m.safetensors", model)
            lab.write("模" * 85, f"{epoch}")
            lab.write("x" * 255, b"")
            lab.write("a/b/c/d.bin", bytes(range(256)) * epoch)
            trees.append(lab.tree())
            lab.commit()
            model = lab.tuned(model, epoch)
        before = lab.session.refs.newest()
        for epoch, tree in enumerate(reversed(trees)):
            assert lab.exported(f"HEAD~{epoch}", tmp_path / f"out{epoch}") == tree
        assert lab.session.refs.newest() == before
        assert lab.tree() == trees[-1]

    def test_modes(self, lab, tmp_path):
        """The permission to execute is written; the rest is the umask's."""
        lab.write("run", "x").chmod(0o755)
        lab.write("read", "x").chmod(0o600)
        lab.commit()
        lab.exported("HEAD", tmp_path / "out")
        assert [(tmp_path / "out" / name).stat().st_mode & 0o777 for name in ("run", "read")] == [0o755, 0o644]

    def test_only_some_paths(self, two, tmp_path):
        """Files and directories; a path that is not there is refused before anything is written."""
        two.repo.checkout("main", to=tmp_path / "out", paths=["added", "same"])
        assert two.files(tmp_path / "out") == {"added/deep/file": b"new", "same": b"same"}
        with pytest.raises(NotFoundError, match="'dir' is not in commit"):
            two.repo.checkout("main", to=tmp_path / "out2", paths=["same", "dir"])
        assert not (tmp_path / "out2").exists()

    def test_paths_need_a_directory(self, two):
        """The work tree is for `restore`."""
        with pytest.raises(InvalidInputError, match="exports"):
            two.repo.checkout("main", paths=["same"])

    def test_other_files_there_stay(self, two, tmp_path):
        """Files of these names are replaced, by new ones: a reader of the old file keeps it."""
        out = tmp_path / "out"
        out.mkdir()
        (out / "other").write_text("stays")
        (out / "same").write_text("replaced")
        with (out / "same").open() as old:
            two.repo.checkout("main", to=out)
            assert old.read() == "replaced"
        assert two.files(out) == NEW | {"other": b"stays"}

    def test_a_link_is_replaced_not_followed(self, two, tmp_path):
        """A link in the place of a file goes; a link in the place of a directory is refused."""
        out, outside = tmp_path / "out", tmp_path / "outside"
        out.mkdir()
        outside.mkdir()
        (outside / "victim").write_text("theirs")
        (out / "same").symlink_to(outside / "victim")
        two.repo.checkout("main", to=out, paths=["same"])
        assert not (out / "same").is_symlink()
        (out / "added").symlink_to(outside)
        with pytest.raises(InvalidInputError, match="symbolic link"):
            two.repo.checkout("main", to=out)
        assert two.files(outside) == {"victim": b"theirs"}

    @pytest.mark.parametrize("obstacle", ["added", "same/x"])
    def test_what_is_in_the_way(self, two, tmp_path, obstacle):
        """A file for a directory, a directory for a file."""
        target = tmp_path / "out" / obstacle
        target.parent.mkdir(parents=True)
        target.write_text("x")
        with pytest.raises(InvalidInputError, match=r"through it|must go"):
            two.repo.checkout("main", to=tmp_path / "out")
        assert target.read_text() == "x"

    def test_a_file_for_the_directory(self, two, tmp_path):
        """Is refused."""
        (tmp_path / "out").write_text("x")
        with pytest.raises(InvalidInputError, match="not a directory"):
            two.repo.checkout("main", to=tmp_path / "out")
        with pytest.raises(MvcError):
            two.repo.checkout("main", to=tmp_path / "out" / "below")

    def test_a_corrupt_content_writes_no_file(self, lab, tmp_path):
        """Neither half a file nor a temporary is left."""
        lab.committed({"w": lab.weights("F32", (1200, 1024))})
        (blob,) = (lab.root / ".mvc" / "objects").rglob("*.blob")
        blob.chmod(0o644)
        with blob.open("r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(b"\xff" * 50)
        with pytest.raises(IntegrityError, match="corrupt"):
            lab.repo.checkout("main", to=tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []


class TestRestore:
    """Single files of the work tree."""

    def restore(self, lab, ref, *paths, **options):
        """Bring back paths of a commit."""
        return check_out_paths(lab.session, resolve(lab.session, ref).commit, paths, **options)

    def test_changes_are_taken_back(self, two):
        """HEAD stays, other files stay."""
        two.write("changed", "mine")
        two.write("same", "mine")
        (two.root / "added" / "deep" / "file").unlink()
        result = self.restore(two, "HEAD", "changed", "added")
        assert two.tree() == NEW | {"same": b"mine"}
        assert (result.written, result.branch) == (2, None)
        assert two.status() == ((), ("same",), ())

    def test_from_another_commit(self, two):
        """What comes back shows up as changed."""
        self.restore(two, "old", "changed", "dir/removed")
        assert two.tree() == NEW | {"changed": b"old", "dir/removed": b"old"}
        assert two.status() == (("dir/removed",), ("changed",), ())

    def test_an_unknown_file_is_not_overwritten(self, two):
        """No commit of this branch holds it, so it would be lost; `force` loses it."""
        two.write("dir/removed", "mine")
        with pytest.raises(DirtyWorkTreeError):
            self.restore(two, "old", "dir/removed")
        assert two.read("dir/removed") == b"mine"
        self.restore(two, "old", "dir/removed", force=True)
        assert two.read("dir/removed") == b"old"

    def test_a_path_that_is_not_there(self, two):
        """Nothing is written."""
        with pytest.raises(NotFoundError):
            self.restore(two, "HEAD", "changed", "nothing")

    def test_restored_files_are_known(self, two):
        """The cache learns their stamps, so the next check does not read them."""
        two.write("changed", "mine")
        self.restore(two, "HEAD", "changed")
        two.settle()
        assert two.status() == ((), (), ())
        two.session.layout.worktree.unlink()
        self.restore(two, "HEAD", "changed")
        assert two.status() == ((), (), ())
