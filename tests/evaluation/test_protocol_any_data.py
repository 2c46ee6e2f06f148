"""Every model on whatever data: the evaluation ends without a failed suite, and numbers that cannot be had are left out."""

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests import annotations
from tests.config.test_schemas import choices, composed
from vae_zoo import UserError
from vae_zoo.data.arrays import Arrays
from vae_zoo.data.datamodule import DataModule
from vae_zoo.evaluation import protocol
from vae_zoo.evaluation.suites import grouped
from vae_zoo.figures import charts
from vae_zoo.metrics import judge, probes
from vae_zoo.runs.load import build

LABELS = {
    "labels": np.arange(60) % 2,
    "no labels": None,
    "one class": np.zeros(60, dtype=int),
    "groups": np.arange(60) % 2,
    "a class of one image": (np.arange(60) == 59).astype(int),
}
PLAIN = ["model/network=mlp", "model.network.hidden=[8]"]
LADDER = ["model.network.hidden=[[8],[8]]", "model.network.decoder_hidden=null"]
MIXTURE = [*PLAIN, "model.num_classes=3", "model.class_hidden=[8,8]", "model.z_hidden=8", "model.z_dim=3"]
OBJECTS = [f"model.{key}=[8]" for key in ("network.hidden", "object_network.hidden", "head_hidden")]
OBJECTS += ["model.channels=[4,4]", "model.strides=[2,2]", "model.features=8", "model.glimpse_size=4", "model.anchor=6"]
WORDS = {  # tiny networks; patches that fit the images
    "factor_vae": [*PLAIN, "model.discriminator_hidden=[8]"],
    "ladder_vae": LADDER,
    "mfcvae": [*LADDER, "model.num_clusters=[4,4]"],
    "vade": ["model.network.hidden=[[8]]", "model.num_clusters=[4]"],
    "gmvae": MIXTURE,
    "gmvae2016": [*PLAIN, "model.num_classes=3", "model.z_dim=3", "model.w_dim=2", "model.feature_dim=8"],
    "split_vae": [*PLAIN, "model.view.patch=2"],
    "split_vade": [*PLAIN, "model.num_classes=3", "model.view.patch=2"],
    "split_gmvae": [*MIXTURE, "model.view.patch=2"],
    "spair": OBJECTS,
    "split_spair": [*OBJECTS, "model.view.patch=2"],
}


class Noise(DataModule):
    """60 images of noise with labels of this kind."""

    default_group = "label"

    def __init__(self, labels):
        group_by = "label" if labels == "groups" else None
        super().__init__((1, 8, 8), batch_size=8, val_size=15, test_size=15, group_by=group_by)
        self.labels = LABELS[labels]

    def load(self):
        images = np.random.default_rng(0).integers(256, size=(60, 1, 8, 8), dtype=np.uint8)
        return Arrays(images, label=self.labels, num_classes=None if self.labels is None else 2)


@cache
def config(name):
    words = [f"model={name}", "data=digits", "data.image_shape=[1,8,8]", "data.num_classes=2"]
    return composed(*words, *WORDS.get(name, PLAIN))["model"]


def model(name):
    torch.manual_seed(0)
    return build(config(name)).eval()


@pytest.fixture
def quick(monkeypatch):
    """What judges and probes learn and how charts look is tested elsewhere."""
    few = {"steps": 2, "checks": 1}
    annotations.set_defaults(monkeypatch, judge.train_judge, few)
    monkeypatch.setattr(probes, "MLPClassifier", lambda **options: LogisticRegression(max_iter=5))
    monkeypatch.setattr(grouped, "COUNTS", (1, 2))
    monkeypatch.setattr(charts, "_pixels", lambda figure: np.zeros((1, 1, 3), np.uint8))


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("name", choices("model"))
def test_every_model_is_evaluated_on_any_labels(quick, name, labels):
    one, data = model(name), Noise(labels)
    if labels == "no labels" and one.needs & {"group", "label", "supervised"}:
        with pytest.raises(UserError):  # before training
            data.serve(one)
        return
    data.serve(one)
    evaluation = protocol.evaluate(one, data, "full")
    found = evaluation.numbers
    assert not evaluation.failed and "test/elbo" in found
    assert all(found[f"test/worth/{block}"] >= 0 for block in one.blocks) and "test/worth" in found
    tell_classes = ("test/judge", "test/swap", "test/accuracy_rec", "test/block/")
    tells_classes = [key for key in found if key.startswith(tell_classes)]
    assert bool(tells_classes) == (labels in ("labels", "groups"))  # elsewhere the scored images have one class
    assert ("test/verification_auc_k1" in found) == (data.is_grouped and labels in ("labels", "groups"))
    assert "test/style_shown" not in found or "group" in one.needs


def test_another_image_where_there_is_none_is_an_error_and_no_endless_loop():
    with pytest.raises(ValueError, match="need more than 3 images, got 3"):
        grouped._others(torch.tensor([[0, 1, 2]] * 3), seed=0)


@pytest.mark.parametrize("name", ["ml_vae", "split_vae", "gmvae"])
def test_validation_images_without_labels_cost_no_suite(quick, name):
    """A classifier of the label cannot be selected, so what needs one is left out."""
    one, data = model(name), Noise("groups" if name == "ml_vae" else "labels")
    data.serve(one)
    data.label[data.indices["val"]] = -1
    evaluation = protocol.evaluate(one, data, "full")
    assert not evaluation.failed and not any("swap_accuracy" in key or "kid_judge" in key for key in evaluation.numbers)
