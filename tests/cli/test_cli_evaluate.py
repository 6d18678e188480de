"""``mvc evaluate`` and gates: what is printed, by real commands of the shell."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

PYTHON_SIZE = "python3 -c \"import os; print('{\\\"size\\\": %d}' % os.path.getsize('model.safetensors'))\""
"""A metric that is the same of a commit and of what it is compressed to."""

MEASURE = "if [ $MVC_COMMIT = {} ]; then echo acc=0.5; else echo acc=0.25; fi"
"""What finds less in any other commit than in one."""


@pytest.fixture
def head(lab, program):
    """Return a commit on main."""
    lab.write("model.safetensors", lab.model())
    return program.json("commit", "-m", "tuned", "--metric", "loss=0.5")["commit"]


class TestEvaluate:
    """Notes."""

    def test_shown_with_the_commit(self, lab, program, head):
        """As text and as JSON, by ``show`` and ``log``; other commits have an empty map."""
        text = program.out("evaluate", "main", "--cmd", PYTHON_SIZE)
        size = len(lab.read("model.safetensors"))
        assert text == f"{head[:12]} size={size}\n"
        assert program.json("evaluate", "main", "--cmd", 'echo "{\\"on\\": \\"cpu\\", \\"ok\\": true}"') == {
            "schema": "mvc.evaluate/1",
            "commit": head,
            "metrics": {"on": "cpu", "ok": True},
        }
        lab.write("more", "x")
        program.run("commit", "-m", "more")
        evaluations = {"on": "cpu", "ok": True, "size": size}
        assert program.json("show", head)["evaluations"] == evaluations
        assert [commit["evaluations"] for commit in program.json("log")["commits"]] == [{}, evaluations]
        assert [commit["metadata"] for commit in program.json("log")["commits"]] == [{}, {"loss": 0.5}]
        assert f"Eval:    ok=true on=cpu size={size}\n" in program.out("show", head)
        assert program.out("log").count("Eval:") == 1
        assert program.out("log", "--oneline").splitlines()[1].endswith(f"tuned  loss=0.5 ok=true on=cpu size={size}")

    def test_found_by_conditions(self, lab, program, head):
        """``log --where`` sees what was measured later, which wins over what the commit says of itself."""
        lab.write("more", "x")
        program.run("commit", "-m", "more", "--metric", "loss=0.25")
        program.run("evaluate", head, "--cmd", "echo acc=0.75 loss=0.125")

        def found(*conditions, options=()):
            """Return the subjects of the commits that meet conditions."""
            asked = [part for condition in conditions for part in ("--where", condition)]
            return [commit["message"] for commit in program.json("log", *asked, *options)["commits"]]

        assert found("acc > 0.5") == found("acc > 0.5", "loss < 0.2") == ["tuned"]
        assert found("acc > 0.8") == found("loss = 0.5") == []
        assert found("loss < 0.3") == ["more", "tuned"]
        assert found("loss < 0.3", options=("-n", "1")) == ["more"]
        assert program.out("log", "--graph", "--oneline", "--where", "acc=0.75").count("tuned") == 1

    def test_not_in_the_way(self, program, head):
        """The history of notes is no history of branches; it can be looked at, and taken back."""
        program.run("evaluate", "main", "--cmd", "echo acc=1")
        assert [commit["id"] for commit in program.json("log", "--all")["commits"]] == [head]
        assert program.json("branch")["branches"] == [{"name": "main", "commit": head, "current": True}]
        [note] = program.json("log", "refs/notes/metrics")["commits"]
        assert note["refs"] == ["refs/notes/metrics"]
        assert note["message"] == f"metrics of {head[:12]}"
        assert program.json("status")["clean"] is True
        assert program.json("undo")["changes"][0]["name"] == "refs/notes/metrics"
        assert program.json("show")["evaluations"] == {}

    def test_failures(self, program, head):
        """An error with the reason, nothing on stdout, and nothing noted."""
        for command, text in (("exit 3", "exit code 3"), ("true", "printed no metric"), ("echo a=inf", "not finite")):
            assert text in program.err("evaluate", "main", "--cmd", command, code=1)
        assert "was ended" in program.err("evaluate", "main", "--cmd", "sleep 60", "--timeout", "0.1", code=1)
        assert "Missing option '--cmd'".lower() in program.err("evaluate", "main", code=2).lower()
        assert "timeout" in program.err("evaluate", "main", "--cmd", "true", "--timeout", "0", code=2)
        assert program.json("show", head)["evaluations"] == {}

    def test_streams(self, processes, lab, head):
        """As a process of its own: stderr of the command is on stderr, its stdout is not passed on."""
        done = processes.run(lab.root, "evaluate", "main", "--json", "--cmd", "echo to people >&2; echo a=1")
        assert done.stderr == "to people\n"
        assert done.stdout == f'{{"schema":"mvc.evaluate/1","commit":"{head}","metrics":{{"a":1}}}}\n'

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["term", "hup"])
    def test_ended_by_a_scheduler(self, processes, lab, head, tmp_path, number):
        """The command is ended, too, and its files are gone; nothing is noted."""
        scratch, told = tmp_path / "scratch", tmp_path / "told"
        scratch.mkdir()
        command = processes.command(
            "evaluate", "main", "--cmd", f"echo $$ > {told}.draft; mv {told}.draft {told}; sleep 600"
        )
        environment = processes.environment | {"TMPDIR": str(scratch)}
        with subprocess.Popen(command, cwd=lab.root, env=environment, start_new_session=True) as process:
            assert wait_for(told.exists)
            assert any(scratch.iterdir())
            process.send_signal(number)
            assert process.wait(60) == -number
        assert not any(scratch.iterdir())
        assert wait_for(lambda: not is_running(int(told.read_text())))
        assert processes.out(lab.root, "show", "--json").count('"evaluations":{}') == 1


def wait_for(condition):
    """Return whether a condition holds at last."""
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.1)
    return False


def is_running(process):
    """Return whether there is a process that does something."""
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


class TestGate:
    """``compress --gate``."""

    def test_passed(self, program, head):
        """The branch, the values of both, and what the commit records."""
        options = ("--method", "precision", "--bits", "9", "--gate-cmd", MEASURE.format(head))
        found = program.json("compress", "main", *options, "--gate", "acc>=0.4 * source", "--branch", "small")
        assert found["gate"] == {
            "condition": "acc >= 0.4*source",
            "tries": 1,
            "metrics": [{"name": "acc", "operator": ">=", "limit": 0.2, "source": 0.5, "value": 0.25}],
        }
        assert found["parameters"] == {"precision": "precision:9", "gate": "acc >= 0.4*source"}
        assert program.json("show", "small")["evaluations"] == {"acc": 0.25}
        assert program.json("show", "main")["evaluations"] == {"acc": 0.5}
        text = program.out("compress", "main", *options, "--gate", "acc >= 0.2", "--branch", "other")
        assert text.splitlines()[-1] == "gate: acc is 0.25, wanted >= 0.2; the source has 0.5"
        program.run("undo")
        assert [branch["name"] for branch in program.json("branch")["branches"]] == ["main", "small"]

    def test_refused(self, program, head):
        """No branch, no notes, and an error that says what was tried."""
        options = ("--method", "precision", "--bits", "9", "--gate-cmd", MEASURE.format(head), "--branch", "small")
        error = program.err("compress", "main", *options, "--gate", "acc >= source", "--gate-tries", "2", code=1)
        assert "gate acc >= source is not passed with precision:9: acc is 0.25, wanted >= 0.5" in error
        assert "; with precision:11: acc is 0.25, wanted >= 0.5; the source has 0.5; no branch was made" in error
        assert [branch["name"] for branch in program.json("branch")["branches"]] == ["main"]
        assert program.json("show", "main")["evaluations"] == {}

    def test_finer(self, program, head):
        """The setting that passed, and how many did not."""
        measure = (
            f"if [ $MVC_COMMIT = {head} ]; then echo n=1; else"
            ' echo "n=$(python3 -c \'print(len(set(open("model.safetensors", "rb").read())))\')"; fi'
        )
        options = ("--method", "precision", "--bits", "1", "--gate", "n > 100", "--gate-cmd", measure)
        text = program.out("compress", "main", *options, "--gate-tries", "9", "--branch", "small")
        first, *_, last = text.splitlines()
        assert last.startswith("gate: the first ")
        tried = int(last.split()[5])
        assert tried > 1
        assert first.endswith(f"] tuned (precision:{2 * tried - 1})")

    @pytest.mark.parametrize(
        ("options", "code", "text"),
        [
            (("--gate", "acc > 1"), 2, "a gate takes both --gate and --gate-cmd"),
            (("--gate-cmd", "true"), 2, "a gate takes both --gate and --gate-cmd"),
            (("--gate-tries", "2"), 2, "a gate takes both --gate and --gate-cmd"),
            (("--gate", "acc > 1", "--gate-cmd", "true", "--gate-tries", "0"), 2, "gate-tries"),
            (("--gate", "acc == 1", "--gate-cmd", "true"), 1, "write it like 'acc >= 0.98*source'"),
            (("--gate", "acc > 1", "--gate-cmd", "echo b=1"), 1, "there is no metric 'acc'; there are: b"),
        ],
    )
    def test_what_is_wrong(self, program, head, options, code, text):
        """Said before anything is compressed."""
        error = program.err("compress", head, "--method", "precision", "--bits", "9", *options, code=code)
        assert text in error
