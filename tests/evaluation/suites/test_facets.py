"""Facets against labels, of a model whose clusters are known: what it scores, who is chosen, what the pictures show."""

import numpy as np
import pytest
import torch
from torch import nn

from vae_zoo.contract import Block
from vae_zoo.data.sets.shapes3d import Shapes3D
from vae_zoo.distributions import MixturePrior, Normal
from vae_zoo.evaluation import protocol
from vae_zoo.evaluation.context import Context, rows
from vae_zoo.evaluation.suites import facets
from vae_zoo.metrics import clustering
from vae_zoo.models.base import LatentVariableModel

SHAPE_NAMES = torch.tensor([5, 0, 3, 2])  # cluster of each shape; 1 and 4 stay empty


class Oracle(LatentVariableModel):
    """facet0: the shape; facet1: two neighbouring floor hues together; rest: noise. It draws its clusters as grey values."""

    facets = ("facet0", "facet1")
    num_clusters = {"facet0": 6, "facet1": 5}

    def __init__(self):
        super().__init__((3, 32, 32))
        self.blocks = {name: Block(K, "gaussian", "a cluster") for name, K in self.num_clusters.items()}
        self.blocks["rest"] = Block(2, "gaussian", "noise")
        torch.manual_seed(0)
        self.priors = nn.ModuleDict({name: MixturePrior(K, K) for name, K in self.num_clusters.items()})
        for name, K in self.num_clusters.items():
            self.priors[name].mu.data = torch.eye(K)

    def encode(self, batch):
        hue, _, shape = batch["factors"].long().unbind(1)
        sure = 1 + torch.sin(12.9898 * batch["index"]).square()  # differs from image to image
        q = {}
        for name, cluster in (("facet0", SHAPE_NAMES[shape]), ("facet1", hue // 2)):
            q[name] = sure[:, None] * nn.functional.one_hot(cluster, self.num_clusters[name])
        q["rest"] = torch.sin(torch.stack([78.233 * batch["index"], 3.1 * batch["index"]], 1))
        return {name: Normal(mu, torch.zeros_like(mu)) for name, mu in q.items()}

    def clusters(self, q):
        return {name: (3 * q[name].mu).softmax(1) for name in self.facets}

    def decode(self, codes):
        grey = [codes[name].argmax(1) / 10 for name in self.facets] + [codes["rest"][:, 0].clamp(0, 1)]
        return torch.stack(grey, 1)[:, :, None, None].expand(-1, -1, 32, 32)

    def sample_prior(self, n):
        return {name: torch.randn(n, block.size) for name, block in self.blocks.items()}


@pytest.fixture(scope="module")
def data(cache_dir):
    factors = {"wall_hue": [5], "object_hue": [6], "orientation": [7]}
    data = Shapes3D(factors=factors, size=32, cache=str(cache_dir), val_size=60, test_size=80)
    data.setup()
    return data


@pytest.fixture(scope="module")
def evaluation(data):
    return found(data)


def found(data):
    """What the suite says; of the KL of one facet too."""
    return facets.Facets().run(context(data))


def context(data):
    context = Context(Oracle().eval(), data)
    context.bounds = ({"kl_facet0": 1.25}, {})
    return context


def test_scores_are_those_of_the_clusters_known(evaluation, data):
    numbers, test = evaluation.numbers, data.indices["test"]
    for key in ("cluster_accuracy_majority", "cluster_accuracy_hungarian", "cluster_balanced_accuracy", "cluster_purity"):
        assert numbers[f"facet0/shape/{key}"] == numbers[key] == 1
    assert numbers["facet0/shape/nmi"] == numbers["facet0/shape/ari"] == numbers["nmi"] == pytest.approx(1)
    hue = data.factors[test, 0].numpy()
    pairs = np.array([np.sort(np.bincount(hue[hue // 2 == k] % 2, minlength=2)) for k in range(5)])
    least, most = pairs.sum(0) / len(test)
    assert numbers["facet1/floor_hue/cluster_purity"] == pytest.approx(most)
    assert least <= numbers["facet1/floor_hue/cluster_accuracy_majority"] <= most
    assert numbers["facet1/floor_hue/ari"] == pytest.approx(clustering.ari(hue // 2, hue))
    assert abs(numbers["facet0/floor_hue/ami"]) < 0.1 and abs(numbers["facet1/shape/ami"]) < 0.1
    assert numbers["facet0/shape/cluster_purity_chance"] < 0.5


def test_clusters_are_counted(evaluation, data):
    numbers, test = evaluation.numbers, data.indices["test"]
    assert numbers["facet0/clusters_used"] == numbers["facet0/clusters_present"] == numbers["clusters_used"] == 4
    assert numbers["facet1/clusters_used"] == 5 and numbers["cluster_facet"] == 0
    assert 4 < numbers["facet0/clusters_effective"] < 6 and 0.8 < numbers["facet0/confidence"] < 1
    assert numbers["facet0/kl"] == 1.25 and "facet1/kl" not in numbers, "what the model does not have is left out"
    shape, hue = data.factors[test, 2].numpy(), data.factors[test, 0].numpy() // 2
    assert numbers["facet0/facet1/mutual_information"] == pytest.approx(clustering.mutual_information(shape, hue))
    assert abs(numbers["facet0/facet1/ami"]) < 0.1


def test_beside_every_score_stands_that_of_as_many_clusters_of_pixels(evaluation, data):
    numbers, keys = evaluation.numbers, clustering.scores([0], [0], ([0], [0]))
    facet_and_label = [f"facet{j}/{label}/" for j in (0, 1) for label in ("shape", "floor_hue", "scale")]
    scores = {f"{prefix}{key}" for prefix in ("", *facet_and_label) for key in keys}
    assert {name for name in numbers if name.endswith("_pixels")} == {f"{name}_pixels" for name in scores}
    assert scores <= set(numbers)
    assert numbers["facet0/clusters"] == numbers["clusters"] > numbers["facet0/clusters_present"]
    index = {"train": torch.from_numpy(rows(data, "train", 10_000, 0)), "test": data.indices["test"]}
    train, test = (data.batch(index[split])["image"].flatten(1).numpy() for split in index)
    assign = clustering.k_means(train, numbers["facet1/clusters"])
    hue = [data.factors[part, 0].numpy().astype(int) for part in index.values()]
    wanted = clustering.scores(assign(test), hue[1], fit=(assign(train), hue[0]))
    assert numbers["facet1/floor_hue/ari_pixels"] == pytest.approx(wanted["ari"], abs=1e-3)
    assert numbers["facet1/floor_hue/ari_pixels"] <= numbers["facet1/floor_hue/ari"]


def test_labels_are_the_label_then_the_factors_of_few_values(evaluation, data):
    assert list(facets.labels(context(data))) == ["shape", "floor_hue", "scale"]
    title, values, rows, columns = evaluation.tables["facets"]
    assert rows == ["facet0", "facet1"] and columns == ["shape", "floor_hue", "scale"] and values.shape == (2, 3)
    assert values[1, 1] == evaluation.numbers["facet1/floor_hue/cluster_accuracy_hungarian"]


def test_labels_that_training_does_not_show_or_nobody_knows_are_left_out(data):
    e = Context(Oracle(), data)
    label, factors = data.label, data.factors
    try:
        data.label = torch.where(torch.isin(torch.arange(len(label)), data.indices["test"]), 4, label)
        assert list(facets.labels(e)) == ["floor_hue", "scale"]
        data.label = torch.stack([label, torch.full_like(label, -1), label % 2], 1)
        assert list(facets.labels(e)) == ["shape0", "shape2", "floor_hue", "scale", "shape"]
        data.label = None
        assert list(facets.labels(e)) == ["floor_hue", "scale", "shape"]
        data.factors = torch.where(torch.arange(3) == 1, 0, factors)
        assert list(facets.labels(e)) == ["floor_hue", "shape"], "of one value there is nothing to tell"
    finally:
        data.label, data.factors = label, factors


def test_the_facet_is_chosen_on_validation_images_and_clusters_are_named_on_training_images(data):
    """With test labels shuffled, the score falls to chance and the choice stays; with those of validation it may move."""
    label, factors = data.label.clone(), data.factors.clone()

    def numbers():
        return found(data).numbers

    def shuffled(split):
        index, rng = data.indices[split], np.random.default_rng(0)
        data.label[index] = data.label[index][torch.from_numpy(rng.permutation(len(index)))]

    try:
        shuffled("test")
        shown = numbers()
        assert shown["cluster_facet"] == 0 and shown["cluster_accuracy_majority"] < 0.45 < shown["cluster_purity"] + 0.2
        data.label.copy_(label)
        for index in (data.indices["train"], data.indices["val"]):
            data.label[index] = data.factors[index, 0].long() // 2 % 4  # there the other facet is better
        assert numbers()["cluster_facet"] == 1, "whatever it is worth on test images"
    finally:
        data.label, data.factors = label, factors


def test_validation_images_have_numbers_of_their_own(data):
    numbers = protocol.evaluate(Oracle().eval(), data, "basic", split="val").numbers
    assert numbers["val/facet0/shape/cluster_accuracy_majority"] == 1
    assert "val/facet0/kl" not in numbers and not [name for name in numbers if name.endswith("_pixels")]
    assert all(name.startswith("val/") for name in numbers)


def test_without_labels_there_are_numbers_of_clusters_only(data):
    label, factors, info = data.label, data.factors, data.factor_info
    try:
        data.label, data.factor_info = None, ()
        bare = found(data)
    finally:
        data.label, data.factors, data.factor_info = label, factors, info
    assert "facet0/clusters_used" in bare.numbers
    assert not [name for name in bare.numbers if "accuracy" in name or "nmi" in name]
    assert "facets" not in bare.tables and "members_facet0" in bare.pictures


def test_evaluating_touches_no_generator_and_repeats(evaluation, data):
    state = torch.get_rng_state()
    again = found(data)
    assert torch.equal(torch.get_rng_state(), state)
    assert again.numbers == evaluation.numbers
    assert all((evaluation.pictures[name] == picture).all() for name, picture in again.pictures.items())


# ---- pictures -------------------------------------------------------------------------------------------------------


def test_every_picture_is_there(evaluation):
    names = {"cluster_sizes", "recombination_facet0_facet1", "confusion_shape", "confusion_floor_hue", "confusion_scale"}
    assert set(evaluation.pictures) == names | {f"{kind}_facet{j}" for kind in ("members", "samples") for j in (0, 1)}
    assert all(picture.dtype == np.uint8 and picture.ndim == 3 for picture in evaluation.pictures.values())


def test_members_are_shown_as_they_are_and_white_where_there_are_none(data):
    index = data.indices["test"]
    images = facets.member_images(data, index, np.array([[3, 0], [7, -1]]))
    assert np.array_equal(images[1, 0], data.single(index[7:8])["image"][0]) and (images[1, 1] == 1).all()
    assert images.shape == (2, 2, 3, 32, 32) and np.array_equal(images[0, 1], data.single(index[:1])["image"][0])


def test_samples_of_a_cluster_are_draws_of_it_as_wide_as_the_temperature_says():
    model, c = Oracle().requires_grad_(False), torch.tensor([2, 4]).repeat_interleave(4000)
    torch.manual_seed(0)
    still = facets.cluster_samples(model, "facet1", c, 0.0)
    assert torch.equal(still["facet1"], model.priors["facet1"].mu[c])
    assert torch.isin(still["facet0"].argmax(1), torch.arange(6)).all() and len(still["facet0"].argmax(1).unique()) == 6
    assert {name: len(code) for name, code in still.items()} == {"facet0": 8000, "facet1": 8000, "rest": 8000}
    warm = facets.cluster_samples(model, "facet1", c, 0.5)
    std = (warm["facet1"] - model.priors["facet1"].mu[c]).std()
    assert float(std) == pytest.approx(0.5 * 0.1, rel=0.02), "the prior's variance is 0.01"
    assert float((warm["facet0"] - warm["facet0"].round()).std()) == pytest.approx(0.05, rel=0.05), "and of the others"


def test_exchanging_a_facet_twice_restores_every_code():
    generator = torch.Generator().manual_seed(0)
    codes = [
        {name: torch.randn(3, size, generator=generator) for name, size in (("facet0", 6), ("facet1", 5), ("rest", 2))}
        for _ in range(2)
    ]
    mixed = facets.recombined(*codes, "facet0")
    grid = {name: code.view(3, 3, -1) for name, code in mixed.items()}
    for row, column in np.ndindex(3, 3):
        assert torch.equal(grid["facet0"][row, column], codes[0]["facet0"][row])
        assert torch.equal(grid["facet1"][row, column], codes[1]["facet1"][column])
        assert torch.equal(grid["rest"][row, column], codes[1]["rest"][column])
    there = [{name: code[None, 1] for name, code in side.items()} for side in codes]
    once = facets.recombined(*there, "facet0"), facets.recombined(*there[::-1], "facet0")
    back = facets.recombined(once[1], once[0], "facet0"), facets.recombined(once[0], once[1], "facet0")
    for code, restored in zip((there[1], there[0]), back, strict=True):
        assert all(torch.equal(code[name], restored[name]) for name in code)


def test_a_recombination_of_images_with_themselves_is_their_reconstruction(data):
    model, index = Oracle(), data.indices["test"][:4]
    codes = {name: q.mean for name, q in model.encode(data.single(index)).items()}
    mixed = model.decode(facets.recombined(codes, codes, "facet1")).view(4, 4, 3, 32, 32)
    assert torch.equal(mixed.diagonal(dim1=0, dim2=1).movedim(-1, 0), model.reconstruct(data.single(index)))
