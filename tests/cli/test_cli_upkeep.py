"""``gc`` and ``repack`` as people and scripts use them."""

from __future__ import annotations

import os
import time

import pytest

from mvc.cli.durations import seconds


def make_old(lab):
    """Make everything that is stored older than any grace period of these tests."""
    then = time.time() - 10 * 86_400
    for path in (lab.root / ".mvc").rglob("*"):
        if path.suffix in {".pack", ".blob"}:
            os.utime(path, (then, then))


@pytest.fixture
def littered(lab, story):
    """Return a repository of which a branch was deleted."""
    story.run("switch", "-c", "aside")
    lab.write("more.safetensors", {f"m{n}": lab.weights("F32", (64, 64), n) for n in range(4)})
    story.run("commit", "-m", "aside")
    story.run("switch", "main")
    story.run("branch", "-D", "aside")
    make_old(lab)
    return story


def test_collecting_garbage(littered):
    """First what would go and why the rest stays; then it goes; then there is nothing."""
    held = littered.json("gc", "--dry-run")
    assert (held["schema"], held["dry_run"], held["freed_bytes"]) == ("mvc.gc/1", True, 0)
    assert held["kept"]["operation log"]["objects"] >= 5
    would = littered.json("gc", "-n", "--retention", "0")
    assert would["freed_objects"] >= 5
    lines = littered.out("gc", "-n", "--retention", "0").splitlines()
    assert lines[0].startswith("Would free ")
    assert any(line.startswith("branches ") for line in lines)
    before = littered.json("du")["by_place"]
    done = littered.json("gc", "--retention", "0", "--grace", "1h")
    assert {**done, "dry_run": True} == would
    assert littered.json("du")["by_place"]["packs"] == before["packs"] - done["freed_bytes"]
    assert littered.out("gc", "--retention", "0").startswith("Freed 0 B: 0 objects")
    assert littered.json("fsck")["clean"]


def test_undo_after_a_collection(littered):
    """What is gone cannot be brought back, and undo says so instead of making a branch that leads nowhere."""
    littered.run("gc", "--retention", "0")
    failed = littered.err("undo", code=1)
    assert "not whole any more" in failed
    assert littered.json("fsck")["clean"]


@pytest.mark.parametrize("text", ["soon", "3", "-1d", "1 d", ""])
def test_what_is_no_length_of_time(story, text):
    """A usage error that says how to write one."""
    assert "90m" in story.err("gc", "--grace", text, code=2)
    assert seconds(text) is None


def test_while_another_is_at_work(lab, story):
    """Exit code 3."""
    with lab.session.store.leases.take_maintenance("repack"):
        assert "repack" in story.err("gc", code=3)
        assert "repack" in story.err("repack", code=3)


def test_repacking(lab, story):
    """A plan, then the same done; numbers that scripts can read."""
    lab.write("sibling.safetensors", {f"bert.{name}": raw for name, raw in lab.tuned(lab.model(rows=512), 1).items()})
    story.run("commit", "-m", "first")
    lab.write("cousin.safetensors", {f"gpt.{name}": raw for name, raw in lab.tuned(lab.model(rows=512), 2).items()})
    story.run("commit", "-m", "second")
    plan = story.json("repack", "--plan")
    assert (plan["schema"], plan["plan"]) == ("mvc.repack/1", True)
    assert plan["stored_before"] == plan["stored_after"] == story.json("du")["stored_bytes"]
    assert "would be stored in another way" in story.out("repack", "--plan")
    done = story.json("repack")
    assert done["contents"] >= 2
    assert done["stored_after"] < done["stored_before"] == plan["stored_before"]
    assert done["stored_after"] == story.json("du")["stored_bytes"]
    assert done["after"]["stored_bytes"] < done["before"]["stored_bytes"]
    assert done["live"] >= done["contents"]
    assert story.json("fsck")["clean"]
    assert "The store took" in story.out("repack")
