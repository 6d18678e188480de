"""Healing models of `transformers` on texts. Needs torch and transformers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mvc.errors import InvalidInputError
from mvc.lossy.distillation_torch import Recipe, order_of
from mvc.lossy.healing_torch import Healed, heal
from mvc.lossy.models_transformers import batches_of, check_bare, load_tokenizer, running
from mvc.lossy.outputs_torch import Expected
from mvc.lossy.trainings_torch import NewTensor, Training
from mvc.runtime.attaching import attach, attach_lora, modules_in, named_as
from mvc.runtime.loading import load_some, tensor_name
from mvc.runtime.peft import Lora
from mvc.types import DType

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Healing", "Samples", "heal_model"]

_BATCH: Final = 32
"""Texts of a step."""
_MOST_HELD_OUT: Final = 256
"""Texts to compare on: the error of the outputs, unlike an accuracy, is known well enough from so many."""
_HELD_OUT_SHARE: Final = 5
"""At most one text of so many is held out."""


@dataclass(frozen=True, slots=True)
class Samples:
    """What to train and compare on.

    Parameters
    ----------
    texts : sequence of str
        At least two.
    labels : sequence of str or int, optional
        The class of each: a number, or as ``config.json`` calls it.
    length : int
        Most tokens of a text.
    """

    texts: Sequence[str]
    labels: Sequence[str | int] | None
    length: int

    def split(self, seed: int) -> tuple[list[int], list[int]]:
        """Return which texts are trained on, and which are held out.

        Raises
        ------
        InvalidInputError
            If there are too few.
        """
        if len(self.texts) < 2:
            raise InvalidInputError(
                f"there is {len(self.texts)} text: at least two are needed, one of which is held out",
                hint="give some hundred texts",
            )
        order = order_of(len(self.texts), seed)
        held = min(_MOST_HELD_OUT, max(1, len(order) // _HELD_OUT_SHARE))
        return order[held:], order[:held]

    def batches(self, model: Any, encode: Any, places: Sequence[int]) -> list[dict[str, Any]]:  # noqa: ANN401
        """Return some of the texts as a model takes them."""
        return batches_of(model, encode, [self.texts[place] for place in places], self.length, _BATCH)

    def classes(self, model: Any, places: Sequence[int]) -> list[Tensor] | None:  # noqa: ANN401
        """Return the classes of some of the texts, batch by batch; None if there are no labels.

        Raises
        ------
        InvalidInputError
            If the model has no such class.
        """
        import torch  # noqa: PLC0415

        if self.labels is None:
            return None
        known = {str(name): int(number) for name, number in (getattr(model.config, "label2id", None) or {}).items()}
        count = int(getattr(model.config, "num_labels", 0))
        classes = [
            _class_of(label, known, count) for label in self.labels
        ]  # of all: who holds out a fault has one, too
        numbers = [classes[place] for place in places]
        return [torch.tensor(numbers[start : start + _BATCH]) for start in range(0, len(numbers), _BATCH)]


def _class_of(label: str | int, known: Mapping[str, int], count: int) -> int:
    number = known.get(label, -1) if isinstance(label, str) else label
    if not 0 <= number < count:
        raise InvalidInputError(
            f"the model has no class {label!r:.40}; it has {count}, called {', '.join(sorted(known))[:80]}",
            hint="labels are numbers from 0 on, or names that config.json has in label2id",
        )
    return number


@dataclass(frozen=True, slots=True, eq=False)
class Healing:
    """What came of it.

    Parameters
    ----------
    healed : Healed
        The errors, and recovery modules if there are some.
    tensors : mapping of str to NewTensor
        What changes, by the names of the files.
    texts, held_out : int
        That were trained and compared on.
    """

    healed: Healed
    tensors: Mapping[str, NewTensor]
    texts: int
    held_out: int


def heal_model(
    student: Path,
    teacher: Path,
    tokenizer: Path,
    samples: Samples,
    training: Training,
    recipe: Recipe,
    stored: Mapping[str, DType],
    adapter: Lora | None = None,
) -> Healing:
    """Have a model learn to put out what its teacher does.

    Parameters
    ----------
    student, teacher, tokenizer : Path
        Directories, as for `load_model`.
    samples : Samples
        Texts.
    training, recipe
        As for `heal`.
    stored : mapping of str to DType
        The tensors of the student's files, and their types.
    adapter : Lora, optional
        What the teacher has beside its weights.

    Raises
    ------
    InvalidInputError
        If a model cannot be loaded or run, a weight of one is in no file, the teacher is of another architecture, and
        as for `heal`.
    """
    check_bare(student)
    (model, lost), encode = load_some(student), load_tokenizer(tokenizer)
    _check_whole("what is to be healed", model, lost, training.given)
    rest, held = samples.split(recipe.seed)
    rest = rest[: recipe.steps * _BATCH]
    classes = [samples.classes(model, places) for places in (rest, held)]
    labels = (classes[0], classes[1]) if classes[0] is not None and classes[1] is not None else None
    master, lost = load_some(teacher)
    if type(master) is not type(model):
        raise InvalidInputError(
            f"the teacher is a {type(master).__name__}, and what is to be healed a {type(model).__name__}",
            hint="--teacher REF: the commit that it was made from",
        )
    _check_whole("the teacher", master, lost, adapter.saved if adapter else ())
    if adapter is not None:
        attach_lora(master, adapter)
    elif modules_in(teacher) is not None:
        attach(master, teacher)
    names = parameter_names(model, stored)
    with running():
        expected, held_out = (Expected(master, samples.batches(model, encode, places)) for places in (rest, held))
        del master
        known = {parameter: stored[name] for parameter, name in names.items()}
        healed = heal(model, training, known, expected, held_out, recipe, labels)
    tensors = {names[parameter]: new for parameter, new in healed.trained.tensors.items()}
    return Healing(healed, tensors, _compared(rest, expected), _compared(held, held_out))


def _check_whole(whose: str, model: nn.Module, lost: Collection[str], given: Iterable[str]) -> None:
    """Refuse a model of which a weight is in no file: transformers makes it up, and nothing is to be learnt of it."""
    parameters = dict(model.named_parameters())
    if made_up := {*lost} - {named_as(name, parameters, model) for name in given}:
        raise InvalidInputError(
            f"the weights of {whose} have no {min(made_up)}, and it would be made up",
            hint="commit what was trained, and a config.json whose architectures are of it",
        )


def _compared(places: Sequence[int], expected: Expected) -> int:
    """Return how many of some texts were run: all, less what did not fit."""
    return min(len(places), len(expected.batches) * _BATCH)


def parameter_names(model: nn.Module, stored: Mapping[str, DType]) -> dict[str, str]:
    """Return what the files call each parameter that they hold."""
    prefix = getattr(model, "base_model_prefix", "")
    found = {name: tensor_name({name}, stored, prefix) for name, _ in model.named_parameters()}
    return {parameter: name for parameter, name in found.items() if name is not None}
