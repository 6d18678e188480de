"""Whether a model is built as a family says, tried on a batch before anything is measured. Needs torch.

A map of modules may fit by shape and not by meaning; and what is not computed on texts, or not in the order that is
assumed, would be taken away for nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from mvc.errors import InvalidInputError
from mvc.lossy.outputs_torch import rows
from mvc.runtime.families import KINDS, Sublayer
from mvc.runtime.narrowing_torch import layers_of, narrow, parameter
from mvc.runtime.structure import Kept, Structure

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["check_modules"]

_NEAR: Final = 1e-3
"""Of the largest output: by which the two ways to take something away may differ. Sums in another order differ by some
1e-6, and another head by some 1e-1."""


def check_modules(model: Any, structure: Structure, batch: Mapping[str, Any]) -> None:  # noqa: ANN401
    """Refuse a model whose modules do not do what is known of them.

    Parameters
    ----------
    model : PreTrainedModel
        Ready to run; left as it is.
    structure : Structure
        How it is built, and what it has kept.
    batch : mapping
        Keyword arguments of a forward pass.

    Raises
    ------
    InvalidInputError
        If a module is not computed, or in another order; or what is left without some heads and neurons is not what
        zeros in their places would leave.
    """
    import torch  # noqa: PLC0415

    with torch.inference_mode():
        _check_order(model, structure, batch)
        _check_cuts(model, structure, batch)


Seen = dict[str, "Tensor | None"]
"""What modules are given (``> PLACE.NAME``) and put out (``< PLACE.NAME``), in the order of a forward pass."""


def _check_order(model: Any, structure: Structure, batch: Mapping[str, Any]) -> None:  # noqa: ANN401
    """Run the model, and look at what its modules are given."""
    seen = _seen(model, structure, batch)
    for place, kept in enumerate(structure.layers):
        for kind in KINDS:
            _check_half(seen, place, structure.family.sublayer(kind), left=bool(kept.of(kind)))
        if place:
            before, after = seen.get(f"< {place - 1}."), seen.get(f"> {place}.")
            if before is None or after is None or not before.equal(after):
                raise _refused(f"layer {place} is not given what the one before it puts out")


def _seen(model: Any, structure: Structure, batch: Mapping[str, Any]) -> Seen:  # noqa: ANN401
    """Return what modules are given and put out."""
    events: list[tuple[str, Tensor | None]] = []
    with ExitStack() as stack:
        for place, layer in enumerate(layers_of(model, structure.family)):
            for name, module in _watched(structure, place, layer):
                stack.callback(module.register_forward_pre_hook(_noting(events, f"> {name}"), with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(_noting_end(events, f"< {name}")).remove)
        model(**batch)
    seen = dict(events)
    if len(seen) != len(events):
        raise _refused("a module is computed more than once for a text")
    return seen


def _check_half(seen: Seen, place: int, half: Sublayer, *, left: bool) -> None:
    """Refuse a half of a layer of which something is not computed, or too late."""
    linear, start, stop = f"> {place}.{half.linear}", f"> {place}.{half.start}", f"< {place}.{half.stop}"
    for event in (start, stop, f"> {place}.{half.residual}", *([linear] if left else [])):
        if event not in seen:
            raise _refused(f"{event.partition('.')[2]} of layer {place} is not computed")
    order = [*seen]
    if order.index(start) > order.index(stop):
        raise _refused(f"{half.stop} ends before {half.start} begins")
    if left and getattr(seen[linear], "ndim", 0) != 3:  # texts, tokens, elements
        raise _refused(f"{half.linear} is given tokens of which nobody knows which are padding")


def _watched(structure: Structure, place: int, layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield a layer and those of its modules that are looked at, by the number of the layer and their names."""
    halves = [structure.family.sublayer(kind) for kind in KINDS]
    names = {name for half in halves for name in (half.linear, half.start, half.stop, half.residual)}
    yield f"{place}.", layer
    yield from ((f"{place}.{name}", layer.get_submodule(name)) for name in sorted(names))


def _noting(events: list[tuple[str, Tensor | None]], event: str) -> Any:  # noqa: ANN401 - a hook
    """Return a hook that notes what a module is given."""

    def hook(_: object, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Note the first argument of a module."""
        events.append((event, args[0] if args else named.get("hidden_states")))

    return hook


def _noting_end(events: list[tuple[str, Tensor | None]], event: str) -> Any:  # noqa: ANN401 - a hook
    """Return a hook that notes what a module puts out."""

    def hook(_: object, __: object, output: Any) -> None:  # noqa: ANN401 - a tensor, or several
        """Note the first output of a module."""
        events.append((event, output[0] if isinstance(output, tuple) else output))

    return hook


def _check_cuts(model: Any, structure: Structure, batch: Mapping[str, Any]) -> None:  # noqa: ANN401
    """Take the first head and neuron of every layer away, and all of the last layer, in both ways."""
    family, zeros = structure.family, copy.deepcopy(model)
    small = copy.deepcopy(model)
    last = len(structure.layers) - 1
    for place, kept in enumerate(structure.layers):
        left = Kept(*(() if place == last else (*range(1, len(kept.of(kind))),) for kind in KINDS))
        narrow(layers_of(small, family)[place], family, left, structure.head_size)
        for kind in KINDS:
            cut, width = family.sublayer(kind).output, structure.width(kind)
            values = parameter(layers_of(zeros, family)[place], cut.name)
            gone = len(kept.of(kind)) if place == last else min(1, len(kept.of(kind)))
            values.narrow(cut.axis, 0, gone * width).zero_()
    mask = batch.get("attention_mask")
    expected = rows(zeros(**batch), mask)
    if not bool(expected.isfinite().all()):
        return  # which is said more plainly where answers are compared
    try:
        found = rows(small(**batch), mask)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise _refused(f"without a head and a neuron it cannot be run: {str(error).partition(chr(10))[0]}") from error
    most = _NEAR * float(expected.abs().max())
    if found.shape != expected.shape or not float((found - expected).abs().max()) <= most:  # or it is not a number
        raise _refused("without a head and a neuron it does not answer as with zeros in their places")


def _refused(problem: str) -> InvalidInputError:
    return InvalidInputError(
        f"the modules of the model are not what is said of them: {problem}",
        hint="see docs/guides/derive.md for what a map of modules must say",
    )
