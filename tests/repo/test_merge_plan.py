"""The plan of a merge: against dicts, and case by case."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mvc.errors import InvalidInputError
from mvc.objects.ids import LITERAL, digest
from mvc.objects.manifest import FileEntry, Manifest, Segment, TensorEntry
from mvc.repo.merge_plan import MergeConflict, MergedFile, plan_merge
from mvc.types import ObjectId, TensorSpec, View, dtype_of

SPEC = TensorSpec(dtype_of("F32"), (2,))
SIZE = 8
EMPTY = TensorSpec(dtype_of("F32"), (0,))


def content(value):
    """Return the id of what a number or text stands for."""
    return ObjectId(digest(LITERAL, repr(value).encode()))


def model(path, values, *, header="header", mode=0o644, kind="safetensors"):
    """Return a file of a literal and one tensor for each name; equal values are equal tensors."""
    segments = [Segment("literal", content(header), 6)]
    segments += [Segment("tensor", content(value), SIZE) for value in values.values()]
    return FileEntry(path, mode, kind, tuple(segments)), values


def bare(*values):
    """Return a file of nothing but tensors."""
    return FileEntry("m", 0o644, "x", tuple(Segment("tensor", content(value), SIZE) for value in values))


def text(path, value, mode=0o644):
    """Return a file of text."""
    return FileEntry(path, mode, "opaque", (Segment("literal", content(value), 5),)), {}


def tree(*files):
    """Return the manifest of some files."""
    ordered = sorted(files, key=lambda file: file[0].path.encode())
    tensors = [
        TensorEntry(name, place, content(value), SPEC)
        for place, (_, values) in enumerate(ordered)
        for name, value in sorted(values.items())
    ]
    return Manifest(tuple(file for file, _ in ordered), tuple(tensors))


NAMES = ("a", "b", "c")
PATHS = ("m", "n", "t")
"""Two models and a text."""

values = st.integers(0, 2)
models = st.tuples(*[values] * len(NAMES)).map(lambda drawn: dict(zip(NAMES, drawn, strict=True)))
trees = st.fixed_dictionaries({"m": st.none() | models, "n": st.none() | models, "t": st.none() | values})


def manifest(contents):
    """Return the manifest of a tree in dicts."""
    files = [model(path, contents[path]) for path in "mn" if contents[path] is not None]
    return tree(*files, *([text("t", contents["t"])] if contents["t"] is not None else []))


def three_way(base, ours, theirs):
    """Return the merged value and whether it conflicts: the rule that everything follows."""
    if theirs in (base, ours):
        return ours, False
    return (theirs, False) if base == ours else (ours, True)


def merged(base, ours, theirs):
    """Return the merged tree in dicts with the conflicts, as (path, name) or (path, None)."""
    result, conflicts = {}, set[tuple[str, str | None]]()
    for path in PATHS:
        versions = base[path], ours[path], theirs[path]
        result[path], conflicting = three_way(*versions)
        if conflicting and path != "t" and all(version is not None for version in versions):
            picked = {name: three_way(*(version[name] for version in versions)) for name in NAMES}
            result[path] = {name: value for name, (value, _) in picked.items()}
            conflicts |= {(path, name) for name, (_, clash) in picked.items() if clash}
        elif conflicting:
            conflicts.add((path, None))
    return result, conflicts


class TestAgainstDicts:
    """Whatever the trees are."""

    @given(trees, trees, trees)
    def test_the_result(self, base, ours, theirs):
        """The plan is what three-way merging of dicts gives, and conflicts where that does."""
        expected, conflicts = merged(base, ours, theirs)
        plan = plan_merge(*map(manifest, (base, ours, theirs)))
        assert {(item.path, item.tensor) for item in plan.conflicts} == conflicts
        assert len(plan.conflicts) == len(conflicts)
        assert plan.manifest == (None if conflicts else manifest(expected))

    @given(trees, trees)
    def test_unchanged_sides(self, base, other):
        """A side that changed nothing gives the other one; merging a tree with itself gives it."""
        before, after = manifest(base), manifest(other)
        assert plan_merge(before, before, after).manifest == after
        assert plan_merge(before, after, before).manifest == after
        assert plan_merge(before, after, after).manifest == after
        assert plan_merge(before, after, after).files == ()

    @given(trees, trees, trees)
    def test_the_sides_do_not_matter(self, base, ours, theirs):
        """Without conflicts the tree is the same both ways, and so are the conflicts."""
        a, b, c = map(manifest, (base, ours, theirs))
        one, other = plan_merge(a, b, c), plan_merge(a, c, b)
        assert one.manifest == other.manifest
        assert [(item.path, item.tensor) for item in one.conflicts] == [
            (item.path, item.tensor) for item in other.conflicts
        ]

    @given(trees, trees, trees)
    def test_a_favoured_side(self, base, ours, theirs):
        """Each side is favoured in conflicts and nowhere else."""
        a, b, c = map(manifest, (base, ours, theirs))
        expected, conflicts = merged(base, ours, theirs)
        plan = plan_merge(a, b, c, "ours")
        assert plan.manifest == manifest(expected)
        assert {(item.path, item.tensor) for item in plan.conflicts} == conflicts
        assert plan_merge(a, c, b, "theirs").manifest == plan.manifest

    @given(trees, trees, trees)
    def test_the_report(self, base, ours, theirs):
        """Every file that differs between the sides is reported, and every tensor of it is counted once."""
        plan = plan_merge(manifest(base), manifest(ours), manifest(theirs), "theirs")
        assert plan.manifest
        assert [file.path for file in plan.files] == [path for path in PATHS if ours[path] != theirs[path]]
        for file in plan.files:
            names = [entry for entry in plan.manifest.tensors if plan.manifest.files[entry.file].path == file.path]
            assert file.ours + file.theirs + file.shared == len(names)
            assert file.removed == (file.path not in plan.manifest.by_path)


class TestTensors:
    """A file that both sides changed."""

    base = model("m", {"a": 0, "b": 0, "c": 0})

    def test_counts(self):
        """It is told how many tensors came from which side."""
        ours = model("m", {"a": 1, "b": 0, "c": 5})
        theirs = model("m", {"a": 0, "b": 2, "c": 5})
        plan = plan_merge(tree(self.base), tree(ours), tree(theirs))
        assert plan.manifest == tree(model("m", {"a": 1, "b": 2, "c": 5}))
        assert plan.files == (MergedFile("m", "both", False, 1, 1, 1),)

    def test_a_conflict(self):
        """A tensor that both changed is named."""
        ours, theirs = model("m", {"a": 1, "b": 0, "c": 0}), model("m", {"a": 2, "b": 2, "c": 0})
        plan = plan_merge(tree(self.base), tree(ours), tree(theirs))
        assert (plan.manifest, plan.conflicts) == (None, (MergeConflict("m", "a", "changed on both sides"),))

    @pytest.mark.parametrize(
        "theirs",
        [
            model("m", {"a": 0, "b": 2, "c": 0}, header="other!"),
            model("m", {"a": 0, "b": 2, "d": 0}),
            model("m", {"a": 0, "b": 2}),
            model("m", {"a": 0, "b": 2, "c": 0}, kind="other"),
        ],
        ids=["literal", "name", "segments", "format"],
    )
    def test_other_layouts(self, theirs):
        """Where anything but values differs, the file conflicts as a whole."""
        ours = model("m", {"a": 1, "b": 0, "c": 0})
        plan = plan_merge(tree(self.base), tree(ours), tree(theirs))
        assert plan.conflicts == (MergeConflict("m", None, "changed on both sides"),)
        assert plan_merge(tree(self.base), tree(ours), tree(theirs), "theirs").manifest == tree(theirs)

    def test_names_that_changed_places(self):
        """The same names and segments, but a name stands for another place: nothing tells where its values belong."""
        base, ours = (
            FileEntry("m", 0o644, "x", tuple(Segment("tensor", content(v), SIZE) for v in vs)) for vs in ["ab", "cd"]
        )
        theirs = FileEntry("m", 0o644, "x", tuple(Segment("tensor", content(v), SIZE) for v in "ae"))

        def named(file, first, second):
            """Return a tree of one file with two names."""
            entries = (TensorEntry("p", 0, content(first), SPEC), TensorEntry("q", 0, content(second), SPEC))
            return Manifest((file,), entries)

        plan = plan_merge(named(base, "a", "b"), named(ours, "d", "c"), named(theirs, "a", "e"))
        assert plan.conflicts == (MergeConflict("m", None, "changed on both sides"),)

    def test_views_and_empty_tensors(self):
        """A view stands in the place of its storage; what has no elements stands nowhere."""

        def archive(storage, other):
            """Return a tree of one file: a storage with two names, a tensor, and one without elements."""
            segments = Segment("tensor", content(storage), SIZE), Segment("tensor", content(other), SIZE)
            view = View(1, (1,))
            entries = (
                TensorEntry("all", 0, content(storage), SPEC),
                TensorEntry("last", 0, content(storage), TensorSpec(SPEC.dtype, (1,)), view),
                TensorEntry("nothing", 0, content("nothing"), EMPTY),
                TensorEntry("other", 0, content(other), SPEC),
            )
            return Manifest((FileEntry("m", 0o644, "x", segments),), entries)

        plan = plan_merge(archive(0, 0), archive(1, 0), archive(0, 2))
        assert plan.manifest == archive(1, 2)
        assert plan.files == (MergedFile("m", "both", False, 2, 1, 1),)
        conflicts = plan_merge(archive(0, 0), archive(1, 0), archive(2, 2)).conflicts
        assert [item.tensor for item in conflicts] == ["all", "last"]

    def test_a_tensor_without_a_name(self):
        """It is merged, and named by its place where it conflicts."""

        def unnamed(*values):
            """Return a tree of one file of tensors without names."""
            return Manifest(
                (FileEntry("m", 0o644, "x", tuple(Segment("tensor", content(v), SIZE) for v in values)),), ()
            )

        assert plan_merge(unnamed(0, 0), unnamed(1, 0), unnamed(0, 2)).manifest == unnamed(1, 2)
        assert plan_merge(unnamed(0, 0), unnamed(1, 1), unnamed(0, 2)).conflicts == (
            MergeConflict("m", "segment 1", "changed on both sides"),
        )


class TestFiles:
    """Files as a whole."""

    def test_a_text(self):
        """Texts are not merged."""
        plan = plan_merge(tree(text("t", 0)), tree(text("t", 1)), tree(text("t", 2)))
        assert plan.conflicts == (MergeConflict("t", None, "changed on both sides"),)

    def test_added_on_both_sides(self):
        """Without a common version nothing tells which tensors were meant to stay."""
        plan = plan_merge(tree(), tree(model("m", {"a": 1})), tree(model("m", {"a": 2})))
        assert plan.conflicts == (MergeConflict("m", None, "added on both sides"),)

    @pytest.mark.parametrize("favour", ["ours", "theirs"])
    def test_removed_on_one_side(self, favour):
        """A file that one side removed and the other changed stays or goes as the favoured side says."""
        base, changed = tree(text("t", 0)), tree(text("t", 1))
        plan = plan_merge(base, tree(), changed)
        assert plan.conflicts == (MergeConflict("t", None, "removed on side ours, changed on side theirs"),)
        plan = plan_merge(base, tree(), changed, favour)
        assert plan.manifest == (tree() if favour == "ours" else changed)
        assert plan.files == (MergedFile("t", favour, favour == "ours", 0, 0, 0),)

    def test_modes(self):
        """What is executable and what is in a file are merged each on its own."""
        base = tree(text("t", 0))
        assert plan_merge(base, tree(text("t", 0, 0o755)), tree(text("t", 1))).manifest == tree(text("t", 1, 0o755))
        assert plan_merge(base, tree(text("t", 1)), tree(text("t", 0, 0o755))).manifest == tree(text("t", 1, 0o755))
        plan = plan_merge(tree(), tree(text("t", 0)), tree(text("t", 0, 0o755)))
        assert plan.conflicts == (MergeConflict("t", None, "added with different modes"),)
        assert plan_merge(tree(), tree(text("t", 0)), tree(text("t", 0, 0o755)), "theirs").manifest == tree(
            text("t", 0, 0o755)
        )

    @pytest.mark.parametrize(("one", "other"), [("a", "a/b"), ("a/b", "a"), ("Weights", "weights"), ("x/y/z", "X")])
    @pytest.mark.parametrize("favour", ["ours", "theirs"])
    def test_paths_that_cannot_stand_side_by_side(self, one, other, favour):
        """A directory in the place of a file, or names that differ by case only: one of them goes, if that is said."""
        ours, theirs = tree(text(one, 1), text("q", 1)), tree(text(other, 2), text("r", 1))
        plan = plan_merge(tree(), ours, theirs)
        assert plan.conflicts == (MergeConflict(other, None, f"on side theirs, cannot stand beside {one}"),)
        plan = plan_merge(tree(), ours, theirs, favour)
        kept = text(one, 1) if favour == "ours" else text(other, 2)
        assert plan.manifest == tree(kept, text("q", 1), text("r", 1))

    @given(st.data())
    def test_any_paths(self, data):
        """Whatever two trees hold, the merged one is a tree."""
        paths = ["a", "A", "a/b", "a/B/c", "b", "b/c", "a/b/c"]

        def some():
            """Return a tree of some of the paths, if they can stand side by side."""
            chosen = data.draw(st.sets(st.sampled_from(paths), max_size=3))
            try:
                return tree(*(text(path, data.draw(values)) for path in sorted(chosen)))
            except InvalidInputError:
                return assume(False)

        base, ours, theirs = some(), some(), some()
        for favour in ("ours", "theirs"):
            assert plan_merge(base, ours, theirs, favour).manifest is not None
