"""The contract of engines over a stream: a process on this machine, and ssh to a real sshd."""

from __future__ import annotations

import os
import sys

import pytest

from mvc.errors import AuthenticationError, InvalidInputError, NotFoundError, RemoteError
from mvc.remotes.keys import head_key
from mvc.remotes.schemes import connect, parse_url
from mvc.remotes.ssh_engine import ProcessChannel, ssh_command
from mvc.remotes.stream_engine import StreamEngine
from mvc.testing.remotes import RemoteTests
from mvc.testing.ssh_server import RAW, SSHD, Sshd

SILENCE = 60.0


def local(command: list[str], silence: float = SILENCE) -> StreamEngine:
    """Return an engine over a process of this machine."""
    return StreamEngine("here", lambda: ProcessChannel(command, "here", os.environ, silence))


class TestLocalProcess(RemoteTests):
    """The contract, over the pipes of a process."""

    def connect(self, place):
        """Return an engine on a directory."""
        return local([*RAW, "serve", "--stdio", str(place / "store")])


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    """Return a running daemon."""
    if SSHD is None:
        pytest.skip("openssh-server is not installed")
    daemon = Sshd(tmp_path_factory.mktemp("sshd"))
    yield daemon
    daemon.stop()


class TestSsh(RemoteTests):
    """The contract, over ssh."""

    @pytest.fixture(autouse=True)
    def daemon(self, sshd):
        """Have a daemon to connect to."""
        self.sshd = sshd

    def connect(self, place):
        """Return an engine on a directory with a name that a shell would take apart."""
        (place / "a 'quoted' $HOME").mkdir(exist_ok=True)
        return self.sshd.engine(place / "a 'quoted' $HOME" / "store")


class TestSshFailures:
    """What is said when it does not work."""

    def test_a_key_that_is_not_known_there(self, sshd, tmp_path):
        """We are not let in."""
        with pytest.raises(AuthenticationError, match="Permission denied"), sshd.engine(tmp_path, key="stranger") as e:
            list(e.list(""))

    def test_a_host_that_is_not_known_here(self, sshd, tmp_path):
        """We do not let ourselves in."""
        with pytest.raises(AuthenticationError, match="Host key"), sshd.engine(tmp_path, known="nothing") as engine:
            list(engine.list(""))

    def test_nobody_listens(self, sshd, tmp_path):
        """Trying again may help."""
        url = parse_url("ssh://127.0.0.1:1/srv/x")
        with connect(url, sshd.environment()) as engine, pytest.raises(RemoteError) as caught:
            engine.capabilities  # noqa: B018 - asking is the test
        assert caught.value.transient
        assert "refused" in caught.value.message

    def test_there_is_no_mvc(self, sshd, tmp_path):
        """And how to say where it is."""
        with sshd.engine(tmp_path, far="mvc-is-not-here") as engine, pytest.raises(RemoteError) as caught:
            list(engine.list(""))
        assert "MVC_SSH_REMOTE_MVC" in (caught.value.hint or "")
        assert not caught.value.transient

    def test_a_shell_that_greets(self, sshd, tmp_path):
        """What was read is shown."""
        with sshd.engine(tmp_path, far="echo Welcome to box; :") as engine, pytest.raises(RemoteError, match="Welcome"):
            list(engine.list(""))

    def test_no_repository(self, sshd, tmp_path):
        """The program itself answers."""
        with sshd.engine(tmp_path, far=f"{sys.executable} -m mvc") as engine, pytest.raises(NotFoundError):
            list(engine.list(""))

    def test_nothing_is_left_running(self, sshd, tmp_path):
        """Every process has ended, and was reaped, when the engine is closed."""
        engine = sshd.engine(tmp_path)
        list(engine.list(""))
        (channel,) = engine._open
        process = channel._process
        assert process.poll() is None
        engine.close()
        engine.close()
        assert process.returncode is not None

    def test_no_program(self, tmp_path):
        """A command that cannot be started."""
        url = parse_url("box:store")
        with pytest.raises(RemoteError, match="cannot be started"):
            list(connect(url, {"MVC_SSH_COMMAND": "/nonexistent/ssh"}).list(""))


class TestCommands:
    """What is run, and on which words."""

    @pytest.mark.parametrize(
        ("text", "target", "far"),
        [
            ("ssh://box/srv/x", ["box"], "/srv/x"),
            ("ssh://me@box:22/srv/x", ["-p", "22", "me@box"], "/srv/x"),
            ("ssh://[::1]:22/srv/x", ["-p", "22", "::1"], "/srv/x"),
            ("box:runs/x", ["box"], "runs/x"),
            ("me@box:/srv/x;rm -rf ~", ["me@box"], "'/srv/x;rm -rf ~'"),
            ("ssh://box/~/runs", ["box"], "~/runs"),
            ("ssh://box/~ada/runs $(x)", ["box"], "~ada/'runs $(x)'"),
            ("ssh://box/~$(x)/y", ["box"], "'~$(x)/y'"),
        ],
    )
    def test_words(self, text, target, far):
        """One word for ssh, and one for the shell there."""
        command = ssh_command(parse_url(text), {})
        assert [word for word in command if word != "--"] == ["ssh", *target, f"mvc serve --stdio {far}"]

    @pytest.mark.parametrize(
        "text",
        [
            "ssh://-oProxyCommand=x/y",
            "-oProxyCommand=x:y",
            "ssh://-x@box/y",
            "box:-x",
            "ssh://box/-x",
            "ssh://box:x/y",
            "ssh://box/",
            "me@-box:x",
            "a\x07b:y",
        ],
    )
    def test_words_that_are_refused(self, text):
        """Options in disguise, and what names nothing."""
        with pytest.raises(InvalidInputError):
            ssh_command(parse_url(text), {})


class TestSilence:
    """A side that is silent is given up."""

    def test_by_the_client(self):
        """After its time."""
        with local(["sleep", "60"], silence=0.3) as engine, pytest.raises(RemoteError, match="silent"):
            engine.touch(head_key(0))

    def test_a_side_that_ends(self):
        """With what it said before."""
        command = ["sh", "-c", "echo the disk burns >&2; exit 1"]
        with local(command) as engine, pytest.raises(RemoteError, match="the disk burns"):
            engine.touch(head_key(0))
