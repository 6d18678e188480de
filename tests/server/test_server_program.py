"""``mvc serve`` as a program: it listens, lets in who has a token, and ends when it is told to."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from mvc.errors import AuthenticationError
from mvc.remotes.http_engine import HttpEngine
from mvc.remotes.keys import FORMAT
from mvc.testing.http_server import make_certificate

MVC = [sys.executable, "-m", "mvc"]


def run(*arguments: str, code: int = 0) -> str:
    """Run a command and return what it prints."""
    done = subprocess.run([*MVC, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_serve(tmp_path):
    """With TLS, from the first token to SIGTERM."""
    root = str(tmp_path / "srv")
    run("init", "--bare", f"{root}/team/model")
    token = run("serve", "token", "add", "ci", "--repo", "team/model", "--root", root).strip()
    assert re.fullmatch(r"mvc_[\w-]{43}", token)
    assert run("serve", "token", "list", "--root", root).split() == ["ci", "team/model", "read"]
    files = make_certificate(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*MVC, "serve", "--root", root, "--listen", f"127.0.0.1:{port}"]
    tls = ["--tls-cert", str(files.certificate), "--tls-key", str(files.key)]
    server = subprocess.Popen([*command, *tls], stderr=subprocess.PIPE, env=os.environ)
    try:
        wait_for(port)
        url = f"https://127.0.0.1:{port}/team/model"
        with HttpEngine(url, token, str(files.certificate)) as engine:
            assert b"version" in engine.read_all(FORMAT, 1000)
            run("serve", "token", "remove", "ci", "--root", root)
            with pytest.raises(AuthenticationError):
                engine.read_all(FORMAT, 1000)
    finally:
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate(timeout=30)
    assert server.returncode == 0
    assert token.encode() not in said


def test_clients_that_say_nothing(tmp_path):
    """However many hold a connection, others are answered."""
    root = str(tmp_path / "srv")
    run("init", "--bare", f"{root}/model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*MVC, "serve", "--root", root, "--listen", f"127.0.0.1:{port}", "--public", "model"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ)
    silent = []
    try:
        wait_for(port)
        silent = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(300)]
        with socket.create_connection(("127.0.0.1", port), 5) as sock:
            sock.sendall(b"GET /model/-/v1/hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
    finally:
        for one in silent:
            one.close()
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)
    assert server.returncode == 0


def wait_for(port: int) -> None:
    """Return when somebody listens."""
    for _ in range(400):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("nobody listens")


def test_refusals(tmp_path):
    """An address that others can reach takes TLS."""
    assert "--tls-cert" in run("serve", "--root", str(tmp_path), "--listen", "0.0.0.0:7333", code=1)
