"""Second moments of the inputs of linear layers and embeddings; needs torch."""

import numpy as np
import pytest

from mvc.errors import InvalidInputError
from mvc.lossy.calibration import About, Calibration, pieces
from mvc.lossy.calibration_torch import hessians, inputs_first, shared_names

torch = pytest.importorskip("torch")


class Conv1D(torch.nn.Module):  # type: ignore[name-defined,misc]
    """A linear layer whose weight has its inputs first, named as that of transformers."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(inputs, outputs))

    def forward(self, x):
        """Return the product."""
        return x @ self.weight


class Model(torch.nn.Module):  # type: ignore[name-defined,misc]
    """Two layers over tokens, one over the first token, and one that is never reached."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(50, 6)
        self.inner = torch.nn.ModuleDict({"up": torch.nn.Linear(6, 9), "down": Conv1D(9, 6)})
        self.head = torch.nn.Linear(6, 2)
        self.unused = torch.nn.Linear(3, 3)

    def forward(self, ids, attention_mask=None):
        """Return the logits."""
        return self.head(self.inner["down"](torch.relu(self.inner["up"](self.embed(ids))))[:, 0])


@pytest.fixture
def model():
    """Return the model, with seeded weights."""
    torch.manual_seed(0)
    return Model().eval()


def batch(samples, seed):
    """Return ids and a mask with as many ones as drawn."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 50, (samples, 7), generator=rng)
    lengths = torch.randint(1, 8, (samples, 1), generator=rng)
    return {"ids": ids, "attention_mask": (torch.arange(7) < lengths).long()}


def test_moments_are_those_of_tokens_that_count(model):
    """H = 2 X^T X / samples over all batches, without padding, under the names of the state dict."""
    batches = [batch(4, 0), batch(3, 1), batch(5, 2)]
    found = hessians(model, iter(batches))
    counts = found.pop("embed.weight")
    read = torch.cat([b["ids"][b["attention_mask"].bool()] for b in batches])
    assert np.allclose(counts, 2 * np.bincount(read, minlength=50) / 12)
    assert set(found) == {"inner.up.weight", "inner.down.weight", "head.weight"} < set(model.state_dict())
    tokens = torch.cat([model.embed(b["ids"])[b["attention_mask"].bool()] for b in batches])
    expected = 2 * tokens.T @ tokens / 12
    assert np.allclose(found["inner.up.weight"], expected.detach().numpy(), atol=1e-5)
    first = torch.cat(
        [model.inner["down"](torch.relu(model.inner["up"](model.embed(b["ids"]))))[:, 0] for b in batches]
    )
    assert np.allclose(found["head.weight"], (2 * first.T @ first / 12).detach().numpy(), rtol=1e-4)
    for matrix in found.values():
        assert matrix.dtype == np.float32
        assert np.array_equal(matrix, matrix.T)


def test_a_calibration_can_be_written(model):
    """What was found is what a file takes, and its matrices suit the weights."""
    found = hessians(model, [batch(4, 0)])
    embed = {"embed.weight": found.pop("embed.weight")}
    read = Calibration.of(b"".join(pieces(found, About("", "", 4, 9, inputs_first(model)), embed)))
    assert len(read.diagonal("embed.weight")) == 50
    assert read.about.inputs_first == {"inner.down.weight"}
    for name in read.names:
        shape = model.state_dict()[name].shape
        assert len(read.hessian(name)) == shape[0 if name in read.about.inputs_first else 1]


def test_without_a_mask_every_token_counts(model):
    """A batch of ids alone."""
    ids = batch(4, 0)["ids"]
    x = model.embed(ids).reshape(-1, 6)
    found = hessians(model, [{"ids": ids}])["inner.up.weight"]
    assert np.allclose(found, (2 * x.T @ x / 4).detach().numpy(), atol=1e-5)


def test_the_model_is_left_as_it_was(model):
    """No hook stays, also after an error, and no weight changes."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hessians(model, [batch(2, 0)])
    with pytest.raises(IndexError):
        hessians(model, [{"ids": torch.tensor([[99]])}])
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_values_that_are_not_finite_are_refused(model):
    """The error names the layer that was given them."""
    with torch.no_grad():
        model.inner["up"].weight[0, 0] = float("inf")
    with pytest.raises(InvalidInputError, match=r"inner\.down"):
        hessians(model, [batch(2, 0)])


def test_nothing_to_calibrate_on(model):
    """No batch is an error, not an empty calibration."""
    with pytest.raises(InvalidInputError, match="no batch"):
        hessians(model, [])


class Positions(torch.nn.Module):  # type: ignore[name-defined,misc]
    """Embeddings of places, the same for all samples, and a head that shares the embedding; one is of another kind."""

    class Shifted(torch.nn.Embedding):  # type: ignore[name-defined,misc]
        """As OPT's, which is given something else than rows."""

        def forward(self, mask):
            """Return rows of places that count."""
            return super().forward(mask.cumsum(1))

    def __init__(self):
        super().__init__()
        self.words, self.places = torch.nn.Embedding(50, 6), torch.nn.Embedding(9, 6)
        self.shifted = self.Shifted(9, 6)
        self.head = torch.nn.Linear(6, 50, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids, attention_mask):
        """Return the logits."""
        places = torch.arange(ids.shape[1])[None]
        return self.head(self.words(input=ids) + self.places(places) + self.shifted(attention_mask))


def test_places_are_read_by_every_sample_that_reaches_them():
    """Indices of one sample stand for all, without padding; what is given something else is left out."""
    given = [batch(4, 0), batch(3, 1)]
    found = hessians(Positions().eval(), given)
    assert set(found) == {"words.weight", "places.weight", "head.weight"}
    tokens = sum(b["attention_mask"].sum(0) for b in given)
    samples = 4 + 3
    assert np.allclose(found["places.weight"], 2 * np.append(tokens, [0, 0]) / samples)
    assert found["words.weight"].sum() == pytest.approx(float(2 * tokens.sum() / samples), rel=1e-6)


def test_names_of_a_weight_that_is_shared():
    """Each name leads to all of them; what is not shared has one."""
    names = shared_names(Positions())
    assert names["words.weight"] == names["head.weight"] == {"words.weight", "head.weight"}
    assert names["places.weight"] == {"places.weight"}
