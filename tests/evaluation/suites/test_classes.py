"""What is said of classes, of a model that knows the label, and of one that knows it but for its name."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_mutual_info_score

from vae_zoo.contract import Block
from vae_zoo.data.sets.digits import Digits
from vae_zoo.distributions import Bernoulli, Categorical, Normal
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suites import classes
from vae_zoo.evaluation.suites.clusters import Clusters
from vae_zoo.metrics import judge
from vae_zoo.models.discrete import DiscreteLatentModel
from vae_zoo.models.parted_vae import PartedVAE
from vae_zoo.nets import MLP


class Oracle(DiscreteLatentModel):
    """Its class is the label, named by `names`; it draws one real image of each. sure: probability of that class."""

    def __init__(self, templates, names, supervised, sure=1.0):
        super().__init__((1, 8, 8), 10)
        self.blocks = {"z": Block(2, "gaussian", "noise"), "c": Block(10, "categorical", "the class")}
        self.templates, self.value_of = templates, torch.as_tensor(names)  # of each label, its value
        self.needs, self.sure = frozenset({"supervised"} if supervised else ()), sure

    def encode(self, batch):
        value = self.value_of[batch["label"]]
        probs = torch.full((len(value), 10), (1 - self.sure) / 9).scatter(1, value[:, None], self.sure)
        z = torch.sin(batch["index"][:, None] * torch.tensor([12.9898, 78.233]))
        return {"z": Normal(z, torch.zeros_like(z)), "c": Categorical(probs)}

    def decode(self, codes):
        return self.templates[self.value_of.argsort()[codes["c"].argmax(1)]]

    def sample_class(self, values):
        return {"z": torch.randn(len(values), 2), "c": self.classes.code(values)}


@pytest.fixture(scope="module")
def data():
    data = Digits(size=8)
    data.setup()
    return data


@pytest.fixture(scope="module")
def seen(data):
    """A judge, and one image of each label that it names right."""
    one = judge.train_judge(data, steps=300)
    index = data.indices["train"]
    images, labels = data.batch(index)["image"], data.label[index]
    right = one.predict(images) == labels
    return one, torch.stack([images[right & (labels == k)][0] for k in range(10)])


def evaluation(model, data, seen):
    e = Context(model.eval(), data, "quick")
    e.judges["label"] = seen[0]
    return e


@pytest.mark.parametrize("supervised, names", [(True, range(10)), (False, [3, 1, 4, 0, 5, 9, 2, 6, 8, 7])])
def test_a_model_that_knows_the_label_scores_one(data, seen, supervised, names):
    e = evaluation(Oracle(seen[1], [*names], supervised), data, seen)
    numbers = dict(classes.accuracy(e)) | dict(classes.separation(e))
    for name in ("accuracy", "accuracy_class_mean", "conditional_accuracy", "swap_follows_c"):
        assert numbers[name] == 1, name
    assert numbers["swap_follows_z"] == 0 and numbers["classes_used"] == 10 and numbers["ece"] == 0
    assert numbers["probe/z"] < 0.25, "noise tells no digit"
    assert 0.9 < numbers["judge_accuracy"] <= 1


def test_the_names_of_the_values_count_where_labels_were_given(data, seen):
    e = evaluation(Oracle(seen[1], [1, 0, *range(2, 10)], True), data, seen)
    numbers = dict(classes.accuracy(e)) | dict(classes.separation(e))
    share = np.isin(data.label[data.indices["test"]].numpy(), [0, 1]).mean()
    assert numbers["accuracy"] == pytest.approx(1 - share)
    assert numbers["accuracy_class_mean"] == pytest.approx(0.8) and numbers["ece"] == pytest.approx(share)
    assert numbers["conditional_accuracy"] == pytest.approx(0.8)


def test_calibration_is_the_gap_between_being_right_and_being_sure(data, seen):
    numbers = dict(classes.accuracy(evaluation(Oracle(seen[1], [*range(10)], True, sure=0.75), data, seen)))
    assert numbers["accuracy"] == 1 and numbers["ece"] == pytest.approx(0.25, abs=1e-6)


def test_each_variable_has_an_accuracy_of_its_own(data):
    torch.manual_seed(0)
    model = PartedVAE((1, 8, 8), 2, 1, [10, 2], MLP(hidden=(16,)), Bernoulli(), feature_dim=16).eval()
    label = data.label
    data.label = torch.stack([label, label % 2], 1)
    try:
        numbers = dict(classes.accuracy(Context(model, data)))
        found = Clusters().run(Context(model, data, split="val")).numbers
        of_second = model.encode(data.batch(data.indices["val"])["image"])["c2"].probs.argmax(1)
        assert found["c2/ami"] == pytest.approx(adjusted_mutual_info_score(data.label[data.indices["val"], 1], of_second))
        index = data.indices["test"]
        q = model.encode(data.batch(index)["image"])
        right = [(q[f"c{j + 1}"].probs.argmax(1) == data.label[index, j]).double().mean().item() for j in range(2)]
    finally:
        data.label = label
    assert [numbers["accuracy/c1"], numbers["accuracy/c2"]] == pytest.approx(right)
    assert numbers["accuracy"] == pytest.approx(np.mean(right))


@pytest.mark.parametrize("num_classes", [10, [3, 2]])
def test_pictures_show_every_class_of_every_variable(data, num_classes):
    torch.manual_seed(0)
    model = PartedVAE((1, 8, 8), 2, 3, num_classes, MLP(hidden=(16,)), Bernoulli(), feature_dim=16).eval()
    with torch.no_grad():
        found = dict(classes.pictures(model, data.batch(data.indices["test"][:12])))
    kinds = [f"class_{kind}_{name}" for name in model.classes.names() for kind in ("samples", "swap", "traversals")]
    assert [*found] == kinds and all(image.dtype == np.uint8 and image.ndim == 3 for image in found.values())


def test_a_walk_starts_at_the_components_and_goes_along_their_widest_dimensions():
    torch.manual_seed(0)
    model = PartedVAE((1, 8, 8), 2, 3, [3, 2], MLP(hidden=(16,)), Bernoulli(), feature_dim=16).eval()
    codes, labels = model.walk_in_class(1, torch.tensor([2, 0]))
    u, p_u = codes["u"].view(2, 2, 9, 2, 3), model.u_prior()  # [values, dimensions, steps, variables, d]
    assert len(labels) == 4 and (codes["z"] == 0).all()
    torch.testing.assert_close(u[:, :, :, 0], p_u.mu[2].expand(2, 2, 9, 3))
    torch.testing.assert_close(u[:, :, 4, 1], p_u.mu[3:, None].expand(2, 2, 3))
    widest = p_u.logvar[3:].argmax(1)
    for k in range(2):
        end = (u[k, 0, -1, 1] - p_u.mu[3 + k]) / (0.5 * p_u.logvar[3 + k]).exp()
        torch.testing.assert_close(end, 2 * torch.eye(3)[widest[k]], rtol=1e-4, atol=1e-4)
