"""``log``, ``show``, ``diff``, ``undo`` and ``op log`` as people read them."""

from __future__ import annotations

import re

import click
import pytest

from mvc.cli.graph import draw, reduced
from mvc.cli.text import local_time
from mvc.index import CommitRecord
from mvc.repo.graph import graph
from mvc.types import ObjectId


def subjects(text: str) -> list[str]:
    """Return what follows the id and refs on every line."""
    return [re.sub(r"^[0-9a-f]{12} (\([^)]*\) )?", "", line) for line in text.splitlines()]


def test_one_line(story):
    """``--oneline`` shows id, refs, subject and metadata."""
    lines = story.out("log", "--oneline").splitlines()
    assert re.fullmatch(r"[0-9a-f]{12} \(HEAD -> main\) epoch 2  epoch=2 loss=0.25", lines[0])
    assert re.fullmatch(r"[0-9a-f]{12} epoch 1  epoch=1 loss=0.5 run=a7", lines[1])


def test_full(story):
    """The long form has the parts that git's has."""
    newest = story.json("log")["commits"][0]
    lines = story.out("log", "-n", "1").splitlines()
    assert lines[0] == f"commit {newest['id']} (HEAD -> main)"
    assert lines[1].startswith("Author:  ")
    assert lines[2].startswith("Date:    20")
    assert lines[3:] == ["Data:    epoch=2 loss=0.25", "", "    epoch 2"]


def test_tags_in_decorations(story):
    """Tags are marked as such; a detached HEAD stands first."""
    story.run("tag", "v1", "main~1")
    story.run("tag", "-m", "why", "v2", "main~1")
    story.run("switch", "--detach", "v1")
    assert "(HEAD, tag: v1, tag: v2)" in story.out("log", "--oneline")


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["loss<0.3"], ["epoch 2"]),
        (["loss>0.3"], ["epoch 1"]),
        (["loss<=0.5", "epoch>=2"], ["epoch 2"]),
        (["run=a7"], ["epoch 1"]),
        (["missing=1"], []),
    ],
)
def test_conditions(story, conditions, expected):
    """``--where`` keeps the commits that meet every condition."""
    options = [part for condition in conditions for part in ("--where", condition)]
    found = story.json("log", "--all", *options)["commits"]
    assert [commit["message"] for commit in found] == expected


def test_bad_condition(story):
    """What is no condition is refused with an example of one."""
    assert "loss<0.3" in story.err("log", "--where", "loss", code=1)


def test_counts(story):
    """``-n`` ends the list, after conditions were applied."""
    assert len(story.json("log", "--all", "-n", "2")["commits"]) == 2
    assert story.json("log", "-n", "0")["commits"] == []
    assert len(story.json("log", "--all", "-n", "1", "--where", "epoch<2")["commits"]) == 1


def test_all_and_a_ref(story):
    """``--all`` with a REF adds the history of the REF; on a new repository it is empty."""
    story.run("switch", "--detach", "side")
    story.run("commit", "--allow-empty", "-m", "on no branch")
    commit = story.json("log")["commits"][0]["id"]
    story.run("switch", "main")
    assert len(story.json("log", "--all")["commits"]) == 3
    assert len(story.json("log", commit[:8], "--all")["commits"]) == 4


def test_new_repository(program):
    """A repository without commits has no history to show, and ``--all`` of it is empty."""
    assert "no commit yet" in program.err("log", code=1)
    assert program.json("log", "--all")["commits"] == []


def test_graph(story):
    """``--graph`` draws the fork of two branches."""
    lines = story.out("log", "--graph", "--oneline", "--all").splitlines()
    assert [re.sub(r"[0-9a-f]{12}.*", "", line) for line in lines] == ["* ", "| * ", "|/", "* "]


def test_graph_of_long_commits(story):
    """With long commits, lanes run beside the text."""
    lines = story.out("log", "--graph", "--all").splitlines()
    assert lines[0].startswith("* commit ")
    assert lines[1].startswith("| Author:")
    assert "|/  Author:" in "\n".join(lines)


def record(name: str, parents: str = "") -> CommitRecord:
    """Return a commit whose id is `name`."""
    ids = tuple(map(ObjectId, parents))
    return CommitRecord(ObjectId(name), ObjectId("m"), ids, 0, 0, "a", name, {}, 0)


def drawn(*commits: tuple[str, str]) -> list[str]:
    """Return the picture of commits, each given with its parents."""
    rows = graph(record(name, parents) for name, parents in commits)
    return [click.unstyle(line) for row in rows for line in draw(row, [row.record.id])]


@pytest.mark.parametrize(
    ("commits", "picture"),
    [
        ([("c", "b"), ("b", "a"), ("a", "")], ["* c", "* b", "* a"]),
        ([("m", "ab"), ("b", "r"), ("a", "r"), ("r", "")], ["*   m", "|\\", "| * b", "* | a", "|/", "* r"]),
        ([("m", "abc"), ("c", ""), ("b", ""), ("a", "")], None),
        ([("x", ""), ("y", "")], ["* x", "* y"]),
    ],
)
def test_pictures(commits, picture):
    """Lanes fan out at merges and come together at common parents; every commit is drawn once."""
    lines = drawn(*commits)
    assert sum("*" in line for line in lines) == len(commits)
    assert picture is None or lines == picture


def test_reduced_history():
    """Commits that a condition drops are bridged, so that the lines of the graph go on."""
    commits = [record("d", "bc"), record("c", "a"), record("b", "a"), record("a", "r"), record("r")]
    kept = reduced(commits, lambda commit: commit.id in "dar")
    assert [(commit.id, "".join(commit.parents)) for commit in kept] == [("d", "a"), ("a", "r"), ("r", "")]


def test_graph_with_conditions(story):
    """``--graph`` and ``--where`` work together."""
    assert len(story.out("log", "--graph", "--oneline", "--all", "--where", "loss<1").splitlines()) == 2


def test_hostile_message(lab, program):
    """Control characters from a commit never reach the terminal, wherever they stand."""
    lab.write("a", "1")
    evil = "\x1b]0;owned\x07\x9b31m"
    program.run("commit", "-m", f"subject {evil}", "--meta", f"k={evil}", "--author", evil)
    program.run("tag", "-m", evil, "v1")
    commands = [["log"], ["log", "--oneline", "--graph"], ["show"], ["op", "log"], ["tag"], ["branch", "-v"]]
    for command in commands:
        shown = program.out(*command)
        assert "\\x1b]0;owned\\x07" in shown, command
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown), command


def test_show(story):
    """``show`` marks changed files and ends with totals."""
    lines = story.out("show").splitlines()
    assert re.fullmatch(r"   config.json +13 B  opaque", lines[-4])
    assert re.fullmatch(r"M  model.safetensors +[\d.]+ kB  safetensors", lines[-3])
    assert lines[-1].startswith("2 files, 4 tensors, ")


def test_show_encodings(story):
    """``show --encodings`` ends with a table of tensors."""
    lines = story.out("show", "--encodings").splitlines()
    title = next(number for number, line in enumerate(lines) if line.startswith("tensor "))
    assert lines[title].split() == ["tensor", "dtype", "shape", "policy", "encoding", "base", "depth", "stored"]
    assert re.match(r"embed.weight +F32 +64x32 +previous +(?:sorted|context)-delta +[0-9a-f]{12} +1 ", lines[title + 1])
    assert re.match(r"step +I64 +scalar +full +", lines[-1])


def test_show_removed_file(lab, story):
    """A removed file is marked D."""
    (lab.root / "config.json").unlink()
    story.run("commit", "-m", "less")
    assert "D  config.json" in story.out("show")


def test_empty_tensor(lab, program):
    """A tensor without elements is stored nowhere, and shown."""
    lab.write("model.safetensors", {"none": lab.weights("F32", (0, 4))})
    program.run("commit", "-m", "m")
    tensor = program.json("show", "--encodings")["tensors"][0]
    assert (tensor["encoding"], tensor["stored_bytes"], tensor["depth"]) == (None, 0, 0)
    assert re.search(r"none +F32 +0x4 +full +- +-", program.out("show", "--encodings"))


def test_diff(lab, story):
    """``diff`` marks files, counts tensors, and exits with 1 only if that was asked for."""
    assert story.out("diff") == ""
    assert story.out("diff", "--exit-code") == ""
    lab.write("new", "x")
    assert story.out("diff") == "A  new\n"
    story.run("diff", "--exit-code", code=1)
    result = story.run("diff", "main~1", "main")
    assert result.stdout == "M  model.safetensors\n\n4 tensors: 4 changed\n"
    assert "--tensors" in result.stderr


def test_diff_of_tensors(story):
    """``diff --tensors`` is a table of measures."""
    lines = story.out("diff", "main~1", "main", "--tensors").splitlines()
    assert lines[2].split()[:4] == ["tensor", "change", "changed", "rel."]
    assert len(lines) == 7


def test_diff_before_the_first_commit(lab, program):
    """Before the first commit, everything is new."""
    lab.write("a", "1")
    assert program.out("diff") == "A  a\n"


def test_diff_of_shapes(lab, story):
    """A tensor of another shape is not measured."""
    lab.write("model.safetensors", lab.model(rows=32))
    assert re.search(r"embed.weight +reshaped +- +-", story.out("diff", "--tensors"))


def test_undo(story):
    """``undo`` takes a commit back and, done again, brings it back."""
    before = story.json("log")["commits"]
    story.run("commit", "--allow-empty", "-m", "too early")
    undone = story.out("undo")
    assert undone.startswith("Undone: mvc commit --allow-empty -m 'too early'\n  branch main: ")
    assert story.json("log")["commits"] == before
    story.run("undo")
    assert story.json("log")["commits"][0]["message"] == "too early"


def test_nothing_to_undo(program):
    """The first operation stays."""
    assert "nothing to undo" in program.err("undo", code=1)


def test_operation_log(story):
    """Operations are numbered as REFs number them."""
    lines = story.out("op", "log").splitlines()
    assert lines[0].startswith("@{0}  20")
    assert lines[1:3] == ["    mvc switch main", "      HEAD: side -> main"]
    before = story.json("show", "@{1}")["id"]
    assert before == story.json("show", "side")["id"]


def test_times_out_of_range():
    """A commit may claim any time; what no calendar has is shown as a number."""
    assert "µs" in local_time(1 << 61)
