"""``mvc merge``: what it prints, its exit codes, and the whole of it as users run it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file


@pytest.fixture
def parted(lab, program):
    """Return the program on main, where the weights changed; on side the bias changed, and a file came."""
    base = lab.model()
    tuned = lab.tuned(base, 1)
    lab.write("model.safetensors", base)
    lab.write("notes.txt", "base")
    program.run("commit", "-m", "base")
    program.run("switch", "-c", "side")
    lab.write("model.safetensors", {**base, "layer.bias": tuned["layer.bias"]})
    lab.write("new.txt", "new")
    program.run("commit", "-m", "bias")
    program.run("switch", "main")
    lab.write("model.safetensors", {**base, "layer.weight": tuned["layer.weight"]})
    program.run("commit", "-m", "weight")
    return program


@pytest.fixture
def conflicting(story):
    """Return the program on main; there and on side every tensor but a counter changed."""
    return story


class TestText:
    """What people read."""

    def test_a_merge(self, parted):
        """Every file that differed, and how many of its tensors came from which side."""
        first, *rest = parted.out("merge", "side").splitlines()
        assert first.startswith("[main ")
        assert first.endswith("] Merge branch 'side'")
        assert rest == [
            "  model.safetensors  1 tensor from ours, 1 tensor from theirs, 2 tensors the same in both",
            "  new.txt            from theirs",
            "2 files written, 0 removed",
        ]
        assert parted.out("merge", "side") == "Already up to date\n"
        graph = parted.out("log", "--graph", "--oneline").splitlines()
        assert "Merge branch 'side'" in graph[0]
        assert graph[1].startswith("|\\")
        assert "Merge:   " in parted.out("log")

    def test_a_fast_forward(self, parted):
        """It says where the branch went."""
        parted.run("merge", "side")
        parted.run("switch", "side")
        first, last = parted.out("merge", "--ff-only", "main").splitlines()
        assert first.startswith("Fast-forward [side ")
        assert last == "1 file written, 0 removed"

    def test_a_removed_file(self, lab, parted):
        """It is listed with the side that removed it."""
        (lab.root / "notes.txt").unlink()
        parted.run("commit", "-m", "less")
        assert "  notes.txt          removed, as in ours" in parted.out("merge", "side").splitlines()

    def test_several_bases(self, parted):
        """A note tells that the histories meet more than once."""
        parted.run("branch", "old")
        parted.run("merge", "side")
        parted.run("switch", "side")
        parted.run("merge", "old")
        assert "the histories meet in 2 commits" in parted.run("merge", "main").stderr


class TestConflicts:
    """Exit code 3, and the next command."""

    def test_they_are_listed(self, lab, conflicting):
        """Nothing happens but a message."""
        before = lab.tree()
        text = conflicting.err("merge", "side", code=3)
        assert "error: 3 conflicts, and nothing was changed: model.safetensors: embed.weight (changed on both" in text
        assert "hint: mvc merge -X theirs side takes it from there" in text
        assert lab.tree() == before
        assert conflicting.json("status")["clean"]
        assert conflicting.err("merge", "side", "--json", code=3) == text

    def test_a_side_is_favoured(self, conflicting, lab):
        """How many were resolved is told."""
        text = conflicting.out("merge", "side", "-X", "theirs", "-m", "mine", "-m", "why")
        assert "  model.safetensors  3 tensors from theirs, 1 tensor the same in both\n3 conflicts resolved\n" in text
        assert conflicting.json("show")["message"] == "mine\n\nwhy"
        found = conflicting.json("diff", "HEAD", "HEAD^2")
        assert (found["modified"], found["tensors"]) == ([], [])

    def test_only_a_fast_forward(self, parted):
        """What would need a commit is a conflict."""
        assert "a fast-forward is not possible" in parted.err("merge", "--ff-only", "side", code=3)

    def test_a_changed_file(self, lab, parted):
        """What would be lost is refused."""
        lab.write("new.txt", "mine")
        assert "1 changed file would be overwritten" in parted.err("merge", "side", code=3)

    def test_usage(self, parted):
        """Options that exclude each other, and sides that do not exist."""
        assert "exclude each other" in parted.err("merge", "--ff-only", "--no-ff", "side", code=2)
        parted.err("merge", "-X", "mine", "side", code=2)


class TestJson:
    """The document."""

    def test_a_merge(self, parted):
        """Kind, ids, files with their tensors."""
        base = parted.json("show", "side^")["id"]
        found = parted.json("merge", "side")
        assert list(found) == [
            "schema", "kind", "commit", "branch", "bases", "written", "removed", "files", "resolved",
        ]  # fmt: skip
        assert (found["schema"], found["kind"], found["branch"]) == ("mvc.merge/1", "merge", "main")
        assert (found["bases"], found["written"], found["removed"], found["resolved"]) == ([base], 2, 0, [])
        assert found["commit"] == parted.json("show")["id"]
        assert found["files"] == [
            {
                "path": "model.safetensors",
                "source": "both",
                "removed": False,
                "tensors": {"ours": 1, "theirs": 1, "shared": 2},
            },
            {"path": "new.txt", "source": "theirs", "removed": False, "tensors": {"ours": 0, "theirs": 0, "shared": 0}},
        ]
        again = parted.json("merge", "side")
        assert (again["kind"], again["commit"], again["files"]) == ("up-to-date", found["commit"], [])

    def test_resolved_conflicts(self, conflicting):
        """Each is listed; a detached HEAD has no branch."""
        conflicting.run("checkout", "main~0")
        found = conflicting.json("merge", "-X", "ours", "side")
        assert found["branch"] is None
        assert found["resolved"][0] == {
            "path": "model.safetensors",
            "tensor": "embed.weight",
            "problem": "changed on both sides",
        }
        assert len(found["resolved"]) == 3


def save(path, weight, bias):
    """Write a model as safetensors does."""
    tensors = {"weight": np.full((32, 32), weight, np.float32), "bias": np.full(64, bias, np.float16)}
    save_file(tensors, path)


def test_two_people(tmp_path, processes):
    """One trains the weights, another one the bias; both are merged, loaded, undone and merged again."""
    processes.out(tmp_path, "init", "work")
    work = tmp_path / "work"
    path = work / "model.safetensors"
    save(path, 0, 0)
    processes.out(work, "commit", "-m", "base")
    processes.out(work, "switch", "-c", "other")
    save(path, 0, 2)
    processes.out(work, "commit", "-m", "bias")
    processes.out(work, "switch", "main")
    save(path, 1, 0)
    processes.out(work, "commit", "-m", "weight")
    made = json.loads(processes.out(work, "merge", "other", "--json"))
    tensors = load_file(path)
    assert (tensors["weight"].min(), tensors["bias"].min()) == (1, 2)
    assert processes.out(work, "status", "--json").count('"clean":true') == 1
    processes.out(work, "undo")
    tensors = load_file(path)
    assert (tensors["weight"].min(), tensors["bias"].min()) == (1, 0)
    processes.out(work, "undo")
    assert json.loads(processes.out(work, "log", "--json"))["commits"][0]["id"] == made["commit"]
    assert load_file(path)["bias"].min() == 2
    save(path, 3, 2)
    processes.out(work, "commit", "-m", "more")
    processes.out(work, "switch", "other")
    save(path, 4, 2)
    processes.out(work, "commit", "-m", "less")
    refused = processes.run(work, "merge", "main")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "model.safetensors: weight (changed on both sides)" in refused.stderr
    assert "no faults" in processes.out(work, "fsck")
