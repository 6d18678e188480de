"""Ways in which content could be lost that were found by reading and by attack; none may come back."""

from __future__ import annotations

import numpy as np
import pytest

from mvc.errors import AlreadyExistsError, DirtyWorkTreeError, InvalidInputError
from mvc.repo.fsck import fsck


def test_lost_content_is_stored_again_and_never_as_a_delta_on_itself(lab):
    """B hangs on A; A's pack is cut short; committing A again stores A anew, and B is whole again."""
    one = lab.model(rows=512)
    two = lab.tuned(one, 1)
    lab.write("m.safetensors", one)
    first = lab.commit().commit
    pack = set(lab.session.store.pack_ids())
    lab.write("m.safetensors", two)
    second = lab.commit().commit
    assert any(record.side for record in lab.session.index.all_blobs()), "B must be a delta for this to test anything"
    damaged = lab.session.store.packs.directory / f"{pack.pop()}.pack"
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])  # the index still lists all of it
    again = lab.again()
    again.write("m.safetensors", one)
    again.commit()
    assert all(record.side is None or record.side.id != record.id for record in again.session.index.all_blobs())
    restored = again.again()
    assert restored.repo.load("HEAD", framework="numpy").keys() == one.keys()
    assert restored.repo.load(second, framework="numpy").keys() == two.keys()
    assert first != second


def cut_short(blob, lab):
    """Cut off the end."""
    blob.write_bytes(blob.read_bytes()[:-1000])


def emptied(blob, lab):
    """Leave nothing, as a crash of a file system may."""
    blob.write_bytes(b"")


def with_a_broken_header(blob, lab):
    """Flip a bit of the header, and have the index made again, which leaves the blob out."""
    data = bytearray(blob.read_bytes())
    data[30] ^= 1
    blob.write_bytes(data)
    (lab.root / ".mvc" / "index.sqlite").unlink()


@pytest.mark.parametrize("damage", [cut_short, emptied, with_a_broken_header])
def test_a_damaged_blob_does_not_stand_in_the_way_of_a_good_one(lab, damage):
    """Its name is taken, but what it holds is lost: committing the content again stores it again."""
    content = np.random.default_rng(0).bytes(5 << 20)
    (lab.root / "a.bin").write_bytes(content)
    lab.commit()
    (blob,) = (lab.root / ".mvc" / "objects").rglob("*.blob")
    blob.chmod(0o644)
    damage(blob, lab)
    (lab.root / "a.bin").unlink()
    later = lab.again()
    later.write("b", "another commit, after which the index has looked at every blob")
    later.commit()
    last = later.again()
    (last.root / "a.bin").write_bytes(content)
    last.commit()
    checked = last.again()
    checked.repo.checkout("HEAD", to=lab.root.parent / "out")
    assert (lab.root.parent / "out" / "a.bin").read_bytes() == content
    assert fsck(checked.session).clean


def test_a_changed_file_that_is_ignored_now_is_not_overwritten(lab):
    """HEAD holds it, .mvcignore names it, and it changed: going elsewhere would lose what no commit holds."""
    lab.write("state", "old")
    lab.commit()
    lab.repo.branch("old")
    lab.write("state", "new")
    lab.commit()
    lab.write(".mvcignore", "state\n")
    lab.write("state", "mine")
    with pytest.raises(DirtyWorkTreeError, match="state"):
        lab.repo.switch("old")
    assert (lab.root / "state").read_text() == "mine"


def test_an_unchanged_file_that_is_ignored_is_no_obstacle(lab):
    """What a commit holds is not lost."""
    lab.write("state", "old")
    lab.commit()
    lab.repo.branch("old")
    lab.write("state", "new")
    lab.commit()
    lab.write(".mvcignore", "state\n")
    lab.repo.switch("old")
    assert (lab.root / "state").read_text() == "old"


@pytest.mark.parametrize("target", [".mvc", ".mvc/op_head", ".", ".."])
def test_nothing_is_exported_over_the_repository_or_its_work_tree(lab, target):
    """Neither into .mvc, which would destroy it, nor over the files that ``restore`` is for."""
    lab.write("a", "x")
    lab.commit()
    with pytest.raises(InvalidInputError, match=r"\.mvc|work tree"):
        lab.repo.checkout("HEAD", to=lab.root / target)
    assert fsck(lab.session).clean


def test_an_export_into_the_work_tree_spares_what_no_commit_holds(lab):
    """A directory of the work tree may be the target, but not at the cost of unknown files."""
    lab.write("a", "x")
    lab.commit()
    lab.write("out/a", "mine")
    with pytest.raises(DirtyWorkTreeError, match="out/a"):
        lab.repo.checkout("HEAD", to=lab.root / "out")
    assert (lab.root / "out" / "a").read_text() == "mine"


def test_a_branch_and_a_tag_of_one_name(lab):
    """Cannot be made: ``mvc checkout NAME`` would not be clear."""
    lab.write("a", "x")
    lab.commit()
    with pytest.raises(AlreadyExistsError, match="branch 'main'"):
        lab.repo.tag("main")
    lab.repo.tag("v1")
    with pytest.raises(AlreadyExistsError, match="tag 'v1'"):
        lab.repo.branch("v1")


def test_a_link_is_no_obstacle_to_other_work(lab):
    """``latest -> checkpoint-3`` beside the files: status and a commit of other paths work, recording it is refused."""
    lab.write("a", "x")
    (lab.root / "latest").symlink_to("a")
    assert lab.repo.status().added == ("a",)
    lab.repo.commit(lab.root / "a", message="a only")
    with pytest.raises(InvalidInputError, match="symbolic link"):
        lab.repo.commit(message="all")
