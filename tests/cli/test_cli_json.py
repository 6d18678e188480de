"""The documents that ``--json`` prints: names, types and order of their fields (docs/reference/json.md)."""

from __future__ import annotations

import re

import pytest

ID = re.compile(r"[0-9a-f]{64}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def test_init(program, tmp_path):
    """``init`` tells where the repository is."""
    root = tmp_path / "new"
    assert program.json("init", str(root), "--branch", "trunk") == {
        "schema": "mvc.init/1",
        "root": str(root),
        "branch": "trunk",
        "bare": False,
    }


def test_commit(lab, program):
    """``commit`` tells the id and the sizes."""
    lab.write("model.safetensors", lab.model())
    made = program.json("commit", "-m", "m")
    assert list(made) == ["schema", "commit", "tensors", "new_tensors", "logical_bytes", "stored_bytes", "derivation"]
    assert (made["schema"], made["derivation"]) == ("mvc.commit/1", None)
    assert ID.fullmatch(made["commit"])
    assert (made["tensors"], made["new_tensors"]) == (4, 4)
    assert made["logical_bytes"] == len(lab.read("model.safetensors"))
    assert 0 < made["stored_bytes"] < 2 * made["logical_bytes"]


def test_log(story):
    """``log`` lists commits newest first; numbers that JSON lacks become null."""
    found = story.json("log", "--all")
    assert list(found) == ["schema", "commits"]
    assert found["schema"] == "mvc.log/1"
    side, second, first = found["commits"]
    assert list(first) == [
        "id",
        "parents",
        "message",
        "time",
        "author",
        "metadata",
        "refs",
        "absent",
        "derivation",
        "evaluations",
        "thinned",
    ]
    assert [commit["message"] for commit in (side, second, first)] == ["a side step", "epoch 2", "epoch 1"]
    assert side["parents"] == second["parents"] == [first["id"]]
    assert first["parents"] == []
    assert first["metadata"] == {"epoch": 1, "loss": 0.5, "run": "a7"}
    assert side["metadata"] == {"loss": None}
    assert (side["refs"], second["refs"], first["refs"]) == (["refs/heads/side"], ["refs/heads/main"], [])
    assert all(TIME.fullmatch(commit["time"]) for commit in found["commits"])


def test_log_of_a_detached_head(story):
    """A detached HEAD is a ref of its commit."""
    story.run("checkout", "main~1")
    story.run("tag", "v1")
    assert story.json("log")["commits"][0]["refs"] == ["HEAD", "refs/tags/v1"]


def test_show(story):
    """``show`` tells the commit, its files and what changed in them."""
    found = story.json("show")
    assert found["schema"] == "mvc.show/1"
    assert "tensors" not in found
    assert found["message"] == "epoch 2"
    assert [file["path"] for file in found["files"]] == ["config.json", "model.safetensors"]
    assert found["files"][1].keys() == {"path", "mode", "format", "size"}
    assert (found["files"][1]["mode"], found["files"][1]["format"]) == ("644", "safetensors")
    assert found["logical_bytes"] == sum(file["size"] for file in found["files"])
    assert found["inherited_loss"] is None
    assert (found["added"], found["modified"], found["removed"]) == ([], ["model.safetensors"], [])


def test_show_encodings(story):
    """``show --encodings`` tells how every tensor is stored."""
    first = {tensor["name"]: tensor for tensor in story.json("show", "main~1", "--encodings")["tensors"]}
    second = {tensor["name"]: tensor for tensor in story.json("show", "main", "--encodings")["tensors"]}
    keys = ["name", "id", "dtype", "shape", "encoding", "base", "depth", "stored_bytes", "policy", "path"]
    assert all(list(tensor) == keys for tensor in [*first.values(), *second.values()])
    old, new = first["embed.weight"], second["embed.weight"]
    assert (old["dtype"], old["shape"], old["policy"], old["base"], old["depth"]) == ("F32", [64, 32], "full", None, 0)
    assert (new["policy"], new["base"], new["depth"]) == ("previous", old["id"], 1)
    assert 0 < new["stored_bytes"] < old["stored_bytes"]
    assert new["path"] == "model.safetensors"


def test_status(lab, story):
    """``status`` tells the branch, HEAD and what a commit would record."""
    head = story.json("log")["commits"][0]["id"]
    clean: dict[str, object] = {"added": [], "modified": [], "deleted": []}
    assert story.json("status") == {"schema": "mvc.status/1", "branch": "main", "head": head, "clean": True, **clean}
    lab.write("config.json", "changed")
    lab.write("new", "x")
    (lab.root / "model.safetensors").unlink()
    found = story.json("status")
    assert found["clean"] is False
    assert (found["added"], found["modified"], found["deleted"]) == (["new"], ["config.json"], ["model.safetensors"])


def test_status_without_branch_or_commit(lab, story, make_lab):
    """A detached HEAD has no branch, a new repository no head."""
    story.run("switch", "--detach")
    assert story.json("status")["branch"] is None
    new = story.at(make_lab("new").root).json("status")
    assert (new["branch"], new["head"], new["clean"]) == ("main", None, True)


MEASURES = {"changed_fraction", "relative_l2", "cosine", "max_abs", "norm_old", "norm_new"}


def test_diff(story):
    """``diff`` tells files and tensors; measures are null unless they are asked for."""
    found = story.json("diff", "main~1", "main")
    assert list(found) == ["schema", "old", "new", "added", "removed", "modified", "tensors", "structures"]
    assert (found["schema"], found["old"], found["new"]) == ("mvc.diff/1", "main~1", "main")
    assert found["modified"] == ["model.safetensors"]
    tensor = found["tensors"][0]
    assert tensor.keys() == {"name", "path", "change", "old", "new"} | MEASURES
    assert tensor["old"].keys() == tensor["new"].keys() == {"id", "dtype", "shape"}
    assert all(tensor[measure] is None for measure in MEASURES)


def test_diff_of_tensors(lab, story):
    """``diff --tensors`` measures how far each tensor moved, in the work tree too."""
    measured = {item["name"]: item for item in story.json("diff", "main~1", "main", "--tensors")["tensors"]}
    assert 0 < measured["embed.weight"]["relative_l2"] < 0.01
    assert measured["embed.weight"]["cosine"] == pytest.approx(1, abs=1e-4)
    lab.write("model.safetensors", lab.model())
    again = {item["name"]: item for item in story.json("diff", "main", "--tensors")["tensors"]}
    assert again["embed.weight"]["norm_new"] == measured["embed.weight"]["norm_old"]


def test_diff_of_other_files(lab, story):
    """Tensors that only one side has have null on the other."""
    (lab.root / "model.safetensors").unlink()
    found = story.json("diff")
    assert (found["new"], found["removed"]) == ("work tree", ["model.safetensors"])
    assert all(item["change"] == "removed" and item["new"] is None for item in found["tensors"])


def test_du(story):
    """``du`` tells logical and stored bytes, and the stored ones by encoding and place."""
    found = story.json("du")
    fields = ["schema", "logical_bytes", "stored_bytes", "ratio", "by_encoding", "commits", "by_place", "thinned"]
    assert list(found) == fields
    assert found["ratio"] == pytest.approx(found["stored_bytes"] / found["logical_bytes"])
    assert found["commits"] == 3
    assert sum(found["by_place"].values()) == found["stored_bytes"]
    assert all(item.keys() == {"blobs", "raw_bytes", "stored_bytes"} for item in found["by_encoding"].values())


def test_fsck(story):
    """``fsck`` tells what it checked."""
    found = story.json("fsck")
    keys = ["schema", "clean", "quick", "operations", "commits", "contents", "checked_bytes", "faults"]
    keys += ["copies", "set_aside", "dry_run", "repairs", "restored", "known_commits", "promised", "losses"]
    assert list(found) == keys
    assert (found["clean"], found["quick"], found["commits"], found["faults"]) == (True, False, 3, [])
    assert found["checked_bytes"] > 0
    assert story.json("fsck", "--quick")["checked_bytes"] == 0


def test_reindex(lab, story):
    """``reindex`` tells what the new index holds; a lost index is made again by any command."""
    before = story.json("log", "--all")
    made = story.json("reindex")
    assert made["schema"] == "mvc.reindex/1"
    assert made["packs"] == 3
    assert made["blobs"] > 0
    lab.session.layout.index.unlink()
    assert story.json("log", "--all") == before


def test_branches_and_tags(story):
    """``branch`` and ``tag`` tell all names after what they did."""
    log = story.json("log", "--all")["commits"]
    side, second, first = (commit["id"] for commit in log)
    listed = story.json("branch", "old", "main~1")
    assert listed["schema"] == "mvc.branch/1"
    assert listed["branches"] == [
        {"name": "main", "commit": second, "current": True},
        {"name": "old", "commit": first, "current": False},
        {"name": "side", "commit": side, "current": False},
    ]
    story.run("tag", "plain", "side")
    tagged = story.json("tag", "-m", "why", "v1")
    assert tagged["schema"] == "mvc.tag/1"
    assert tagged["tags"] == [
        {"name": "plain", "commit": side, "message": None},
        {"name": "v1", "commit": second, "message": "why"},
    ]
    assert [tag["name"] for tag in story.json("tag", "-d", "v1")["tags"]] == ["plain"]


def test_moves_of_head(lab, story, tmp_path):
    """``switch``, ``checkout`` and ``restore`` tell the commit and what they wrote."""
    heads = {branch["name"]: branch["commit"] for branch in story.json("branch")["branches"]}
    assert story.json("switch", "side") == {
        "schema": "mvc.switch/1",
        "commit": heads["side"],
        "branch": "side",
        "written": 1,
        "removed": 0,
        "stands_in_for": None,
    }
    assert story.json("checkout", "main") == {
        "schema": "mvc.checkout/1",
        "commit": heads["main"],
        "branch": "main",
        "written": 1,
        "removed": 0,
        "to": None,
        "stands_in_for": None,
    }
    exported = story.json("checkout", "side", "--to", str(tmp_path / "to"))
    assert (exported["branch"], exported["written"], exported["to"]) == (None, 2, str(tmp_path / "to"))
    lab.write("config.json", "changed")
    assert story.json("restore", "config.json") == {
        "schema": "mvc.restore/1",
        "commit": heads["main"],
        "written": 1,
        "stands_in_for": None,
    }


def test_cat(story, tmp_path):
    """``cat`` tells what it wrote."""
    out = tmp_path / "w.npy"
    found = story.json("cat", "main", "embed.weight", "--out", str(out))
    assert ID.fullmatch(found.pop("id"))
    assert found == {
        "schema": "mvc.cat/1",
        "name": "embed.weight",
        "dtype": "F32",
        "shape": [64, 32],
        "out": str(out),
        "bytes": out.stat().st_size,
    }


def test_operations(story):
    """``op log`` and ``undo`` tell the operation and what it moved."""
    newest, *_, first = story.json("op", "log")["operations"]
    assert list(newest) == ["id", "number", "parents", "time", "author", "host", "command", "changes"]
    assert TIME.fullmatch(newest["time"])
    assert newest["command"] == "mvc switch main"
    assert newest["changes"] == [{"name": "HEAD", "old": "ref: refs/heads/side", "new": "ref: refs/heads/main"}]
    assert (first["number"], first["parents"]) == (0, [])
    undone = story.json("undo")
    assert undone == {
        "schema": "mvc.undo/1",
        "operation": newest["id"],
        "command": "mvc switch main",
        "changes": [{"name": "HEAD", "old": "ref: refs/heads/main", "new": "ref: refs/heads/side"}],
    }
    assert len(story.json("op", "log", "-n", "2")["operations"]) == 2


def test_text_that_is_not_ascii(lab, program):
    """Documents are ASCII, whatever the messages are."""
    lab.write("a", "x")
    program.run("commit", "-m", "größer \N{SNOWMAN}", "--author", "Zoë")
    assert program.out("log", "--json").isascii()
    assert program.json("log")["commits"][0]["message"] == "größer \N{SNOWMAN}"
