"""Thinning a run: what goes, what stays, what is said of it, and what comes back."""

import os
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvc.errors import ConflictError, InvalidInputError, NotFoundError, ThinnedError
from mvc.objects.operation import RefChange
from mvc.objects.refnames import thinned_ref
from mvc.repo.branches import create_branch, create_tag, delete_branch
from mvc.repo.checkout import check_out_paths, export_commit, switch
from mvc.repo.compress import compress
from mvc.repo.diff import commit_side, diff
from mvc.repo.du import disk_use
from mvc.repo.features import may_be_thinned
from mvc.repo.gc import gc
from mvc.repo.layout import read_features
from mvc.repo.merge import MergeRequest, merge
from mvc.repo.press import CompressRequest
from mvc.repo.refs import thinned_in
from mvc.repo.repack import repack
from mvc.repo.revisions import resolve
from mvc.repo.show import tensor_views
from mvc.repo.thin import Older, ThinRequest, thin
from mvc.repo.thin_plan import Best, Keep
from mvc.repo.undo import undo
from mvc.settings import Gc
from mvc.types import ObjectId

NOW = Gc(grace_hours=0.0, retention_days=0.0)
LONG_AGO = 1_000_000_000
ROUNDED = Older.parse("precision:12")
DROP = Older.parse("drop")


@pytest.fixture
def run(lab):
    """Return a repository with six epochs, and their commits, oldest first."""
    model = lab.model(rows=64)
    made = [lab.committed(model, message="epoch 0")]
    for number in range(1, 6):
        model = lab.tuned(model, number)
        made.append(lab.committed(model, message=f"epoch {number}"))
    return lab, made


def thinned(lab, actor, older=ROUNDED, ref="HEAD", *, dry_run=False, **keep):
    """Thin a run, all but its tip if nothing else is said."""
    lab.again()
    request = ThinRequest(resolve(lab.session, ref).commit, Keep(**keep or {"last": 1}), older)
    if dry_run:
        request = ThinRequest(request.tip, request.keep, request.older, dry_run=True)
    return thin(lab.session, request, actor)


def age(lab):
    """Make everything stored older than any grace period."""
    for place in ("packs", "objects"):
        for path in (lab.root / ".mvc" / place).rglob("*"):
            if path.is_file():
                os.utime(path, (LONG_AGO, LONG_AGO))


def collected(lab, bounds=NOW, **options):
    """Collect all that may go, however young."""
    age(lab)
    return gc(lab.again().session, bounds, **options)


def refs(lab):
    """Return all refs."""
    return dict(lab.again().session.refs.state().refs)


class TestWhatIsLeft:
    """Refs, metadata, stand-ins and contents."""

    def test_stand_ins(self, run, actor, tmp_path):
        """One for each that is not kept, near to what it stands for, each stored against the one before."""
        lab, made = run
        before = [lab.repo.load(oid, framework="numpy") for oid in made]
        result = thinned(lab, actor, last=1, every=3)
        assert result.plan.of("kept") == (made[2], made[5])
        assert thinned_in(refs(lab)) == {oid: result.stand_ins[oid].commit for oid in result.plan.of("thinned")}
        previous = None
        for place, oid in enumerate(made):
            if oid not in result.stand_ins:
                continue
            stand_in = lab.session.commit(result.stand_ins[oid].commit)
            assert stand_in.parents == ((previous,) if previous else ())
            assert stand_in.derivation.source == oid
            previous = stand_in.id
            after = lab.repo.load(oid, framework="numpy", allow_lossy=True)
            assert after["layer.bias"].tobytes() != before[place]["layer.bias"].tobytes()
            assert abs(after["layer.bias"].astype("f8") - before[place]["layer.bias"].astype("f8")).max() <= 2.0**-13
        assert lab.check().clean
        assert read_features(lab.session.layout)["read"] == ("thinned",)

    def test_collected(self, run, actor, tmp_path):
        """Ids, metadata and manifests stay; what is kept comes back byte for byte, repacked or not."""
        lab, made = run
        kept = {oid: lab.exported(oid, tmp_path / oid) for oid in (made[2], made[5])}
        manifests = [lab.manifest(oid) for oid in made]
        thinned(lab, actor, DROP, last=1, every=3)
        sizes = []
        for step in (collected, lambda lab: repack(lab.again().session, NOW), collected):
            step(lab)
            age(lab)
            sizes.append(lab.session.store.stored_bytes().total)
            assert lab.check().clean
            assert [lab.again().manifest(oid) for oid in made] == manifests
            assert [record.id for record in lab.repo.log()] == made[::-1]
            for oid, files in kept.items():
                assert lab.exported(oid, tmp_path / f"{len(sizes)}-{oid}") == files
        assert sizes[1] < 0.7 * sizes[0], "bases went"
        gone = {entry.id for oid in (made[0], made[1], made[3], made[4]) for entry in lab.manifest(oid).tensors}
        gone -= {entry.id for oid in kept for entry in lab.manifest(oid).tensors}
        there = {found.oid for found in lab.session.store.locations()}
        assert gone
        assert gone.isdisjoint(there)
        assert {view.policy for view in tensor_views(lab.session, made[0])} >= {"thinned"}
        assert disk_use(lab.session).thinned == 4

    def test_what_is_shared_stays(self, lab, actor, tmp_path):
        """Contents that a kept epoch names, too."""
        model = lab.model()
        first = lab.committed(model)
        second = lab.committed(model | {"layer.bias": lab.tuned(model, 1)["layer.bias"]})
        files = lab.exported(second, tmp_path / "a")
        assert thinned(lab, actor, DROP).plan.of("thinned") == (first,)
        collected(lab)
        assert lab.exported(second, tmp_path / "b") == files
        assert lab.check().clean

    def test_a_second_time(self, run, actor):
        """What is thinned is passed over, and new stand-ins hang on the old ones of the same settings."""
        lab, made = run
        first = thinned(lab, actor, last=3)
        second = thinned(lab, actor, last=1)
        assert second.plan.of("already") == first.plan.of("thinned")
        before = first.stand_ins[made[2]].commit
        assert lab.session.commit(second.stand_ins[made[3]].commit).parents == (before,)
        assert thinned(lab, actor).stand_ins == {}
        assert lab.check().clean

    def test_steps_from_a_kept_epoch(self, lab, actor):
        """The oldest is kept, since it is what the others are stored against."""
        model = {"up": lab.weights("F32", (96, 80), 7)}
        made = [lab.committed(lab.tuned(model, number, 1e-3)) for number in range(4)]
        result = thinned(lab, actor, Older.parse("delta-gptq:4"), last=1)
        assert result.plan.of("kept") == (made[0], made[3])
        parents = [lab.session.commit(item.commit).parents for item in result.stand_ins.values()]
        assert parents == [(made[0],), (made[0],)]
        assert lab.check().clean

    def test_epochs_of_nothing_but_text(self, lab, actor):
        """Are kept: no method would change them; they can be dropped."""
        notes = []
        for number in range(3):
            lab.write("notes.txt", b"%d" % number * 4000)
            notes.append(lab.commit("note").commit)
        first = lab.committed(lab.model())
        lab.committed(lab.tuned(lab.model(), 1))
        found = thinned(lab, actor).plan
        assert found.of("thinned") == (first,)
        reasons = [item.reasons for item in found.verdicts if item.id in notes]
        assert reasons == [("holds nothing that could be stored with a loss",)] * 3
        assert thinned(lab, actor, DROP).plan.of("thinned") == (*notes,)

    def test_a_deleted_branch_takes_its_stand_ins_along(self, run, actor):
        """They hang on what they stand for, and are no roots."""
        lab, made = run
        create_branch(lab.session, "short", made[1], actor)
        stand_ins = {oid: item.commit for oid, item in thinned(lab, actor).stand_ins.items()}
        assert stand_ins.keys() == {made[0], made[2], made[3], made[4]}
        lab.again().repo.switch("short")
        delete_branch(lab.session, "main", actor, force=True)
        collected(lab)
        stored = {found.oid for found in lab.again().session.store.locations()}
        assert {oid for oid in stand_ins if stand_ins[oid] in stored} == {made[0]}, (
            "all that main alone reached is gone"
        )
        assert lab.check().clean


class TestWhatIsRefused:
    """Reading, naming, and thinning what is held."""

    def test_a_metric_that_no_epoch_has(self, run, actor):
        """Nothing would be kept for it: the best of a name that was mistyped would go, too."""
        lab, _made = run
        held = refs(lab)
        with pytest.raises(InvalidInputError, match="'acuracy'"):
            thinned(lab, actor, DROP, last=1, best=(Best("acuracy"),))
        assert refs(lab) == held

    def test_every_reader(self, run, actor, tmp_path):
        """Says what happened and what to do, before anything is written; a stand-in is told."""
        lab, made = run
        stand_in = thinned(lab, actor).stand_ins[made[1]].commit
        session = lab.again().session
        with session.pool() as pool:
            sides = commit_side(session, "a", made[1]), commit_side(session, "b", made[5])
            assert diff(session, *sides, pool).tensors, "ids can be compared"
            for read in (
                lambda: export_commit(session, made[1], tmp_path / "new"),
                lambda: check_out_paths(session, made[1], ["model.safetensors"]),
                lambda: switch(session, made[1], actor),
                lambda: lab.repo.load(made[1], framework="numpy"),
                lambda: diff(session, *sides, pool, tensors=True),
                lambda: compress(session, CompressRequest(made[1], ROUNDED.transform()), actor),
                lambda: create_branch(session, "old", made[1], actor),
                lambda: create_tag(session, "v0", made[1], actor),
                lambda: create_tag(session, "v1", made[1], actor, message="a tag object"),
            ):
                with pytest.raises(ThinnedError, match=stand_in[:12]) as caught:
                    read()
                assert "--allow-lossy" in (caught.value.hint or "")
        assert not (tmp_path / "new").exists()
        assert not {name for name in refs(lab) if "old" in name or "tags" in name}

    def test_dropped(self, run, actor, tmp_path):
        """Nothing stands in, whatever one allows."""
        lab, made = run
        thinned(lab, actor, DROP)
        for lossy in (False, True):
            with pytest.raises(ThinnedError, match="nothing stands in"):
                lab.again().repo.checkout(made[0], to=tmp_path / "new", allow_lossy=lossy)

    def test_what_refs_name_is_kept(self, run, actor):
        """Branches, tags of both kinds, HEAD and branches of remotes, each told."""
        lab, made = run
        create_branch(lab.session, "b", made[0], actor)
        create_tag(lab.session, "t", made[1], actor)
        create_tag(lab.session, "u", made[2], actor, message="object")
        switch(lab.session, made[3], actor)
        result = thinned(lab, actor, ref="main", last=1)
        reasons = {item.id: item.reasons for item in result.plan.verdicts if item.fate == "kept"}
        assert reasons[made[0]] == ("branch b",)
        assert (reasons[made[1]], reasons[made[2]], reasons[made[3]]) == (("tag t",), ("tag u",), ("HEAD",))
        assert result.plan.of("thinned") == (made[4],)

    def test_what_is_lossy_or_stands_in(self, run, actor):
        """A commit with a loss is not compressed again; what stands in for another stays."""
        lab, made = run
        result = thinned(lab, actor)
        last = result.stand_ins[made[4]].commit
        create_branch(lab.again().session, "lossy", last, actor)
        again = thinned(lab, actor, DROP, ref="lossy", last=1)
        assert again.plan.of("thinned") == ()
        assert "stands in for" in again.plan.verdicts[0].reasons[0]

    def test_a_ref_that_came_meanwhile(self, run, actor, monkeypatch):
        """The operation that thins is compared with the newest refs: nothing is thinned."""
        lab, made = run
        held = refs(lab)
        other = lab.again().session
        update = type(other.refs).update

        def slow(log, decide, who):
            """Let another process make a tag first."""
            monkeypatch.setattr(type(other.refs), "update", update)
            create_tag(other, "first", made[0], actor)
            return update(log, decide, who)

        monkeypatch.setattr(type(other.refs), "update", slow)
        with pytest.raises(ConflictError, match="nothing was thinned"):
            thinned(lab, actor)
        assert refs(lab) == {**held, "refs/tags/first": made[0]}

    def test_a_tag_that_came_while_it_worked(self, run, actor):
        """Nothing is thinned, and the repository is none of those that cannot be a remote."""
        lab, made = run
        other = lab.again().session

        @contextmanager
        def slow(stage, total):
            """Let another process make a tag in the middle of the work, once."""
            if "refs/tags/first" not in refs(lab):
                create_tag(other, "first", made[0], actor)
            yield lambda _: None

        with pytest.raises(ConflictError, match="nothing was thinned"):
            thin(lab.session, ThinRequest(made[-1], Keep(last=1), ROUNDED), actor, slow)
        assert thinned_in(refs(lab)) == {}
        assert not may_be_thinned(lab.session.layout)

    def test_merging(self, run, actor):
        """What is thinned cannot be merged; a merge base may be thinned, since only its names are read."""
        lab, made = run
        create_branch(lab.session, "side", made[2], actor)
        lab.repo.switch("side")
        lab.write("side.txt", b"on the side")
        lab.commit("side")
        lab.repo.switch("main")
        thinned(lab, actor, DROP)
        assert made[2] in lab.again().session.refs.state().thinned
        result = merge(lab.session, "side", MergeRequest(), actor)
        assert result.bases == (made[2],)
        assert lab.check().clean

    def test_merging_what_only_a_remote_names(self, run, actor):
        """A branch of a remote may be at a thinned commit: it is refused all the same, and nothing is recorded."""
        lab, made = run
        create_branch(lab.session, "side", made[1], actor)
        lab.repo.switch("side")
        lab.write("side.txt", b"on the side")
        lab.commit("side")
        thinned(lab, actor, DROP, ref="main", last=1)
        moved = (RefChange("refs/remotes/o/main", None, made[3]),)
        lab.session.refs.update(lambda _: moved, actor)
        assert made[3] in lab.again().session.refs.state().thinned
        collected(lab)
        held = refs(lab)
        with pytest.raises(ThinnedError):
            merge(lab.again().session, "o/main", MergeRequest(), actor)
        assert refs(lab) == held
        assert lab.check().clean


class TestUndo:
    """Taking it back."""

    def test_as_long_as_the_log_holds(self, run, actor, tmp_path):
        """Garbage collection that honours the log leaves the contents; afterwards refs are as before."""
        lab, made = run
        before, files = refs(lab), [lab.exported(oid, tmp_path / f"a{oid}") for oid in made]
        thinned(lab, actor, DROP)
        collected(lab, Gc(grace_hours=0.0))
        undo(lab.again().session, actor)
        assert refs(lab) == before
        collected(lab)
        assert [lab.exported(oid, tmp_path / f"b{oid}") for oid in made] == files
        undo(lab.again().session, actor)
        assert set(thinned_in(refs(lab))) == set(made[:5])

    def test_not_again_what_a_tag_has_come_to_name(self, run, actor, tmp_path):
        """One that was fetched meanwhile is passed over by `undo`, and holds what it names: nothing is thinned."""
        lab, made = run
        thinned(lab, actor, DROP)
        undo(lab.again().session, actor)
        heard = (RefChange("refs/remotes/o/main", None, made[5]), RefChange("refs/tags/v1", None, made[1]))
        lab.again().session.refs.update(lambda _: heard, actor)
        with pytest.raises(ConflictError, match="has come to name it"):
            undo(lab.again().session, actor)
        assert not thinned_in(refs(lab))
        collected(lab)
        assert lab.again().exported("v1", tmp_path / "a")
        assert lab.check().clean

    def test_when_contents_are_gone(self, run, actor):
        """Is refused, and nothing moves."""
        lab, _made = run
        thinned(lab, actor, DROP)
        repack(lab.again().session, NOW)
        age(lab)
        repack(lab.again().session, NOW)
        collected(lab)
        held = refs(lab)
        with pytest.raises(NotFoundError, match="not whole any more"):
            undo(lab.again().session, actor)
        assert refs(lab) == held
        assert lab.check().clean


class TestForesight:
    """What a dry run says is what comes."""

    @pytest.mark.parametrize("older", [ROUNDED, DROP])
    @pytest.mark.parametrize("keep", [{"last": 1}, {"last": 1, "every": 3}])
    def test_agrees_with_what_happens(self, run, actor, older, keep):
        """To the byte: stand-ins, what garbage collection frees, and what stays as bases. Nothing is left of it."""
        lab, _made = run
        held, size = refs(lab), lab.session.store.stored_bytes()
        told = thinned(lab, actor, older, dry_run=True, **keep)
        assert (refs(lab), lab.session.store.stored_bytes()) == (held, size)
        assert not list((lab.root / ".mvc" / "tmp").iterdir())
        idle = collected(lab, dry_run=True)
        done = thinned(lab, actor, older, **keep)
        assert (told.plan, told.stored_bytes, told.foresight) == (done.plan, done.stored_bytes, done.foresight)
        assert {oid: item.tensor_bytes for oid, item in told.stand_ins.items()} == {
            oid: item.tensor_bytes for oid, item in done.stand_ins.items()
        }
        found = collected(lab, dry_run=True)
        assert found.freed.stored_bytes - idle.freed.stored_bytes == told.foresight.freed
        kept = found.kept.get("bases of deltas")
        assert (kept.stored_bytes if kept else 0) == told.foresight.bases
        assert told.foresight.freed + told.foresight.bases > 0


class TestFsck:
    """What is wrong with thinned commits, and what is not."""

    def test_a_branch_at_a_thinned_commit(self, run, actor):
        """Is told; repairs leave the ref alone."""
        lab, made = run
        thinned(lab, actor, DROP)
        lab.again().session.refs.update(lambda _: (RefChange("refs/heads/bad", None, made[0]),), actor)
        (fault,) = lab.check().faults
        assert (fault.object, fault.affected) == (made[0], ("refs/heads/bad",))

    def test_a_damaged_stand_in(self, run, actor):
        """Is damage: it must be whole."""
        lab, made = run
        result = thinned(lab, actor)
        repack(lab.again().session, NOW)
        session = lab.again().session
        wanted = {entry.id for entry in session.manifest(result.stand_ins[made[0]].commit).tensors}
        packs = {found.location.pack for found in session.store.locations() if found.oid in wanted}
        for pack in packs - {None}:
            path = session.store.path(pack, pack)
            path.write_bytes(path.read_bytes()[:-40] + bytes(40))
        assert not lab.check().clean


@given(st.text(max_size=30))
def test_methods_that_are_none(text):
    """Nothing else is taken for one, and nothing fails in another way."""
    try:
        found = Older.parse(text)
    except InvalidInputError:
        return
    assert found.is_drop == (text == "drop")
    assert text.startswith(("precision:", "delta-gptq:", "drop"))


def test_names_of_refs():
    """One for each commit, of digits in lower case."""
    oid = ObjectId("ab" * 32)
    assert thinned_in({thinned_ref(oid): oid, "refs/heads/main": oid}) == {oid: None}
    assert thinned_in({thinned_ref(oid): "cd" * 32}) == {oid: "cd" * 32}
