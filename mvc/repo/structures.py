"""What commits say of the heads and neurons that their models have kept, and models with zeros for what has gone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mvc.codecs import Bytes
from mvc.errors import InvalidInputError, MvcError
from mvc.formats.safetensors import SafeTensors
from mvc.formats.state_dict import file_order, safetensors_header
from mvc.objects.manifest import Manifest, TensorEntry
from mvc.repo.materialize import ContentReader
from mvc.repo.session import Session
from mvc.runtime.families import Cut, Kind
from mvc.runtime.structure import KEY, Structure
from mvc.types import ObjectId, TensorSpec

__all__ = ["CONFIG", "METADATA", "WEIGHTS", "dense_files", "read_config", "structures", "structures_of"]

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
METADATA: Final = {"format": "pt"}
"""What transformers wants to find in a file of safetensors."""

_MOST_CONFIG: Final = 1 << 22
"""Bytes of a configuration that is looked at."""


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

    What has gone is zero, so that the model puts out the same.

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
        place = next((n for n, file in enumerate(manifest.files) if file.path == inside + WEIGHTS), None)
        if place is None or manifest.files[place].format != SafeTensors.name:
            raise InvalidInputError(f"the commit has no {inside}{WEIGHTS}")
        entries = {entry.name: entry for entry in manifest.tensors if entry.file == place}
        found[inside + WEIGHTS] = _Padded(structure, entries).pieces(reader)
    return found


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
    """The file of weights of one model."""

    def __init__(self, structure: Structure, entries: Mapping[str, TensorEntry]) -> None:
        self._entries = entries
        self._wholes = dict(_wholes(structure, entries))

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
    for name, layer, kind, cut in structure.cuts():
        kept = structure.layers[layer].of(kind)
        if len(kept) < structure.full(kind):
            spec, inputs = _shape(structure, kind, cut, entries[named].spec), structure.inputs(kind, kept)
            full = structure.full(kind) * structure.width(kind)
            entry = entries.get(prefix + name)
            yield prefix + name, _Whole(spec, cut.axis, cut.indices(inputs, full), entry)


def _shape(structure: Structure, kind: Kind, cut: Cut, bias: TensorSpec) -> TensorSpec:
    """Return the type and whole shape of a tensor; `bias` has the size of the hidden states."""
    length = structure.full(kind) * structure.width(kind) * cut.repeats
    if cut.name.endswith(".bias"):
        return TensorSpec(bias.dtype, (length,))
    hidden = bias.shape[0]
    return TensorSpec(bias.dtype, (length, hidden) if cut.axis == 0 else (hidden, length))
