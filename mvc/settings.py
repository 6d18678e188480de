"""What a user may set, with the reason for every default. Read from ``config.toml`` by `mvc.repo`, never from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Literal, TypeVar, get_args

from mvc.errors import InvalidInputError

__all__ = ["LEVELS", "Core", "Delta", "Gc", "Level", "Remote", "Settings", "User"]

Level = Literal["fast", "default", "max"]
"""How hard a commit tries to be small: fewer or more candidate encodings and samples per tensor."""

LEVELS: Final[tuple[Level, ...]] = get_args(Level)


@dataclass(frozen=True, slots=True)
class Core:
    """Resources.

    Parameters
    ----------
    threads : int
        Worker threads that encode and decode; 0 means one for each processor.
    """

    threads: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """Bounds of the delta policy.

    Parameters
    ----------
    depth : int
        Longest chain of deltas: each link is one more decoding before a tensor is there.
    read_factor : float
        Stored bytes that a rebuild may read, as a multiple of the tensor's size. 3 lets chains of four to eight links
        stand (``benchmarks/read_bound.py``; docs/decisions/003).
    least_saving : float
        Share of the full encoding that a delta, or a companion, must save to be worth its dependency. Adam's second
        moment saves 4 % as a delta of the epoch before (``benchmarks/training.py``).
    """

    depth: int = 8
    read_factor: float = 3.0
    least_saving: float = 0.02


@dataclass(frozen=True, slots=True)
class Gc:
    """What garbage collection removes, and when it writes packs anew.

    Parameters
    ----------
    grace_hours : float
        Age at which what nothing reaches is removed. A day, as in kopia: longer than any commit takes, for clocks that
        differ and for writers that know nothing of leases.
    retention_days : float
        How long the operation log keeps what refs no longer reach, for ``mvc undo`` and ``@{N}``. Checkpoints are
        large: git's 90 days would keep every deleted experiment for a quarter.
    dead_share : float
        Share of a pack that may be garbage before the rest moves to another pack.
    small_packs : int
        Small packs that may lie about before they are merged; git's ``gc.autoPackLimit``.
    copies_from : int
        Contents on which at least so many others depend get a second copy from ``repack``, and keep it; 0: none do.
        A second copy of a base of a whole history costs as much as some of its epochs, so it is for the user to say.
    """

    grace_hours: float = 24.0
    retention_days: float = 14.0
    dead_share: float = 0.25
    small_packs: int = 50
    copies_from: int = 0


@dataclass(frozen=True, slots=True)
class User:
    """Who commits.

    Parameters
    ----------
    name : str
        As it is to stand in commits, ``Name <address>``; empty means the account's name.
    """

    name: str = ""


@dataclass(frozen=True, slots=True)
class Remote:
    """Another store.

    Parameters
    ----------
    url : str
        Where it is.
    single_writer : bool
        The user says that nobody else writes there, though the other side cannot keep two writers apart.
    endpoint : str
        Of an object store that is not the provider's own.
    region : str
        Of an object store.
    credentials : str
        Of an object store: ``machine`` permits those that the provider gives to its own machines.
    ca : str
        File with the certificates that speak for the other side, for https.
    """

    url: str
    single_writer: bool = False
    endpoint: str = ""
    region: str = ""
    credentials: str = ""
    ca: str = ""

    @property
    def options(self) -> Mapping[str, str]:
        """What the engine is told beside the URL."""
        found = {"endpoint": self.endpoint, "region": self.region, "credentials": self.credentials, "ca": self.ca}
        return {name: value for name, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, one attribute for each table of ``config.toml``.

    `remotes` are the tables ``[remote.NAME]``, and `upstreams` say of branches (short names), in the table
    ``[upstream]``, which ``REMOTE/BRANCH`` they follow.
    """

    core: Core = field(default_factory=Core)
    delta: Delta = field(default_factory=Delta)
    gc: Gc = field(default_factory=Gc)
    user: User = field(default_factory=User)
    remotes: Mapping[str, Remote] = field(default_factory=dict)
    upstreams: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_tables(cls, tables: Mapping[str, object], origin: str) -> Settings:
        """Return the settings of parsed TOML `tables`; what they do not name keeps its default.

        Parameters
        ----------
        tables : mapping
            Table name -> key -> value.
        origin : str
            Where they were read, for messages.

        Raises
        ------
        InvalidInputError
            If a table or key is unknown, or a value of the wrong type or range.

        Examples
        --------
        >>> Settings.from_tables({"delta": {"depth": 4}}, "config.toml").delta.depth
        4
        """
        known = ("core", "delta", "gc", "user", "remote", "upstream")
        if unknown := sorted(tables.keys() - set(known)):
            raise InvalidInputError(f"{origin}: table [{unknown[0]}] is unknown; known are {', '.join(known)}")
        settings = cls(
            _table(Core, tables.get("core", {}), f"{origin} [core]"),
            _table(Delta, tables.get("delta", {}), f"{origin} [delta]"),
            _table(Gc, tables.get("gc", {}), f"{origin} [gc]"),
            _table(User, tables.get("user", {}), f"{origin} [user]"),
            _remotes(tables.get("remote", {}), origin),
            _upstreams(tables.get("upstream", {}), origin),
        )
        _check(settings, origin)
        return settings


T = TypeVar("T", Core, Delta, Gc, User)


def _table(kind: type[T], values: object, origin: str) -> T:
    if not isinstance(values, Mapping):
        raise InvalidInputError(f"{origin} is not a table")
    defaults = {item.name: getattr(kind(), item.name) for item in fields(kind)}
    for key, value in values.items():
        if key not in defaults:
            raise InvalidInputError(f"{origin}: key {key!r} is unknown; known are {', '.join(defaults)}")
        wanted = (int, float) if isinstance(defaults[key], float) else type(defaults[key])
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise InvalidInputError(f"{origin}: {key} = {value!r} is not a {type(defaults[key]).__name__}")
    return kind(**values)


def _remotes(values: object, origin: str) -> dict[str, Remote]:
    if not isinstance(values, Mapping):
        raise InvalidInputError(f"{origin} [remote] is not a table")
    return {name: _remote(table, f"{origin} [remote.{name}]") for name, table in values.items()}


def _remote(table: object, origin: str) -> Remote:
    types = {item.name: bool if item.name == "single_writer" else str for item in fields(Remote)}
    if not isinstance(table, Mapping) or "url" not in table:
        raise InvalidInputError(f"{origin} has no url")
    for key, value in table.items():
        if key not in types:
            raise InvalidInputError(f"{origin}: key {key!r} is unknown; known are {', '.join(types)}")
        if not isinstance(value, types[key]):
            raise InvalidInputError(f"{origin}: {key} = {value!r} is not a {types[key].__name__}")
    return Remote(**table)


def _upstreams(values: object, origin: str) -> dict[str, str]:
    if not isinstance(values, Mapping) or not all(isinstance(value, str) and "/" in value for value in values.values()):
        raise InvalidInputError(f"{origin} [upstream] is not a table of BRANCH = 'REMOTE/BRANCH'")
    return dict(values)


def _check(settings: Settings, origin: str) -> None:
    ranges = (
        ("core.threads", settings.core.threads, 0, 1024),
        ("delta.depth", settings.delta.depth, 0, 64),
        ("delta.read_factor", settings.delta.read_factor, 1.0, 100.0),
        ("delta.least_saving", settings.delta.least_saving, 0.0, 1.0),
        ("gc.grace_hours", settings.gc.grace_hours, 0.0, 1e6),
        ("gc.retention_days", settings.gc.retention_days, 0.0, 1e6),
        ("gc.dead_share", settings.gc.dead_share, 0.0, 1.0),
        ("gc.small_packs", settings.gc.small_packs, 1, 1 << 20),
        ("gc.copies_from", settings.gc.copies_from, 0, 1 << 30),
    )
    for name, value, least, most in ranges:
        if not least <= value <= most:
            raise InvalidInputError(f"{origin}: {name} = {value} is not from {least} to {most}")
