"""What every command is given: where it runs, and who runs it. The only reader of the user's configuration."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvc.errors import FormatError, InvalidInputError, NotFoundError, StorageError
from mvc.repo.clock import Actor, account_name
from mvc.settings import Settings

__all__ = ["App", "colour_setting", "run_directory", "search_start"]


@dataclass(frozen=True, slots=True)
class App:
    """One run of the program.

    Parameters
    ----------
    directory : Path
        Where relative paths start: ``-C``, or the current directory.
    start : Path
        From where the repository is looked for, upwards: ``-C``, else ``MVC_DIR``, else the current directory.
    command_line : str
        The command with its arguments, as the operation log shall keep it.
    environment : mapping of str to str
        Environment variables.
    """

    directory: Path
    start: Path
    command_line: str
    environment: Mapping[str, str]

    def path(self, given: str) -> Path:
        """Return a path that the user gave, relative to where the command runs."""
        return self.directory / given

    def actor(self, settings: Settings | None = None, author: str | None = None) -> Actor:
        """Return who acts: `author`, ``MVC_AUTHOR``, the repository's or the user's configuration, or the account."""
        name = author or self.environment.get("MVC_AUTHOR") or (settings.user.name if settings else "")
        return Actor(name or self._configured_name() or account_name(), self.command_line)

    def _configured_name(self) -> str:
        home = self.environment.get("XDG_CONFIG_HOME") or Path(self.environment.get("HOME", "/")) / ".config"
        path = Path(home) / "mvc" / "config.toml"
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise FormatError(f"{path} is not valid TOML: {error}", hint=f"correct {path}") from error
        return Settings.from_tables(tables, str(path)).user.name

    def tree_paths(self, root: Path, given: Sequence[str]) -> list[str]:
        """Return paths that the user gave as paths of the tree whose work tree is `root`; the root itself is "".

        They are relative to where the command runs, or to `root` if the command runs outside of it.

        Raises
        ------
        InvalidInputError
            If one lies outside of the work tree.
        """
        here = Path(os.path.realpath(self.directory))
        return [_tree_path(root, here if here.is_relative_to(root) else root, path) for path in given]


def _tree_path(root: Path, here: Path, given: str) -> str:
    path = Path(os.path.normpath(here / given))
    if not path.is_relative_to(root):  # an absolute path may reach the work tree by another name
        path = Path(os.path.realpath(path.parent)) / path.name
    if not path.is_relative_to(root):
        raise InvalidInputError(
            f"{given!r} is outside of the work tree {root}", hint="mvc commit --from DIR records what lies elsewhere"
        )
    return "" if path == root else path.relative_to(root).as_posix()


def run_directory(given: Sequence[str]) -> Path:
    """Return where relative paths start, given every ``-C``; each is relative to the one before.

    Raises
    ------
    NotFoundError
        If that is no directory.
    """
    directory = Path(*given)
    if not directory.is_dir():
        raise NotFoundError(f"{directory} is not a directory", hint="-C takes an existing directory")
    return directory


def search_start(directory: Path, given: Sequence[str], environment: Mapping[str, str]) -> Path:
    """Return from where the repository is looked for: `directory` if ``-C`` was given, else ``MVC_DIR``, if set."""
    elsewhere = None if given else environment.get("MVC_DIR")
    return Path(os.path.abspath(elsewhere or directory))  # noqa: PTH100 - Path.absolute() keeps ".."


def colour_setting(choice: str, environment: Mapping[str, str]) -> bool | None:
    """Return whether to colour output; None to do so on terminals only.

    Parameters
    ----------
    choice : {"auto", "always", "never"}
        What ``--color`` says.
    environment : mapping of str to str
        With ``auto``, ``NO_COLOR`` and ``TERM=dumb`` switch colours off, ``FORCE_COLOR`` on (no-color.org).

    Examples
    --------
    >>> colour_setting("auto", {"NO_COLOR": "1"}), colour_setting("always", {"NO_COLOR": "1"})
    (False, True)
    """
    if choice != "auto":
        return choice == "always"
    if environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return False
    return True if environment.get("FORCE_COLOR") else None
