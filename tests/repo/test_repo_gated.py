"""Compressed commits that must measure up to their source."""

from __future__ import annotations

import os
import sys

import pytest

from mvc.errors import AlreadyExistsError, InvalidInputError
from mvc.lossy import Precision
from mvc.repo.evaluate import Evaluator
from mvc.repo.gated import GateRequest, compress_gated
from mvc.repo.gates import Gate
from mvc.repo.gptq_budgets import Rate
from mvc.repo.gptq_transform import EntropyCoded, GptqTransform, Uniform
from mvc.repo.notes import Notes, record_metrics
from mvc.repo.press import CompressRequest
from mvc.repo.transforms import PrecisionTransform
from tests.conftest import ACTOR

DISTINCT = (
    "import numpy, safetensors.numpy; found = safetensors.numpy.load_file('model.safetensors')['w'];"
    "print('kinds=%d' % len(numpy.unique(found)))"
)
"""A metric that falls as values are rounded: how many different ones there are."""


@pytest.fixture
def source(lab):
    """Return a commit of 2,000 weights, nearly all different."""
    return lab.committed({"w": lab.weights("F32", (2000,), 1)})


@pytest.fixture
def counts(tmp_path):
    """Return what measures, and counts how often it did, as a function and a file."""
    log = tmp_path / "runs"
    script = tmp_path / "eval.py"
    script.write_text(f"import os; open({str(log)!r}, 'a').write(os.environ['MVC_COMMIT'] + '\\n')\n{DISTINCT}\n")
    return Evaluator(f"{sys.executable} {script}", dict(os.environ)), log


def runs(log):
    """Return the commits that were measured, in order."""
    return log.read_text().split() if log.exists() else []


def passed(lab, source, gate, evaluator, bits=9, tries=1, **options):
    """Compress behind a gate."""
    request = CompressRequest(source, PrecisionTransform(Precision(bits)), **options)
    return compress_gated(lab.again().session, request, GateRequest(Gate.parse(gate), evaluator, tries), ACTOR)


def noted(lab, commit):
    """Return what is noted of a commit."""
    session = lab.again().session
    return Notes(session, session.refs.state()).of(commit)


def refs(lab):
    """Return all refs."""
    return dict(lab.again().session.refs.state().refs)


def test_what_passes(lab, source, counts):
    """The branch is made, the gate is recorded in the commit, and both commits have their metrics."""
    evaluator, log = counts
    result = passed(lab, source, "kinds>=.01 * source and kinds < source", evaluator, branch="small")
    made = result.compressed.commit
    assert refs(lab)["refs/heads/small"] == made.id
    assert result.compressed.derivation.parameters == {
        "precision": "precision:9",
        "gate": "kinds >= 0.01*source and kinds < source",
    }
    assert runs(log) == [source, made.id]
    before, after = noted(lab, source)["kinds"], noted(lab, made.id)["kinds"]
    assert 1900 < before <= 2000
    assert 0.01 * before <= after < 200
    assert [(found.source, found.value, found.passed) for found in result.findings] == [(before, after, True)] * 2
    assert result.tries == 1
    assert lab.check().faults == ()


def test_what_is_noted_is_not_measured(lab, source, counts):
    """Unless it lacks a metric of the gate."""
    evaluator, log = counts
    record_metrics(lab.session, {source: {"kinds": 10}}, ACTOR)
    result = passed(lab, source, "kinds > source", evaluator)
    assert runs(log) == [result.compressed.commit.id]
    assert result.findings[0].source == 10
    with pytest.raises(InvalidInputError, match="there is no metric 'other'; there are: kinds"):
        passed(lab, source, "kinds > 1 and other > 1", evaluator)
    assert runs(log)[1:] == [source], "a source that cannot pass is noticed before anything is compressed"


def test_what_does_not_pass(lab, source, counts):
    """Both values are told, and what was tried; no ref moves."""
    evaluator, _ = counts
    before = refs(lab)
    with pytest.raises(InvalidInputError) as caught:
        passed(lab, source, "kinds >= 0.9*source", evaluator, branch="small")
    message = caught.value.message
    assert message.startswith("gate kinds >= 0.9*source is not passed with precision:9: kinds is ")
    assert "; the source has " in message
    assert message.endswith("; no branch was made")
    assert refs(lab) == before
    assert noted(lab, source) == {}


def test_finer_settings(lab, source, counts):
    """One after the other, until one passes; then it is noted, and no other."""
    evaluator, log = counts
    gate = "kinds >= 0.1*source"
    with pytest.raises(InvalidInputError, match=r"precision:5: .*; with precision:7: .*; no branch was made"):
        passed(lab, source, gate, evaluator, bits=5, tries=2)
    log.unlink()
    result = passed(lab, source, gate, evaluator, bits=5, tries=9, branch="small")
    derivation = result.compressed.derivation
    assert 1 < result.tries < 9
    assert derivation.parameters["precision"] == f"precision:{3 + 2 * result.tries}"
    assert refs(lab)["refs/heads/small"] == result.compressed.commit.id
    measured = runs(log)
    assert (len(measured), measured[0], measured[-1]) == (result.tries + 1, source, result.compressed.commit.id)
    assert [bool(noted(lab, oid)) for oid in measured] == [True, *[False] * (result.tries - 1), True]


def test_no_finer_setting(lab, source, counts):
    """The error says so."""
    evaluator, log = counts
    model = lab.weights("F32", (1,))._replace(data=bytes([0, 0, 0, 1]))  # 2**-125
    tiny = lab.committed({"w": model})
    with pytest.raises(InvalidInputError, match=r"precision:124: .*precision:126.*is not|leaves every tensor"):
        passed(lab, tiny, "kinds > source", evaluator, bits=124, tries=9)
    assert runs(log)[0] == tiny


def test_a_branch_that_exists(lab, source, counts):
    """It is refused before anything runs."""
    evaluator, log = counts
    with pytest.raises(AlreadyExistsError):
        passed(lab, source, "kinds > 1", evaluator, branch="main")
    assert runs(log) == []


def test_a_command_that_fails(lab, source):
    """Nothing moves."""
    before = refs(lab)
    with pytest.raises(InvalidInputError, match="exit code 7"):
        passed(lab, source, "kinds > 1", Evaluator("exit 7", dict(os.environ)), branch="small")
    assert refs(lab) == before


@pytest.mark.parametrize(
    ("transform", "finer"),
    [
        (PrecisionTransform(Precision(9, relative=True)), PrecisionTransform(Precision(11, relative=True))),
        (PrecisionTransform(Precision(mantissa=51)), PrecisionTransform(Precision(mantissa=52))),
        (PrecisionTransform(Precision(127)), None),
        (GptqTransform(Uniform(3, 0.5), None), GptqTransform(Uniform(4, 0.5), None)),
        (GptqTransform(Uniform(16), None), None),
        (GptqTransform(EntropyCoded(2.0), None), GptqTransform(EntropyCoded(2.0 / 2**0.5), None)),
        (GptqTransform(Rate(0.5), None), GptqTransform(Rate(0.625), None)),
    ],
)
def test_settings(transform, finer):
    """Each method knows its next finer setting, and counts anew with it."""
    assert transform.finer == finer
    if isinstance(transform, GptqTransform) and transform.finer:
        transform._counts["elements"] = 1
        assert transform.finer.parameters["realised_sparsity"] == 0.0
