"""Claim: a push sends what the remote lacks and nothing else, and a clone takes little longer than copying the files.

For each kind of remote, on this machine: the history of a fine-tune but for its last epoch is pushed, then that epoch.
Bytes sent are compared with those by which the commit made the store grow, requests of a push of nothing are counted,
and ``mvc clone --no-checkout`` is timed beside what the engine's own client takes to copy the same files: ``cp``,
``rclone`` from the same object store, ``scp``, ``curl`` from the same server. A clone decodes and verifies everything.
Both end with ``sync``; each run copies into a new directory, and runs alternate.

Run ``python -m benchmarks.corpus``, then ``python -m benchmarks.remotes [--only NAME] [--dtype fp32|bf16|fp16]``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cli import init, mvc, mvc_command
from benchmarks.corpora import CORPUS, DTYPES, WEIGHTS, epochs_of
from benchmarks.links import limit_loopback
from benchmarks.report import RESULTS, RUNS, Spread, print_table, write_json
from mvc.remotes.push import PushRequest, push
from mvc.remotes.remote_store import RemoteStore
from mvc.remotes.schemes import connect, parse_url
from mvc.repo.clock import Actor
from mvc.repo.init import init as init_repository
from mvc.repo.layout import Layout
from mvc.repo.session import Session
from mvc.testing.object_stores import ACCESS_KEY, SECRET_KEY, seaweed
from mvc.testing.ports import free_ports, wait_for_port
from mvc.testing.remote_faults import CutEngine
from mvc.testing.ssh_server import Sshd

FAMILY = "minilm-fortunes"
OPTIMIZER = "optimizer.pt"
SLACK = 64 << 10  # bytes of a push that are not of tensors: index, operation, head, headers
Row = dict[str, object]


@dataclass(frozen=True)
class Place:
    """A remote and the engine's own client.

    Parameters
    ----------
    url : str
        Where it is.
    environment : mapping of str to str
        What lets one in.
    copy : callable
        Returns the command that copies all files of the remote into a directory.
    """

    url: str
    environment: Mapping[str, str]
    copy: Callable[[Path], list[str]]


@contextmanager
def directory(scratch: Path) -> Iterator[Place]:
    """Give a bare repository on the same disk."""
    path = scratch / "store.mvc"
    yield Place(str(path), {}, lambda to: ["cp", "-r", str(path), str(to)])


@contextmanager
def s3(scratch: Path) -> Iterator[Place]:
    """Give a prefix of a bucket of SeaweedFS."""
    (scratch / "seaweed").mkdir()
    with seaweed(scratch / "seaweed") as store:
        options = f"provider=Other,access_key_id={ACCESS_KEY},secret_access_key={SECRET_KEY}"
        source = f":s3,{options},endpoint='{store.endpoint}':mvc/store"
        client = shutil.which("rclone", path=str(Path(sys.executable).parent)) or "rclone"
        yield Place("s3://mvc/store", store.environment, lambda to: [client, "copy", "-q", source, str(to)])


@contextmanager
def ssh(scratch: Path) -> Iterator[Place]:
    """Give a bare repository behind an sshd."""
    path = scratch / "store.mvc"
    init_repository(path, Actor("benchmark", "mvc init --bare"), bare=True)
    (scratch / "sshd").mkdir()
    daemon = Sshd(scratch / "sshd")
    environment = daemon.environment(far=f"{sys.executable} -m mvc")
    words = environment["MVC_SSH_COMMAND"].split()[1:]
    try:
        place = f"127.0.0.1:{path}"
        yield Place(
            daemon.url(path),
            {key: value for key, value in environment.items() if key.startswith("MVC_")},
            lambda to: ["scp", "-O", "-q", "-r", *words, "-P", str(daemon.port), place, str(to)],
        )
    finally:
        daemon.stop()


@contextmanager
def http(scratch: Path) -> Iterator[Place]:
    """Give a bare repository behind ``mvc serve``."""
    path = scratch / "served" / "store"
    path.parent.mkdir()
    init_repository(path, Actor("benchmark", "mvc init --bare"), bare=True)
    words = [sys.executable, "-m", "mvc", "serve"]
    grant = ["token", "add", "benchmark", "--root", str(path.parent), "--repo", "*", "--scope", "write"]
    token = subprocess.run([*words, *grant], check=True, capture_output=True, text=True).stdout.strip()
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/store"

    def copy(to: Path) -> list[str]:
        """Return a call of curl for every file there is."""
        files = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.suffix in {".pack", ".idx"}]
        words = [word for file in files for word in ("-o", str(to / file), f"{url}/-/v1/keys/{file}")]
        return ["curl", "-sSf", "--create-dirs", "-H", f"Authorization: Bearer {token}", *words]

    with subprocess.Popen([*words, "--listen", f"127.0.0.1:{port}", "--root", str(path.parent)]) as server:
        try:
            wait_for_port(port)
            yield Place(url, {"MVC_TOKEN": token}, copy)
        finally:
            server.terminate()


PLACES = {"directory": directory, "s3": s3, "ssh": ssh, "http": http}


def timed(command: list[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Return wall and processor seconds of a command, and of the disk taking what it wrote."""
    start, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    os.sync()
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, cpu


def requests_of_nothing(root: Path, place: Place) -> int:
    """Return how many requests a push makes that has nothing to push."""
    session = Session(Layout(root.resolve()))
    engine = CutEngine(connect(parse_url(place.url), {**os.environ, **place.environment}))
    main = "refs/heads/main"
    request = PushRequest(((main, main, session.refs.state().head),))
    with engine:
        push(session, RemoteStore(engine), "origin", request, Actor("benchmark", "mvc push"))
        return engine.total


def commit(root: Path, epoch: Path, files: Sequence[str]) -> int:
    """Commit those of `files` that an epoch has; return by how many bytes the store grew."""
    for file in files:
        if (epoch / file).exists():
            shutil.copyfile(epoch / file, root / file)
    return int(mvc(root, "commit", "-m", epoch.name)["stored_bytes"])


def measure(name: str, dtype: str, files: Sequence[str], runs: int) -> Row:
    """Return what one kind of remote takes."""
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        scratch = Path(temporary)
        place = stack.enter_context(PLACES[name](scratch))
        os.environ.update(place.environment)
        root = init(scratch / "work")
        *before, last = epochs_of(CORPUS / (FAMILY + DTYPES[dtype]))[:4]
        for epoch in before:
            commit(root, epoch, files)
        mvc(root, "remote", "add", "origin", place.url)
        mvc(root, "push")
        stored = commit(root, last, files)
        sent = int(mvc(root, "push")["sent_bytes"])
        row: Row = {
            "remote": name,
            "epoch stored MB": stored / 1e6,
            "sent MB": sent / 1e6,
            "sent / stored": sent / stored,
            "within 1.02 + 64 KiB": sent <= 1.02 * stored + SLACK,
            "requests of nothing": requests_of_nothing(root, place),
        }
        clones, copies = [], []
        for run in range(runs):
            command = mvc_command(scratch, "clone", "--no-checkout", place.url, str(scratch / f"clone-{run}"))
            clones.append(timed(command, place.environment))
            copies.append(timed(place.copy(scratch / f"copy-{run}"), {}))
        row |= {
            "clone s": Spread.of([wall for wall, _ in clones]),
            "clone CPU s": Spread.of([cpu for _, cpu in clones]),
            "client s": Spread.of([wall for wall, _ in copies]),
            "clone / client": Spread.of([one[0] / other[0] for one, other in zip(clones, copies, strict=True)]),
        }
        return row


def main() -> None:
    """Measure every kind of remote."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="remotes whose name contains this")
    parser.add_argument("--dtype", default="bf16", choices=[*DTYPES])
    parser.add_argument("--optimizer", action="store_true", help="with the optimizer's state, as training runs have it")
    parser.add_argument("--rate", help="of the network, as tc has it: 1gbit (takes root)")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--out", type=Path, default=RESULTS / "remotes.json")
    options = parser.parse_args()
    if options.rate:
        limit_loopback(options.rate)
    files = (WEIGHTS, OPTIMIZER) if options.optimizer else (WEIGHTS,)
    with_state = ", with optimizer state" if options.optimizer else ""
    title = f"MiniLM {options.dtype}, base and three epochs{with_state}; {options.rate or 'loopback'}"
    rows = [measure(name, options.dtype, files, options.runs) for name in PLACES if options.only in name]
    print_table(rows)
    write_json(options.out, "remotes", {title: rows})


if __name__ == "__main__":
    main()
