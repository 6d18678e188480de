"""How far answers are from what they were; needs torch."""

import pytest

from mvc.lossy.answers_torch import Answers

torch = pytest.importorskip("torch")


class Says(torch.nn.Module):  # type: ignore[name-defined,misc]
    """Puts out the same whatever it is given."""

    def __init__(self, **fields):
        super().__init__()
        self.fields = fields

    def forward(self):
        """Return it."""
        return self.fields


def test_a_single_logit_is_a_number():
    """A distribution of one class never changes: numbers are compared as numbers."""
    expected = torch.tensor([[1.0], [2.0], [-2.0]])
    answers = Answers(Says(logits=expected), [{}])
    assert answers.kind == "mse"
    assert answers.loss(Says(logits=expected)) == 0
    assert answers.loss(Says(logits=expected + 1)) == pytest.approx(3 / 9)


def test_several_are_a_distribution():
    """What is added to all of them changes nothing."""
    expected = torch.tensor([[1.0, 0.0], [2.0, -1.0]])
    answers = Answers(Says(logits=expected), [{}])
    assert answers.kind == "kl"
    assert answers.loss(Says(logits=expected + 1)) == pytest.approx(0, abs=1e-6)
    assert answers.loss(Says(logits=-expected)) > 0.1
