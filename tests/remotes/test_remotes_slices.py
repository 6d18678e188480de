"""Slices that are sent: what they are of comes with them, however much larger it is."""

import json

import pytest

from mvc.codecs import Selection
from mvc.repo.fsck import fsck
from mvc.repo.materialize import ContentReader
from mvc.repo.slices import sliced
from mvc.repo.smaller import SmallerRequest, commit_smaller
from mvc.store.layout import EntryKind
from tests.smaller_models import model, smaller


def test_a_shallow_clone_of_a_slice(machines, lab):
    """Nothing that is cloned names the whole, of which little is left: it is received since the slice states it."""
    machines.add(lab)
    raw = lab.weights("F32", (4096, 128))
    whole = lab.committed({"w": raw})
    (entry,) = lab.manifest(whole).tensors
    with lab.session.pool() as pool, lab.session.store.begin() as batch:
        made = sliced(ContentReader(lab.session, pool), entry.id, Selection.of((4096, 128), [[7, 9], None]))
        batch.put(EntryKind.TENSOR, made.envelope.id, made.envelope.header + made.frames)
        batch.commit()
    lab.session.refresh(force=True)
    left = raw.data[7 * 512 : 8 * 512] + raw.data[9 * 512 : 10 * 512]
    lab.committed({"w": raw._replace(shape=(2, 128), data=left)})
    machines.push(lab)
    bob = machines.clone("bob", depth=1)
    assert bob.repo.load("HEAD", framework="numpy")["w"].tobytes() == left
    assert fsck(bob.session).faults == ()


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_smaller_model(machines, lab, actor, family):
    """A derived commit is pushed and cloned alone: what its slices are of comes along, and its source does not."""
    machines.add(lab)
    tensors, whole = model(lab, family)
    lab.write("config.json", json.dumps({"model_type": family}))
    source = lab.committed(tensors)
    commit_smaller(lab.session, SmallerRequest(source, smaller(tensors, whole), {}, branch="small"), actor)
    machines.push(lab, "small")
    bob = machines.clone("bob")
    known = lab.again().repo.load("small", framework="numpy")
    assert {name: array.tobytes() for name, array in bob.repo.load("origin/small", framework="numpy").items()} == {
        name: array.tobytes() for name, array in known.items()
    }
    assert not bob.session.records([source])
    assert fsck(bob.session).faults == ()
