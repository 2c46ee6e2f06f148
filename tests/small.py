"""Makes an evaluation small, for tests that do not assert on its numbers."""

from functools import partial

import numpy as np
import pytest

from tests import annotations
from vae_zoo.evaluation.suites import factors, samples
from vae_zoo.figures import charts
from vae_zoo.metrics import judge, probes


def evaluation(patch: pytest.MonkeyPatch) -> None:
    """Judges and probes see few images a few times, charts are black."""
    annotations.set_defaults(patch, judge.train_judge, {"steps": 8, "max_images": 200})
    patch.setattr(factors, "NUM_TRAIN", 200)
    patch.setattr(samples, "EPOCHS", 2)
    patch.setattr(charts, "_pixels", lambda figure: np.zeros((8, 8, 3), np.uint8))
    for name in ("MLPClassifier", "MLPRegressor"):
        patch.setattr(probes, name, partial(_two_epochs, getattr(probes, name)))


def _two_epochs(network, **options):
    return network(**options | {"max_iter": 2})
