"""Evidence of a group, on models whose codes are known: what is in the content, and what more images add."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests import annotations
from tests.metrics.test_judge import CLASSES, COLOURS, QUICK, Painted, paint
from vae_zoo.contract import Block
from vae_zoo.distributions import Normal, pool
from vae_zoo.evaluation.context import rows
from vae_zoo.evaluation.suites import grouped as ev
from vae_zoo.metrics.judge import train_judge
from vae_zoo.models.base import LatentVariableModel


class Oracle(LatentVariableModel):
    """Content says the shape and style the colour, or the other way round; `noise` is added to what an image says."""

    needs = frozenset({"group"})
    shared_block, own_block = "content", "style"

    def __init__(self, content="shape", noise=0.0):
        super().__init__((3, 9, 9))
        self.blocks = {"content": Block(CLASSES, "gaussian", ""), "style": Block(CLASSES, "gaussian", "")}
        self.content, self.noise = content, noise

    def encode_images(self, batch):
        shape, colour = (F.one_hot(column.long(), CLASSES).float() for column in batch["factors"].T)
        pair = (shape, colour) if self.content == "shape" else (colour, shape)
        eps = torch.stack([torch.randn(CLASSES, generator=torch.Generator().manual_seed(int(i))) for i in batch["index"]])
        logvar = torch.full_like(shape, -2.0)
        return {"content": Normal(pair[0] + self.noise * eps, logvar), "style": Normal(pair[1], logvar - 4)}

    encode = encode_images

    def pool(self, content, group, num_groups):
        return pool(content, group, num_groups, "product")

    def decode(self, codes):
        shape, colour = codes["content"].argmax(1), codes["style"].argmax(1)
        if self.content != "shape":
            shape, colour = colour, shape
        return paint(shape, colour.clamp(max=COLOURS - 1))


@pytest.fixture(scope="module")
def data():
    data = Painted((3, 9, 9), batch_size=50, val_size=100, test_size=200, group_by="label")
    data.setup()
    return data


def images(data, model, split="test"):
    return ev.Evidence(model, data, rows(data, split, 5000, 0))


@pytest.mark.parametrize("count", [80, 150, 5000])
def test_images_are_drawn_in_groups_that_are_large_enough(data, count):
    index = ev.whole_groups(data, "test", 0, count)
    sizes = data.group_of(torch.from_numpy(index)).bincount()
    assert len(set(index)) == len(index) <= max(count, 20) and set(index) <= set(data.indices["test"].tolist())
    assert sizes[sizes > 0].min() >= 20 and (count < 5000 or len(index) == 200)
    assert len(index) > count - 20 or count == 5000


@annotations.unchecked()
@pytest.mark.parametrize("small", ["one", "unknown", "none"])
def test_small_groups_take_no_number_from_the_others(small):
    """100 groups of 40 images, class by class, beside a group of one image or thousands of images of no known group."""
    group = torch.arange(4000) // 40
    alone = {"one": torch.tensor([100]), "unknown": -1 - torch.arange(6000), "none": torch.tensor([], dtype=torch.int64)}
    group = torch.cat([alone[small], group])
    data = SimpleNamespace(indices={"test": torch.arange(len(group))}, group_of=group.__getitem__)
    index = torch.from_numpy(ev.whole_groups(data, "test", 0, 1000))
    sizes = group[index].unique(return_counts=True)
    assert 950 < len(index) <= 1000 and sizes[1].min() >= 20 and sizes[0].min() >= 0
    assert sizes[0].double().std() > 20, "of all classes, not of the first"


@annotations.unchecked()
def test_groups_of_several_sizes_are_scored_with_as_many_images_as_most_have():
    size = torch.arange(1, 36)
    group = torch.arange(35).repeat_interleave(size)
    data = SimpleNamespace(indices={"test": torch.arange(len(group))}, group_of=group.__getitem__)
    kept = group[torch.from_numpy(ev.whole_groups(data, "test", 0))].unique()
    assert kept.tolist() == [*range(19, 35)], "groups of 20 and more have most of the images"


def test_evidence_is_the_image_and_others_of_its_group_each_once(data):
    some = images(data, Oracle())
    for k in (1, 5, 10):
        found = some.of(k)
        assert torch.equal(found[:, 0], torch.arange(200))
        assert (some.group[found] == some.group[:, None]).all()
        assert all(len(set(row)) == k for row in found.tolist())
    joint = torch.cat([some.of(5), some.of(5, skip=5)], 1)
    assert all(len(set(row)) == 10 for row in joint.tolist()), "disjoint sets"
    shares = some.of(2)[:, 1].bincount(minlength=200)
    assert shares.max() == 1, "every image is once the other's evidence"


def test_donors_of_styles_are_never_among_the_evidence_and_otherwise_uniform(data):
    some = images(data, Oracle())
    found = some.of(10)
    donors = torch.stack([ev._others(found, seed) for seed in range(200)])
    assert not (found[None] == donors[..., None]).any()
    assert donors.flatten().bincount(minlength=200).double().std() < 3 * 200**0.5


def test_swaps_and_probes_tell_where_the_class_is(data):
    judge = train_judge(data, **QUICK)
    for content, in_content, in_style in (("shape", 1.0, 1 / CLASSES), ("colour", 1 / CLASSES, 1.0)):
        test, train = (images(data, Oracle(content), split) for split in ("test", "train"))
        numbers = dict(ev.swaps(test, judge)) | dict(ev.probes(train, test))
        assert numbers["swap_accuracy_k1"] == pytest.approx(in_content, abs=0.12)
        assert numbers["swap_accuracy_k10"] == pytest.approx(in_content, abs=0.12)
        assert numbers["style_shown"] == pytest.approx(in_style, abs=0.12)
        assert numbers["probe/content_k1"] == pytest.approx(in_content, abs=0.15)
        assert numbers["probe/style"] == pytest.approx(in_style, abs=0.15)


def test_more_evidence_is_worth_more_where_images_are_doubtful(data):
    test, train = (images(data, Oracle(noise=1.0), split) for split in ("test", "train"))
    numbers = dict(ev.probes(train, test)) | dict(ev.held_out(test)) | dict(ev.verification(test))
    for rising in ("probe/content", "verification_auc"):
        values = [numbers[f"{rising}_k{k}"] for k in (1, 5, 10)]
        assert values[0] + 0.05 < values[1] < values[2] + 0.02, rising
    assert numbers["held_out_error_k1"] > 1.3 * numbers["held_out_error_k10"]
    assert numbers["content_std_k1"] == pytest.approx(np.exp(-1))
    assert numbers["content_std_k10"] == pytest.approx(np.exp(-1) / 10**0.5), "equal precisions add up"


def test_identification_names_the_group_of_images_that_are_new(data):
    exact, nothing = (dict(ev.identification(images(data, Oracle(content)))) for content in ("shape", "colour"))
    assert exact["identification_k1"] == exact["identification_k10"] == 1
    assert nothing["identification_k10"] == pytest.approx(1 / CLASSES, abs=0.12)


def test_verification_is_one_for_exact_codes_and_chance_for_codes_that_say_nothing(data):
    exact, nothing = dict(ev.verification(images(data, Oracle()))), dict(ev.verification(images(data, Oracle("colour"))))
    assert exact["verification_auc_k1"] == exact["verification_auc_cosine_k5"] == 1
    assert nothing["verification_auc_k1"] == pytest.approx(0.5, abs=0.08)
    assert 0.6 < exact["verification_auc_pixels_k1"] < 1, "the colour hides the shape, but not wholly"


def test_verification_compares_sets_of_images_that_are_apart(data):
    """The scores by their definition, one set of images at a time."""
    some, k = images(data, Oracle(noise=1.0)), 5
    numbers, other = dict(ev.verification(some)), ev.partners(some.group, some.seed)
    sets = some.of(k), some.of(k, skip=k), some.of(k)[other]
    one, same, different = map(some.beside_prior, sets)
    scores = torch.cat([ev.log_same_group(one, q) for q in (same, different)])
    truth = [1] * len(other) + [0] * len(other)
    assert numbers["verification_auc_k5"] == pytest.approx(ev.roc_auc_score(truth, scores))
    faces = [some.mean_image(rows) for rows in sets]
    scores = torch.cat([-(faces[0] - face).norm(dim=1) for face in faces[1:]])
    assert numbers["verification_auc_pixels_k5"] == pytest.approx(ev.roc_auc_score(truth, scores))


def test_probes_of_one_class_are_left_out(data):
    test, train = (images(data, Oracle(), split) for split in ("test", "train"))
    train.label = np.where(train.label == 0, 0, -1)
    assert dict(ev.probes(train, test)) == {}


def test_numbers_need_groups_that_are_large_enough(data):
    some = images(data, Oracle())
    few = int(some.count.min())
    assert some.counts() == [1, 2, 5, 10] and some.counts(times=few) == [1] and some.counts(times=few + 1) == []


def test_poisoned_test_labels_change_no_probe(data):
    test, train = (images(data, Oracle(noise=0.3), split) for split in ("test", "train"))
    fitted = dict(ev.probes(train, test))["probe/style_mean"]
    poisoned = images(data, Oracle(noise=0.3))
    poisoned.label = (test.label + 1) % CLASSES
    assert dict(ev.probes(train, poisoned))["probe/style_mean"] != fitted
    train.label = np.full_like(train.label, 0)
    train.label[:5] = np.arange(5) % CLASSES
    assert dict(ev.probes(train, test))["probe/content_k1"] < 0.6, (
        "a probe that learns from training labels alone fails here"
    )


def test_pictures_have_a_row_for_each_group(data):
    some = images(data, Oracle())
    assert ev.group_reconstructions(some).dtype == np.uint8 and ev.interpolation(some).ndim == 3


def test_verification_counts_the_prior_of_a_model_without_groups_once(data):
    """Of one image the posterior is what is known; with the prior as a factor once more it would be surer than that."""
    shares = images(data, Oracle())
    plain = LatentVariableModel((3, 9, 9))
    plain.blocks, plain.encode = Oracle().blocks, Oracle().encode_images
    alone = images(data, plain)
    assert alone.style is None and alone.content.mu.shape[1] == 2 * CLASSES
    one = alone.beside_prior(alone.of(1))
    torch.testing.assert_close(one.mu, alone.content.mu)
    torch.testing.assert_close(one.logvar, alone.content.logvar)
    torch.testing.assert_close(
        shares.beside_prior(shares.of(1)).logvar,
        pool(shares.content, torch.arange(len(shares.index)), len(shares.index), "product_with_prior").logvar,
    )


def test_images_without_a_label_count_neither_as_right_nor_as_wrong():
    class Evidence:
        label, index, seed = np.array([0, 1, -1, 0, 1, -1]), torch.arange(6), 0
        styles = Normal(torch.zeros(6, 1), torch.zeros(6, 1))
        style = styles

        def counts(self):
            return [1]

        def of(self, k):
            return torch.arange(6)[:, None]

        def pooled(self, rows):
            return Normal(torch.from_numpy(self.label)[rows].float(), torch.zeros(6, 1))

        def style_samples(self):
            return torch.zeros(6, 1)

        def decode(self, content, style):
            return content

    class Judge:
        def predict(self, images):
            return images[:, 0].long().clamp(min=0)

    with annotations.unchecked():
        assert dict(ev.swaps(Evidence(), Judge()))["swap_accuracy_k1"] == 1
        found = dict(ev.probes(Evidence(), Evidence()))
    assert found["probe/content_k1"] == 1 and found["probe/style"] == 0.5, "four images with two labels"
