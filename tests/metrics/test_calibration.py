import numpy as np
import pytest

from tests.annotations import unchecked
from vae_zoo.metrics import ece


def test_a_classifier_that_is_as_often_right_as_it_says_is_calibrated():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(4), size=200_000)
    labels = (probs.cumsum(1) > rng.random((len(probs), 1))).argmax(1)
    assert ece(probs, labels) < 0.005
    sharper = probs**2 / (probs**2).sum(1, keepdims=True)
    assert ece(sharper, labels) > 0.1


def test_by_hand():
    probs = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.6, 0.4], [0.6, 0.4]])
    labels = np.array([0, 0, 0, 1, -1])
    assert ece(probs, labels) == pytest.approx(0.5 * abs(0.5 - 0.9) + 0.5 * abs(0.5 - 0.6))
    assert ece(probs, labels, bins=1) == pytest.approx(abs(0.5 - 0.75))
    assert np.isnan(ece(probs, np.full(5, -1)))


@unchecked()
def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(2,\)"):
        ece(np.full((3, 2), 0.5), np.zeros(2, int))
