"""Committing: what is recorded, how it is stored, and what is refused."""

import os

import numpy as np
import pytest
from sqlalchemy import Engine, event
from sqlalchemy.pool import Pool

from mvc.errors import (
    ConflictError,
    DamagedFileError,
    FormatError,
    InvalidInputError,
    NotFoundError,
    StorageError,
)
from mvc.formats import state_dict_file
from mvc.index import BlobRecord
from mvc.repo.commit import CommitRequest, commit
from mvc.repo.progress import silent
from mvc.repo.show import show, tensor_views
from mvc.repo.sources import StateDictSource
from mvc.repo.tree import Selection, from_worktree


def selected(lab):
    """Return the work tree as it is now."""
    return from_worktree(lab.session.layout.root)


def encodings(lab, commit_id) -> dict[str, BlobRecord]:
    """Return tensor name to how it is stored."""
    return {view.entry.name: view.record for view in tensor_views(lab.session, commit_id) if view.record}


def policies(lab, commit_id):
    """Return tensor name to policy."""
    return {view.entry.name: view.policy for view in tensor_views(lab.session, commit_id)}


class TestWhatIsRecorded:
    """The tree, the message, the sizes."""

    def test_everything_of_the_work_tree(self, lab):
        """Any file in any directory, with its content and its permission to execute."""
        lab.write("model.safetensors", lab.model())
        lab.write("code/train.py", "print('hello')\n").chmod(0o755)
        lab.write("模型/empty", b"")
        result = lab.commit("first")
        manifest = lab.manifest(result.commit)
        assert {file.path: (file.mode, file.size, file.format) for file in manifest.files} == {
            "code/train.py": (0o755, 15, "opaque"),
            "model.safetensors": (0o644, len(lab.read("model.safetensors")), "safetensors"),
            "模型/empty": (0o644, 0, "opaque"),
        }
        assert [entry.name for entry in manifest.tensors] == sorted(lab.model())
        assert (result.branch, result.tensors, result.new_tensors) == ("refs/heads/main", 4, 4)
        assert result.logical_bytes == manifest.size
        assert 0 < result.stored_bytes < 2 * manifest.size

    def test_message_author_and_metadata(self, lab):
        """The message without blanks around it; numbers as they were."""
        lab.write("a", "x")
        facts = {"loss": 0.5, "epoch": 3, "best": True, "note": None, "run": "a7"}
        record = lab.session.record(lab.commit("  epoch 3\n\nfine \n", metadata=facts).commit)
        assert (record.message, record.author) == ("epoch 3\n\nfine", "Ada <ada@example.org>")
        assert record.metadata == facts

    def test_history_grows_from_the_first_parent(self, lab):
        """Each commit has the one before as its parent."""
        commits = [lab.committed(lab.model(seed)) for seed in range(3)]
        assert [lab.session.record(oid).parents for oid in commits] == [(), (commits[0],), (commits[1],)]
        assert lab.repo.status().refs.head == commits[2]

    def test_removed_files_leave_the_tree(self, lab):
        """What is not in the work tree is not in the commit; the parent keeps it."""
        lab.write("a", "x")
        lab.write("b", "y")
        first = lab.commit().commit
        (lab.root / "a").unlink()
        second = lab.commit().commit
        assert [file.path for file in lab.manifest(second).files] == ["b"]
        found = show(lab.session, second)
        assert (found.added, found.modified, found.removed) == ((), (), ("a",))
        assert show(lab.session, first).added == ("a", "b")

    def test_a_changed_permission_is_a_change(self, lab):
        """As in git, only that of the owner to execute."""
        path = lab.write("a", "x")
        lab.commit()
        path.chmod(0o700)
        second = lab.commit().commit
        assert lab.manifest(second).files[0].mode == 0o755
        assert show(lab.session, second).modified == ("a",)
        path.chmod(0o755)
        with pytest.raises(InvalidInputError, match="nothing to commit"):
            lab.commit()

    def test_ignored_files_are_left_out(self, lab):
        """Defaults, and what .mvcignore says; it is a file like others."""
        for name in ("a", "b.log", "c.tmp", "logs/d", ".git/config", "run/events.out.tfevents.1"):
            lab.write(name, "x")
        lab.write(".mvcignore", "*.log\n/logs\n!c.tmp\n")
        assert [file.path for file in lab.manifest(lab.commit().commit).files] == [".mvcignore", "a", "c.tmp"]

    def test_a_detached_head_moves_itself(self, lab):
        """No branch moves."""
        first = lab.committed(lab.model())
        lab.repo.checkout(first)
        result = lab.commit("detached", allow_empty=True)
        state = lab.repo.status().refs
        assert (result.branch, state.branch, state.head) == (None, None, result.commit)
        assert state.refs["refs/heads/main"] == first


class TestRefusals:
    """Nothing is recorded, and the message says what to do."""

    def refused(self, lab, error, match, **options):
        """Assert that a commit is refused and leaves no trace."""
        before = lab.session.refs.newest()
        with pytest.raises(error, match=match) as caught:
            lab.commit(**options)
        assert lab.session.refs.newest() == before
        assert not list((lab.root / ".mvc" / "tmp").iterdir())
        assert lab.check().clean
        return caught.value

    @pytest.mark.parametrize("message", ["", " \n\t"])
    def test_an_empty_message(self, lab, message):
        """A commit says why."""
        lab.write("a", "x")
        assert self.refused(lab, InvalidInputError, "message is empty", message=message).message

    def test_no_files(self, lab):
        """An empty tree is no first commit, unless that is wanted."""
        assert "no files" in self.refused(lab, InvalidInputError, "nothing to commit").message
        assert lab.manifest(lab.commit(allow_empty=True).commit).files == ()

    def test_no_change(self, lab):
        """Even if the file was written again; `allow_empty` records it all the same, with the parent's manifest."""
        model = lab.model()
        first = lab.committed(model)
        lab.write("model.safetensors", model)
        assert self.refused(lab, InvalidInputError, "tree is that of HEAD").message
        second = lab.commit(allow_empty=True)
        assert lab.session.record(second.commit).manifest == lab.session.record(first).manifest
        assert second.new_tensors == 0

    def test_a_symbolic_link(self, lab):
        """The link is named, and how to go on."""
        lab.write("a", "x")
        (lab.root / "best").symlink_to("a")
        error = self.refused(lab, InvalidInputError, "'best' is a symbolic link")
        assert ".mvcignore" in (error.hint or "")
        lab.write(".mvcignore", "best\n")
        lab.commit()

    def test_a_link_to_a_directory(self, lab, tmp_path):
        """Nothing outside is followed."""
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "secret").write_text("x")
        (lab.root / "link").symlink_to(tmp_path / "outside")
        assert self.refused(lab, InvalidInputError, "symbolic link").message

    def test_a_pipe(self, lab):
        """A special file is not opened, which could wait for ever."""
        lab.write("a", "x")
        os.mkfifo(lab.root / "pipe")
        assert self.refused(lab, InvalidInputError, "'pipe' is not a regular file").message

    def test_a_name_that_is_not_unicode(self, lab):
        """It could not be written on other systems."""
        (lab.root / os.fsdecode(b"a\xff")).write_bytes(b"x")
        assert self.refused(lab, InvalidInputError, "not valid Unicode").message

    def test_names_that_clash_elsewhere(self, lab):
        """Two files that are one on a Mac."""
        lab.write("Model", "x")
        lab.write("model", "y")
        assert self.refused(lab, InvalidInputError, "same file on some").message

    def test_a_pattern_that_is_none(self, lab):
        """A wrong line of .mvcignore is reported, not ignored."""
        lab.write(".mvcignore", "!\n")
        assert self.refused(lab, InvalidInputError, "no pattern").message

    def test_an_ignore_file_that_is_not_text(self, lab):
        """Nor is one that cannot be read."""
        lab.write(".mvcignore", b"\xff\xfe")
        assert self.refused(lab, InvalidInputError, "cannot be read").message

    def test_metadata_that_cannot_be_recorded(self, lab):
        """Found before anything is recorded."""
        lab.write("a", "x")
        assert self.refused(lab, InvalidInputError, "64 bits", metadata={"huge": 1 << 64}).message

    def test_an_unknown_write_feature(self, lab):
        """A newer release has locked the repository against older writers; reading goes on."""
        oid = lab.committed(lab.model())
        path = lab.session.layout.format
        path.write_text(path.read_text().replace("write = []", 'write = ["zones"]'))
        lab.write("a", "x")
        self.refused(lab, FormatError, "'zones'")
        assert lab.repo.load(oid, framework="numpy").keys() == lab.model().keys()


class TestDamagedFiles:
    """Half-written checkpoints are noticed; who knows better may insist."""

    def test_a_truncated_safetensors_file(self, lab):
        """With the hint to wait; `allow_damaged` records the bytes as they are."""
        whole = lab.write("m.safetensors", lab.model()).read_bytes()
        lab.write("m.safetensors", whole[:-1])
        with pytest.raises(DamagedFileError, match="cut off") as caught:
            lab.commit()
        assert "finished writing" in (caught.value.hint or "")
        result = lab.commit(allow_damaged=True)
        assert lab.manifest(result.commit).files[0].format == "opaque"
        assert lab.exported("HEAD", lab.root.parent / "out") == {"m.safetensors": whole[:-1]}
        assert lab.status() == ((), (), ())

    def shards(self, lab, *names, index=("a", "b")):
        """Write shards, and an index that promises some."""
        for name in names:
            lab.write(f"ckpt/{name}.safetensors", {name: lab.weights("F32", (4,))})
        text = ", ".join(f'"{name}": "{name}.safetensors"' for name in index)
        lab.write("ckpt/model.safetensors.index.json", f'{{"weight_map": {{{text}}}}}')

    def test_a_missing_shard(self, lab):
        """The index promises a file that is not there yet."""
        self.shards(lab, "a")
        with pytest.raises(DamagedFileError, match=r"promises the shard b\.safetensors"):
            lab.commit()
        self.shards(lab, "a", "b")
        assert lab.commit().tensors == 2

    def test_a_shard_that_goes_while_its_index_stays(self, lab):
        """A trainer that rewrites its shards first leaves the old index, unchanged, beside a gap."""
        self.shards(lab, "a", "b")
        lab.settle()
        lab.commit()
        lab.status()
        (lab.root / "ckpt" / "b.safetensors").unlink()
        with pytest.raises(DamagedFileError, match="promises the shard"):
            lab.commit()
        assert lab.commit(allow_damaged=True).tensors == 1

    def test_shards_committed_from_elsewhere(self, lab, tmp_path):
        """The index lies below the prefix, and so must the shards."""
        other = type(lab)(tmp_path / "elsewhere")
        self.shards(other, "a")
        with pytest.raises(DamagedFileError, match="promises"):
            lab.commit(directory=other.root / "ckpt", prefix="run/ckpt")
        self.shards(other, "a", "b")
        assert lab.commit(directory=other.root / "ckpt", prefix="run/ckpt").tensors == 2

    def test_an_index_that_is_no_index(self, lab):
        """It promises nothing."""
        lab.write("x.safetensors.index.json", "{")
        assert lab.manifest(lab.commit().commit).files[0].path == "x.safetensors.index.json"


class TestPolicies:
    """Which encoding a tensor gets, as `show` tells."""

    def test_consecutive_epochs_are_deltas(self, lab):
        """Full at first, then against the previous one; what did not change is not stored again."""
        model = lab.model()
        first = lab.committed(model)
        assert set(policies(lab, first).values()) == {"full"}
        second_model = lab.tuned(model, 1) | {"layer.bias": model["layer.bias"]}
        second = lab.committed(second_model)
        assert policies(lab, second) == {
            "embed.weight": "previous",
            "layer.weight": "previous",
            "layer.bias": "dedupe",
            "step": "full",
        }
        record = encodings(lab, second)["embed.weight"]
        assert (record.references[0].id, record.depth) == (lab.manifest(first).tensors[0].id, 1)

    def test_a_delta_against_the_base_where_the_previous_is_far(self, lab):
        """A second fine-tune of the base, committed on top of a first one that went far."""
        base = {"w": lab.weights("F32", (128, 64))}
        lab.committed(base)
        lab.committed(lab.tuned(base, 1, size=3e-4))
        third = lab.committed(lab.tuned(base, 2, size=1e-6))
        assert policies(lab, third) == {"w": "base"}

    def test_another_model_is_stored_full(self, lab):
        """A delta that saves nothing is not worth its dependency."""
        lab.committed(lab.model(1))
        assert policies(lab, lab.committed(lab.model(100))).pop("embed.weight") == "full"

    def test_another_shape_or_type_is_no_base(self, lab):
        """A delta needs the same dtype and shape."""
        lab.committed({"a": lab.weights("F32", (64, 32)), "b": lab.weights("F16", (64, 32))})
        second = lab.committed({"a": lab.weights("F32", (32, 64)), "b": lab.weights("BF16", (64, 32))})
        assert set(policies(lab, second).values()) == {"full"}

    def test_names_meet_across_files(self, lab):
        """checkpoint-1000/model.safetensors is a delta on checkpoint-500/model.safetensors."""
        model = lab.model()
        lab.committed(model, "checkpoint-500/model.safetensors")
        second = lab.committed(lab.tuned(model, 1), "checkpoint-1000/model.safetensors")
        by_path = {(view.path, view.entry.name): view.policy for view in tensor_views(lab.session, second)}
        assert by_path["checkpoint-1000/model.safetensors", "embed.weight"] == "previous"
        assert by_path["checkpoint-500/model.safetensors", "embed.weight"] == "dedupe"

    def test_chains_end_at_the_bound(self, lab):
        """No chain is deeper than the setting; every epoch still comes back."""
        lab.session.layout.config.write_text("[delta]\ndepth = 2\nread_factor = 100.0\n")
        model = {"w": lab.weights("F32", (64, 64))}
        depths, models = [], []
        for epoch in range(6):
            models.append(model)
            depths.append(encodings(lab, lab.committed(model))["w"].depth)
            model = lab.tuned(model, epoch, size=1e-6)
        assert max(depths) == 2
        assert depths[:3] == [0, 1, 2]
        for back, expected in enumerate(reversed(models)):
            assert lab.repo.load(f"HEAD~{back}", framework="numpy")["w"].tobytes() == expected["w"].data

    def test_chains_end_at_the_bytes_that_a_read_takes(self, lab):
        """No rebuild reads more than the setting, or than a full encoding would."""
        lab.session.layout.config.write_text("[delta]\nread_factor = 1.0\n")
        model = {"w": lab.weights("F32", (64, 64))}
        for epoch in range(6):
            record = encodings(lab, lab.committed(model))["w"]
            assert record.depth == 0 or record.chain_bytes <= record.raw_bytes * 1.05
            model = lab.tuned(model, epoch, size=1e-6)

    def test_no_deltas_if_the_depth_is_zero(self, lab):
        """A setting for archives that must not depend on anything."""
        lab.session.layout.config.write_text("[delta]\ndepth = 0\n")
        lab.committed(lab.model())
        second = lab.committed(lab.tuned(lab.model(), 1))
        assert set(policies(lab, second).values()) == {"full"}

    @pytest.mark.parametrize("level", ["fast", "default", "max"])
    def test_every_level_is_exact(self, lab, level):
        """Effort changes sizes only."""
        model = lab.model()
        lab.committed(model)
        tuned = lab.tuned(model, 1)
        whole = lab.write("model.safetensors", tuned).read_bytes()
        lab.commit(level=level)
        assert lab.exported("HEAD", lab.root.parent / level) == {"model.safetensors": whole}

    def test_large_tensors_are_loose_and_have_frames(self, lab):
        """4 MiB and more are files of their own; every frame is coded by itself, deltas too."""
        model = {"big": lab.weights("F32", (1100, 1024)), "small": lab.weights("F32", (8,))}
        first = lab.committed(model)
        second = lab.committed(lab.tuned(model, 1))
        for oid, policy in ((first, "full"), (second, "previous")):
            records = encodings(lab, oid)
            assert (policies(lab, oid)["big"], records["big"].location.is_loose) == (policy, True)
            assert not records["small"].location.is_loose
        assert lab.check().clean
        assert lab.repo.load("HEAD", framework="numpy")["big"].tobytes() == lab.tuned(model, 1)["big"].data

    def test_a_view_is_no_base_for_a_tensor_of_another_shape(self, lab, torch_archive):
        """The storage of a transposed tensor has one dimension; a delta on it could not be decoded."""
        weight = lab.weights("F32", (64, 64))
        lab.write("m.pt", torch_archive(weight, stride=(1, 64)))
        first = lab.manifest(lab.commit().commit)
        assert first.tensors[0].view is not None
        (lab.root / "m.pt").unlink()
        second = lab.committed(lab.tuned({"w": weight}, 1))
        assert policies(lab, second) == {"w": "full"}
        assert lab.check().clean

    def test_a_storage_is_a_base_for_the_storage_of_the_next_epoch(self, lab, torch_archive):
        """Views of equal storages meet by name."""
        weight = lab.weights("F32", (64, 64))
        lab.write("m.pt", torch_archive(weight, stride=(1, 64)))
        lab.commit()
        tuned = lab.tuned({"w": weight}, 1)["w"]
        lab.write("m.pt", torch_archive(tuned, stride=(1, 64)))
        second = lab.commit().commit
        assert policies(lab, second) == {"w": "previous"}
        assert lab.check().clean
        loaded = lab.repo.load(framework="numpy")["w"]
        assert loaded.T.tobytes() == tuned.data

    def test_the_same_tensor_in_another_format_is_stored_once(self, lab, torch_archive):
        """A contiguous tensor of a PyTorch archive has the id that it has in a safetensors file."""
        weight = lab.weights("F32", (64, 64))
        lab.write("m.pt", torch_archive(weight))
        lab.commit()
        second = lab.committed({"w": weight}, "m.safetensors")
        views = tensor_views(lab.session, second)
        assert [view.policy for view in views] == ["dedupe", "dedupe"]
        assert views[0].entry.id == views[1].entry.id

    def test_tied_tensors_are_stored_once(self, lab):
        """In whatever order the names come."""
        weight = lab.weights("F32", (64, 32))
        lab.write("m.safetensors", {"a": weight, "b": weight})
        assert lab.commit().new_tensors == 1
        lab.write("m.safetensors", {"b": weight, "a": weight, "c": weight})
        assert lab.commit().new_tensors == 0
        loaded = lab.repo.load(framework="numpy")
        assert loaded["a"] is loaded["b"] is loaded["c"]


class TestSelections:
    """Parts of the work tree, directories elsewhere, tensors in memory."""

    def test_a_path_and_everything_else_as_in_head(self, lab):
        """As git's `commit -- PATH`: changed, added, removed below it; nothing beside it."""
        for name in ("a/x", "a/y", "ab", "b"):
            lab.write(name, "1")
        lab.commit()
        for name in ("a/x", "ab", "b", "new", "a/new"):
            lab.write(name, "2")
        (lab.root / "a" / "y").unlink()
        result = lab.commit(paths=("a",))
        manifest = lab.manifest(result.commit)
        assert [file.path for file in manifest.files] == ["a/new", "a/x", "ab", "b"]
        assert show(lab.session, result.commit).modified == ("a/x",)
        assert lab.status() == (("new",), ("ab", "b"), ())

    @pytest.mark.parametrize("paths", [("a/",), ("a", "b"), (".",)])
    def test_spellings_of_paths(self, lab, paths):
        """A slash at the end, several paths, and the root."""
        lab.write("a/x", "1")
        lab.write("b", "1")
        assert "a/x" in [file.path for file in lab.manifest(lab.commit(paths=paths).commit).files]

    @pytest.mark.parametrize("path", ["nothing", "a/x/y", "../work", "a/xx"])
    def test_a_path_that_is_not_there(self, lab, path):
        """Neither in the work tree nor in HEAD: nothing is recorded."""
        lab.write("a/x", "1")
        lab.commit()
        lab.write("a/x", "2")
        with pytest.raises(NotFoundError, match="neither in the work tree nor in HEAD"):
            lab.commit(paths=(path,))
        assert len(list(lab.repo.log())) == 1

    def test_a_path_that_was_removed(self, lab):
        """It is in HEAD, so removing it can be committed."""
        lab.write("a", "1")
        lab.write("b", "1")
        lab.commit()
        (lab.root / "a").unlink()
        assert [file.path for file in lab.manifest(lab.commit(paths=("a",)).commit).files] == ["b"]

    def test_a_directory_elsewhere_becomes_the_tree(self, lab, tmp_path):
        """The work tree is not touched, and shows up as different."""
        lab.write("old", "1")
        lab.commit()
        other = type(lab)(tmp_path / "checkpoint-500")
        other.write("model.safetensors", lab.model())
        result = lab.commit(directory=other.root)
        assert [file.path for file in lab.manifest(result.commit).files] == ["model.safetensors"]
        assert lab.tree() == {"old": b"1"}
        assert lab.status() == (("old",), (), ("model.safetensors",))

    def test_a_directory_elsewhere_below_a_prefix(self, lab, tmp_path):
        """Replaces what was below the prefix, and nothing else."""
        lab.write("keep", "1")
        lab.write("run/old", "1")
        lab.commit()
        other = type(lab)(tmp_path / "out")
        other.write("new", "2")
        result = lab.commit(directory=other.root, prefix="/run/")
        assert [file.path for file in lab.manifest(result.commit).files] == ["keep", "run/new"]

    def test_a_single_file_elsewhere(self, lab, tmp_path):
        """By its name, below the prefix."""
        (tmp_path / "notes.txt").write_text("n")
        result = lab.commit(directory=tmp_path / "notes.txt", prefix="docs")
        assert [file.path for file in lab.manifest(result.commit).files] == ["docs/notes.txt"]

    def test_a_directory_that_is_not_there(self, lab, tmp_path):
        """Refused, as is a prefix that leaves the tree."""
        with pytest.raises(NotFoundError):
            lab.commit(directory=tmp_path / "nothing")
        with pytest.raises(InvalidInputError):
            lab.commit(directory=tmp_path, prefix="a/../..")

    def test_files_of_head_that_are_here_already(self, lab, tmp_path):
        """A trainer's directory committed from elsewhere: equal files here are not taken for modified."""
        lab.write("m.safetensors", lab.model())
        other = type(lab)(tmp_path / "out")
        other.write("m.safetensors", lab.model())
        lab.commit(directory=other.root)
        assert lab.status() == ((), (), ())
        lab.write("m.safetensors", lab.tuned(lab.model(), 1))
        assert lab.status() == ((), ("m.safetensors",), ())

    def test_a_state_dict_is_the_file_that_would_be_saved(self, lab):
        """Byte for byte, so that its tensors and its header are stored once."""
        arrays = {"w": np.arange(2048, dtype="f4").reshape(32, 64), "n": np.int64(3)}
        arrays = {name: np.asarray(value) for name, value in arrays.items()}
        first = lab.repo.commit(arrays, message="from memory")
        content = b"".join(state_dict_file(arrays).chunks())
        assert lab.exported(first.commit, lab.root.parent / "out") == {"model.safetensors": content}
        lab.write("model.safetensors", content)
        assert lab.status() == ((), (), ())
        with pytest.raises(InvalidInputError, match="nothing to commit"):
            lab.commit()

    def test_a_state_dict_below_a_prefix(self, lab):
        """The rest of the tree stays."""
        lab.write("keep", "1")
        lab.commit()
        result = lab.repo.commit({"w": np.zeros(3, "f4")}, message="m", prefix="ema")
        assert [file.path for file in lab.manifest(result.commit).files] == ["ema/model.safetensors", "keep"]

    def test_a_state_dict_with_empty_and_scalar_tensors(self, lab):
        """Empty ones have no bytes but keep their names and shapes."""
        arrays = {"e": np.zeros((0, 3), "f4"), "s": np.array(2.5, "f8"), "b": np.array([True]), "z": np.zeros(0, "i8")}
        lab.repo.commit(arrays, message="m")
        loaded = lab.repo.load(framework="numpy")
        assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in loaded.items()} == {
            name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()
        }


class TestUnchangedFiles:
    """A file whose stat is that of HEAD is not read again."""

    def test_what_is_read(self, lab, actor):
        """Progress tells the bytes: all at first, then only those of files that changed."""
        lab.write("m.safetensors", lab.model())
        lab.write("a", "12345", settle=True)
        read = []

        def progress(stage, total):
            read.append((stage, total))
            return silent(stage, total)

        def run(message):
            read.clear()
            selection = selected(lab)
            commit(lab.session, selection, CommitRequest(message), actor, progress)
            return dict(read)["storing"]

        whole = len(lab.read("m.safetensors"))
        assert run("first") == whole + 5
        lab.write("a", "123")
        assert run("second") == 3

    def test_a_file_that_was_written_just_before_is_read_again(self, lab):
        """Its stamp might be that of a change within the same tick of the clock."""
        lab.write("a", "one")
        lab.commit()
        before = (lab.root / "a").stat()
        with (lab.root / "a").open("r+b") as file:
            file.write(b"two")
        os.utime(lab.root / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
        assert lab.status() == ((), ("a",), ())
        lab.commit()
        assert lab.exported("HEAD", lab.root.parent / "out") == {"a": b"two"}


class ChangingSource(StateDictSource):
    """A file whose bytes change between two readings, as those of a file that a trainer is writing."""

    def open(self):
        """Yield a reader; from the second opening on, of other bytes."""
        opened = self.path in CHANGED
        CHANGED.add(self.path)
        if opened:
            for tensor in self.content.tensors:
                np.asarray(tensor.source).flat[0] += 1
        return super().open()


CHANGED: set[str] = set()
MOST_CONNECTIONS = 2
"""One to read, and one to write."""
MOST_QUERIES = 30
"""Of a commit of nine tensors; asking for the bases of one after the other takes eight more than there are."""
SIZES = {"one frame": 16, "samples": 2048, "loose": 1_200_000}
"""Words of a tensor."""


class TestIndex:
    """What a commit asks of the index."""

    @pytest.mark.parametrize("tensors", [2, 9])
    def test_over_few_connections(self, lab, tensors):
        """Their number does not grow with that of the tensors, each of which is hashed apart from the others."""
        model = {f"w{number}": lab.weights("F32", (1 << 18,), number) for number in range(tensors)}
        lab.write("model.safetensors", model)
        lab.commit()
        lab.write("model.safetensors", lab.tuned(model, 1))
        made = []

        def note(*arguments):
            """Count a connection."""
            made.append(arguments)

        event.listen(Pool, "connect", note)
        try:
            assert lab.commit().new_tensors == tensors
        finally:
            event.remove(Pool, "connect", note)
        assert 0 < len(made) <= MOST_CONNECTIONS

    def test_with_few_queries(self, lab):
        """What is known of the bases of all tensors is asked for at once."""
        model = {f"w{number}": lab.weights("F32", (1 << 18,), number) for number in range(9)}
        lab.write("model.safetensors", model)
        lab.commit()
        lab.write("model.safetensors", lab.tuned(model, 1))
        asked = []

        def note(connection, cursor, statement, *arguments):
            """Count a query."""
            if statement.startswith("SELECT"):
                asked.append(statement)

        event.listen(Engine, "before_cursor_execute", note)
        try:
            assert lab.commit().new_tensors == len(model)
        finally:
            event.remove(Engine, "before_cursor_execute", note)
        assert 0 < len(asked) <= MOST_QUERIES


class TestFilesThatChange:
    """What was hashed is what is stored, or nothing is."""

    @pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
    def test_content_that_is_held_between_hashing_and_storing(self, lab, size):
        """What was hashed is what is stored, whatever becomes of the source: it is read only once."""
        CHANGED.clear()
        source = ChangingSource("model.safetensors", state_dict_file({"w": np.zeros(size, "f4")}))
        lab.commit(selection=Selection((source,), ("model.safetensors",), in_worktree=False))
        assert lab.check().clean
        stored = lab.repo.load("HEAD", framework="numpy")["w"]
        assert stored[0] in {0, 1}, "a large tensor is hashed after the header, so after one change"
        assert not stored[1:].any()

    @pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
    def test_content_that_changes_between_hashing_and_storing(self, lab, size, monkeypatch):
        """What is too large to be held is read again, and found by hashing again what was encoded."""
        monkeypatch.setattr("mvc.repo.scan.HELD_BYTES", 0)
        lab.write("a", "x")
        first = lab.commit().commit
        CHANGED.clear()
        source = ChangingSource("model.safetensors", state_dict_file({"w": np.zeros(size, "f4")}))
        with pytest.raises(ConflictError, match="changed while it was being committed"):
            lab.commit(selection=Selection((source,), ("model.safetensors",), in_worktree=False))
        assert lab.session.refs.state().head == first
        assert not list((lab.root / ".mvc" / "tmp").iterdir())
        assert lab.check().clean
        assert lab.commit("again", allow_empty=True).branch == "refs/heads/main"

    @pytest.mark.parametrize("action", ["append", "truncate", "replace", "touch", "remove", "link"])
    def test_a_file_that_changes_after_the_tree_was_read(self, lab, action):
        """Whatever happens to it, nothing is recorded."""
        lab.write("a", "x")
        first = lab.commit().commit
        path = lab.write("m.safetensors", lab.model())
        lab.settle()
        selection = selected(lab)
        if action == "append":
            with path.open("ab") as file:
                file.write(b"more")
        elif action == "truncate":
            os.truncate(path, 100)
        elif action == "replace":
            lab.write("m.safetensors", lab.tuned(lab.model(), 1))
        elif action == "touch":
            os.utime(path)
        else:
            path.unlink()
            if action == "link":
                path.symlink_to("a")
        with pytest.raises((ConflictError, NotFoundError, StorageError)) as caught:
            lab.commit(selection=selection)
        assert "m.safetensors" in caught.value.message
        assert lab.session.refs.state().head == first
        assert lab.check().clean
