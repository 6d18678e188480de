"""How far outputs move when weights are replaced; needs torch."""

import numpy as np
import pytest

from mvc.errors import InvalidInputError
from mvc.lossy import outputs_torch
from mvc.lossy.outputs_torch import TorchOutputs

torch = pytest.importorskip("torch")


class Tokens(torch.nn.Module):  # type: ignore[name-defined,misc]
    """Puts out something for each token, under a name."""

    def __init__(self, field):
        super().__init__()
        self.field = field
        self.embed = torch.nn.Embedding(20, 6)
        self.head = torch.nn.Linear(6, 3, bias=False)

    def forward(self, ids, attention_mask=None):
        """Return a mapping, as models of transformers do."""
        return {self.field: self.head(self.embed(ids)), "other": self.embed(ids)}


@pytest.fixture(params=["logits", "start_logits", "last_hidden_state"])
def model(request):
    """Return the model, with seeded weights."""
    torch.manual_seed(0)
    return Tokens(request.param).eval()


BATCHES = [
    {"ids": torch.tensor([[1, 2, 3], [4, 5, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])},
    {"ids": torch.tensor([[6, 7]]), "attention_mask": torch.tensor([[1, 1]])},
]
NAMES = {"classifier": "head.weight"}


def test_the_error_is_relative_and_leaves_padding_out(model):
    """Sum of squares over those of the model itself; afterwards the model is as it was."""
    outputs = TorchOutputs(model, BATCHES, NAMES)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    new = np.random.default_rng(1).normal(size=(3, 6)).astype("f4")
    x = model.embed(torch.tensor([1, 2, 3, 4, 5, 6, 7])).detach().double().numpy()
    old = before["head.weight"].double().numpy()
    expected = ((x @ (new - old).T) ** 2).sum() / ((x @ old.T) ** 2).sum()
    assert outputs.error({"classifier": new, "no part of it": new}) == pytest.approx(expected, rel=1e-5)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    assert outputs.error({}) == 0


def test_values_that_are_not_finite(model):
    """With other weights they are an infinite error, of the model itself a refusal."""
    outputs = TorchOutputs(model, BATCHES, NAMES)
    assert outputs.error({"classifier": np.full((3, 6), np.nan, "f4")}) == np.inf
    with torch.no_grad():
        model.head.weight[0, 0] = float("inf")
    with pytest.raises(InvalidInputError, match="sum to"):
        TorchOutputs(model, BATCHES, NAMES)
    with pytest.raises(InvalidInputError, match="sum to 0"):
        TorchOutputs(model, [], NAMES)


def test_batches_that_do_not_fit_are_left_out(model, monkeypatch):
    """The first one stays, however large."""
    monkeypatch.setattr(outputs_torch, "_MOST_BYTES", 10)
    new = {"classifier": np.ones((3, 6), "f4")}
    assert TorchOutputs(model, BATCHES, NAMES).error(new) == TorchOutputs(model, BATCHES[:1], NAMES).error(new)


class Classes(Tokens):
    """Puts out three classes for each sample."""

    def forward(self, ids, attention_mask=None):
        """Return a mapping, as models of transformers do."""
        return {"logits": self.head(self.embed(ids)).sum(1)}


def test_as_many_classes_as_tokens():
    """Padding is left out of what is said of tokens, and nothing of what is said of samples."""
    torch.manual_seed(0)
    model = Classes("logits").eval()
    outputs = TorchOutputs(model, BATCHES[:1], NAMES)
    new = model.head.weight.detach().numpy().copy()
    new[2] = 0  # of the second sample, the third token is padding
    x = model.embed(BATCHES[0]["ids"]).sum(1).detach().double().numpy()
    logits = x @ model.head.weight.detach().double().numpy().T
    assert outputs.error({"classifier": new}) == pytest.approx((logits[:, 2] ** 2).sum() / (logits**2).sum(), rel=1e-5)
