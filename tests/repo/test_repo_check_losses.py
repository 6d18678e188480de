"""Whether what commits say of their losses holds: measured again where the exact tensors are stored, too."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from mvc.lossy import Loss, Precision, measured
from mvc.objects.operation import RefChange
from mvc.objects.refnames import branch_ref
from mvc.repo.checkout import switch
from mvc.repo.commit import CommitRequest, Target, commit
from mvc.repo.compress import compress
from mvc.repo.fsck import TensorUse, fsck
from mvc.repo.gptq_transform import EntropyCoded, GptqTransform
from mvc.repo.press import CompressRequest
from mvc.repo.record import put_commit
from mvc.repo.show import Inherited, inherited_loss
from mvc.repo.thin import Older, ThinRequest, thin
from mvc.repo.thin_plan import Keep
from mvc.repo.transforms import PrecisionTransform
from mvc.repo.tree import from_worktree
from mvc.types import dtype_of
from tests.conftest import ACTOR

PLACES = PrecisionTransform(Precision(9))
KINDS = (Precision(9), Precision(5, relative=True), Precision(mantissa=3), Precision(30))


@pytest.fixture
def press(lab):
    """Return a function that makes a branch of a compressed commit."""
    numbers = count()

    def make(source, transform=PLACES, **options):
        request = CompressRequest(source, transform, branch=f"small-{next(numbers)}", **options)
        return compress(lab.again().session, request, ACTOR).commit

    return make


@pytest.fixture
def forge(lab):
    """Return a function that puts a branch on a commit like another one, but for its derivation."""

    def make(like, **changes):
        made = replace(like, message="forged", derivation=replace(like.derivation, **changes))
        session = lab.again().session
        with session.store.begin() as batch:
            put_commit(batch, made, lab.manifest(like.id))
            batch.commit()
        session.refs.update(lambda _: (RefChange(branch_ref(made.id[:8]), None, made.id),), ACTOR)
        return made

    return make


def only_changed(derivation, place, **changes):
    """Return the tensors of a derivation, one of which is said to be otherwise."""
    return tuple(
        replace(tensor, **changes) if number == place else tensor for number, tensor in enumerate(derivation.tensors)
    )


@pytest.mark.parametrize("precision", KINDS, ids=str)
def test_what_rounding_records_holds(lab, press, precision):
    """For every way to round; each tensor counts once, also if two commits speak of it, and none for a quick check."""
    source = lab.committed(lab.model())
    made = press(source, PrecisionTransform(precision))
    expected = len(made.derivation.tensors)
    assert (lab.check().faults, lab.check().losses) == ((), expected)
    press(source, PrecisionTransform(precision), message="again")
    assert (lab.check().faults, lab.check().losses) == ((), expected)
    assert lab.check(quick=True).losses == 0
    assert expected > 0


def test_what_delta_gptq_records_holds(lab, press):
    """As for rounding."""
    model = {"layer.weight": lab.weights("F32", (512, 384))}
    base = lab.committed(model)
    source = lab.committed(lab.tuned(model, 1, 1e-3))
    made = press(source, GptqTransform(EntropyCoded(3.0), None), base=base)
    assert (lab.check().faults, lab.check().losses) == ((), len(made.derivation.tensors))
    assert made.derivation.tensors


def test_commits_that_were_rounded_as_they_were_made(lab):
    """Their sources were never stored: nothing is measured, until somebody commits them."""
    lab.write("model.safetensors", lab.model())
    target = Target(branch_ref("rounded"), None, ())
    request = CommitRequest("m", lossy=Precision(9))
    made = commit(lab.session, from_worktree(lab.root), request, ACTOR, target=target)
    assert (lab.check().faults, lab.check().losses) == ((), 0)
    lab.commit("exact")
    assert made.derivation is not None
    assert (lab.check().faults, lab.check().losses) == ((), len(made.derivation.tensors))


def test_stand_ins_of_thinned_commits(lab):
    """What is still stored of them is measured."""
    model = lab.model()
    for number in range(3):
        lab.committed(model)
        model = lab.tuned(model, number)
    session = lab.again().session
    thin(session, ThinRequest(session.refs.state().head, Keep(last=1), Older.parse("precision:9")), ACTOR)
    report = lab.check()
    assert (report.faults, report.losses) == ((), 6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"largest": 2.0**-12}, "the largest error is"),
        ({"relative": 0.5}, "the relative error is .*, where 0.5 is recorded"),
        ({"largest": 2.0**-12, "bound": 2.0**-12}, "and none may by more than 0.000244"),
    ],
)
def test_a_record_that_does_not_hold(lab, press, forge, changes, said):
    """Commit, file and tensor are named, and only the one that is wrong; a quick check does not look."""
    made = press(lab.committed({"a": lab.weights("F32", (64, 32)), "b": lab.weights("BF16", (64, 32), 1)}))
    forged = forge(made, tensors=only_changed(made.derivation, 1, **changes))
    wrong = made.derivation.tensors[1].id
    (name,) = lab.manifest(made.id).names[wrong]
    (fault,) = lab.check().faults
    assert (fault.object, fault.kind, fault.reachable) == (forged.id, "record", True)
    assert fault.tensors == (TensorUse(forged.id, "model.safetensors", name),)
    assert f"model.safetensors:{name}" in fault.problem
    assert re.search(said, fault.problem)
    assert lab.check(quick=True).clean


def test_places_that_were_not_kept(lab, press, forge):
    """Errors may be as recorded, and yet larger than the setting allows, whatever bound is recorded."""
    made = press(lab.committed(lab.model()))
    forge(made, parameters={"precision": "precision:12"})
    faults = lab.check().faults
    assert len(faults) == len(made.derivation.tensors)
    assert all("none may by more than 0.00012207" in fault.problem for fault in faults)


def test_a_setting_of_a_later_release(lab, press, forge):
    """It says nothing here; the figures do."""
    made = press(lab.committed(lab.model()))
    forge(made, parameters={"precision": "precision:oracle"})
    assert lab.check().clean


@pytest.mark.parametrize(("place", "other"), [(0, 1), (1, 0)], ids=["larger", "smaller"])
def test_a_tensor_that_stands_for_one_of_another_shape(lab, press, forge, place, other):
    """It cannot be measured, and cannot stand for it: rounding takes nothing away, either."""
    sizes = {"a": lab.weights("F32", (64, 32)), "b": lab.weights("F32", (32, 32), 1)}
    made = press(lab.committed(sizes))
    sources = [tensor.source for tensor in made.derivation.tensors]
    forge(made, tensors=only_changed(made.derivation, place, source=sources[other]))
    (fault,) = lab.check().faults
    assert "and what it stands for" in fault.problem


def test_a_tensor_that_stands_for_integers(lab, press, forge):
    """Nothing that is known rounds them, so nothing is known of their errors."""
    source = lab.committed(lab.model())
    made = press(source)
    step = next(entry.id for entry in lab.manifest(source).tensors if entry.name == "step")
    strange = replace(made.derivation.tensors[0], source=step, id=step)
    tensors = sorted((*made.derivation.tensors, strange), key=lambda tensor: (tensor.id, tensor.source))
    forge(made, tensors=tuple(tensors))
    assert lab.check().clean


def test_a_damaged_source_is_one_fault(lab, press):
    """What cannot be read is not measured, and said once."""
    made = press(lab.committed({"big": lab.weights("F32", (1200, 1024))}))
    (tensor,) = made.derivation.tensors
    path = lab.session.store.loose.path(tensor.source)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    report = lab.check()
    assert [fault.object for fault in report.faults] == [tensor.source]
    assert report.losses == 0


def test_tensors_of_many_frames_are_measured_piece_by_piece(lab, press):
    """The figures are those of the whole, and progress adds up."""
    made = press(lab.committed({"big": lab.weights("BF16", (2200, 1024))}))
    seen: dict[str, list[int]] = {}

    class Stage:
        def __init__(self, stage, total):
            self.told = seen.setdefault(stage, [total])

        def __enter__(self):
            return self.told.append

        def __exit__(self, *_):
            return None

    assert (fsck(lab.again().session, progress=Stage).faults, made.derivation.tensors[0].largest > 0) == ((), True)
    assert seen["measuring"] == [2200 * 1024 * 2] * 2


def test_what_is_on_top_of_a_loss(lab, press):
    """A later commit counts the rounded tensors that it still has; one without any, and one beside it, have nothing."""
    model = {"a": lab.weights("F32", (64, 32)), "b": lab.weights("BF16", (64, 32), 1)}
    source = lab.committed(model)
    made = press(source)
    switch(lab.again().session, made.id, ACTOR)
    lab.write("notes.txt", "on top")
    both = lab.again().commit("notes").commit
    switch(lab.again().session, both, ACTOR)
    exact = {entry.name: entry.id for entry in lab.manifest(source).tensors}
    lab.write("model.safetensors", {**model, "b": lab.tuned(model, 1)["b"]})
    none = lab.again().commit("trained").commit
    session = lab.again().session
    assert inherited_loss(session, both) == Inherited(made.id, 2)
    assert {entry.name: entry.id for entry in session.manifest(none).tensors}["a"] == exact["a"]
    assert [inherited_loss(session, oid) for oid in (none, made.id, source)] == [None] * 3


def test_what_is_not_finite_is_no_small_error():
    """A value that became NaN is found wherever it lies."""
    values = np.ones(1 << 17, "<f4")
    for place in (3, len(values) - 3):
        others = values.copy()
        others[place] = np.nan
        loss = measured(values.view(np.uint8), others.view(np.uint8), dtype_of("F32"))
        assert np.isnan(loss.largest)
        assert np.isnan((Loss(1.0) + loss).largest)
        assert np.isnan((loss + Loss(1.0)).largest)
