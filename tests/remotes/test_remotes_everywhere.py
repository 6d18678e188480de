"""The whole use of a remote by the command line, over every engine: two machines as two directories."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from mvc.repo.clock import Actor
from mvc.repo.init import init
from mvc.server.access import Repositories, TokenFile
from mvc.server.http import create_app
from mvc.server.service import Scope
from mvc.testing.http_server import RunningServer, make_certificate
from mvc.testing.networks import inside, networks
from mvc.testing.ssh_server import SSHD, Sshd
from tests.cli.conftest import QUIET_ENVIRONMENT, Program
from tests.conftest import Lab, safetensors

REFS = {"HEAD", "refs/heads/main", "refs/tags/v1"}


class Place(NamedTuple):
    """A remote: its URL, options of ``remote add`` and ``clone``, and the environment that lets one in."""

    url: str
    options: tuple[str, ...]
    environment: Mapping[str, str]


def bare(path: Path) -> Path:
    """Make a bare repository, as whoever runs a server does."""
    init(path, Actor("root", "mvc init --bare"), bare=True)
    return path


@pytest.fixture(scope="module")
def ssh(tmp_path_factory):
    """Return a running sshd."""
    if SSHD is None:
        pytest.skip("openssh-server is not installed")
    daemon = Sshd(tmp_path_factory.mktemp("sshd"))
    yield daemon
    daemon.stop()


class Web(NamedTuple):
    """A running server, the directory that it serves, and a token."""

    server: RunningServer
    root: Path
    token: str
    options: tuple[str, ...]


@pytest.fixture(scope="module", params=[pytest.param("http", marks=pytest.mark.slow), "https"])
def web(request, tmp_path_factory):
    """Return a running server."""
    root = tmp_path_factory.mktemp("web")
    tokens = TokenFile(root / "tokens.json")
    token = tokens.add("test", ["*"], Scope.WRITE)
    certificate = make_certificate(root) if request.param == "https" else None
    server = RunningServer(create_app(Repositories(root, tokens)), certificate)
    yield Web(server, root, token, ("--ca", str(certificate.certificate)) if certificate else ())
    server.stop()


@pytest.fixture
def directory_place(tmp_path):
    """Return a directory that does not exist yet."""
    return Place(str(tmp_path / "store.mvc"), (), {})


@pytest.fixture
def s3_place(object_store, tmp_path):
    """Return a prefix of a bucket."""
    return Place(f"s3://mvc/{tmp_path.name}", (), object_store.environment)


@pytest.fixture
def ssh_place(ssh, tmp_path):
    """Return a bare repository behind sshd."""
    far = f"{sys.executable} -m mvc"
    return Place(ssh.url(bare(tmp_path / "far.mvc")), (), ssh.environment(far=far))


@pytest.fixture
def web_place(web, tmp_path):
    """Return a bare repository behind a server."""
    name = "".join(letter for letter in tmp_path.name if letter.isalnum())
    bare(web.root / name)
    return Place(f"{web.server.url}/{name}", web.options, {"MVC_TOKEN": web.token})


class Machine(Program):
    """``mvc`` on one machine, with what lets it in at the remote."""

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        super().__init__(root)
        self.environment = {key: value for key, value in environment.items() if os.environ.get(key) != value}

    def bare(self, *arguments, code=0, env=None):
        """See `Program.bare`."""
        return super().bare(*arguments, code=code, env=self.environment | (env or {}))

    def write(self, name, content):
        """Write a file of the work tree."""
        (self.root / name).write_bytes(content)


class Elsewhere(Machine):
    """``mvc`` on a machine with a network of its own, as processes."""

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        super().__init__(root, environment)
        self.network = f"mvc-{root.name}"

    def bare(self, *arguments, code=0, env=None):
        """See `Program.bare`."""
        command = [*inside(self.network), sys.executable, "-m", "mvc", *arguments]
        known = {**os.environ, **QUIET_ENVIRONMENT, **self.environment, **(env or {})}
        done = subprocess.run(command, env=known, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done


def use(place: Place, tmp_path: Path, machine: type[Machine] = Machine) -> set[str]:
    """Clone, train, push, pull, diverge, be refused, merge, push, check all; return the refs of the remote."""
    model = Lab.model(1)
    one, two = machine(tmp_path / "one", place.environment), machine(tmp_path / "two", place.environment)
    one.root.mkdir()
    one.run("init")
    one.write("model.safetensors", safetensors(model))
    one.run("commit", "-m", "base")
    one.run("remote", "add", "origin", place.url, *place.options)
    assert one.json("push")["commits"] == 1
    assert one.json("push")["sent_bytes"] == 0
    cloned = two.bare("clone", place.url, str(two.root), *place.options)
    assert "1 commit" in cloned.stdout
    assert (two.root / "model.safetensors").read_bytes() == safetensors(model)

    tuned = safetensors(Lab.tuned(model, 2))
    two.write("model.safetensors", tuned)
    two.run("commit", "-m", "epoch 1", "--metric", "loss=0.5")
    two.run("tag", "v1", "-m", "the first")
    pushed = two.json("push", "origin", "main", "--tags")
    assert pushed["commits"] == 1
    assert {ref["outcome"] for ref in pushed["refs"]} == {"fast-forward", "new"}

    one.write("notes.txt", b"a note")
    one.run("commit", "-m", "notes")
    assert "has commits that yours lacks" in one.err("push", code=3)
    pulled = one.json("pull")
    assert pulled["merge"]["kind"] == "merge"
    assert (one.root / "model.safetensors").read_bytes() == tuned
    assert one.json("push")["commits"] == 2
    assert two.json("pull")["merge"]["kind"] == "fast-forward"
    assert (two.root / "notes.txt").read_bytes() == b"a note"
    assert one.json("log")["commits"] == [
        {**commit, "refs": found["refs"]}
        for commit, found in zip(two.json("log")["commits"], one.json("log")["commits"], strict=True)
    ]
    for here in (one, two):
        assert here.json("fsck")["clean"]
    assert one.json("fsck", "--remote", "origin")["commits"] == 4
    assert not list((one.root / ".mvc" / "tmp").iterdir())
    return {ref["name"] for ref in one.json("ls-remote")["refs"]}


def test_a_directory(directory_place, tmp_path):
    """Nothing is needed."""
    assert use(directory_place, tmp_path) == REFS
    store = Program(Path(directory_place.url))
    assert store.json("fsck")["clean"]  # it is a bare repository


def test_an_object_store(s3_place, tmp_path):
    """SeaweedFS."""
    assert use(s3_place, tmp_path) == REFS


def test_ssh(ssh_place, tmp_path):
    """A real sshd, and ``mvc serve --stdio`` behind it."""
    assert use(ssh_place, tmp_path) == REFS


def test_http(web_place, tmp_path):
    """``mvc serve``, with and without TLS."""
    assert use(web_place, tmp_path) == REFS


@pytest.mark.slow
def test_two_networks(tmp_path):
    """Three machines that share nothing but cables: ``mvc serve`` on one, and two that work."""
    names = ("mvc-served", "mvc-one", "mvc-two")
    with ExitStack() as stack:
        try:
            served, *_ = stack.enter_context(networks(*names))
        except OSError as error:
            pytest.skip(f"networks cannot be made here: {error}")
        bare(tmp_path / "served" / "store")
        token = TokenFile(tmp_path / "served" / ".mvc-tokens.json").add("test", ["*"], Scope.WRITE)
        certificate, key = map(str, make_certificate(tmp_path, served))
        words = ["serve", "--listen", f"{served}:7", "--root", str(tmp_path / "served")]
        words += ["--tls-cert", certificate, "--tls-key", key]
        server = subprocess.Popen([*inside(names[0]), sys.executable, "-m", "mvc", *words])
        stack.callback(server.wait, 20)
        stack.callback(server.terminate)
        place = Place(f"https://{served}:7/store", ("--ca", certificate), {"MVC_TOKEN": token})
        assert use(place, tmp_path, Elsewhere) == REFS
