"""``status``, ``switch``, ``checkout``, ``restore``, ``branch`` and ``tag`` as people use them."""

from __future__ import annotations

import pytest


def test_status(lab, story):
    """``status`` lists what a commit would record, and how to go on."""
    assert story.out("status") == "On branch main\nNothing to commit, work tree clean\n"
    lab.write("config.json", "changed")
    lab.write("new", "x")
    (lab.root / "model.safetensors").unlink()
    assert story.out("status").splitlines() == [
        "On branch main",
        "",
        "Changes that a commit would record:",
        "  modified:  config.json",
        "  deleted:   model.safetensors",
        "  added:     new",
        "",
        "(mvc commit -m MESSAGE records them; mvc restore PATH takes one back)",
    ]


def test_status_of_a_new_repository(lab, program):
    """A new repository has no commits."""
    assert program.out("status").splitlines()[:2] == ["On branch main", "No commits yet"]
    lab.write("a", "x")
    assert program.out("status").splitlines()[-1] == "(mvc commit -m MESSAGE records them)"


def test_init_twice(program):
    """A second ``init`` changes nothing."""
    assert "is a repository already" in program.err("init", code=1)


def test_init(program, tmp_path):
    """``init`` makes the directory and says where the repository is."""
    assert (
        program.out("init", "deep/er") == f"Made an empty repository in {program.root}/deep/er/.mvc, on branch main\n"
    )


def test_switch(story):
    """``switch`` says where it went and what it wrote."""
    assert story.out("switch", "side") == "Switched to branch 'side'\n1 file written, 0 removed\n"
    assert story.out("switch", "side") == "Already on 'side'\n"
    assert story.out("switch", "-c", "new", "main~1").startswith("Switched to a new branch 'new'\n")
    assert "exists already" in story.err("switch", "-c", "new", code=1)
    assert "cannot name a branch" in story.err("switch", "-c", "a..b", code=1)


def test_switch_keeps_changes(lab, story):
    """A change to a file that both branches hold alike goes along."""
    lab.write("config.json", "changed")
    story.run("switch", "side")
    assert story.json("status")["modified"] == ["config.json"]


def test_switch_before_the_first_commit(program):
    """A branch can be chosen before there is a commit."""
    program.run("switch", "-c", "trunk")
    assert program.out("status").startswith("On branch trunk\nNo commits yet\n")
    assert program.out("switch", "trunk") == "Already on 'trunk'\n"


@pytest.mark.parametrize("arguments", [["switch", "--detach", "side"], ["checkout", "side~0"]])
def test_detached(story, arguments):
    """Going to a commit says that HEAD is detached and how to get back."""
    result = story.run(*arguments)
    assert result.stdout.startswith("HEAD is now at ")
    assert result.stdout.endswith(" a side step\n")
    assert "HEAD is detached" in result.stderr
    assert "mvc switch -c NAME" in result.stderr
    assert story.out("status").startswith("HEAD detached at ")
    assert story.out("branch").startswith("*  (HEAD detached at ")


def test_switch_to_a_commit(story):
    """``switch`` to what is no branch names the option that goes there."""
    story.run("tag", "v1")
    assert "--detach" in story.err("switch", "v1", code=1)


def test_checkout_of_a_branch(story):
    """``checkout BRANCH`` attaches HEAD, as git does."""
    assert story.out("checkout", "side") == "Switched to branch 'side'\n"
    assert story.json("status")["branch"] == "side"


def test_checkout_to(lab, story, tmp_path):
    """``checkout --to`` writes the files elsewhere and leaves work tree and HEAD alone."""
    before = lab.tree()
    out = story.out("checkout", "side", "--to", str(tmp_path / "to"))
    assert out.startswith("2 files of side (")
    assert lab.files(tmp_path / "to").keys() == {"config.json", "model.safetensors"}
    assert lab.tree() == before
    assert story.json("status")["branch"] == "main"
    story.run("checkout", "side", "config.json", "--to", str(tmp_path / "one"))
    assert lab.files(tmp_path / "one").keys() == {"config.json"}
    assert "is not in commit" in story.err("checkout", "side", "nothing", "--to", str(tmp_path / "x"), code=1)


def test_checkout_of_paths(lab, story):
    """``checkout REF PATH`` brings files back and leaves HEAD alone."""
    kept = lab.read("model.safetensors")
    assert story.out("checkout", "side", "model.safetensors").startswith("1 file of side (")
    assert lab.read("model.safetensors") != kept
    assert story.json("status") | {"head": ""} == {
        "schema": "mvc.status/1",
        "branch": "main",
        "head": "",
        "clean": False,
        "added": [],
        "modified": ["model.safetensors"],
        "deleted": [],
    }


def test_restore(lab, story):
    """``restore`` undoes changes and deletions, of everything with the root."""
    kept = lab.tree()
    lab.write("config.json", "changed")
    (lab.root / "model.safetensors").unlink()
    assert story.out("restore", "config.json").startswith("1 file brought back from HEAD (")
    story.run("restore", ".")
    assert lab.tree() == kept
    story.run("restore", ".", "--source", "side")
    assert lab.tree() != kept
    assert "is not in commit" in story.err("restore", "nothing", code=1)


def test_restore_over_an_unknown_file(lab, story):
    """A file that HEAD does not hold is overwritten only with ``--force``."""
    (lab.root / "config.json").unlink()
    story.run("commit", "-m", "less")
    lab.write("config.json", "precious")
    story.err("restore", "config.json", "--source", "main~1", code=3)
    assert lab.read("config.json") == b"precious"
    story.run("restore", "config.json", "--source", "main~1", "--force")
    assert lab.read("config.json") != b"precious"


def test_branches(story):
    """Branches are listed, made, moved, renamed and deleted."""
    assert story.out("branch") == "*  main\n   side\n"
    story.run("branch", "old", "main~1")
    assert "exists already" in story.err("branch", "old", code=1)
    story.run("branch", "-f", "old", "side")
    verbose = story.out("branch", "-v").splitlines()
    assert verbose[1].split()[2:] == ["a", "side", "step"]
    story.run("branch", "-m", "old", "older")
    story.run("branch", "-m", "trunk")
    assert story.out("branch") == "   older\n   side\n*  trunk\n"
    assert story.out("branch", "-d", "older").startswith("Deleted branch older (was ")
    assert "-D" in story.err("branch", "-d", "side", code=1)
    story.run("branch", "-D", "side")
    assert story.out("branch") == "*  trunk\n"


def test_branch_before_the_first_commit(program):
    """Without a commit there is nothing to make a branch of, and nothing to list."""
    assert program.out("branch") == ""
    assert "no commit yet" in program.err("branch", "x", code=1)


def test_rename_with_detached_head(story):
    """Without a current branch, the branch to rename must be named."""
    story.run("switch", "--detach")
    assert "HEAD is detached" in story.err("branch", "-m", "x", code=2)


def test_tags(story):
    """Tags are listed, made, moved and deleted; those with a message show it."""
    story.run("tag", "plain")
    story.run("tag", "-m", "what we shipped\n\nmore", "v1", "main~1")
    lines = [line.split(maxsplit=2) for line in story.out("tag").splitlines()]
    assert [line[0] for line in lines] == ["plain", "v1"]
    assert lines[1][2] == "what we shipped"
    assert story.json("show", "v1")["message"] == "epoch 1"
    assert "exists already" in story.err("tag", "v1", code=1)
    story.run("tag", "-f", "v1", "side")
    assert story.out("tag", "-d", "v1").startswith("Deleted tag v1 (was ")
    assert "there is no tag 'v1'" in story.err("tag", "-d", "v1", code=1)


def test_several_directories(lab, story):
    """Each ``-C`` is relative to the one before."""
    (lab.root / "a/b").mkdir(parents=True)
    assert story.bare("-C", str(lab.root), "-C", "a", "-C", "b", "status").stdout.startswith("On branch main")


def test_colours(lab, story):
    """Output is coloured on request, never in a pipe; ``NO_COLOR`` and ``FORCE_COLOR`` are obeyed."""
    lab.write("config.json", "changed")
    assert "\x1b[" not in story.out("status")
    assert "\x1b[33m  modified:" in story.out("--color=always", "status")
    assert "\x1b[" in story.run("status", env={"FORCE_COLOR": "1"}).stdout
    assert "\x1b[" not in story.run("status", env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout
    assert "\x1b[" in story.run("--color=always", "switch", "none", code=1).stderr
    assert "\x1b[" in story.out("--color=always", "log", "--graph", "--all")


def test_sizes(story):
    """``du`` sums up history in one line, then by encoding and place."""
    lines = story.out("du").splitlines()
    assert lines[0].startswith("3 commits: ")
    assert lines[2].split() == ["encoding", "blobs", "raw", "stored"]
    assert {line.split()[0] for line in lines[-4:]} == {"loose", "packs", "indexes", "operations"}


def test_maintenance(story):
    """``fsck`` and ``reindex`` say what they looked at."""
    assert story.out("fsck").endswith("decoded: no faults\n")
    assert "headers only, 3 commits known from an earlier check: no faults\n" in story.out("fsck", "--quick")
    assert story.out("reindex").startswith("Indexed 3 packs and ")


def test_bare(program, lab, tmp_path):
    """``init --bare`` makes a repository that takes commits of directories, and refuses what needs a work tree."""
    bare = program.at(tmp_path)
    assert bare.out("init", "--bare", "store") == f"Made an empty bare repository in {tmp_path}/store, on branch main\n"
    lab.write("model.safetensors", lab.model())
    bare = program.at(tmp_path / "store")
    bare.run("commit", "--from", str(lab.root), "-m", "m")
    for line in ("log", "show HEAD", "branch side", "tag v1", "du", "fsck", "gc", "repack", "reindex", "op log"):
        bare.run(*line.split())
    for line in ("status", "commit -m x", "switch side", "restore .", "checkout main", "diff"):
        assert "bare repository" in bare.err(*line.split(), code=1)
