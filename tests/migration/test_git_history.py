"""A history of git comes over whole: files byte for byte, authors, dates, messages, merges and tags."""

from __future__ import annotations

import hashlib
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from mvc.errors import AlreadyExistsError, ConflictError, IntegrityError, InvalidInputError, NotFoundError
from mvc.index import CommitRecord
from mvc.migration import plan_import
from mvc.objects.refnames import tag_ref
from mvc.repo.gc import gc
from mvc.settings import Gc
from mvc.types import object_id
from tests.conftest import safetensors


def trees_of(git) -> dict[str, dict[str, str]]:
    """Return what git itself checks out, by commit: the SHA-256 of every regular file."""
    found = {}
    for commit in git("rev-list", "--all").split():
        copy = git.root.parent / f"clone-{commit[:8]}"
        git("worktree", "add", "-q", "--detach", str(copy), commit)
        files = {
            path.relative_to(copy).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in copy.rglob("*")
            if path.is_file() and not path.is_symlink() and path.name != ".git"
        }
        found[commit] = files
        git("worktree", "remove", "--force", str(copy))
    return found


def origins(commits) -> dict[str, CommitRecord]:
    """Return commits by the id that git has for them."""
    return {commit.metadata["imported_from"].removeprefix("git:"): commit for commit in commits}


def write_story(lab, git) -> None:
    """Write a history with a merge, tags, a deleted file, a rename and an executable, kept by git-lfs."""
    model = lab.model()
    git.write("model.safetensors", safetensors(model))
    git.write("config.json", b'{"layers": 1}')
    git.commit("epoch 1\n\nwith a body")
    git("tag", "v1")
    git("switch", "-q", "-c", "side")
    git.write("model.safetensors", safetensors(lab.tuned(model, 2)))
    git.commit("a side step")
    git("switch", "-q", "main")
    git.write("model.safetensors", safetensors(lab.tuned(model, 1)))
    (git.root / "config.json").unlink()
    git.write("scripts/train.sh", b"#!/bin/sh\n")
    (git.root / "scripts/train.sh").chmod(0o755)
    git.commit("epoch 2")
    git("merge", "-q", "-s", "ours", "-m", "merge side", "side")
    git("mv", "scripts", "tools")
    git.write("config.json/nested.json", b"{}")
    git.commit("a file becomes a directory")
    git("tag", "-a", "-m", "the best so far", "best/one")


def test_a_history(lab, git_lfs, migration, tmp_path):
    """Every commit checks out as git checks it out; what git says of it is kept."""
    write_story(lab, git_lfs)
    trees = trees_of(git_lfs)
    done = migration.run(git_lfs.root)
    assert (done.imported, [*done.branches], sorted(done.tags)) == (5, ["main", "side"], ["best/one", "v1"])
    commits = origins(migration.log("main"))
    assert commits.keys() == trees.keys()
    for oid, commit in commits.items():
        assert migration.digests(commit.id, tmp_path / oid) == trees[oid]
        parents = git_lfs("rev-parse", f"{oid}^@").split()
        assert commit.parents == tuple(commits[parent].id for parent in parents)
        assert commit.message == git_lfs("log", "-1", "--format=%B", oid)
        assert commit.time == int(git_lfs("log", "-1", "--format=%at", oid)) * 10**6
        assert commit.author == "Ada <ada@example.org>"
    assert max(len(commit.parents) for commit in commits.values()) == 2
    assert (tmp_path / git_lfs("rev-parse", "main") / "tools/train.sh").stat().st_mode & 0o100
    assert lab.check().faults == ()


def test_tags_and_branches(lab, git_lfs, migration):
    """Branches and tags hold what they hold in git; a tag with a message keeps it, its author and its time."""
    write_story(lab, git_lfs)
    migration.run(git_lfs.root)
    session = lab.again().session
    refs = session.refs.state().refs
    commits = origins(migration.log("main"))
    for name in ("main", "side"):
        assert refs[f"refs/heads/{name}"] == commits[git_lfs("rev-parse", name)].id
    assert refs[tag_ref("v1")] == commits[git_lfs("rev-parse", "v1")].id
    tag = session.tag(object_id(refs[tag_ref("best/one")]))
    assert (tag.message, tag.author) == ("the best so far", "Someone else <else@example.org>")
    assert tag.target == commits[git_lfs("rev-parse", "best/one^{}")].id


def test_again(lab, git_lfs, migration):
    """A second run adds nothing; new commits in git are added to what is there."""
    write_story(lab, git_lfs)
    first = migration.run(git_lfs.root)
    operation = lab.again().session.refs.newest()
    again = migration.run(git_lfs.root)
    assert (again.imported, again.skipped, again.branches) == (0, 5, first.branches)
    assert lab.again().session.refs.newest() == operation
    git_lfs.write("notes.txt", b"more")
    git_lfs.commit("more")
    more = migration.run(git_lfs.root)
    assert (more.imported, more.skipped) == (1, 5)
    assert migration.log("main")[-2].id == first.branches["main"]


def test_one_branch(lab, git_lfs, migration):
    """With --branch only what it reaches comes over, and tags of that."""
    write_story(lab, git_lfs)
    done = migration.run(git_lfs.root, branch="side")
    assert ([*done.branches], done.tags, done.imported) == (["side"], ("v1",), 2)
    with pytest.raises(NotFoundError, match="no branch 'dev'"):
        plan_import(git_lfs.root, branch="dev")


def test_shards(lab, git_lfs, migration, make_lab):
    """Shards share commits, which get the same ids; together they are what one import is."""
    write_story(lab, git_lfs)
    whole = migration.run(git_lfs.root)
    other = type(migration)(make_lab("other"), migration.actor)
    parts = [other.run(git_lfs.root, shard=f"{part}/2") for part in range(2)]
    assert {**parts[0].branches, **parts[1].branches} == whole.branches
    refs = migration.lab.again().session.refs.state().refs
    assert other.lab.again().session.refs.state().refs == refs


def test_links_and_submodules(lab, git, migration, tmp_path):
    """They are left out and counted, also where a file becomes a link and back."""
    git.write("a.txt", b"a")
    git.write("b.txt", b"b")
    (git.root / "link").symlink_to("/etc/passwd")
    git.commit("one")
    git("update-index", "--add", "--cacheinfo", f"160000,{git('rev-parse', 'HEAD')},module")
    (git.root / "a.txt").unlink()
    (git.root / "a.txt").symlink_to("b.txt")
    git("add", "a.txt")
    git("commit", "-q", "-m", "two")
    (git.root / "a.txt").unlink()
    git.write("a.txt", b"a again")
    git("add", "a.txt")
    git("commit", "-q", "-m", "three")
    plan = plan_import(git.root)
    assert [note[:12] for note in plan.notes] == ["left out: 2 ", "left out: 1 "]
    migration.run(git.root)
    trees = [lab.again().exported(commit.id, tmp_path / commit.message) for commit in migration.log("main")]
    assert trees == [{"a.txt": b"a", "b.txt": b"b"}, {"b.txt": b"b"}, {"a.txt": b"a again", "b.txt": b"b"}]


def test_odd_commits(lab, git, migration):
    """No message, no change, another encoding, an empty tree."""
    git.write("a.txt", b"")
    git.commit("")
    git.commit("nothing changed")
    git("-c", "i18n.commitEncoding=ISO-8859-1", "commit", "-q", "--allow-empty", "-m", "\udce9t\udce9")
    (git.root / "a.txt").unlink()
    git.commit("empty")
    migration.run(git.root)
    commits = migration.log("main")
    assert [commit.message for commit in commits] == ["(no message)", "nothing changed", "été", "empty"]
    assert lab.manifest(commits[-1].id).files == ()


def test_a_damaged_file_of_the_past(lab, git, migration, tmp_path):
    """History is as it was: a truncated file is kept as bytes."""
    git.write("model.safetensors", safetensors(lab.model())[:-5])
    git.commit("half of it")
    migration.run(git.root)
    expected = {"model.safetensors": safetensors(lab.model())[:-5]}
    assert lab.again().exported("main", tmp_path / "out") == expected


def test_a_missing_object(lab, git, migration):
    """It is missed before anything is written, and the message says which, where, and what helps."""
    git.write("a.txt", b"a")
    git.commit("one")
    git.point("model.safetensors", b"weights").unlink()
    commit = git.commit("two")
    with pytest.raises(NotFoundError, match=rf"model.safetensors in git commit {commit[:12]}") as caught:
        migration.run(git.root)
    assert caught.value.hint == "git lfs fetch --all"
    assert lab.again().session.index.all_commits() == []


def test_an_object_of_another_size(git, migration):
    """Also before anything is written."""
    git.point("model.safetensors", b"weights", size=10**18)
    git.commit("one")
    with pytest.raises(InvalidInputError, match="is to have 1000000000000000000 bytes"):
        migration.run(git.root)


def test_an_object_of_another_hash(lab, git, migration):
    """It is noticed while it is read, and no branch moves; once it is put right, the import goes on."""
    git.write("a.txt", b"a")
    git.commit("one")
    stored = git.point("model.safetensors", b"weights")
    git.commit("two")
    stored.write_bytes(b"wEights")
    before = lab.again().session.refs.state().refs
    with pytest.raises(IntegrityError, match="no branch was moved"):
        migration.run(git.root)
    assert lab.again().session.refs.state().refs == before
    stored.write_bytes(b"weights")
    done = migration.run(git.root)
    assert (done.imported, done.skipped) == (1, 1)


@pytest.mark.parametrize(
    "text",
    [
        b"version https://git-lfs.github.com/spec/v2\noid sha256:" + b"0" * 64 + b"\nsize 1\n",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:../../../../etc/passwd\nsize 1\n",
        b"version https://git-lfs.github.com/spec/v1\noid md5:" + b"0" * 32 + b"\nsize 1\n",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize -1\n",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n" + b"x" * 1024,
    ],
)
def test_what_is_no_pointer(lab, git, migration, tmp_path, text):
    """It is an ordinary file, as it is for git-lfs."""
    git.write("file", text)
    git.commit("one")
    migration.run(git.root)
    assert lab.again().exported("main", tmp_path / "out") == {"file": text}


def test_extensions_of_lfs(git, migration):
    """What only an extension can undo is refused."""
    git.write(
        "file",
        b"version https://git-lfs.github.com/spec/v1\next-0-foo sha256:"
        + b"1" * 64
        + b"\noid sha256:"
        + b"0" * 64
        + b"\nsize 1\n",
    )
    git.commit("one")
    with pytest.raises(InvalidInputError, match="extension"):
        migration.run(git.root)


def hostile_tree(git, name: bytes) -> None:
    """Commit a tree with a name that git itself does not make."""
    blob = git("hash-object", "-w", "--stdin")
    entry = b"100644 " + name + b"\0" + bytes.fromhex(blob)
    made = subprocess.run(
        ["git", "hash-object", "-t", "tree", "--literally", "-w", "--stdin"],
        cwd=git.root,
        input=entry,
        capture_output=True,
        check=True,
    )
    commit = git("commit-tree", "-m", "hostile", made.stdout.decode().strip())
    git("update-ref", "refs/heads/main", commit)


@pytest.mark.parametrize("name", [b"..", b"a\\b", b".mvc", b"\xff", b"a\nb", b"."])
def test_hostile_names(lab, git, migration, name):
    """A path that no tree of ours may hold is refused before anything is written; the message says in which commit."""
    hostile_tree(git, name)
    with pytest.raises(InvalidInputError, match=r"git commit [0-9a-f]{12}: path"):
        migration.run(git.root)
    assert lab.again().session.index.all_commits() == []


def test_nothing_that_the_repository_configures_runs(git, migration, tmp_path):
    """Hooks, monitors, filters, pagers, external differs and helpers of the imported repository stay unused."""
    ran = tmp_path / "ran"
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {ran}\n")
    trap.chmod(0o755)
    git.write(".gitattributes", b"* filter=trap diff=trap\n")
    git.write("a.txt", b"a")
    git.commit("one")
    git.write("a.txt", b"b")
    git.commit("two")
    keys = "core.fsmonitor core.pager core.sshCommand core.gitProxy core.editor core.askPass core.alternateRefsCommand"
    for key in (*keys.split(), "diff.external", "filter.trap.smudge", "filter.trap.process", "diff.trap.textconv"):
        git("config", key, str(trap))
    git("config", "extensions.partialClone", "origin")
    git("config", "remote.origin.url", f"ext::{trap}")
    git("config", "protocol.ext.allow", "always")
    git("config", "core.repositoryFormatVersion", "1")
    for hook in ("post-index-change", "reference-transaction", "post-checkout"):
        (git.root / ".git/hooks" / hook).symlink_to(trap)
    git("status", check=False)
    assert ran.exists()  # the traps work
    ran.unlink()
    done = migration.run(git.root)
    assert done.imported == 2
    assert not ran.exists()
    gone = git("rev-parse", "HEAD:a.txt")
    (git.root / ".git/objects" / gone[:2] / gone[2:]).unlink()
    ran.unlink(missing_ok=True)
    with pytest.raises(NotFoundError, match="is missing from the repository"):
        plan_import(git.root)
    assert not ran.exists()


def test_a_shallow_clone(lab, git, migration, tmp_path):
    """It is refused, since its history would come over without its beginning; once it is whole, it is imported."""
    for text in ("one", "two", "three"):
        git.write("a.txt", text.encode())
        git.commit(text)
    git("clone", "-q", "--depth=1", f"file://{git.root}", str(tmp_path / "clone"))
    with pytest.raises(InvalidInputError, match="shallow clone") as caught:
        migration.run(tmp_path / "clone")
    assert "git fetch --unshallow" in (caught.value.hint or "")
    assert lab.again().session.index.all_commits() == []
    git("-C", str(tmp_path / "clone"), "fetch", "-q", "--unshallow")
    assert migration.run(tmp_path / "clone").imported == 3


def test_grafts(git, migration):
    """A file that tells git to lie about parents is not believed."""
    git.write("a.txt", b"a")
    git.commit("one")
    tip = git.commit("two")
    (git.root / ".git/info").mkdir(exist_ok=True)
    (git.root / ".git/info/grafts").write_text(f"{tip}\n")
    assert git("rev-list", "HEAD").split() == [tip]  # git itself does
    assert migration.run(git.root).imported == 2


@pytest.mark.parametrize("target", ["{head} junk", "HEAD", "{head} commit 1", "-h", "{short}", ""])
def test_a_tag_that_names_no_object(lab, git, migration, target):
    """What stands for the id in a hostile tag is not handed to git, which would answer for other words as well."""
    git.write("a.txt", b"a")
    head = git.commit("one")
    named = target.format(head=head, short=head[:12])
    text = f"object {named}\ntype commit\ntag evil\ntagger Eve <e@x> 1700000000 +0000\n\nhi\n"
    made = subprocess.run(
        ["git", "hash-object", "-t", "tag", "--literally", "-w", "--stdin"],
        cwd=git.root,
        input=text.encode(),
        capture_output=True,
        check=True,
    )
    (git.root / ".git/refs/tags/evil").write_text(made.stdout.decode())
    with pytest.raises(InvalidInputError, match="id of"):
        migration.run(git.root)
    assert lab.again().session.index.all_commits() == []


def test_refs_in_the_way(lab, git, migration):
    """A branch or tag of the name that holds something else stays as it is, and nothing is imported."""
    git.write("a.txt", b"a")
    git.commit("one")
    git("tag", "v1")
    lab.committed(lab.model())
    with pytest.raises(AlreadyExistsError, match="branch 'main'"):
        migration.run(git.root)
    lab.repo.branch("other")
    lab.repo.switch("other")
    lab.repo.tag("v1")
    git("branch", "-m", "fresh")
    with pytest.raises(AlreadyExistsError, match="tag 'v1'"):
        migration.run(git.root)
    git("tag", "-d", "v1")
    git("tag", "other")
    with pytest.raises(AlreadyExistsError, match="a branch and a tag"):
        migration.run(git.root)
    assert len(lab.again().session.index.all_commits()) == 1


def test_a_name_that_is_refused(git, migration):
    """Such a branch is named, and what can be done."""
    git.write("a.txt", b"a")
    git.commit("one")
    git("branch", "aux")
    with pytest.raises(InvalidInputError, match="'aux'") as caught:
        migration.run(git.root)
    assert "git branch -m" in (caught.value.hint or "")


def test_a_repository_without_commits(git, migration):
    """There is nothing to import, which is said."""
    with pytest.raises(InvalidInputError, match="no branch"):
        migration.run(git.root)


def test_a_directory_that_is_no_repository(tmp_path):
    """Whatever says that it is one."""
    (tmp_path / "fake/.git").mkdir(parents=True)
    with pytest.raises(InvalidInputError, match="not a git repository"):
        plan_import(tmp_path / "fake")


def test_another_users_repository(git, migration, as_root):
    """Git refuses to read it, and the message says how to allow it."""
    if not as_root:
        pytest.skip("only root can give files away")
    git.write("a.txt", b"a")
    git.commit("one")
    subprocess.run(["chown", "-R", "12345", str(git.root)], check=True)
    with pytest.raises(InvalidInputError, match="belongs to another user") as caught:
        migration.run(git.root)
    assert "safe.directory" in (caught.value.hint or "")


def test_what_was_recorded_and_then_collected(lab, git, migration):
    """An import that was stopped, and garbage collected since, begins again."""
    git.write("a.txt", b"a")
    git.commit("one")
    stored = git.point("model.safetensors", b"weights")
    git.commit("two")
    stored.write_bytes(b"wEights")
    with pytest.raises(IntegrityError):
        migration.run(git.root)
    for path in (lab.root / ".mvc").rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    gc(lab.again().session, Gc(grace_hours=0.0, retention_days=0.0))
    stored.write_bytes(b"weights")
    assert migration.run(git.root).imported == 2
    assert lab.check().faults == ()


def test_garbage_collected_meanwhile(lab, git, migration):
    """What is recorded, and no ref holds yet, stays: also a line of history that is not being worked on."""
    git.write("a.txt", b"a")
    git.commit("root")
    git("switch", "-q", "-c", "side")
    git.write("a.txt", b"b")
    git.commit("a side step")
    git("switch", "-q", "main")
    for number in range(3):
        git.write("a.txt", b"c%d" % number)
        git.commit(str(number))
    collected = []

    @contextmanager
    def collecting(stage, total):
        for path in (lab.root / ".mvc").rglob("*.*"):
            if path.parent.name not in {"leases", "tmp"}:
                os.utime(path, (1e9, 1e9))
        collected.append(gc(lab.again().session, Gc(grace_hours=0.0, retention_days=0.0)))
        yield lambda count: None

    assert migration.run(git.root, progress=collecting).imported == 5
    assert len(collected) == 5
    assert lab.check().faults == ()
    assert {commit.message for commit in migration.log("side")} == {"root", "a side step"}


def test_a_branch_that_moves_meanwhile(lab, git, migration):
    """Somebody makes the branch after the plan was checked: theirs stays."""
    git.write("a.txt", b"a")
    git.commit("one")
    plan = plan_import(git.root)
    lab.committed(lab.model())
    with pytest.raises((ConflictError, AlreadyExistsError)):
        migration.run_plan(plan)
    assert [commit.message for commit in migration.log("main")] == ["m"]


def test_copies_beside_the_repository_go(lab, git, migration):
    """What was copied out of git is removed again."""
    git.write("a.txt", b"a")
    git.commit("one")
    migration.run(git.root)
    assert [path.name for path in Path(lab.root / ".mvc/tmp").iterdir()] == []
