"""Commits of models with fewer heads and neurons: slices of stored tensors, new output layers, and what is shared."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from mvc.codecs import Bytes, Selection
from mvc.codecs.selection import selected
from mvc.errors import InvalidInputError
from mvc.formats.safetensors import SafeTensors
from mvc.formats.state_dict import file_order, safetensors_header
from mvc.objects.blob import MAX_DEPTH
from mvc.objects.commit import Commit
from mvc.objects.derivation import Derivation, DerivedTensor
from mvc.objects.fields import Scalar
from mvc.objects.ids import content_hasher, finish
from mvc.objects.manifest import Manifest, Segment, TensorEntry
from mvc.repo.clock import Actor, now
from mvc.repo.compress import Frame, pressed
from mvc.repo.press import CompressResult, Press
from mvc.repo.record import put_commit
from mvc.repo.scan import Content, NamedTensor, ScannedFile
from mvc.repo.session import Session
from mvc.repo.slices import SliceBlob, sliced
from mvc.repo.sources import BytesSource
from mvc.repo.structures import CONFIG, METADATA, WEIGHTS, directory_of, model_weights, read_config
from mvc.repo.tree import assemble
from mvc.runtime.structure import KEY, Kept, Structure
from mvc.settings import Level
from mvc.types import DType, ObjectId, TensorSpec, dtype_of
from mvc.types.steps import STEPPED, from_float32
from mvc.types.values import REALS, as_float64, from_float64

__all__ = ["SMALLER", "Smaller", "SmallerRequest", "commit_smaller"]

SMALLER: Final = "ziplm"
"""What commits call the method, by which tensors may have lost rows or columns."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Smaller:
    """What becomes of a model.

    Parameters
    ----------
    before : Structure
        What it had kept until now.
    local : tuple of Kept
        What each layer keeps of that.
    names : mapping of str to str
        What the commit calls tensors of the base model, as far as it has them.
    outputs : mapping of str to ndarray
        New values of tensors, by the names that the base model uses, in the shapes that are left.
    """

    before: Structure
    local: tuple[Kept, ...]
    names: Mapping[str, str]
    outputs: Mapping[str, Floats]

    @property
    def after(self) -> Structure:
        """What it keeps then."""
        return self.before.within(self.local)

    def selections(self) -> dict[str, tuple[int, list[int], int]]:
        """Return, by names of the commit, axis, indices that stay, and how many there were, of what becomes smaller."""
        found = {}
        for name, layer, kind, cut in self.before.cuts():
            full, kept = len(self.before.layers[layer].of(kind)), self.local[layer].of(kind)
            if name in self.names and len(kept) < full:
                width = self.before.width(kind)
                inputs = cut.indices(self.before.inputs(kind, kept), full * width)
                found[self.names[name]] = (cut.axis, inputs, full * width * cut.repeats)
        return found

    def values(self) -> dict[str, Floats]:
        """Return new values by names of the commit."""
        return {self.names[name]: values for name, values in self.outputs.items() if name in self.names}


@dataclass(frozen=True)
class SmallerRequest:
    """What to commit.

    Parameters
    ----------
    source : ObjectId
        The commit whose model it is.
    smaller : Smaller
        What becomes of it.
    parameters : mapping of str to scalar
        What the commit records of how that was found.
    prefix : str
        Directory of the model.
    branch : str or None
        Short name of a new branch.
    message : str or None
        By default what was done.
    level : Level
        How hard to try to be small.
    """

    source: ObjectId
    smaller: Smaller
    parameters: Mapping[str, Scalar]
    prefix: str = ""
    branch: str | None = None
    message: str | None = None
    level: Level = "default"


def commit_smaller(session: Session, request: SmallerRequest, actor: Actor) -> CompressResult:
    """Make a commit of a model that keeps fewer heads and neurons.

    What only became smaller is stored as which part of a stored tensor it is, which then stays. The weights are one
    file of safetensors, the configuration says under ``mvc_structure`` what was kept, and everything else is that of
    the source. The commit has no parent: the source may go.

    Raises
    ------
    InvalidInputError
        If a tensor of the model is a view, is no part of a file of weights, or of a type that cannot be changed.
    AlreadyExistsError
        If there is such a branch.
    """
    return pressed(
        session,
        Frame("derive", [request.source], request.branch, request.level),
        actor,
        lambda press: _Making(press, request).run(actor),
    )


class _Making:
    """One commit under way."""

    def __init__(self, press: Press, request: SmallerRequest) -> None:
        self._press, self._request, self._smaller = press, request, request.smaller
        self._manifest = press.session.manifest(request.source)
        self._inside = directory_of(request.prefix)
        weights, others = model_weights(self._manifest, self._inside)
        entries = [entry for entry in self._manifest.tensors if self._manifest.files[entry.file].path in weights]
        self._entries = {entry.name: entry for entry in entries}
        self._replaced = [*weights, *others, self._inside + CONFIG]
        self._check({*self._smaller.names.values()}, entries)
        self._cuts, self._values = self._smaller.selections(), self._smaller.values()
        self._derived: dict[tuple[ObjectId, ObjectId], DerivedTensor] = {}
        self._wholes: set[ObjectId] = set()

    def _check(self, wanted: set[str], entries: Sequence[TensorEntry]) -> None:
        """Refuse what cannot be made smaller."""
        if lost := wanted - self._entries.keys():
            raise InvalidInputError(f"no file of weights has {min(lost)}")
        if len(entries) != len(self._entries):
            twice = next(entry.name for entry in entries if self._entries[entry.name] is not entry)
            raise InvalidInputError(f"more than one file of the weights has {twice}")
        if viewed := next((entry.name for entry in self._entries.values() if entry.view is not None), None):
            raise InvalidInputError(
                f"tensor {viewed} shares its memory with others",
                hint="save the model as safetensors, commit it, and derive from that",
            )

    def run(self, actor: Actor) -> CompressResult:
        """Put tensors and commit into the batch."""
        press, session = self._press, self._press.session
        session.supply(self._manifest.segments())
        press.reader.prepare(entry.id for entry in self._entries.values())
        tensors = {name: made for name in self._entries if (made := self._tensor(name)) is not None}
        literals = [self._weights(tensors), self._config()]
        press.store((content, ()) for _, content in literals)
        manifest = assemble(self._manifest, self._replaced, [file for file, _ in literals])
        press.protect({oid for _, oid in manifest.segments()} | self._wholes)
        sizes = press.sizes(entry.id for entry in manifest.tensors)
        known = {entry.id for entry in self._manifest.tensors}
        commit = self._commit(manifest, sizes, actor)
        put_commit(press.batch, commit, manifest)
        total = sum(size for oid, size in sizes.items() if oid not in known)
        result = CompressResult(commit, manifest, press.batch.stored_bytes, total)
        press.add(result)
        return result

    def _tensor(self, name: str) -> NamedTensor | None:
        """Store what becomes of a tensor, and return it; None if nothing is left."""
        entry, cut = self._entries[name], self._cuts.get(name)
        values = self._values.get(name)
        if cut is None and values is None:
            return NamedTensor(name, entry.id, entry.spec, None)
        if cut is not None and not cut[1]:
            return None
        kept: list[list[int] | None] = [None] * len(entry.spec.shape)
        if cut is not None:
            axis, inputs, full = cut
            if entry.spec.shape[axis] != full:
                raise InvalidInputError(f"tensor {name} is of shape {list(entry.spec.shape)}, not {full} long")
            kept = [inputs if place == axis else None for place in range(len(kept))]
        selection = Selection.of(entry.spec.shape, kept)
        made = self._sliced(entry, selection) if values is None else self._solved(entry, selection, values)
        return NamedTensor(name, made, TensorSpec(entry.spec.dtype, selection.shape), None)

    def _sliced(self, entry: TensorEntry, selection: Selection) -> ObjectId:
        """Store a tensor as a part of another one."""
        blob = sliced(self._press.reader, entry.id, selection)
        oid = blob.envelope.id
        if self._press.is_stored(oid):
            pass
        elif blob.envelope.depth <= MAX_DEPTH:
            self._put(blob)
        else:
            whole = self._press.reader.read(entry.id)
            width = entry.spec.dtype.word_bytes
            words = selected(
                selection,
                entry.spec.dtype,
                0,
                TensorSpec(entry.spec.dtype, selection.shape).words,
                lambda start, count: whole[start * width : (start + count) * width],
            )
            self._press.store([(_content(oid, entry, selection, words), ())])
        self._note(entry, oid, selection, None)
        return oid

    def _solved(self, entry: TensorEntry, selection: Selection, values: Floats) -> ObjectId:
        """Store new values: as changes of those that were kept, or by themselves, whichever is smaller."""
        spec = TensorSpec(entry.spec.dtype, selection.shape)
        if values.shape != selection.shape:
            raise InvalidInputError(f"new values of {entry.name} are of shape {values.shape}, not {selection.shape}")
        words = _words(spec.dtype, entry.name, values)
        running = content_hasher(spec)
        running.update(words.data)
        oid = finish(running)
        self._note(entry, oid, selection, words)
        if oid == entry.id or self._press.is_stored(oid):
            return oid
        content = _content(oid, entry, selection, words)
        blob = None if selection.shape == entry.spec.shape else sliced(self._press.reader, entry.id, selection, words)
        if blob is not None and blob.envelope.depth > MAX_DEPTH:
            blob = None
        if blob is not None and blob.envelope.stored_bytes < self._press.full_bytes(content):
            self._put(blob)
        else:
            self._press.store([(content, ())])
        return oid

    def _put(self, blob: SliceBlob) -> None:
        """Store a part of a tensor, and have that tensor stay."""
        self._press.put_slice(blob)
        self._wholes.add(blob.envelope.references[0].id)

    def _note(self, entry: TensorEntry, oid: ObjectId, selection: Selection, words: Bytes | None) -> None:
        """Record how far a tensor is from its source, with zeros for what has gone."""
        dtype = entry.spec.dtype
        old = as_float64(dtype, self._press.reader.read(entry.id)).reshape(entry.spec.shape)
        new, places = np.zeros_like(old), np.ix_(*map(_range, selection.kept, selection.whole))
        new[places] = old[places] if words is None else as_float64(dtype, words).reshape(selection.shape)
        energy, lost = float(np.square(old).sum()), float(np.square(new - old).sum())
        largest, relative = float(np.abs(new - old).max(initial=0.0)), math.sqrt(lost / energy) if energy else 0.0
        if oid != entry.id:
            self._derived[oid, entry.id] = DerivedTensor(entry.id, oid, largest, relative, None, 0)

    def _weights(self, tensors: Mapping[str, NamedTensor]) -> tuple[ScannedFile, Content]:
        """Return the file of weights, and its header."""
        specs = {name: tensor.spec for name, tensor in tensors.items()}
        order = file_order(specs)
        header = _literal(self._inside + WEIGHTS, safetensors_header([(name, specs[name]) for name in order], METADATA))
        segments = [Segment("literal", header.id, header.spec.nbytes)]
        segments += [Segment("tensor", tensors[name].id, specs[name].nbytes) for name in order if specs[name].nbytes]
        path, named = self._inside + WEIGHTS, tuple(tensors[name] for name in order)
        return ScannedFile(path, 0o644, SafeTensors.name, tuple(segments), named, ()), header

    def _config(self) -> tuple[ScannedFile, Content]:
        """Return the configuration, which says what was kept."""
        path = self._inside + CONFIG
        value = read_config(self._press.reader, self._manifest, path) | {KEY: self._smaller.after.value}
        content = _literal(path, (json.dumps(value, indent=2) + "\n").encode())
        segment = Segment("literal", content.id, content.spec.nbytes)
        return ScannedFile(path, 0o644, self._manifest.by_path[path].format, (segment,), (), ()), content

    def _commit(self, manifest: Manifest, sizes: Mapping[ObjectId, int], actor: Actor) -> Commit:
        request = self._request
        tensors = [replace(made, stored_bytes=sizes[made.id]) for made in self._derived.values()]
        ordered = tuple(sorted(tensors, key=lambda tensor: (tensor.id, tensor.source)))
        derivation = Derivation(request.source, None, SMALLER, request.parameters, None, ordered)
        source = self._press.session.record(request.source)
        done = f"{source.message.partition(chr(10))[0]} ({SMALLER})"
        message = (request.message or "").strip() or done.strip()
        return Commit(manifest.id, (), actor.author, now(), message, {}, derivation)


def _content(oid: ObjectId, entry: TensorEntry, selection: Selection, words: Bytes) -> Content:
    """Return the elements of a part of a tensor as what is to be stored."""
    spec = TensorSpec(entry.spec.dtype, selection.shape)
    return Content("tensor", oid, spec, BytesSource(entry.name, words.tobytes()), 0, (entry.name,), words)


def _literal(path: str, data: bytes) -> Content:
    """Return bytes of a file as what is to be stored."""
    running = content_hasher(None)
    running.update(data)
    spec = TensorSpec(dtype_of("U8"), (len(data),))
    return Content("literal", finish(running), spec, BytesSource(path, data), 0, (), np.frombuffer(data, np.uint8))


def _range(kept: npt.NDArray[np.int64] | None, size: int) -> npt.NDArray[np.int64]:
    return np.arange(size) if kept is None else kept


def _words(dtype: DType, name: str, values: Floats) -> Bytes:
    """Return values as elements of a type."""
    if dtype.name not in REALS:
        raise InvalidInputError(f"tensor {name} is of {dtype.name}, whose values cannot be changed")
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    with np.errstate(over="ignore"):
        stepped = dtype.name in STEPPED
        words = from_float32(dtype, flat).view(np.uint8) if stepped else from_float64(dtype, flat.astype("f8"))
    found: Bytes = np.ascontiguousarray(words)
    if not np.isfinite(as_float64(dtype, found)).all():
        raise InvalidInputError(
            f"a new value of {name} is not finite in {dtype.name}", hint="commit the model in another type"
        )
    return found
