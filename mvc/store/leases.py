"""Leases: small files that say which processes are at work and what they build on (spec-v1, section 9)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mvc.errors import AlreadyExistsError, ConflictError, IntegrityError, MvcError, NotFoundError
from mvc.objects.canonical import decode, encode
from mvc.objects.fields import array, integer, oid, record, text
from mvc.store.fs import FileSystem
from mvc.types import ObjectId, raw_id

__all__ = ["SKEW_SECONDS", "STALE_SECONDS", "Lease", "LeaseRecord", "Leases"]

STALE_SECONDS: Final = 86_400
"""Age at which a lease, or a temporary, belongs to nobody: no live process pauses for a day between two steps."""
SKEW_SECONDS: Final = 600
"""By how much the clocks of two machines that share a repository may differ."""
_MAX_BYTES: Final = 1 << 20
"""Bytes of a lease that is read: 30,000 pins."""
_SUFFIX: Final = ".lease"
_MAINTENANCE: Final = "maintenance" + _SUFFIX
_FIELDS: Final = frozenset({"pins", "process", "host", "command", "start"})


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What a lease says.

    Parameters
    ----------
    pins : frozenset of ObjectId
        Commits that the process builds on, or reads.
    process : int
        Its number on its machine.
    host : str
        The machine; see `machine`.
    command : str
        What it does.
    start : int
        When it began, microseconds since 1970-01-01T00:00:00Z.
    """

    pins: frozenset[ObjectId]
    process: int
    host: str
    command: str
    start: int

    @property
    def encoded(self) -> bytes:
        """The canonical encoding."""
        return encode(
            {
                "pins": [raw_id(pin) for pin in sorted(self.pins)],
                "process": self.process,
                "host": self.host,
                "command": self.command,
                "start": self.start,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> LeaseRecord:
        """Return the lease that `data` encodes; MalformedError if it is none."""
        fields = record(decode(data), _FIELDS, "lease")
        return cls(
            frozenset(oid(item, "pin") for item in array(fields["pins"], "pins")),
            integer(fields["process"], "process", 0, 1 << 62),
            text(fields["host"], "host"),
            text(fields["command"], "command"),
            integer(fields["start"], "start", -(1 << 62), 1 << 62),
        )

    @property
    def is_dead(self) -> bool:
        """True if the process is known to be gone: this machine has been started since, or has no such process.

        Of processes in another name space, and of other machines, nothing is known.
        """
        name, _, rest = self.host.partition(" ")
        our_name, _, ours = machine().partition(" ")
        if name != our_name or not rest:
            return False
        boot, our_boot = rest.split(" ")[0], ours.split(" ")[0]
        return boot != our_boot or (rest == ours and not _runs(self.process))


class Lease:
    """A lease of this process; it ends with the ``with`` block."""

    def __init__(self, fs: FileSystem, path: Path, content: bytes) -> None:
        self._fs = fs
        self._path = path
        self._content = content

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with suppress(MvcError):  # whoever finds it next sees that this process is gone
            if self._is_ours():
                self._fs.unlink(self._path)

    def _is_ours(self) -> bool:
        """Return True unless others took the lease away, and maybe have one of that name themselves."""
        return self._fs.read_file(self._path, _MAX_BYTES) == self._content

    def renew(self) -> bool:
        """Say that this process is alive; False if others took it for dead, and may have removed what it relies on."""
        try:
            self._fs.touch(self._path)
            return self._is_ours()
        except NotFoundError:
            return False


class Leases:
    """The files below ``.mvc/leases``.

    Parameters
    ----------
    root : Path
        The ``.mvc`` directory.
    fs : FileSystem
        Where to read and write.
    """

    def __init__(self, root: Path, fs: FileSystem) -> None:
        self.directory = root / "leases"
        self._fs = fs

    def take(self, command: str, pins: Iterable[ObjectId] = ()) -> Lease:
        """Say that this process does `command` and builds on the commits `pins`.

        Raises
        ------
        ReadOnlyError
            If nothing may be written here: then nothing can be removed by this user either.
        """
        draft, content = self._draft(command, pins)
        path = draft.with_suffix(_SUFFIX)
        self._fs.replace(draft, path)
        return Lease(self._fs, path, content)

    def take_maintenance(self, command: str) -> Lease:
        """Take the lease of which there is one.

        Raises
        ------
        ConflictError
            If another process holds it.
        """
        path = self.directory / _MAINTENANCE
        draft, content = self._draft(command, ())
        try:
            self._bury_if_over(path, draft.with_suffix(".over"))
            self._fs.link(draft, path)
        except AlreadyExistsError:
            raise ConflictError(
                f"{self._holder(path)} is at work in this repository", hint="wait until it has finished"
            ) from None
        finally:
            self._fs.unlink(draft)
        return Lease(self._fs, path, content)

    def live(self) -> list[LeaseRecord]:
        """Return the leases of processes at work, and remove those that are over.

        The maintenance lease is not among them: who holds it builds on nothing that others may remove.
        """
        self._sweep()
        found = []
        for path in self._paths():
            known = self._read(path)
            if known is None:
                continue
            if self._is_over(path, known):
                with suppress(MvcError):
                    self._bury_if_over(path, path.with_suffix(".over"))
            else:
                found.append(known)
        return found

    def _sweep(self) -> None:
        """Remove what processes left that died while they took a lease."""
        for name in self._fs.names(self.directory):
            modified = self._fs.modified(self.directory / name)
            if not name.endswith(_SUFFIX) and modified is not None and modified < time.time() - STALE_SECONDS:
                with suppress(MvcError):
                    self._fs.unlink(self.directory / name)

    def _paths(self) -> Iterator[Path]:
        return (self.directory / name for name in sorted(self._fs.names(self.directory)) if _is_lease(name))

    def _draft(self, command: str, pins: Iterable[ObjectId]) -> tuple[Path, bytes]:
        known = LeaseRecord(frozenset(pins), os.getpid(), machine(), command, time.time_ns() // 1000)
        path = self.directory / f"{os.getpid()}-{os.urandom(8).hex()}.tmp"
        try:
            handle = self._fs.create(path)
        except NotFoundError:  # an empty directory is easily lost by copies
            self._fs.mkdir(self.directory)
            handle = self._fs.create(path)
        try:
            self._fs.write(handle, content := known.encoded)
        except MvcError:
            with suppress(MvcError):
                self._fs.unlink(path)
            raise
        finally:
            self._fs.close(handle)
        return path, content

    def _read(self, path: Path) -> LeaseRecord | None:
        """Return what a lease says, and None if it is gone.

        One that is damaged is gone: it was whole when it got its name, so the machine has been started since.
        """
        try:
            return LeaseRecord.decode(self._fs.read_file(path, _MAX_BYTES))
        except NotFoundError:
            return None
        except IntegrityError:
            with suppress(MvcError):
                self._fs.unlink(path)
            return None

    def _is_over(self, path: Path, known: LeaseRecord) -> bool:
        modified = self._fs.modified(path)
        return known.is_dead or modified is None or modified < time.time() - STALE_SECONDS

    def _bury_if_over(self, path: Path, aside: Path) -> None:
        """Remove a lease that is over. It is renamed first: what another process puts there meanwhile is put back."""
        known = self._read(path)
        if known is None or not self._is_over(path, known):
            return
        with suppress(NotFoundError):
            self._fs.replace(path, aside)
            moved = self._read(aside)
            if moved is not None and (moved != known or not self._is_over(aside, moved)):
                self._fs.link(aside, path)
            self._fs.unlink(aside)

    def _holder(self, path: Path) -> str:
        known = self._read(path)
        return f"process {known.process} ({known.command})" if known else "another process"


def _is_lease(name: str) -> bool:
    return name.endswith(_SUFFIX) and name != _MAINTENANCE


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's; or a number that no process has, from a damaged lease
        return True
    return True


@cache
def machine() -> str:
    """Return what names this machine, since it was started, and the processes that see each other on it.

    Where the system does not tell, each process is taken for a machine of its own: its leases end by their age.
    """
    name = os.uname().nodename
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return f"{name}/{os.urandom(8).hex()} unknown unknown"
    try:
        name += "/" + Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        name += f"/{boot}"  # another one of the name cannot be told from an earlier start of this one
    return f"{name} {boot} {space}"
