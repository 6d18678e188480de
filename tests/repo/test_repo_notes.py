"""Evaluations of commits: what runs where, what is noted, and that notes are kept as everything else is."""

from __future__ import annotations

import os
import select
import sys
import threading
import time

import pytest

from mvc.errors import InvalidInputError, MalformedError
from mvc.remotes.clone import CloneRequest, clone
from mvc.remotes.posix import PosixEngine
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.clock import Actor
from mvc.repo.commit import CommitRequest, Target, commit
from mvc.repo.evaluate import Evaluator, evaluate, measure
from mvc.repo.gc import gc
from mvc.repo.notes import METRICS, Notes, metrics_of, record_metrics
from mvc.repo.sources import BytesSource
from mvc.repo.tree import Selection
from mvc.repo.undo import undo
from mvc.settings import Gc, Remote
from mvc.types import object_id
from tests.conftest import ACTOR, Lab, safetensors

ENVIRONMENT = {"PATH": os.environ["PATH"], "OF_THE_CALLER": "1"}


def echo(text, **options):
    """Return what prints a line."""
    return Evaluator(f"echo '{text}'", ENVIRONMENT, **options)


def noted(lab, commit_id):
    """Return what another process finds noted of a commit."""
    session = lab.again().session
    return Notes(session, session.refs.state()).of(commit_id)


def of_refs(lab):
    """Return the newest operation and all refs."""
    state = lab.again().session.refs.state()
    return state.operation, dict(state.refs)


def put(lab, path, content):
    """Move the ref of metrics to a commit of one file on top."""
    session = lab.again().session
    old = session.refs.state().refs.get(METRICS)
    target = Target(METRICS, old, (old,) if old else ())
    selection = Selection((BytesSource(path, content),), ("",), in_worktree=False)
    return commit(session, selection, CommitRequest("by hand"), ACTOR, target=target).commit


@pytest.fixture
def head(lab):
    """Return a commit with a metric of its own."""
    lab.write("sub/model.safetensors", lab.model())
    return lab.commit("m", metadata={"loss": 0.5, "run": "a7"}).commit


class TestMeasure:
    """Running a command."""

    def test_where_it_runs(self, lab, head, tmp_path):
        """In a directory with the files of the commit, which is gone afterwards; with both names in its environment."""
        script = tmp_path / "eval.py"
        script.write_text(
            "import json, os, pathlib, sys\n"
            "here = pathlib.Path.cwd()\n"
            "files = {str(p.relative_to(here)): p.read_bytes() for p in here.rglob('*') if p.is_file()}\n"
            "assert sys.stdin.read() == ''\n"
            "print(json.dumps({'here': str(here), 'of': os.environ['MVC_CHECKOUT'], 'id': os.environ['MVC_COMMIT'],\n"
            "  'caller': os.environ.get('OF_THE_CALLER'), 'files': ' '.join(files),\n"
            "  'same': files['sub/model.safetensors'] == open(sys.argv[1], 'rb').read()}))\n"
        )
        exact = lab.root / "sub" / "model.safetensors"
        found = measure(lab.session, head, Evaluator(f"{sys.executable} {script} {exact}", ENVIRONMENT))
        assert os.path.realpath(str(found["here"])) == os.path.realpath(str(found["of"]))
        assert not os.path.lexists(str(found["here"]))
        assert (found["id"], found["caller"], found["files"]) == (head, "1", "sub/model.safetensors")
        assert found["same"] is True

    def test_stderr_is_passed_on(self, lab, head, capfd):
        """What it says there is for people."""
        assert measure(lab.session, head, Evaluator("echo to people >&2; echo a=1", ENVIRONMENT)) == {"a": 1}
        assert capfd.readouterr().err == "to people\n"

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            ("echo a=1; exit 3", "the command ended with exit code 3; nothing was recorded of "),
            ("echo a=1; kill -9 $$", "the command ended with signal 9"),
            ("no-such-command-anywhere 2>&1", "the command ended with exit code 127"),
            ("true", "the command printed no metric"),
            ("echo a=nan", "the command printed a=nan, which is not finite"),
        ],
    )
    def test_what_fails(self, lab, head, command, message):
        """Nothing is recorded."""
        before = of_refs(lab)
        with pytest.raises(InvalidInputError, match=message):
            evaluate(lab.session, head, Evaluator(command, ENVIRONMENT), ACTOR)
        assert of_refs(lab) == before

    def test_what_takes_too_long(self, lab, head, tmp_path):
        """It is ended with all that it has started."""
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        command = f"sleep 300 > {pipe} & sleep 300; echo a=1"
        with pytest.raises(InvalidInputError, match="took longer than 2 seconds, and was ended"):
            evaluate(lab.session, head, Evaluator(command, ENVIRONMENT, timeout=2), ACTOR)
        poll = select.poll()
        poll.register(end, 0)
        assert poll.poll(60_000) == [(end, select.POLLHUP)], "nobody holds the pipe any more"
        os.close(end)
        assert noted(lab, head) == {}

    def test_what_is_left_running_is_not_waited_for(self, lab, head, tmp_path):
        """It may hold stdout open; the command is over when the shell is."""
        gone = tmp_path / "gone"
        command = f"(while [ ! -e {gone} ]; do sleep 0.05; done) & echo a=1"
        try:
            assert measure(lab.session, head, Evaluator(command, ENVIRONMENT, timeout=30)) == {"a": 1}
        finally:
            gone.touch()

    def test_much_output(self, lab, head):
        """The last line counts, whatever came before."""
        command = (
            "i=0; while [ $i -lt 40000 ]; do echo 'loss=1 and a line of many characters'; i=$((i+1)); done; echo a=2"
        )
        assert measure(lab.session, head, Evaluator(command, ENVIRONMENT)) == {"a": 2}


class TestNotes:
    """What is kept."""

    def test_again(self, lab, head):
        """Values of the same names are replaced, others stay; the commit stays what it was."""
        record = lab.session.record(head)
        assert evaluate(lab.session, head, echo("acc=0.5 n=3"), ACTOR) == {"acc": 0.5, "n": 3}
        assert noted(lab, head) == {"acc": 0.5, "n": 3}
        evaluate(lab.session, head, echo('{"acc": 0.75, "on": "cpu", "ok": true}'), ACTOR)
        assert noted(lab, head) == {"acc": 0.75, "n": 3, "on": "cpu", "ok": True}
        assert lab.again().session.record(head) == record
        before = of_refs(lab)
        evaluate(lab.session, head, echo("acc=0.75"), ACTOR)
        assert of_refs(lab) == before, "what is noted already is not noted again"

    def test_where(self, lab, head):
        """A commit of one file, which takes over what is no longer than it: then it has no parent."""
        lab.write("more", "x")
        other = lab.commit().commit
        evaluate(lab.session, head, echo("acc=0.5"), ACTOR)
        evaluate(lab.session, other, echo("acc=0.25"), ACTOR)
        session = lab.again().session
        state = session.refs.state()
        newest = session.record(state.refs[METRICS])
        assert [file.path for file in session.manifest(newest.id).files] == ["metrics.json"]
        assert newest.parents == ()
        [layer] = Notes(session, state).layers
        assert (layer.commit, layer.metrics) == (newest.id, {head: {"acc": 0.5}, other: {"acc": 0.25}})
        assert newest.message == f"metrics of {other[:12]}"
        assert (state.branch, state.head) == ("refs/heads/main", other)
        assert lab.again().status() == ((), (), ())
        assert (noted(lab, head), noted(lab, other)) == ({"acc": 0.5}, {"acc": 0.25})

    def test_layers(self, lab):
        """As a binary counter carries; the nearest says all of a commit; and none takes over what is too much."""
        ids = [object_id(f"{number:064x}") for number in range(1, 8)]
        for oid in ids:
            record_metrics(lab.session, {oid: {"a": 1}}, ACTOR)
        session = lab.again().session
        layers = Notes(session, session.refs.state()).layers
        assert [sorted(layer.metrics) for layer in layers] == [ids[6:], ids[4:6], ids[:4]]
        parents = [session.record(layer.commit).parents for layer in layers]
        assert parents == [(layers[1].commit,), (layers[2].commit,), ()]
        record_metrics(lab.session, {ids[0]: {"b": 2}}, ACTOR)
        session = lab.again().session
        notes = Notes(session, session.refs.state())
        assert [len(layer.metrics) for layer in notes.layers] == [7], "all that there is"
        assert [dict(notes.of(oid)) for oid in ids] == [{"a": 1, "b": 2}, *[{"a": 1}] * 6]
        assert lab.check().clean

    def test_what_many_evaluations_take(self, lab):
        """Twice as many take about twice as much: a note is not written again with each that comes after it."""
        sizes, numbers = [lab.session.store.stored_bytes().total], iter(range(1, 1000))
        for count in (64, 64):
            for _ in range(count):
                record_metrics(lab.session, {object_id(f"{next(numbers):064x}"): {"a": 0.5}}, ACTOR)
            sizes.append(lab.session.store.stored_bytes().total)
        assert sizes[2] - sizes[1] < 1.25 * (sizes[1] - sizes[0])

    def test_layers_that_would_be_too_long(self, lab, monkeypatch):
        """They stay apart."""
        monkeypatch.setattr("mvc.repo.notes.MOST_NOTES_BYTES", 200)
        ids = [object_id(f"{number:064x}") for number in range(1, 6)]
        for oid in ids:
            record_metrics(lab.session, {oid: {"a": 1}}, ACTOR)
        session = lab.again().session
        layers = Notes(session, session.refs.state()).layers
        assert [sorted(layer.metrics) for layer in layers] == [ids[4:], ids[2:4], ids[:2]]

    def test_merged_with_metadata(self, lab, head):
        """What was measured later wins."""
        assert metrics_of(lab.session, head) == {"loss": 0.5, "run": "a7"}
        evaluate(lab.session, head, echo("loss=0.25 acc=1"), ACTOR)
        assert metrics_of(lab.again().session, head) == {"loss": 0.25, "run": "a7", "acc": 1}

    def test_several_at_once(self, lab, head):
        """All are noted or none; nothing that is too long is."""
        lab.write("more", "x")
        other = lab.commit().commit
        record_metrics(lab.session, {head: {"a": 1}, other: {"a": 2}}, ACTOR)
        assert (noted(lab, head), noted(lab, other)) == ({"a": 1}, {"a": 2})
        before = of_refs(lab)
        with pytest.raises(InvalidInputError, match="are allowed"):
            record_metrics(lab.session, {head: {"a": 3}, other: {"a": "x" * (1 << 20)}}, ACTOR)
        assert of_refs(lab) == before

    def test_others_evaluate_too(self, lab, head):
        """Nothing of what several processes note at once is lost."""
        sessions = [lab.again().session for _ in range(4)]
        failures = []

        def work(number):
            """Note two metrics, one after the other."""
            try:
                for name in ("a", "b"):
                    actor = Actor(ACTOR.author, f"evaluate {number}")
                    record_metrics(sessions[number], {head: {f"{name}{number}": number}}, actor)
            except Exception as error:  # noqa: BLE001 - told by the test
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert noted(lab, head) == {f"{name}{number}": number for name in "ab" for number in range(4)}
        assert lab.check().faults == ()

    def test_as_everything_else(self, lab, head, tmp_path):
        """They survive gc, a new index and a check; undo takes them back; who clones does not get them."""
        evaluate(lab.session, head, echo("acc=0.5"), ACTOR)
        for place in ("packs", "objects"):
            for path in (lab.root / ".mvc" / place).rglob("*"):
                if path.is_file():
                    os.utime(path, (time.time() - 5000,) * 2)
        kept = gc(lab.again().session, Gc(grace_hours=0.0, retention_days=0.0)).kept
        assert kept["notes"].objects > 0
        lab.session.layout.index.unlink()
        assert noted(lab, head) == {"acc": 0.5}
        assert lab.check().faults == ()
        store = RemoteStore(PosixEngine(lab.root / ".mvc"))
        clone(store, Remote(str(lab.root)), tmp_path / "clone", CloneRequest(), ACTOR)
        theirs = Lab(tmp_path / "clone")
        assert theirs.session.refs.state().head == head
        assert not [name for name in theirs.session.refs.state().refs if name.startswith("refs/notes/")]
        assert metrics_of(theirs.session, head) == {"loss": 0.5, "run": "a7"}
        undo(lab.again().session, ACTOR)
        assert noted(lab, head) == {}
        assert METRICS not in of_refs(lab)[1]

    @pytest.mark.parametrize("content", [b"", b"[]", b'{"a": NaN}', b" " * ((1 << 24) + 1)], ids=len)
    def test_notes_that_are_none(self, lab, head, content):
        """An error of ours, before a long one is read; files of other names are let be."""
        put(lab, "README", b"let be")
        assert noted(lab, head) == {}
        put(lab, "metrics.json", content)
        with pytest.raises(MalformedError, match="note"):
            noted(lab, head)

    def test_without_notes(self, lab, head):
        """Nothing is read."""
        state = lab.session.refs.state()
        (lab.root / ".mvc" / "index.sqlite").unlink(missing_ok=True)
        assert Notes(lab.again().session, state).of(head) == {}
        assert not (lab.root / ".mvc" / "index.sqlite").exists()
        assert safetensors(lab.model()) == lab.read("sub/model.safetensors")
