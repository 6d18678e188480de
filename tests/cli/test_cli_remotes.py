"""Commands for remotes: two machines, each a directory, and a bare repository between them."""

from __future__ import annotations

import pytest

MAIN = "refs/heads/main"
SECRET = "recognisable-secret"


class Pair:
    """Ada's repository and Bob's clone, as the program sees them."""

    def __init__(self, ada, bob, origin):
        self.ada, self.bob, self.origin = ada, bob, origin

    def commit(self, who, name, text):
        """Commit a text file; return the id."""
        (who.root / name).write_text(text)
        return who.json("commit", "-m", text)["commit"]


@pytest.fixture
def origin(tmp_path):
    """Return where the bare repository is, or will be."""
    return tmp_path / "origin.mvc"


@pytest.fixture
def ada(story, origin):
    """Return the program on a repository of two branches that has a remote."""
    story.run("remote", "add", "origin", str(origin))
    return story


@pytest.fixture
def pair(ada, origin, tmp_path):
    """Return both, after the first push and clone."""
    ada.run("push", "--all")
    ada.bare("clone", str(origin), str(tmp_path / "bob"))
    return Pair(ada, ada.at(tmp_path / "bob"), origin)


class TestRemote:
    """The list of remotes."""

    def test_add_list_show_remove(self, story, origin):
        """One makes a repository, the second finds it; what was heard of it goes with it."""
        made = story.json("remote", "add", "origin", str(origin))
        assert made == {"schema": "mvc.remote-add/1", "name": "origin", "url": str(origin), "made": True}
        assert story.out("remote", "add", "again", str(origin)) == f"Added {origin} as again\n"
        assert story.json("remote", "list") == {
            "schema": "mvc.remote-list/1",
            "remotes": [{"name": "origin", "url": str(origin)}, {"name": "again", "url": str(origin)}],
        }
        assert story.out("remote", "list").splitlines()[0].split() == ["origin", str(origin)]
        story.run("push")
        head = story.json("log")["commits"][0]["id"]
        branch = {"name": "main", "commit": head, "known": head}
        assert story.json("remote", "show", "origin") == {
            "schema": "mvc.remote-show/1",
            "name": "origin",
            "url": str(origin),
            "head": "main",
            "branches": [branch],
        }
        assert "mvc fetch brings it" in story.out("remote", "show", "again")
        assert story.json("remote", "remove", "origin") == {
            "schema": "mvc.remote-remove/1",
            "name": "origin",
            "branches": ["refs/remotes/origin/main"],
        }
        assert story.json("remote", "list")["remotes"] == [{"name": "again", "url": str(origin)}]
        assert "there is no remote 'origin'" in story.err("remote", "show", "origin", code=1)
        assert (origin / "format.toml").is_file()

    def test_names(self, story, origin):
        """That are taken, or cannot be."""
        story.run("remote", "add", "origin", str(origin))
        assert "exists already" in story.err("remote", "add", "origin", str(origin), code=1)
        assert "cannot name" in story.err("remote", "add", "a/b", str(origin), code=1)
        assert "cannot name" in story.err("remote", "add", "..", str(origin), code=1)

    @pytest.mark.parametrize(
        "url", [f"https://ada:{SECRET}@host/x", f"s3://{SECRET}@bucket/x", f"https://host/x?token={SECRET}"]
    )
    def test_secrets(self, story, url):
        """Have no place in a URL, nor in the message that says so."""
        for command in (["remote", "add", "origin", url], ["clone", url, str(story.root / "copy")], ["ls-remote", url]):
            text = story.err(*command, code=1)
            assert SECRET not in text
        assert story.json("remote", "list")["remotes"] == []
        assert not (story.root / "copy").exists()

    def test_no_remote(self, story):
        """The next command is told."""
        for command in ("push", "fetch", "pull", "ls-remote"):
            assert "hint: mvc remote add origin URL" in story.err(command, code=1)


class TestTwoMachines:
    """The whole of it."""

    def test_they_work_in_turn(self, pair):
        """Commit, push, pull; diverge, be refused, pull, push; both have the same in the end."""
        ada, bob = pair.ada, pair.bob
        assert bob.json("log")["commits"] == [
            {**commit, "refs": found["refs"]}
            for commit, found in zip(ada.json("log")["commits"], bob.json("log")["commits"], strict=True)
        ]
        pair.commit(bob, "bob.txt", "one")
        assert " main -> main" in bob.out("push")
        assert "Fast-forward" in ada.out("pull")
        pair.commit(bob, "bob.txt", "two")
        bob.run("push")
        pair.commit(ada, "ada.txt", "three")
        text = ada.err("push", code=3)
        assert "has commits that yours lacks: nothing was pushed" in text
        assert "hint: mvc pull origin main" in text
        assert "Merge remote-tracking branch 'origin/main'" in ada.out("pull")
        ada.run("push")
        assert "Fast-forward" in bob.out("pull")
        assert (bob.root / "ada.txt").read_text() == (ada.root / "ada.txt").read_text() == "three"
        assert bob.json("status")["clean"]
        for who in (ada, bob, ada.at(pair.origin)):
            assert "no faults" in who.out("fsck")
        assert ada.out("push") == "Everything is up to date at origin\n"
        assert bob.out("fetch") == "Nothing new at origin\n"

    def test_a_conflict(self, pair):
        """Exit code 3; one side can be favoured."""
        pair.commit(pair.ada, "notes.txt", "ada's")
        pair.ada.run("push")
        pair.commit(pair.bob, "notes.txt", "bob's")
        assert "nothing was changed" in pair.bob.err("pull", code=3)
        assert "a fast-forward is not possible" in pair.bob.err("pull", "--ff-only", code=3)
        pair.bob.run("pull", "-X", "theirs")
        assert (pair.bob.root / "notes.txt").read_text() == "ada's"

    def test_force_with_lease(self, pair):
        """Right, and stale."""
        pair.commit(pair.bob, "notes.txt", "bob's")
        pair.bob.run("push")
        mine = pair.commit(pair.ada, "notes.txt", "ada's")
        assert "no longer what it was" in pair.ada.err("push", "--force-with-lease", code=3)
        pair.ada.run("fetch")
        assert "forced" in pair.ada.out("push", "--force-with-lease")
        assert pair.ada.json("ls-remote")["refs"][1] == {"name": MAIN, "value": mine}
        assert "forced" in pair.bob.out("fetch")

    def test_tags_and_branches(self, pair):
        """All tags, a branch under another name, and their end."""
        pair.ada.run("tag", "v1", "-m", "why")
        pair.ada.run("push", "--tags")
        pair.ada.run("push", "origin", "side:results/a")
        names = [ref["name"] for ref in pair.ada.json("ls-remote")["refs"]]
        assert names == ["HEAD", MAIN, "refs/heads/results/a", "refs/heads/side", "refs/tags/v1"]
        pair.bob.run("fetch", "--no-tags")
        assert pair.bob.json("tag")["tags"] == []
        pair.bob.run("fetch")
        assert pair.bob.json("tag")["tags"][0]["message"] == "why"
        pair.ada.run("push", "--delete", "v1", "--delete", "results/a")
        assert len(pair.ada.json("ls-remote")["refs"]) == 3
        assert "results/a" in pair.bob.out("fetch", "--prune")
        assert "has no 'results/a'" in pair.ada.err("push", "--delete", "results/a", code=1)
        assert "there is no branch or tag 'absent'" in pair.ada.err("push", "origin", "absent", code=1)
        assert "exclude each other" in pair.ada.err("push", "--all", "origin", "main", code=2)

    def test_processes(self, pair, processes, tmp_path):
        """As processes, with relative directories."""
        processes.out(tmp_path, "clone", "origin.mvc", "carol")
        carol = tmp_path / "carol"
        (carol / "c.txt").write_text("c")
        processes.out(carol, "commit", "-m", "c")
        assert "Sent 1 commit to origin" in processes.out(carol, "push")
        assert "Received 1 commit" in processes.out(pair.bob.root, "pull")
        assert "no faults" in processes.out(tmp_path / "origin.mvc", "fsck")


class TestUnreachable:
    """Nobody is there, or nothing."""

    def test_no_repository(self, story, tmp_path):
        """At a directory that is empty, or none."""
        for url in (tmp_path, tmp_path / "nowhere"):
            assert "there is no repository at" in story.err("clone", str(url), str(tmp_path / "copy"), code=4)
            assert "there is no repository at" in story.err("ls-remote", str(url), code=4)
        assert not (tmp_path / "copy").exists()

    def test_a_host_that_is_not_there(self, story, pair):
        """Exit code 4."""
        (pair.origin / "op_head").rename(pair.origin / "gone")
        (pair.origin / "op_head").write_text("no directory")
        for command in ("push", "fetch", "pull", "ls-remote"):
            assert story.err(command, code=4).startswith("error: ")

    def test_a_damaged_remote(self, pair, tmp_path):
        """Exit code 5, and no file is written."""
        for pack in (pair.origin / "packs").glob("*.pack"):
            data = bytearray(pack.read_bytes())
            data[len(data) // 2] ^= 1
            pack.chmod(0o644)
            pack.write_bytes(bytes(data))
        pair.ada.err("clone", str(pair.origin), str(tmp_path / "copy"), code=5)
        assert [path.name for path in (tmp_path / "copy").iterdir()] == [".mvc"]

    def test_a_directory_in_use(self, pair):
        """Is not cloned into."""
        assert "is not empty" in pair.ada.err("clone", str(pair.origin), str(pair.bob.root), code=1)


UPDATE = ["source", "name", "old", "new", "outcome"]
FETCHED = ["refs", "commits", "contents", "received_bytes", "logical_bytes", "saved_bytes", "promised"]


class TestJson:
    """Names and order of fields."""

    def test_push(self, ada):
        """A dry run says the same, and does nothing."""
        dry, done = ada.json("push", "--dry-run"), ada.json("push")
        fields = ["remote", "dry_run", "refs", "commits", "contents", "sent_bytes", "logical_bytes", "saved_bytes"]
        assert list(dry) == list(done) == ["schema", *fields]
        assert (dry["schema"], dry["dry_run"], done["dry_run"], done["remote"]) == ("mvc.push/1", True, False, "origin")
        assert (dry["refs"], dry["commits"], dry["contents"]) == (done["refs"], done["commits"], done["contents"])
        head = ada.json("log")["commits"][0]["id"]
        assert done["refs"] == [dict(zip(UPDATE, [MAIN, MAIN, None, head, "new"], strict=True))]
        assert done["commits"] == 2
        assert done["sent_bytes"] > 0
        assert done["saved_bytes"] == max(0, done["logical_bytes"] - done["sent_bytes"])
        assert ada.json("push")["refs"][0]["outcome"] == "up to date"

    def test_clone_fetch_pull(self, pair, tmp_path):
        """Share what they say of what came."""
        cloned = pair.ada.json("clone", str(pair.origin), str(tmp_path / "carol"))
        assert list(cloned) == ["schema", "root", "branch", "written", *FETCHED]
        assert (cloned["schema"], cloned["root"]) == ("mvc.clone/1", str(tmp_path / "carol"))
        assert (cloned["branch"], cloned["written"], cloned["commits"]) == ("main", 2, 3)
        head = pair.commit(pair.ada, "notes.txt", "more")
        pair.ada.run("push")
        fetched = pair.bob.json("fetch")
        assert list(fetched) == ["schema", "remote", *FETCHED]
        assert (fetched["schema"], fetched["remote"], fetched["commits"]) == ("mvc.fetch/1", "origin", 1)
        assert [ref["outcome"] for ref in fetched["refs"]] == ["fast-forward", "up to date"]
        assert (fetched["refs"][0]["name"], fetched["refs"][0]["new"]) == ("refs/remotes/origin/main", head)
        pulled = pair.bob.json("pull")
        assert list(pulled) == ["schema", "remote", "branch", "fetch", "merge"]
        assert list(pulled["fetch"]) == FETCHED
        assert (pulled["schema"], pulled["branch"], pulled["merge"]["kind"]) == ("mvc.pull/1", "main", "fast-forward")
        assert "schema" not in pulled["merge"]

    def test_ls_remote(self, pair, anywhere):
        """By name, or by URL without a repository."""
        found = pair.bob.json("ls-remote")
        assert list(found) == ["schema", "refs"]
        assert found["refs"][0] == {"name": "HEAD", "value": "ref: refs/heads/main"}
        assert anywhere.json("ls-remote", str(pair.origin)) == found

    def test_an_empty_remote(self, story, origin, tmp_path):
        """A clone of it has no branch; a pull into a branch without commits has no merge."""
        story.run("remote", "add", "origin", str(origin))
        made = story.json("clone", str(origin), str(tmp_path / "early"))
        assert (made["branch"], made["written"], made["refs"]) == (None, 0, [])
        story.run("push")
        early = story.at(tmp_path / "early")
        assert early.json("pull")["merge"] is None
        assert (early.root / "config.json").read_text() == (story.root / "config.json").read_text()
