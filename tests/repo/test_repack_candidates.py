"""What could be stored how, and what it would take: judged by samples, mended by what is known."""

from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvc.errors import IntegrityError
from mvc.repo.arborescence import readings
from mvc.repo.encode import Encoder
from mvc.repo.materialize import ContentReader
from mvc.repo.repack import repack
from mvc.repo.repack_candidates import weighed
from mvc.repo.repack_plan import plan_repack
from mvc.repo.survey import survey, way_of
from mvc.settings import Delta, Gc

ROWS, COLUMNS = 600, 1024
"""Four samples of 32 rows see a fifth of it."""

NUMBERS = count()
"""Tell the directories of examples apart."""


def elsewhere_tuned(lab, raw, seed):
    """Return a tensor after an epoch that changed much where no sample is taken, and little where one is."""
    rng = np.random.default_rng(seed)
    words = np.frombuffer(raw.data, "<u2").reshape(ROWS, COLUMNS).copy()
    noise = rng.integers(0, 2, words.shape, np.uint16)
    sampled = np.zeros(ROWS, bool)
    for start in ((ROWS - 32) * place // 3 for place in range(4)):
        sampled[start : start + 32] = True
    noise[~sampled] = rng.integers(0, 64, (np.count_nonzero(~sampled), COLUMNS), np.uint16)
    return raw._replace(data=(words ^ noise).tobytes())


def live_of(lab):
    """Return everything that any commit of the current branch holds, and what that needs."""
    session = lab.again().session
    contents = {oid for record in lab.again().repo.log() for _, oid in lab.manifest(record.id).segments()}
    return survey(session.store).chain(contents)


def weigh(lab, live):
    """Return what `weighed` says of it."""
    session = lab.again().session
    with session.pool() as pool:
        reader = ContentReader(session, pool, keep_bytes=1 << 24)
        encoder = Encoder(reader, pool, 2, "default", session.settings.delta)
        return weighed(live, (), reader, encoder, pool, 2, lambda _: None)


def test_what_is_stored_is_weighed_as_what_it_takes(lab):
    """At any depth, however wrong samples are; and everything is weighed, once."""
    model = {"w": lab.weights("BF16", (ROWS, COLUMNS))}
    for epoch in range(4):
        lab.committed(model, message=f"epoch {epoch}")
        model = {"w": elsewhere_tuned(lab, model["w"], epoch)}
    live = live_of(lab)
    versions = weigh(lab, live)
    assert sorted(version.id for version in versions) == sorted(live)
    deltas = [version for version in versions if version.current.sides and version.raw_bytes == 2 * ROWS * COLUMNS]
    assert sorted(live[version.id].depth for version in deltas) == [1, 2, 3]
    for version in deltas:
        weighed_now = [way.stored_bytes for way in version.ways if way.sides == version.current.sides]
        assert weighed_now == [pytest.approx(version.current.stored_bytes, rel=1e-6)]


def test_a_plan_that_finds_nothing_changes_nothing(lab):
    """A chain whose samples are wrong is not taken apart for what it would not gain."""
    model = {"w": lab.weights("BF16", (ROWS, COLUMNS))}
    for epoch in range(3):
        lab.committed(model, message=f"epoch {epoch}")
        model = {"w": elsewhere_tuned(lab, model["w"], epoch)}
    live = live_of(lab)
    plan = plan_repack(weigh(lab, live), Delta())
    assert plan.after.stored_bytes == pytest.approx(plan.before.stored_bytes, rel=0.01)


def damage(lab):
    """Change a byte in the middle of every blob and every pack."""
    for path in [*(lab.root / ".mvc" / "objects").rglob("*.blob"), *(lab.root / ".mvc" / "packs").glob("*.pack")]:
        path.chmod(0o644)
        with path.open("r+b") as file:
            data = bytearray(file.read())
            for place in range(len(data) // 3, len(data) - 48):
                data[place] ^= 0xFF
            file.seek(0)
            file.write(data)


@pytest.mark.parametrize("keep_bytes", [0, 1 << 24])
def test_ranges_come_from_kept_frames(lab, keep_bytes):
    """What was decoded once is not read again, if it may be kept; and is what it was."""
    base = {"w": lab.weights("BF16", (128, 1024))}
    lab.committed(base)
    tuned = lab.tuned(base, 1)
    (entry,) = lab.manifest(lab.committed(tuned)).tensors
    session = lab.again().session
    with session.pool() as pool:
        reader = ContentReader(session, pool, keep_bytes=keep_bytes)
        whole = reader.words(entry.id, 0, 128 * 1024)
        assert whole.tobytes() == tuned["w"].data
        damage(lab)
        if keep_bytes:
            assert reader.words(entry.id, 100, 5000).tobytes() == tuned["w"].data[200:10_200]
        else:
            with pytest.raises(IntegrityError):
                reader.words(entry.id, 100, 5000)


histories = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["tuned", "new", "swapped"]), st.integers(0, 2**16)),
    min_size=1,
    max_size=4,
)
"""By commit: the one that it goes on from, what is done to its model, and a seed."""


@settings(max_examples=5)
@given(histories, st.integers(1, 4), st.floats(1.05, 3.0))
def test_any_history_is_no_larger_afterwards_and_keeps_its_bounds(make_lab, history, depth, factor):
    """And every file of every commit is what it was."""
    lab = make_lab(f"history-{next(NUMBERS)}")
    (lab.root / ".mvc" / "config.toml").write_text(f"[delta]\ndepth = {depth}\nread_factor = {factor}\n")
    lab = lab.again()
    models = [lab.model(rows=128)]
    commits = [lab.committed(models[0])]
    for start, what, seed in history:
        model = models[start % len(models)]
        if what == "tuned":
            model = lab.tuned(model, seed)
        elif what == "new":
            model = lab.model(seed, rows=128)
        else:
            model = {f"other.{name}": raw for name, raw in lab.tuned(model, seed).items()}
        models.append(model)
        lab.write("model.safetensors", model)
        commits.append(lab.again().commit("next", allow_empty=True).commit)
    before = [lab.again().exported(oid, lab.root.parent / f"{lab.root.name}-{oid}") for oid in commits]
    old = readings({oid: way_of(record) for oid, record in live_of(lab).items()})
    result = repack(lab.again().session, Gc())
    assert result.stored_after <= result.stored_before
    live = live_of(lab)
    found = readings({oid: way_of(record) for oid, record in live.items()})
    for oid, record in live.items():
        assert found[oid].depth <= max(depth, old[oid].depth)
        assert not record.references or found[oid].read_bytes <= max(factor * record.raw_bytes, old[oid].read_bytes)
    after = [lab.again().exported(oid, lab.root.parent / f"{lab.root.name}-{oid}-after") for oid in commits]
    assert after == before
    assert lab.check().clean
