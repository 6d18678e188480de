"""What commits say of the heads and neurons that their models have kept, and models with zeros for what has gone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

import numpy as np

from mvc.codecs import Bytes
from mvc.errors import InvalidInputError, MvcError
from mvc.formats.safetensors import SafeTensors
from mvc.formats.state_dict import file_order, safetensors_header
from mvc.objects.manifest import Manifest, TensorEntry
from mvc.repo.materialize import ContentReader
from mvc.repo.session import Session
from mvc.runtime import files, peft
from mvc.runtime.attaching import DIRECTORY
from mvc.runtime.families import Cut, Kind
from mvc.runtime.structure import KEY, Structure
from mvc.types import DType, ObjectId, TensorSpec

__all__ = [
    "CONFIG",
    "METADATA",
    "WEIGHTS",
    "dense_files",
    "directory_of",
    "model_weights",
    "read_config",
    "structures",
    "structures_of",
]

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
METADATA: Final = {"format": "pt"}
"""What transformers wants to find in a file of safetensors."""

_FORMS: Final = (
    (WEIGHTS, f"{WEIGHTS}.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
)
"""What weights are called: as one file, or the index of shards and they. The first that is there is loaded."""

_MODULES: Final = tuple(f"{place}{name}" for place in ("", f"{DIRECTORY}/") for name in (files.WEIGHTS, peft.MODEL))
"""Where modules beside layers may be, from the directory of the model."""
_OF_OUTPUTS: Final = (".up", ".lora_B.weight")
_OF_INPUTS: Final = (".down", ".lora_A.weight")
"""What follows the name of a layer in that of a matrix of such a module."""

_MOST_CONFIG: Final = 1 << 22
"""Bytes of a configuration that is looked at."""


def directory_of(prefix: str) -> str:
    """Return the directory that a prefix names, ending in a slash if it has a name.

    Examples
    --------
    >>> directory_of("/model/"), directory_of("")
    ('model/', '')
    """
    return f"{prefix.strip('/')}/" if prefix.strip("/") else ""


def model_weights(manifest: Manifest, inside: str) -> tuple[list[str], list[str]]:
    """Return which files hold the weights of a model, as transformers looks for them, and which hold them otherwise.

    Parameters
    ----------
    manifest : Manifest
        Of the commit.
    inside : str
        The directory of the model, ending in a slash if it has a name; what lies in directories below is not its.

    Returns
    -------
    list of str
        Paths of the files that are loaded, and of the index of shards; none if there are no weights.
    list of str
        Paths of the same weights in other forms, which are passed over.
    """
    names = [path.removeprefix(inside) for path in manifest.by_path if path.startswith(inside)]
    known = {name for name in names if "/" not in name}
    forms = list[list[str]]()
    for single, index, shards in _FORMS:
        forms.append([single] if single in known else [])
        forms.append([index, *sorted(name for name in known if fnmatchcase(name, shards))] if index in known else [])
    found = [[inside + name for name in form] for form in forms if form]
    return (found[0], [path for form in found[1:] for path in form]) if found else ([], [])


def read_config(reader: ContentReader, manifest: Manifest, path: str) -> dict[str, Any]:
    """Return the configuration of a model.

    Raises
    ------
    InvalidInputError
        If there is none, or it is no JSON object.
    """
    if path not in manifest.by_path:
        raise InvalidInputError(f"the commit has no {path}", hint="--prefix PATH says where its model lies")
    parts = reader.contents([segment.id for segment in manifest.by_path[path].segments])
    try:
        value = json.loads(b"".join(part.tobytes() for part in parts))
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInputError(f"{path} is no JSON object")
    return value


def structures(reader: ContentReader, manifest: Manifest) -> dict[str, Structure]:
    """Return what the models of a commit have kept, by their directories, each ending in a slash if it has a name.

    Of models that have lost nothing, nothing is said.

    Raises
    ------
    InvalidInputError
        If a structure is not of its form.
    """
    found = {}
    for file in manifest.files:
        directory, _, name = file.path.rpartition("/")
        if name == CONFIG and file.size <= _MOST_CONFIG:
            try:
                value = read_config(reader, manifest, file.path).get(KEY)
            except InvalidInputError:
                continue  # any file may be called so
            if value is not None:
                found[f"{directory}/" if directory else ""] = Structure.read(value)
    return found


def structures_of(session: Session, commit: ObjectId) -> dict[str, Structure]:
    """Return the same of a commit; nothing if its configurations are not here or are broken."""
    with suppress(MvcError), session.pool() as pool:
        return structures(ContentReader(session, pool), session.manifest(commit))
    return {}


def dense_files(reader: ContentReader, manifest: Manifest) -> dict[str, Iterable[Bytes | bytes]]:
    """Return files of models whose tensors have the shapes of the model without cuts, by path, piece by piece.

    What has gone is zero, also of modules beside the weights, so that the model puts out the same.

    Raises
    ------
    InvalidInputError
        If no model of the commit has lost anything.
    """
    known = structures(reader, manifest)
    if not known:
        raise InvalidInputError(
            "no model of this commit has lost heads or neurons", hint="check it out without --dense: it is dense"
        )
    found: dict[str, Iterable[Bytes | bytes]] = {}
    for inside, structure in known.items():
        config = read_config(reader, manifest, inside + CONFIG)
        found[inside + CONFIG] = [(json.dumps({k: v for k, v in config.items() if k != KEY}, indent=2) + "\n").encode()]
        entries = _entries(manifest, inside + WEIGHTS)
        if entries is None:
            raise InvalidInputError(f"the commit has no {inside}{WEIGHTS}")
        found[inside + WEIGHTS] = _Padded(entries, _wholes(structure, entries)).pieces(reader)
        for path in (inside + name for name in _MODULES):
            if (entries := _entries(manifest, path)) is not None:
                found[path] = _Padded(entries, _whole_modules(structure, entries)).pieces(reader)
    return found


def _entries(manifest: Manifest, path: str) -> dict[str, TensorEntry] | None:
    """Return the tensors of a file of safetensors by name; None if there is none."""
    place = next((n for n, file in enumerate(manifest.files) if file.path == path), None)
    if place is None or manifest.files[place].format != SafeTensors.name:
        return None
    return {entry.name: entry for entry in manifest.tensors if entry.file == place}


@dataclass(frozen=True)
class _Whole:
    """A tensor with all of its indices.

    Parameters
    ----------
    spec : TensorSpec
        Of it.
    axis : int
        Where indices have gone.
    kept : list of int
        Those that have not.
    entry : TensorEntry or None
        What is left; None if nothing is.
    """

    spec: TensorSpec
    axis: int
    kept: list[int]
    entry: TensorEntry | None

    def load(self, reader: ContentReader) -> Bytes:
        """Return its elements."""
        words = np.zeros(self.spec.shape, f"<u{self.spec.dtype.word_bytes}")
        if self.entry is not None and self.entry.spec.nbytes:
            left = reader.read(self.entry.id).view(words.dtype).reshape(self.entry.spec.shape)
            words[(slice(None),) * self.axis + (self.kept,)] = left
        return words.reshape(-1).view(np.uint8)


class _Padded:
    """A file of tensors, some of which have all of their indices again."""

    def __init__(self, entries: Mapping[str, TensorEntry], wholes: Iterable[tuple[str, _Whole]]) -> None:
        self._entries = entries
        self._wholes = dict(wholes)

    def pieces(self, reader: ContentReader) -> Iterator[Bytes | bytes]:
        """Yield the header and the tensors."""
        specs = {name: entry.spec for name, entry in self._entries.items()}
        specs |= {name: whole.spec for name, whole in self._wholes.items()}
        order = file_order(specs)
        yield safetensors_header([(name, specs[name]) for name in order], METADATA)
        for name in order:
            if name in self._wholes:
                yield self._wholes[name].load(reader)
            elif specs[name].nbytes:
                yield reader.read(self._entries[name].id)


def _wholes(structure: Structure, entries: Mapping[str, TensorEntry]) -> Iterator[tuple[str, _Whole]]:
    """Yield the tensors that have lost something, as they are called in the file."""
    family = structure.family
    bias = family.tensor(0, family.heads.bias)  # there always is one
    named = next((name for name in entries if name == bias or name.endswith(f".{bias}")), None)
    if named is None:
        raise InvalidInputError(f"the weights have no {bias}, as their structure says")
    prefix = named.removesuffix(bias)
    if (all_heads := structure.heads * structure.head_size,) != entries[named].spec.shape:
        raise InvalidInputError(f"{named} is not of {all_heads} elements, as {KEY} says of heads")
    for name, layer, kind, cut in structure.cuts():
        kept = structure.layers[layer].of(kind)
        if len(kept) < structure.full(kind):
            entry, full = entries.get(prefix + name), structure.full(kind) * structure.width(kind)
            dtype = (entry or entries[named]).spec.dtype
            spec, inputs = _shape(structure, kind, cut, entries[named].spec, dtype), structure.inputs(kind, kept)
            if entry is not None and entry.spec.shape != _left(spec, cut.axis, len(inputs) * cut.repeats):
                raise InvalidInputError(f"{entry.name} is of shape {list(entry.spec.shape)}, not as {KEY} says")
            yield prefix + name, _Whole(spec, cut.axis, cut.indices(inputs, full), entry)


def _whole_modules(structure: Structure, entries: Mapping[str, TensorEntry]) -> Iterator[tuple[str, _Whole]]:
    """Yield the matrices of modules beside layers that have lost something, as they are called in the file."""
    for weight, layer, kind, cut in structure.cuts():
        kept, owner = structure.layers[layer].of(kind), weight.removesuffix(".weight")
        if owner == weight or len(kept) == structure.full(kind):
            continue
        outputs = cut != structure.family.sublayer(kind).output
        ends = tuple(f".{owner}{end}" for end in (_OF_OUTPUTS if outputs else _OF_INPUTS))
        full, axis = structure.full(kind) * structure.width(kind), 0 if outputs else 1
        indices = cut.indices(structure.inputs(kind, kept), full)
        for entry in (entry for name, entry in entries.items() if f".{name}".endswith(ends)):
            shape = _left(entry.spec, axis, full * cut.repeats)
            if entry.spec.shape == shape:
                continue  # it was made for the model without cuts
            if len(entry.spec.shape) != len(shape) or entry.spec.shape[axis] != len(indices):
                raise InvalidInputError(f"{entry.name} is of shape {list(entry.spec.shape)}, not as {KEY} says")
            yield entry.name, _Whole(TensorSpec(entry.spec.dtype, shape), axis, indices, entry)


def _left(whole: TensorSpec, axis: int, count: int) -> tuple[int, ...]:
    """Return the shape of what is left of a tensor."""
    return (*whole.shape[:axis], count, *whole.shape[axis + 1 :])


def _shape(structure: Structure, kind: Kind, cut: Cut, bias: TensorSpec, dtype: DType) -> TensorSpec:
    """Return the whole shape of a tensor, with its type; `bias` has the size of the hidden states."""
    length = structure.full(kind) * structure.width(kind) * cut.repeats
    if cut.name.endswith(".bias"):
        return TensorSpec(dtype, (length,))
    hidden = bias.shape[0]
    return TensorSpec(dtype, (length, hidden) if cut.axis == 0 else (hidden, length))
