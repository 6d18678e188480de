"""Tensors that differ from those of a parent by products: they outlive the parent, wherever they go."""

import os

import numpy as np
import pytest

from mvc.codecs import LowRank
from mvc.repo.fsck import fsck
from mvc.repo.gc import gc
from mvc.repo.repack import repack
from mvc.repo.revisions import resolve
from mvc.repo.rewrite import Replacement, RewriteRequest, rewrite
from mvc.repo.show import tensor_views
from mvc.repo.thin import Older, ThinRequest, thin
from mvc.repo.thin_plan import Keep
from mvc.settings import Gc
from mvc.types import dtype_of, object_id
from mvc.types.factors import factored

NOW = Gc(grace_hours=0.0, retention_days=0.0)
NAME = "layer.weight"
ROWS = 512


def moved(lab, actor, source, to):
    """Add a product to a matrix of a commit, three times on top of each other; return the new commits."""
    made = []
    for number in range(3):
        lab.exported(source, to / str(number))
        rng = np.random.default_rng(number)
        product = factored(rng.normal(0, 0.1, (ROWS, 2)).astype("f4"), rng.normal(0, 0.1, (2, 48)).astype("f4"))
        base = np.frombuffer(raw_of(lab, source), "<u2").reshape(ROWS, 48)
        words = np.ascontiguousarray(product.applied(dtype_of("BF16"), base)).reshape(-1).view(np.uint8)
        request = RewriteRequest(
            source, "recover", {}, object_id("0" * 64), {NAME: Replacement(words, (LowRank.of(product),))},
            branch="healed" if number == 2 else None,
        )  # fmt: skip
        source = rewrite(lab.again().session, request, to / str(number), actor).commit
        made.append((source, words.tobytes()))
    return made


def raw_of(lab, commit):
    """Return the matrix of a commit."""
    return lab.again().repo.load(commit, framework="numpy")[NAME].tobytes()


@pytest.fixture
def healed(lab, actor, tmp_path):
    """Return a repository and its commits with products, oldest first, and their matrices."""
    model = lab.model(rows=ROWS)
    source = lab.committed(model)
    made = moved(lab, actor, source, tmp_path)
    for number, (commit, words) in enumerate(made, 1):
        (view,) = (view for view in tensor_views(lab.again().session, commit) if view.entry.name == NAME)
        assert view.record is not None
        assert (view.record.codec, view.record.depth) == ("low-rank", number)
        assert raw_of(lab, commit) == words
    return lab, made


def test_parents_that_are_thinned(healed, actor, tmp_path):
    """What is the base of a product may go; the bits of what is kept stay."""
    lab, made = healed
    (tip, _), before = made[-1], lab.exported("healed", tmp_path / "before")
    request = ThinRequest(resolve(lab.again().session, tip).commit, Keep(last=1), Older.parse("drop"))
    assert len(thin(lab.session, request, actor).plan.of("thinned")) > 0
    for path in (lab.root / ".mvc").rglob("*"):
        os.utime(path, (0, 0))
    for step in (gc, repack, gc):
        step(lab.again().session, NOW)
        assert lab.check().clean
        assert lab.again().exported(tip, tmp_path / f"{step.__name__}-{len([*tmp_path.iterdir()])}") == before


def test_shallow_clones(machines, healed):
    """A clone without the parents has the same bits."""
    lab, made = healed
    machines.add(lab.again())
    machines.push(lab, "healed")
    bob = machines.clone("bob", depth=1)
    assert bob.repo.load("origin/healed", framework="numpy")[NAME].tobytes() == made[-1][1]
    assert fsck(bob.session).faults == ()
