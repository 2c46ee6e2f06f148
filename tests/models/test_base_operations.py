"""No Python loop over clusters, cells, groups, samples, images: a larger number of them is as many operations, only wider.

Operations of forward and backward pass are counted as torch dispatches them. Unlike a time, a count does not depend on the
machine: a loop that comes back fails here at once.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.models import test_discrete, test_gmvae, test_gmvae2016, test_mfcvae, test_spair, test_split_vade
from tests.models.builders import build, images
from vae_zoo.distributions import noise


class Count(TorchDispatchMode):
    """Counts the operations inside."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += 1
        return func(*args, **kwargs or {})


def operations(model, batch, k=None):
    """Of a training step without the optimiser, or of k weights."""
    model.train(k is None)
    with Count() as count, noise.per_image(batch["index"]):
        if k is None:
            model.total(model.objective(batch)).backward()
        else:
            model.log_weights(batch, k)
    return count.number


def grouped(model, groups):
    return images(24) | {"group": torch.arange(24) % groups, "num_groups": groups}


def scenes(cells):
    model = test_spair.spair((3, 8 * cells, 8 * cells))
    return model, test_spair.batch(4, model.image_shape)


PAIRS = {  # (model, batch) of a number
    "clusters of gmvae": (lambda K: (test_gmvae.build("gmvae", num_classes=K), images()), 3, 40),
    "clusters of gmvae, summed": (lambda K: (test_gmvae.build("gmvae", num_classes=K, class_sum="exact"), images()), 3, 40),
    "clusters of split_gmvae": (lambda K: (test_gmvae.build("split_gmvae", num_classes=K), images()), 3, 40),
    "clusters of gmvae2016": (lambda K: (test_gmvae2016.build(num_classes=K), images()), 3, 40),
    "clusters of split_vade": (lambda K: (test_split_vade.vade(num_classes=K), images()), 3, 40),
    "clusters of mfcvae": (lambda K: (test_mfcvae.build(num_clusters=[K, K]), images()), 3, 40),
    "classes of parted_vae": (lambda K: (test_discrete.build("parted_vae", K), images()), 3, 40),
    "classes of m2": (lambda K: (test_discrete.build("ss_vae", K), images()), 3, 40),
    "groups of ml_vae": (lambda G: ((model := build("ml_vae")), grouped(model, G)), 2, 12),
    "cells of spair": (scenes, 2, 5),
    "images of beta_tc_vae": (lambda B: (build("beta_tc_vae"), images(B)), 4, 40),
    "dimensions of dip_vae": (lambda D: (build("dip_vae", latent_dim=D), images()), 3, 40),
}


@pytest.mark.parametrize("case", PAIRS)
def test_a_larger_number_takes_no_more_operations(case):
    make, few, many = PAIRS[case]
    few, many = (operations(*make(number)) for number in (few, many))
    assert few > 20
    assert many == few


SAMPLED = {
    "beta_vae": lambda: build("beta_vae"),
    "ml_vae": lambda: build("ml_vae"),
    "gmvae": lambda: test_gmvae.build("gmvae"),
    "gmvae2016": test_gmvae2016.build,
    "mfcvae": test_mfcvae.build,
    "parted_vae": lambda: test_discrete.build("parted_vae"),
    "spair": test_spair.spair,
}


@pytest.mark.parametrize("name", SAMPLED)
def test_more_weights_take_no_more_operations(name):
    model = SAMPLED[name]()
    batch = test_spair.batch(4) if name == "spair" else grouped(model, 3)
    with torch.no_grad():
        few, many = (operations(model, batch, k) for k in (2, 9))
    assert few > 10
    assert many == few
