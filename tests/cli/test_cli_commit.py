"""``mvc commit``: which paths, which author, which metadata."""

from __future__ import annotations

import pytest


def test_summary(lab, program):
    """A commit is summed up as git does, with what it cost."""
    lab.write("model.safetensors", lab.model())
    lines = program.out("commit", "-m", "epoch 1\n\nmore").splitlines()
    newest = program.json("log")["commits"][0]
    assert lines[0] == f"[main {newest['id'][:12]}] epoch 1"
    assert lines[1].startswith("4 tensors, 4 new; ")
    assert " stored as " in lines[1]
    assert newest["message"] == "epoch 1\n\nmore"


def test_detached(story):
    """Without a branch, the summary says so."""
    story.run("switch", "--detach")
    assert story.out("commit", "--allow-empty", "-m", "m").startswith("[detached HEAD ")


def test_paragraphs(lab, program):
    """Every further ``-m`` is a paragraph."""
    lab.write("a", "x")
    program.run("commit", "-m", "subject", "-m", "body")
    assert program.json("log")["commits"][0]["message"] == "subject\n\nbody"


def test_nothing_to_commit(story):
    """A tree without a change is refused, unless ``--allow-empty``."""
    assert "nothing to commit" in story.err("commit", "-m", "m", code=1)
    story.run("commit", "-m", "m", "--allow-empty")


def test_paths_are_relative_to_the_current_directory(lab, program):
    """PATHs start where the command runs: the current directory, or ``-C``."""
    lab.write("sub/a", "1")
    lab.write("sub/b", "1")
    lab.write("c", "1")
    inside = program.at(lab.root / "sub")
    inside.run("commit", "a", "-m", "only a")
    assert [file["path"] for file in program.json("show")["files"]] == ["sub/a"]
    inside.run("commit", ".", "-m", "all of sub")
    assert [file["path"] for file in program.json("show")["files"]] == ["sub/a", "sub/b"]
    inside.run("commit", "../c", "-m", "and c")
    assert [file["path"] for file in program.json("show")["files"]] == ["c", "sub/a", "sub/b"]


def test_the_root_as_path(lab, program):
    """The root of the work tree stands for everything, by whatever name."""
    lab.write("a", "1")
    program.run("commit", str(lab.root), "-m", "everything")
    link = lab.root.parent / "link"
    link.symlink_to(lab.root)
    lab.write("b", "1")
    program.at(link).run("commit", str(link / "b"), "-m", "by another name")
    assert [file["path"] for file in program.json("show")["files"]] == ["a", "b"]


def test_paths_outside(lab, program, tmp_path):
    """A PATH outside of the work tree is refused, with the option that records it."""
    (tmp_path / "elsewhere").write_text("x")
    for path in ("../elsewhere", str(tmp_path / "elsewhere")):
        assert "--from" in program.err("commit", path, "-m", "m", code=1)


def test_missing_path(lab, program):
    """A PATH that is nothing is refused."""
    lab.write("a", "1")
    assert "'b' is neither in the work tree nor in HEAD" in program.err("commit", "b", "-m", "m", code=1)


def test_from_is_relative_too(lab, program):
    """``--from`` starts where the command runs."""
    lab.write("out/a", "1")
    program.run("commit", "--from", "out", "-m", "m")
    assert [file["path"] for file in program.json("show")["files"]] == ["a"]


def test_repository_by_environment(lab, program, tmp_path):
    """``MVC_DIR`` names the repository for commands that run elsewhere; ``-C`` overrules it."""
    lab.write("a", "1")
    env = {"MVC_DIR": str(lab.root)}
    program.bare("commit", "a", "-m", "paths then start at the root", env=env)
    assert [file["path"] for file in program.json("show")["files"]] == ["a"]
    assert program.bare("-C", str(tmp_path), "status", code=1, env=env)


def test_damaged_files(lab, program):
    """A damaged checkpoint is refused, or recorded byte for byte with ``--allow-damaged``."""
    whole = lab.write("model.safetensors", lab.model()).read_bytes()
    lab.write("model.safetensors", whole[:-5])
    assert "the file is cut off" in program.err("commit", "-m", "m", code=1)
    assert program.json("commit", "-m", "m", "--allow-damaged")["tensors"] == 0
    lab.settle()
    assert program.json("status")["clean"]


def test_metadata(lab, program):
    """Metrics are numbers; facts are whatever they spell."""
    lab.write("a", "1")
    options = ["--metric", "loss=1e-3", "--metric", "step=7", "--metric", "worst=inf", "--meta", "good=true"]
    program.run("commit", "-m", "m", *options, "--meta", "note=a=b c", "--meta", "none=")
    expected = {"good": True, "loss": 0.001, "none": "", "note": "a=b c", "step": 7, "worst": None}
    assert program.json("log")["commits"][0]["metadata"] == expected


@pytest.mark.parametrize("level", ["fast", "default", "max"])
def test_levels(lab, program, level):
    """Every level stores the same content."""
    lab.write("model.safetensors", lab.model())
    program.run("commit", "-m", "m", "--level", level)
    assert program.json("fsck")["clean"]


class TestAuthor:
    """Who commits: the option, then the environment, the repository, the user, the account."""

    @staticmethod
    def author(program, *options: str, env: dict[str, str] | None = None) -> str:
        """Commit, and return the author."""
        program.run("commit", "--allow-empty", "-m", "m", *options, env=env)
        return str(program.json("log")["commits"][0]["author"])

    def test_order(self, lab, program, tmp_path):
        """Each source overrules those below it."""
        lab.write("a", "1")
        home = tmp_path / "home"
        (home / "mvc").mkdir(parents=True)
        env = {"XDG_CONFIG_HOME": str(home)}
        assert self.author(program, env=env) not in {"", "User"}
        (home / "mvc/config.toml").write_text('[user]\nname = "User"\n')
        assert self.author(program, env=env) == "User"
        lab.session.layout.config.write_text('[user]\nname = "Repository"\n')
        assert self.author(program, env=env) == "Repository"
        env["MVC_AUTHOR"] = "Environment"
        assert self.author(program, env=env) == "Environment"
        assert self.author(program, "--author", "Option", env=env) == "Option"

    def test_broken_configuration(self, lab, program, tmp_path):
        """A configuration that is not TOML is named."""
        lab.write("a", "1")
        (tmp_path / ".config/mvc").mkdir(parents=True)
        (tmp_path / ".config/mvc/config.toml").write_text("[user")
        result = program.run("commit", "-m", "m", code=1, env={"HOME": str(tmp_path)})
        assert "config.toml is not valid TOML" in result.stderr


def test_command_line_in_the_operation_log(lab, program):
    """The operation log keeps the command as it was typed, without global options."""
    lab.write("a", "1")
    program.run("commit", "-m", "two words", "--json")
    assert program.json("op", "log")["operations"][0]["command"] == "mvc commit -m 'two words' --json"


def test_text_that_is_not_unicode(lab, program):
    """A message that is not Unicode is refused."""
    lab.write("a", "1")
    assert "not valid Unicode" in program.err("commit", "-m", "a\udcffb", code=1)


class TestLossy:
    """Commits that round."""

    def test_what_is_said(self, lab, program):
        """The loss, a note on stderr, and what other commands say afterwards."""
        lab.write("model.safetensors", lab.model(), settle=True)
        result = program.run("commit", "-m", "rounded", "--lossy", "precision:9")
        _, sizes, method, errors = result.stdout.splitlines()
        assert sizes.startswith("4 tensors, 4 new; ")
        assert method == "precision: precision=precision:9"
        assert errors.startswith("3 tensors changed; largest error 0.000977, ")
        assert result.stderr.count("\n") == 1
        assert "the files here are exact, the commit is not: mvc restore FILE" in result.stderr
        assert program.json("status")["modified"] == ["model.safetensors"]
        assert "Lossy:   precision of what was never committed" in program.out("log")
        exact = lab.read("model.safetensors")
        program.run("restore", "model.safetensors")
        assert program.json("status")["clean"] is True
        assert lab.read("model.safetensors") != exact

    def test_json(self, lab, program):
        """The document has the derivation; so has that of ``show``."""
        lab.write("model.safetensors", lab.model())
        made = program.json("commit", "-m", "m", "--lossy", "precision:mantissa=2")
        found = made["derivation"]
        assert (found["source"], found["base"], found["method"]) == (None, None, "precision")
        assert found["parameters"] == {"precision": "precision:mantissa=2"}
        assert {tensor["name"] for tensor in found["tensors"]} == {"embed.weight", "layer.weight", "layer.bias"}
        assert program.json("show")["derivation"] == found

    def test_from_elsewhere(self, program, tmp_path, lab):
        """There is nothing to say of files that are not here."""
        (tmp_path / "out").mkdir()
        lab.write("../out/model.safetensors", lab.model())
        result = program.run("commit", "--from", str(tmp_path / "out"), "-m", "m", "--lossy", "precision:9:rel")
        assert result.stderr == ""
        assert "precision:9:rel" in result.stdout

    def test_what_is_wrong(self, lab, program):
        """Nothing is committed, and the error shows how to write it."""
        lab.write("model.safetensors", lab.model())
        for text in ("precision:", "precision:200", "23", "gptq:2"):
            assert "error: " in program.err("commit", "-m", "m", "--lossy", text, code=1)
        assert "write precision:23" in program.err("commit", "-m", "m", "--lossy", "9", code=1)
        assert program.json("status")["head"] is None
