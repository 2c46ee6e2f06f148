"""What is said of global and local code, of models that are known to split and to ignore the local code."""

import numpy as np
import pytest
import torch

from vae_zoo.contract import Block
from vae_zoo.data.arrays import Arrays
from vae_zoo.data.datamodule import DataModule
from vae_zoo.distributions import Gaussian, Normal
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suites.clusters import Clusters
from vae_zoo.evaluation.suites.local_global import LocalGlobal, LocalGlobalControls, SampledCodes, another, numbers
from vae_zoo.metrics import judge
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.models.gmvae import GMVAE
from vae_zoo.models.split_gmvae import SplitGMVAE
from vae_zoo.models.split_vae import SplitVAE
from vae_zoo.nets import MLP, PatchShuffle


class Quadrants(DataModule):
    """The reference's toy: which quadrant is painted is global, the colours of paint and ground are local. 8x8 RGB."""

    def __init__(self, num_images=900):
        super().__init__((3, 8, 8), val_size=0.1, test_size=0.3)
        self.num_images = num_images

    def load(self):
        rng = np.random.default_rng(0)
        label = rng.integers(4, size=self.num_images)
        paint, ground = rng.uniform(0.6, 1, (self.num_images, 3)), rng.uniform(0, 0.4, (self.num_images, 3))
        return Arrays(drawn(label, paint, ground), label=label, num_classes=4)


def drawn(label, paint, ground):
    rows, columns = np.ogrid[:8, :8]
    inside = (rows // 4 * 2 + columns // 4) == label[:, None, None]
    images = np.where(inside[:, None], paint[..., None, None], ground[..., None, None])
    return np.rint(255 * images).astype(np.uint8)


class Oracle(LatentVariableModel):
    """z_global: the quadrant one-hot, z_local: both colours. ignores: z_local says nothing, colours are in z_global too."""

    global_block, local_block = "z_global", "z_local"

    def __init__(self, ignores=False):
        super().__init__((3, 8, 8))
        self.ignores = ignores
        self.blocks = {"z_global": Block(10, "gaussian", ""), "z_local": Block(6, "gaussian", "")}

    def encode(self, batch):
        x, label = batch["image"], batch["label"]
        quadrants = x.unflatten(2, (2, 4)).unflatten(4, (2, 4)).mean((3, 5)).flatten(2)  # [B, 3, 4]
        paint = quadrants[torch.arange(len(x)), :, label]
        ground = (quadrants.sum(2) - paint) / 3
        colours, z = torch.cat([paint, ground], 1), torch.nn.functional.one_hot(label, 4).float()
        z = torch.cat([z, colours if self.ignores else torch.zeros_like(colours)], 1)
        return {name: Normal(mu, torch.zeros_like(mu)) for name, mu in (("z_global", z), ("z_local", colours))}

    def sample_prior(self, n):
        quadrant = torch.nn.functional.one_hot(torch.randint(4, (n,)), 4).float()
        paint, ground = 0.6 + 0.4 * torch.rand(n, 3), 0.4 * torch.rand(n, 3)
        colours = torch.cat([paint, ground], 1)
        return {"z_global": torch.cat([quadrant, colours], 1), "z_local": colours}

    def decode(self, codes):
        label = codes["z_global"][:, :4].argmax(1)
        colours = 0.99 * (codes["z_global"][:, 4:] if self.ignores else codes["z_local"])
        return torch.from_numpy(drawn(label.numpy(), *colours.numpy().reshape(-1, 2, 3).swapaxes(0, 1))) / 255


@pytest.fixture(scope="module")
def data():
    data = Quadrants()
    data.setup()
    return data


@pytest.fixture(scope="module")
def one(data):
    return judge.train_judge(data, steps=250)


def found(model, data, one):
    e = Context(model.eval(), data)
    e.judges["label"] = one
    return dict(numbers(e)), e


def test_a_model_that_splits_scores_one_and_its_colours_follow(data, one):
    got, _ = found(Oracle(), data, one)
    assert got["judge_accuracy"] > 0.99
    for name in ("rec", "resample_local", "swap_local"):
        assert got[f"accuracy_{name}"] > 0.98, name
    assert got["accuracy_resample_global"] < 0.4 and got["accuracy_swap_global"] < 0.4 and got["colour_transfer_ratio"] < 0.1


def test_a_cheat_whose_global_code_holds_all_but_one_colour_is_exposed(data, one):
    """z_global has class and colours, z_local decides the colours alone: all numbers but the controls are perfect."""

    class Cheat(Oracle):
        def encode(self, batch):
            q = super().encode(batch)
            quadrant, colours = q["z_global"].mean[:, :4], q["z_local"].mean
            mu = torch.cat([quadrant, colours], 1)
            return {"z_global": Normal(mu, torch.zeros_like(mu)), "z_local": q["z_local"]}

    controls = {}
    for model in (Oracle(), Cheat()):
        got, e = found(model, data, one)
        assert got["accuracy_swap_local"] > 0.98 and got["colour_transfer_ratio"] < 0.1
        controls[type(model)] = LocalGlobalControls().run(e).numbers
    honest, cheat = controls[Oracle], controls[Cheat]
    assert honest["colour_r2_z_global"] < 0.1 and cheat["colour_r2_z_global"] > 0.8
    assert honest["colour_r2_z_local"] > 0.8
    assert honest["class_z_global"] > 0.95 and honest["class_z_local"] < 0.2
    assert honest["kmeans_z_global/cluster_accuracy_hungarian"] > 0.95 > honest["kmeans_z_local/cluster_accuracy_hungarian"]
    assert honest["kmeans_pixels/ami"] == cheat["kmeans_pixels/ami"]


def test_sampled_codes_are_scored_on_all_test_images_also_in_the_official_range(data, one, monkeypatch):
    e = found(Oracle(), data, one)[1]
    e.scored = e.scored[:50]
    got = {name.removeprefix("sampled_codes/"): value for name, value in SampledCodes().run(e).numbers.items()}
    accuracies = {name: value for name, value in got.items() if name.startswith("accuracy_")}
    counts = [value * len(data.indices["test"]) for value in accuracies.values()]
    assert counts == pytest.approx([round(count) for count in counts], abs=1e-6), "each is a share of all test images"
    assert {*got} - {*dict(numbers(e))} == {f"accuracy_resample_{block}_official" for block in ("local", "global")}
    again = {name.removeprefix("sampled_codes/"): value for name, value in SampledCodes().run(e).numbers.items()}
    assert got == again, "samples belong to the images"
    monkeypatch.setattr(one, "predict", lambda images: (images.flatten(1).min(1).values >= 0.5).long())
    official = dict(SampledCodes().run(e).numbers)["sampled_codes/accuracy_resample_local_official"]
    label = data.label[data.indices["test"]]
    assert official == pytest.approx((label == 1).double().mean().item()), "all pixels are in the upper half"


def test_an_ignored_local_code_passes_the_accuracies_and_fails_the_ratio(data, one):
    got, _ = found(Oracle(ignores=True), data, one)
    for name in ("rec", "resample_local", "swap_local"):
        assert got[f"accuracy_{name}"] > 0.98, name
    assert got["accuracy_resample_global"] < 0.4 and got["colour_transfer_ratio"] > 20


def test_numbers_repeat_and_evaluation_leaves_the_random_numbers_alone(data, one):
    torch.manual_seed(0)
    model = SplitVAE((3, 8, 8), 2, 2, MLP((8,)), Gaussian(0.1), PatchShuffle(1))
    state = torch.get_rng_state()
    first, second = (found(model, data, one)[0] for _ in range(2))
    assert first == second and torch.equal(state, torch.get_rng_state())


def test_every_image_gives_its_code_to_one_other():
    torch.manual_seed(0)
    for N in (2, 3, 100):
        other = another(N)
        assert torch.equal(other.sort().values, torch.arange(N)) and (other != torch.arange(N)).all()


def test_steps_fit_the_models(data, one):
    torch.manual_seed(0)
    common = {"z_dim": 2, "num_classes": 4, "network": MLP((8,)), "likelihood": Gaussian(0.1)}
    common |= {"class_hidden": (8, 8), "z_hidden": 8}
    plain = GMVAE((3, 8, 8), **common).eval()
    clustered = SplitGMVAE((3, 8, 8), **common, local_dim=2, local_network=MLP((8,)), view=PatchShuffle(2)).eval()
    assert not isinstance(plain, LocalGlobal.capability)
    e = Context(clustered, data)
    e.judges["label"] = one
    got = LocalGlobal().run(e)
    assert 0 <= got.numbers["accuracy_resample_within"] <= 1
    assert {"views", "generation_z_global", "generation_z_local"} == got.pictures.keys()
    for model in (plain, clustered):
        got, names = Clusters().run(Context(model, data)), "cluster_accuracy_hungarian cluster_accuracy_majority nmi ari"
        names = names.split()
        assert {*names, *(f"{name}_pixels" for name in names), "clusters_used"} <= got.numbers.keys()
        assert got.numbers["clusters"] == 4
        assert got.pictures["members_c"].dtype == np.uint8


def test_the_model_is_judged_on_data_without_labels_by_its_colours_alone(data):
    torch.manual_seed(0)
    bare = Quadrants()
    bare.load = lambda: Arrays(Quadrants.load(bare).images)
    bare.setup()
    model = SplitVAE((3, 8, 8), 2, 2, MLP((8,)), Gaussian(0.1), PatchShuffle(1)).eval()
    assert set(dict(numbers(Context(model, bare)))) == {"colour_transfer_ratio"}


def test_labels_of_training_images_alone_judge_nothing_but_clusters_are_counted(data):
    torch.manual_seed(0)
    common = {"z_dim": 2, "num_classes": 4, "network": MLP((8,)), "likelihood": Gaussian(0.1)}
    common |= {"class_hidden": (8, 8), "z_hidden": 8}
    model = SplitGMVAE((3, 8, 8), **common, local_dim=2, local_network=MLP((8,)), view=PatchShuffle(2)).eval()
    known = data.label.clone()
    for part in ("val", "test"):
        data.label[data.indices[part]] = -1
    try:
        e = Context(model, data)
        assert dict(numbers(e)).keys() == {"colour_transfer_ratio"}
        clusters = Clusters().run(e)
        assert clusters.numbers.keys() == {"clusters", "clusters_used"} and "members_c" in clusters.pictures
    finally:
        data.label = known
