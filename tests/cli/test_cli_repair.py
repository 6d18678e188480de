"""``mvc fsck --repair`` from outside: exit codes, text and JSON."""

import shutil

import pytest


@pytest.fixture
def damaged(lab, story, tmp_path):
    """Return the program on a repository whose packs are damaged, and the directory of a clone."""
    clone = tmp_path / "clone"
    shutil.copytree(lab.root / ".mvc", clone / ".mvc")
    for pack in (lab.root / ".mvc" / "packs").glob("*.pack"):
        data = bytearray(pack.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 64] = bytes(64)
        pack.chmod(0o644)
        pack.write_bytes(data)
    for name in ("model.safetensors", "config.json"):
        (lab.root / name).unlink()
    return story, clone


def test_end_to_end(damaged, tmp_path):
    """Found, shown, repaired, clean; checkouts are exact again."""
    program, clone = damaged
    found = program.json("fsck", code=5)
    assert found["repairs"] == found["restored"] == []
    shown = program.out("fsck", "--repair", "--from", str(clone), "--dry-run", code=5)
    assert "would store content" in shown
    assert program.json("fsck", code=5) == found
    text = program.out("fsck", "--repair", "--from", str(clone))
    assert "store content" in text
    assert "set aside as .mvc/corrupt/" in text
    assert text.endswith("no faults\n")
    assert program.json("fsck")["set_aside"] > 0
    for place, at in (("ours", program), ("theirs", program.at(clone))):
        at.run("checkout", "main~1", "--to", str(tmp_path / place))
    assert (tmp_path / "ours" / "model.safetensors").read_bytes() == (
        tmp_path / "theirs" / "model.safetensors"
    ).read_bytes()


def test_json(damaged):
    """What was restored, and from where."""
    program, clone = damaged
    done = program.json("fsck", "--repair", "--from", str(clone))
    assert (done["clean"], done["dry_run"], done["faults"]) == (True, False, [])
    assert {item["origin"] for item in done["restored"]} == {str(clone)}
    assert done["set_aside"] > 0
    assert any(line.startswith("set aside the damaged pack ") for line in done["repairs"])


def test_nothing_to_repair_from(damaged):
    """Exit code 5, and the faults are listed."""
    program, _ = damaged
    before = program.json("fsck", code=5)
    after = program.json("fsck", "--repair", code=5)
    assert [fault["object"] for fault in after["faults"]] == [fault["object"] for fault in before["faults"]]
    assert after["set_aside"] == 0


@pytest.mark.parametrize(
    "arguments", [("--from", "x"), ("--dry-run",), ("--repair", "--quick")], ids=["from", "dry-run", "quick"]
)
def test_usage(story, arguments):
    """Options that need each other, or exclude each other."""
    assert "error" in story.err("fsck", *arguments, code=2)


def test_a_source_that_is_none(story, tmp_path):
    """Said before anything is done."""
    assert "holds no repository" in story.err("fsck", "--repair", "--from", str(tmp_path), code=1)


def test_derived_faults_say_that_nothing_is_lost(lab, story):
    """An index that is garbage."""
    lab.session.layout.index.write_bytes(b"garbage" * 1000)
    text = story.out("fsck", code=5)
    assert "no content is lost" in text
    assert "needed by" not in text
    assert story.out("fsck", "--repair").endswith("no faults\n")
