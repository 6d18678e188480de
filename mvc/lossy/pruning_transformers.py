"""Models of `transformers` with fewer heads and neurons. Needs torch and transformers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mvc.errors import InvalidInputError
from mvc.lossy.layer_distillation_torch import trained_names
from mvc.lossy.models_transformers import batches_of, check_bare, load_tokenizer, most_tokens, running
from mvc.lossy.module_check_torch import check_modules
from mvc.lossy.pruning import Environment
from mvc.lossy.pruning_torch import Effort, Pruned, Pruner
from mvc.runtime import load
from mvc.runtime.families import KINDS, Family, Sublayer, family_of
from mvc.runtime.loading import lacking, spellings, tensor_name
from mvc.runtime.narrowing_torch import layers_of, parameter
from mvc.runtime.structure import KEY, Structure

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Planned", "prune_model", "split_texts", "structure_of"]

_CALIBRATION: Final = 480
"""Texts that structures are chosen with: with 160 the errors of late layers are far from those on other texts."""

_SEARCH: Final = 128
"""Texts that candidates are compared with: others, because errors on those of the calibration are 2 to 5 times less."""

_TAUGHT: Final = 32
"""Texts of a step of training, as in benchmarks.derive.ziplm."""

_MOST_LOGITS: Final = 1 << 26
"""Numbers that a step puts out: 256 MiB, of which training holds several copies."""

_EVERY: Final = 4
"""One text of so many is for the search, where there are few."""


@dataclass(frozen=True)
class Planned:
    """A smaller model, by the names of a commit.

    Parameters
    ----------
    before : Structure
        What the model had kept until now.
    pruned : Pruned
        What becomes of it.
    names : mapping of str to str
        What the commit calls tensors of the base model.
    calibration, search : int
        Texts of each kind.
    loss : str
        What the loss of the search is: ``kl`` or ``mse``.
    """

    before: Structure
    pruned: Pruned
    names: Mapping[str, str]
    calibration: int
    search: int
    loss: str


def split_texts(texts: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Return texts to calibrate with, others to search with, and those that are left.

    Raises
    ------
    InvalidInputError
        If there are fewer than two.
    """
    if len(texts) < 2:
        raise InvalidInputError(
            f"{len(texts)} text is not enough to prune with", hint=f"give at least {_CALIBRATION + _SEARCH} of the task"
        )
    every = min(_EVERY, len(texts))
    search = list(texts[every - 1 :: every])[:_SEARCH]
    rest = [text for place, text in enumerate(texts) if place % every != every - 1 or place // every >= _SEARCH]
    return rest[:_CALIBRATION], search, rest[_CALIBRATION:]


def structure_of(model: Any, family: Family | None = None) -> Structure:  # noqa: ANN401 - transformers has no types
    """Return what a model has kept of what it was: everything, unless it is said otherwise.

    Parameters
    ----------
    model : PreTrainedModel
        Any.
    family : Family, optional
        How its layers are built, if not as those of its type are known to be.

    Raises
    ------
    InvalidInputError
        If nobody has said where its heads and neurons lie, or they do not lie there.
    """
    import torch  # noqa: PLC0415

    if (value := getattr(model.config, KEY, None)) is not None:
        found = Structure.read(value)
        if family not in {None, found.family}:
            raise InvalidInputError("the model records other modules", hint="leave --map away")
        return found
    family = family or family_of(model.config.model_type)
    try:
        heads = int(model.config.num_attention_heads)
        layers = layers_of(model, family)
        if not isinstance(layers, torch.nn.ModuleList):
            raise InvalidInputError(f"{family.layers} is no list of layers, but a {type(layers).__name__}")
        full = [_full(layers, family.sublayer(kind)) for kind in KINDS]
        missing = [name for name in _cuts(family) for layer in layers if not parameter(layer, name).numel()]
        ends = [layer.get_submodule(name) for layer in layers for name in _ends(family)]
    except (AttributeError, IndexError) as error:
        raise InvalidInputError(
            f"a model of type {model.config.model_type!r} has not the modules that are known of it: {error}"
        ) from error
    crossed = getattr(model.config, "add_cross_attention", False) or getattr(model.config, "is_encoder_decoder", False)
    if full[0] % heads:
        raise InvalidInputError(f"{full[0]} inputs of {family.heads.linear} are no {heads} heads of one size")
    if missing or not ends or crossed:
        raise InvalidInputError("a model with cross-attention, or without layers, cannot lose heads")
    return Structure.whole(family, len(layers), full[0] // heads, heads, full[1])


def _full(layers: Sequence[nn.Module], half: Sublayer) -> int:
    """Return the inputs of the output layers of one half; refuse other sizes."""
    full = int(parameter(layers[0], half.output.name).shape[half.output.axis])
    hidden = len(parameter(layers[0], half.bias))
    for layer in layers:
        for cut in half.cuts:
            shape = parameter(layer, cut.name).shape
            wanted = [hidden] * len(shape)
            wanted[cut.axis] = full * cut.repeats
            if [*shape] != wanted:
                raise InvalidInputError(
                    f"{cut.name} is of shape {[*shape]}, and not {wanted} as {half.output.name} says",
                    hint="heads that share keys and values, layers of several sizes, and those with inputs of other "
                    "sizes than the hidden states, cannot be made smaller",
                )
    return full


def _ends(family: Family) -> list[str]:
    """Return the modules of a layer that are watched or replaced."""
    halves = (family.heads, family.neurons)
    return [family.attention, *(name for half in halves for name in (half.start, half.stop, half.residual))]


def _cuts(family: Family) -> list[str]:
    """Return the names of what a layer must have, and that becomes smaller or is solved for."""
    halves = (family.heads, family.neurons)
    return [name for half in halves for name in (*(cut.name for cut in half.cuts), half.bias)]


def prune_model(  # noqa: PLR0917 - directory and tokenizer as elsewhere, then what is asked for
    directory: Path,
    tokenizer: Path,
    texts: Sequence[str],
    names: Collection[str],
    speedup: float,
    env: Environment,
    effort: Effort,
    steps: int = 0,
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
    family: Family | None = None,
) -> Planned:
    """Find what a model can lose so that it is so much faster, and train what is left.

    Parameters
    ----------
    directory, tokenizer, texts
        As for `load_model`.
    names : collection of str
        Tensors of the files of the model.
    speedup : float
        How much faster.
    env, effort, tell
        As for `Pruner`.
    steps : int
        For which to train; the texts are all but those of the search.
    seed : int
        Of the search, and of the order of texts.
    family : Family, optional
        As for `structure_of`.

    Raises
    ------
    InvalidInputError
        If model or tokenizer cannot be loaded or run, a weight is in no file, modules lie beside the weights, those of
        the model are not mapped, the speed-up cannot be met, or a value is not finite.
    """
    check_bare(directory)
    calibration, search, rest = split_texts(texts)
    model, encode = load(directory), load_tokenizer(tokenizer)
    structure = structure_of(model, family)
    if lost := lacking(model, names):
        raise InvalidInputError(
            f"the weights of the model have no {min(lost)}, and it would be made up",
            hint="commit what was trained, and a config.json whose architectures are of it",
        )
    if env.seq > (most := most_tokens(model) or env.seq):
        raise InvalidInputError(f"the model takes {most} tokens of a text, not {env.seq}", hint=f"--env seq={most}")
    model.config.use_cache = False  # of tokens that came before, of which there are none
    with running():
        known, compared = (batches_of(model, encode, some, env.seq) for some in (calibration, search))
        check_modules(model, structure, compared[0])
        pruner = Pruner(model, structure, known, compared, env, effort, tell)
        pruned = pruner.prune(speedup, seed)
        if steps:
            taught = sorted((*calibration, *rest), key=len)  # of like lengths, so that little of a batch is padding
            lessons = batches_of(model, encode, taught, env.seq, _texts_of_a_step(model, env.seq))
            pruned = pruner.distilled(pruned, lessons, steps, seed)
    loss = pruner.answers.kind
    return Planned(structure, pruned, _names(model, structure, names), len(calibration), len(search), loss)


def _texts_of_a_step(model: Any, tokens: int) -> int:  # noqa: ANN401 - transformers has no types
    """Return how many texts of so many tokens are trained on at once: fewer where each token has a word to tell."""
    head = model.get_output_embeddings()
    words = 1 if head is None else model.config.vocab_size
    return int(max(1, min(_TAUGHT, _MOST_LOGITS // (tokens * words))))


def _names(model: Any, structure: Structure, names: Collection[str]) -> dict[str, str]:  # noqa: ANN401
    """Return what a commit calls the tensors that may change; refuse one that has not all of them."""
    family, prefix = structure.family, model.base_model_prefix
    wanted = [
        family.tensor(place, name)
        for place, layer in enumerate(layers_of(model, family))
        for name in dict.fromkeys((*_cuts(family), *trained_names(layer, family)))
        if parameter(layer, name).numel()
    ]
    found = {name: tensor_name(spellings(name), names, prefix) for name in wanted}
    if lost := [name for name, known in found.items() if known is None]:
        raise InvalidInputError(f"no tensor of the commit is called like {lost[0]}")
    return {name: known for name, known in found.items() if known is not None}
