"""Makes an evaluation small, for tests that do not assert on its numbers."""

from functools import partial

import numpy as np
import pytest

from tests import annotations
from vae_zoo.evaluation import context
from vae_zoo.evaluation.suites import classes, factors, local_global, samples, worth
from vae_zoo.figures import charts
from vae_zoo.metrics import judge, probes


def evaluation(patch: pytest.MonkeyPatch) -> None:
    """Judges, probes and k-means see few images a few times, charts are black."""
    annotations.set_defaults(patch, judge.train_judge, {"steps": 8, "max_images": 200})
    for module in (context, factors):
        patch.setattr(module, "NUM_TRAIN", 200)
        patch.setattr(module, "NUM_TEST", 200)
    patch.setattr(context, "NUM_BOUNDS", 200)
    patch.setattr(local_global, "PROBED", 200)
    patch.setattr(worth, "IMAGES", 100)
    patch.setattr(classes, "PER_CLASS", 10)
    patch.setattr(samples, "EPOCHS", 2)
    patch.setattr(charts, "_pixels", lambda figure: np.zeros((8, 8, 3), np.uint8))
    for name in ("MLPClassifier", "MLPRegressor"):
        patch.setattr(probes, name, partial(_two_epochs, getattr(probes, name)))


def _two_epochs(network, **options):
    return network(**options | {"max_iter": 2})
