"""Encoding elsewhere: tasks that can be pickled, a bounded number on their way, and the same bytes as at home."""

from __future__ import annotations

import pickle
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import Lock

import numpy as np
import pytest

from mvc.codecs import FrameSpec, Planes, SortedDelta
from mvc.errors import InvalidInputError
from mvc.migration import import_history
from mvc.repo.encode_tasks import EncodeContent, EncodeFrame, Range, encode_contents, encode_frames
from mvc.repo.parallel import Step, stepped_map
from mvc.repo.plan import Side
from mvc.settings import Delta
from mvc.types import ObjectId, TensorSpec, dtype_of
from tests.conftest import Lab, safetensors


class Pickling(Executor):
    """Runs each call at once, on what is left of it after pickling; counts how many are on their way."""

    def __init__(self) -> None:
        self.calls = 0

    def submit(self, fn, /, *args, **kwargs):
        """Run a call as another process would."""
        self.calls += 1
        done: Future = Future()
        there = pickle.loads(pickle.dumps((fn, args, kwargs)))
        done.set_result(pickle.loads(pickle.dumps(there[0](*there[1], **there[2]))))
        return done


class Counting(Executor):
    """Hands calls to threads, and notes the largest number that was on its way at a time."""

    def __init__(self, pool: Executor) -> None:
        self.pool = pool
        self.now = self.most = 0
        self.lock = Lock()

    def submit(self, fn, /, *args, **kwargs):
        """Pass a call on."""
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        future = self.pool.submit(fn, *args, **kwargs)
        future.add_done_callback(self._finished)
        return future

    def _finished(self, _: Future) -> None:
        with self.lock:
            self.now -= 1


def write_run(run: Path, lab: Lab) -> None:
    """Write three checkpoints with a tensor of several frames, one of one frame, small ones, and moments."""
    model = lab.model() | {
        "large": lab.weights("BF16", (3000, 1024), 5),
        "optimizer.0.exp_avg": lab.weights("F32", (64, 64), 6),
    }
    model |= {"optimizer.0.exp_avg_sq": lab.weights("F32", (64, 64), 7)}
    for number in range(3):
        (run / f"epoch-{number}").mkdir(parents=True)
        (run / f"epoch-{number}/model.safetensors").write_bytes(safetensors(model))
        model = lab.tuned(model, number)


def stored(lab: Lab) -> dict[str, bytes]:
    """Return everything that the store holds by its name."""
    root = lab.root / ".mvc"
    places = [*(root / "objects").rglob("*"), *(root / "packs").rglob("*")]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in places if path.is_file()}


def test_the_same_bytes(make_lab, tmp_path):
    """Whoever encodes, the store holds the same."""
    here, there = make_lab("here"), make_lab("there")
    write_run(tmp_path / "run", here)
    executor = Pickling()
    one = import_history(here.repo, tmp_path / "run")
    other = import_history(there.repo, tmp_path / "run", executor=executor)
    assert one == other
    assert stored(here) == stored(there)
    assert executor.calls > 6
    assert there.check().faults == ()


def test_processes(make_lab, tmp_path):
    """Processes that share nothing with this one do as well."""
    here, there = make_lab("here"), make_lab("there")
    write_run(tmp_path / "run", here)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        other = import_history(there.repo, tmp_path / "run", executor=executor)
    assert import_history(here.repo, tmp_path / "run") == other
    assert stored(here) == stored(there)


def test_a_worker_that_fails(make_lab, tmp_path):
    """Its error stops the import, and the branch holds what was complete."""

    class Failing(Pickling):
        def submit(self, fn, /, *args, **kwargs):
            if self.calls == 4:
                failed: Future = Future()
                failed.set_exception(OSError("the machine went away"))
                return failed
            return super().submit(fn, *args, **kwargs)

    lab = make_lab("here")
    write_run(tmp_path / "run", lab)
    with pytest.raises(OSError, match="went away"):
        import_history(lab.repo, tmp_path / "run", executor=Failing())
    done = import_history(lab.again().repo, tmp_path / "run")
    assert done.imported + done.skipped == 3
    assert lab.check().faults == ()


def _task(number: int) -> list[int]:
    return [number]


def _odd(number: int) -> list[int]:
    return [number] if number % 2 else []


def _result(_number: int, _task: list[int], result: int) -> int:
    return result


@pytest.mark.parametrize("away", [1, 3, 8])
def test_a_bounded_number_is_away(away):
    """No more calls are with the executor than asked for, and results come in order."""
    with ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(16) as workers:
        executor = Counting(workers)
        step: Step[int, list[int], int, tuple] = Step(_task, sum, lambda *all_three: all_three)
        found = list(stepped_map(pool, executor, step, range(200), 4, away))
    assert found == [(number, [number], number) for number in range(200)]
    assert 1 <= executor.most <= away + 1


def test_an_empty_task_stays_at_home():
    """An executor is not troubled with nothing."""
    executor = Pickling()
    with ThreadPoolExecutor(1) as pool:
        step: Step[int, list[int], int, int] = Step(_odd, sum, _result)
        assert list(stepped_map(pool, executor, step, range(6), 2, 2)) == [0, 1, 0, 3, 0, 5]
    assert executor.calls == 3


def test_a_consumer_that_stops(lab):
    """What was begun is ended, and nothing else is drawn."""
    drawn = []

    def items():
        for number in range(100):
            drawn.append(number)
            yield number

    with ThreadPoolExecutor(1) as pool:
        results = stepped_map(pool, Pickling(), Step(_task, sum, _result), items(), 2, 2)
        assert next(results) == 0
        results.close()
    assert len(drawn) < 10


def test_tasks_say_everything():
    """A task is all that its function needs, also after pickling."""
    rng = np.random.default_rng(0)
    base = rng.normal(0, 0.02, 5000).astype("<f4").view(np.uint8)
    target = (base.view("<f4") * np.float32(1.0001)).view(np.uint8)
    spec = FrameSpec(dtype_of("F32"), 5000, 5000)
    side = Side("previous", ObjectId("0" * 64), 0, 100)
    frame = EncodeFrame(SortedDelta(0), (target, (base,), spec))
    (coded,) = encode_frames(pickle.loads(pickle.dumps([frame])))
    out = np.empty_like(target)
    SortedDelta(0).decode(coded.stored, [base], spec, out)
    assert out.tobytes() == target.tobytes()
    whole: Range = {None: (target, (), spec), side: (target, (base,), spec)}
    ways = ((Planes(), None), (SortedDelta(0), side))
    question = EncodeContent(TensorSpec(dtype_of("F32"), (5000,)), ways, (whole,), Delta(), one_frame=True)
    (chosen,) = encode_contents(pickle.loads(pickle.dumps([question])))
    assert (chosen.option.codec, chosen.option.side) == (SortedDelta(0), side)
    assert chosen.frame == coded


def test_nothing_to_import(lab, tmp_path):
    """The Python function refuses what the command refuses."""
    with pytest.raises(InvalidInputError):
        import_history(lab.repo, tmp_path)
