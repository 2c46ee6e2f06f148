"""Whether global and local information come apart, on pictures where both are known and the right swap is too."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeCV

from tests.models.builders import costs, fit
from vae_zoo.data.arrays import Arrays
from vae_zoo.data.datamodule import DataModule
from vae_zoo.distributions import PixelwiseLogistic
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suites.local_global import numbers
from vae_zoo.models.gmvae import GMVAE
from vae_zoo.models.split_gmvae import SplitGMVAE
from vae_zoo.models.split_vae import SplitVAE
from vae_zoo.nets import PatchShuffle, ResizeConv

NETWORK = ResizeConv((8, 16, 32), decoder_channels=(32, 16, 16))
STEPS = 900
SPLIT = {"global_dim": 16, "local_dim": 16, "view": PatchShuffle(1)}
SPLIT |= {"beta_global": 4.0, "beta_local": 6.0, "aux_weight": 4.0}  # docs/journal/split.md says why


class Quadrants(DataModule):
    """Which quadrant of 16x16 pixels is painted is the class; the colours of paint and ground, at least 0.3 apart in
    brightness, say nothing of it. Once single pixels are shuffled nothing tells the class, so z_local cannot hold it."""

    def __init__(self):
        super().__init__((3, 16, 16), batch_size=48, val_size=300, test_size=500)

    def load(self):
        rng = np.random.default_rng(0)
        pairs = rng.uniform(size=(20_000, 2, 3))
        pairs = pairs[np.abs(np.diff(pairs.mean(2))[:, 0]) >= 0.3][:4000]
        label = rng.integers(4, size=len(pairs))
        rows, columns = np.ogrid[:16, :16]
        inside = (rows // 8 * 2 + columns // 8) == label[:, None, None]  # [N, 16, 16]
        images = np.where(inside[:, None], *(pairs[:, i, :, None, None] for i in (0, 1)))
        return Arrays(np.rint(255 * images).astype(np.uint8), label=label, num_classes=4)


def trained(kind, seed=0, **options):
    torch.manual_seed(seed)
    data, optimizer = Quadrants(), lambda parameters: torch.optim.Adam(parameters, lr=2e-3)
    common = {"network": NETWORK, "likelihood": PixelwiseLogistic(), "optimizer": optimizer}
    model = kind((3, 16, 16), **common, **options)
    fit(model, STEPS, data=data, gradient_clip_val=1e4)
    return model.eval(), data


@torch.no_grad()
def scores(model, data):
    """Those of the suite; class_<block>: a logistic probe; colour_<block>: R2 of the mean RGB by a ridge."""
    e = Context(model, data)
    found = dict(numbers(e))
    codes = [e.codes.blocks(index) for index in (e.train, e.scored)]
    images = [data.batch(torch.from_numpy(index))["image"].mean((2, 3)).numpy() for index in (e.train, e.scored)]
    labels = [data.label[index].numpy() for index in (e.train, e.scored)]
    for name in ("z_global", "z_local"):
        (x, x_test), ridge = (part[name] for part in codes), RidgeCV(np.logspace(-3, 3, 13))
        probe = LogisticRegression(max_iter=2000).fit(x, labels[0])
        found[f"class_{name}"] = probe.score(x_test, labels[1])
        found[f"colour_{name}"] = ridge.fit(x, images[0]).score(x_test, images[1])
    return found


@pytest.mark.slow
def test_class_and_colours_come_apart():
    """Thresholds of the reference but for the last. After so few steps the ratio depends on rounding: .76 .39 .96 (seeds 0
    to 2), and .41 .44 .90 with the layers of the official code one by one; without the shuffled image it is above 1.2. A
    warm-up of beta_global steadies it (.42 .41), but has .69 without the shuffled image too, so it would hide a fault."""
    got = scores(*trained(SplitVAE, **SPLIT))
    assert got["class_z_global"] >= 0.75 and got["class_z_local"] <= 0.40, got
    assert got["colour_z_local"] >= 0.65 and got["colour_z_local"] - got["colour_z_global"] >= 0.1, got
    assert got["judge_accuracy"] >= 0.97 and got["accuracy_rec"] >= 0.85 and got["accuracy_resample_local"] >= 0.65, got
    assert got["accuracy_swap_local"] >= 0.55 and got["accuracy_resample_global"] <= 0.40, got
    assert got["colour_transfer_ratio"] <= 1.0, got


@pytest.mark.slow
def test_without_the_shuffled_image_colours_do_not_follow_their_code():
    """So the ratio can fail, and only it: an ignored z_local cannot hurt the class."""
    got = scores(*trained(SplitVAE, **SPLIT | {"aux_weight": 0.0}))
    assert got["colour_transfer_ratio"] >= 1.2, got
    assert got["accuracy_rec"] >= 0.80 and got["accuracy_resample_local"] >= 0.65, got


@pytest.mark.slow
@pytest.mark.parametrize("kind", [GMVAE, SplitGMVAE])
def test_mixtures_learn_and_use_more_than_one_cluster(kind):
    """Which clusters they find is no matter of toys: the reference saw purity go either way. Colours are uniform, so that a
    decoder that knows nothing of the image pays 8 bits for each pixel and channel."""
    local = {"local_dim": 16, "local_network": NETWORK, "view": PatchShuffle(1)} if kind is SplitGMVAE else {}
    mixture = {"num_classes": 8, "z_dim": 16, "class_hidden": (64, 32), "z_hidden": 64}
    model, data = trained(kind, **mixture, **local)
    batch = data.single(data.indices["test"])
    with torch.no_grad():
        bits = costs(model, batch)["rec"].mean() / (3 * 16 * 16) / np.log(2)
        used = np.unique(model.class_log_probs(batch["image"]).argmax(1).numpy())
    assert bits < 7.6 and len(used) >= 2, (bits, used)
