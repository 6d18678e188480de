"""What keeps commands from growing slower with history, and many small tensors from taking long."""

import pytest

from mvc.repo.plan import SMALL_BYTES
from tests.indexes import answers, rebuilt


class TestFollowing:
    """The index after each command, without the store being listed."""

    def test_it_equals_one_made_anew(self, lab, tmp_path):
        """After commits with deltas and loose blobs, switches, and a commit of another process."""
        model = {**lab.model(rows=64), "big": lab.weights("F32", (1200, 1000), 9)}
        lab.committed(model, message="one")
        lab.repo.branch("side")
        lab.repo.switch("side")
        tuned = lab.tuned(model, 1)
        lab.committed(tuned, message="two")
        lab.again().committed(lab.tuned(tuned, 2), message="three")
        lab.committed(lab.tuned(tuned, 3), message="four")
        lab.repo.switch("main")
        assert answers(lab.session.index) == answers(rebuilt(lab.session, tmp_path / "fresh.sqlite"))
        assert lab.check().clean

    def test_objects_of_nobody_stay_unknown_until_they_are_looked_for(self, lab, tmp_path):
        """A pack that a process left behind when it died is no reason to list all packs."""
        lab.committed(lab.model(), message="one")
        lab.again().session.index.forget_operation()
        lab.committed(lab.model(1), message="two")
        known = lab.session.index.packs()
        other = lab.again()
        with other.session.store.begin() as batch:
            batch.put(0, "5" * 64, b"nobody's")
            batch.commit()
        lab.committed(lab.model(2), message="three")
        assert len(lab.session.index.packs()) == len(known) + 1
        lab.session.refresh(force=True)
        assert len(lab.session.index.packs()) == len(known) + 2


class TestSmallTensors:
    """Contents of a few bytes."""

    @pytest.mark.parametrize("zeros", [True, False])
    def test_many(self, lab, tmp_path, zeros):
        """They come back; none is a delta; what repeats is coded, what does not is kept as it is."""
        elements = SMALL_BYTES // 4 - 1
        model = {f"expert.{number}": lab.weights("F32", (elements,), number) for number in range(300)}
        model |= {f"state.{number}.exp_avg": lab.weights("F32", (8,), 1000 + number) for number in range(20)}
        model |= {f"state.{number}.exp_avg_sq": lab.weights("F32", (8,), 2000 + number) for number in range(20)}
        if zeros:
            model = {
                name: raw._replace(data=bytes([number % 251]) * len(raw.data))
                for number, (name, raw) in enumerate(model.items())
            }
        lab.committed(model, message="one")
        changed = lab.tuned(model, 1, size=1e-3)
        lab.committed(changed, message="two")
        tensors = [blob for blob in lab.session.index.all_blobs() if blob.kind == "tensor"]
        assert {blob.references for blob in tensors} == {()}
        assert {blob.codec for blob in tensors} >= ({"planes"} if zeros else {"raw"})
        assert lab.exported("HEAD~1", tmp_path / "a") != lab.exported("HEAD", tmp_path / "b")
        assert lab.check().clean
