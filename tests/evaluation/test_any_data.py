"""Whatever the data: numbers that cannot be had are left out, and the evaluation ends."""

import numpy as np
import pytest
import torch

from tests.models.builders import build
from vae_zoo.data.datamodule import Arrays, DataModule
from vae_zoo.distributions import Bernoulli
from vae_zoo.evaluation import protocol
from vae_zoo.evaluation.suites import grouped
from vae_zoo.models.gmvae import GMVAE
from vae_zoo.nets import MLP


class Few(DataModule):
    """Noise of 120 images with these shares of labels; by default they are grouped where the model asks for it."""

    default_group = "label"

    def __init__(self, labels, **common):
        super().__init__((1, 8, 8), batch_size=16, val_size=30, test_size=30, **common)
        self.labels = labels

    def load(self):
        rng = np.random.default_rng(0)
        images = rng.integers(256, size=(120, 1, 8, 8), dtype=np.uint8)
        if self.labels == "none":
            return Arrays(images)
        label = {"one class": np.zeros(120), "two": np.arange(120) % 2, "one image": np.arange(120) == 119}[self.labels]
        return Arrays(images, label=label.astype(np.int64), num_classes=2)


def model(name):
    torch.manual_seed(0)
    if name == "gmvae":
        return GMVAE((1, 8, 8), z_dim=3, num_classes=4, network=MLP(hidden=(16,)), likelihood=Bernoulli()).eval()
    return build(name, (1, 8, 8)).eval()


@pytest.mark.parametrize("labels", ["none", "one class", "two", "one image"])
@pytest.mark.parametrize("name", ["vae", "ml_vae", "gmvae", "split_vae"])
def test_evaluation_ends_on_any_labels(name, labels, small_evaluation):
    one = model(name)
    if labels == "none" and name == "ml_vae":
        pytest.skip("without labels there are no groups: refused before training")
    data = Few(labels)
    data.serve(one)
    found = protocol.finite(protocol.evaluate(one, data, "full").numbers)
    assert "test/elbo" in found
    tells_classes = [key for key in found if key.startswith(("test/probe/", "test/judge", "test/swap_accuracy"))]
    if labels in ("none", "one class"):
        assert not tells_classes
    elif labels == "two" and name != "vae":
        assert tells_classes


@pytest.mark.parametrize("name", ["vae", "split_vae", "gmvae"])
def test_grouped_data_are_evaluated_by_models_that_share_no_code(name, small_evaluation):
    one, data = model(name), Few("two", group_by="label")
    data.serve(one)
    numbers = protocol.evaluate(one, data).numbers
    assert "test/verification_auc_k1" in numbers and "test/style_shown" not in numbers


def test_another_image_where_there_is_none_is_an_error_and_no_endless_loop():
    with pytest.raises(ValueError, match="no image is left"):
        grouped._others(torch.tensor([[0, 1, 2]] * 3), seed=0)
