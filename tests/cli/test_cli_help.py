"""Help, versions and completion: what the program says about itself."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import mvc.cli.commands
from mvc.cli.catalogue import ALIASES, SECTIONS, SUMMARIES
from mvc.cli.main import cli
from mvc.version import __version__

COMMANDS = Path(mvc.cli.commands.__file__).parent
GOLDEN = Path(__file__).with_name("help.txt")
ROOT = Path(__file__).parents[2]


def command_of(name):
    """Return a command, from the module that is called like it."""
    return import_module(f"mvc.cli.commands.{name.replace('-', '_')}").command


def parameters_of(command):
    """Return the parameters of a command, and of those below it."""
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return [*command.params, *(parameter for item in below for parameter in item.params)]


def test_listing(anywhere):
    """``mvc --help`` lists every command by section; the golden file is what users see."""
    assert anywhere.bare("--help").stdout == GOLDEN.read_text()


def test_every_module_is_listed():
    """Every file of a command stands in the catalogue, and nothing else does."""
    modules = {path.stem.replace("_", "-") for path in COMMANDS.glob("[a-z]*.py")}
    assert modules == set(SUMMARIES) == {name for section in SECTIONS.values() for name in section}


@pytest.mark.parametrize("name", SUMMARIES)
def test_summaries(anywhere, name):
    """The summary in the catalogue is the first sentence of the command's help, which shows an example."""
    command = command_of(name)
    assert (command.help or "").partition("\n")[0] == SUMMARIES[name]
    assert f"Usage: mvc {name}" in anywhere.bare(name, "--help").stdout
    if not isinstance(command, click.Group):
        assert f"\n  mvc {name}" in anywhere.bare(name, "-h").stdout.replace('eval "$(', "")


@pytest.mark.parametrize("name", SUMMARIES)
def test_options_are_explained(name):
    """Every option has a help text."""
    for parameter in parameters_of(command_of(name)):
        assert isinstance(parameter, click.Argument) or parameter.help, parameter.name


def test_alias(story):
    """``op-log`` is another spelling of ``op log``, which help does not show."""
    assert story.out("op-log") == story.out("op", "log")
    assert not set(ALIASES) & set(SUMMARIES)


def test_no_arguments(anywhere):
    """``mvc`` alone shows the help and exits with 2, like any incomplete command line."""
    result = anywhere.bare(code=2)
    assert result.stderr == GOLDEN.read_text()


def test_options_without_command(anywhere, tmp_path):
    """Global options alone are no command."""
    assert "no command is given" in anywhere.bare("-C", str(tmp_path), code=2).stderr


def test_unknown_command(anywhere):
    """A misspelt command is answered with those that are like it."""
    result = anywhere.bare("comit", code=2)
    assert result.stderr == "error: there is no command 'comit'; is it commit?\nhint: mvc --help\n"
    assert "there is no command 'xyz'\n" in anywhere.bare("xyz", code=2).stderr


def test_version(anywhere):
    """``--version`` prints the version; with ``--verbose`` also the kernels, Python and the libraries."""
    assert anywhere.bare("--version").stdout == f"mvc {__version__}\n"
    verbose = anywhere.bare("--version", "--verbose").stdout
    assert re.search(r"^kernels +(native|numpy)$", verbose, re.MULTILINE)
    assert re.search(r"^sqlalchemy +\d", verbose, re.MULTILINE)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(anywhere, shell):
    """A script is printed for every supported shell."""
    assert "_MVC_COMPLETE" in anywhere.bare("completion", shell).stdout


def completed(root: Path, *words: str) -> list[str]:
    """Return the candidates for the last word."""
    env = {"COMP_WORDS": " ".join(["mvc", "-C", str(root), *words]), "COMP_CWORD": str(len(words) + 2)}
    env["_MVC_COMPLETE"] = "bash_complete"
    done = CliRunner().invoke(cli, env=env, environment=env)
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_candidates(story, tmp_path):
    """Commands, options and names of branches and tags are completed."""
    story.run("tag", "sidelong")
    assert completed(story.root, "sw") == ["switch"]
    assert completed(story.root, "switch", "si") == ["side", "sidelong"]
    assert completed(story.root, "commit", "--allow-d") == ["--allow-damaged"]
    assert completed(tmp_path / "missing", "switch", "si") == []


@pytest.mark.parametrize("page", ["cli.md", "json.md"])
def test_reference_names_every_command(page):
    """The reference pages name every command, and every schema and option."""
    text = (ROOT / "docs/reference" / page).read_text()
    for path in COMMANDS.glob("*.py"):
        for schema in re.findall(r'"(mvc\.[a-z-]+/\d)"', path.read_text()):
            assert page == "cli.md" or schema in text, schema
    if page == "cli.md":
        for name in SUMMARIES:
            assert f"mvc {name}" in text, name
            for parameter in parameters_of(command_of(name)):
                for option in parameter.opts if isinstance(parameter, click.Option) else ():
                    assert option in text, option
