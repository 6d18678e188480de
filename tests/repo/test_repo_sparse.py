"""A step that changes few weights is stored as a sparse delta, and comes back."""

import numpy as np

from mvc.repo.show import tensor_views


def test_a_step_that_changes_one_word_in_a_hundred(lab):
    """One per cent of bf16 weights move by one unit in the last place."""
    model = {"w": lab.weights("BF16", (300, 1000))}
    lab.committed(model)
    words = np.frombuffer(model["w"].data, "<u2").copy()
    words[np.random.default_rng(0).random(len(words)) < 0.01] += 1
    step = {"w": model["w"]._replace(data=words.tobytes())}
    commit = lab.committed(step)
    (view,) = tensor_views(lab.session, commit)
    assert view.record is not None
    assert view.record.codec == "sparse-delta"
    assert view.record.location.length < 0.01 * words.nbytes
    assert lab.repo.load(framework="numpy")["w"].tobytes() == words.tobytes()
