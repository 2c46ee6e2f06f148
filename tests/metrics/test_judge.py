from types import SimpleNamespace

import pytest
import torch

from tests.annotations import unchecked
from vae_zoo.data.arrays import Arrays, Factor
from vae_zoo.data.datamodule import DataModule
from vae_zoo.metrics.judge import Judge, images_and_labels, partners, swap_consistency, train_judge

CLASSES, COLOURS = 4, 3
QUICK = {"steps": 60, "checks": 2, "lr": 5e-3}


def paint(shape, colour, size=9):
    """Images [N, 3, size, size]: a bright quarter, whose place is the shape and whose channel is the colour."""
    images = torch.full((len(shape), 3, size, size), 0.1)
    half, rows = size // 2, torch.arange(len(shape))
    for row, s, c in zip(rows, shape, colour, strict=True):
        top, left = divmod(int(s), 2)
        images[row, c, top * half : top * half + half, left * half : left * half + half] = 0.9
    return images


def draw(num, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(high, (num,), generator=generator) for high in (CLASSES, COLOURS))


class Painted(DataModule):
    """Label: the shape; factors: shape and colour."""

    def load(self):
        shape, colour = draw(600)
        images = (paint(shape, colour) * 255).byte().numpy()
        factors = torch.stack([shape, colour], 1).numpy()
        info = (Factor("shape", CLASSES, "categorical"), Factor("colour", COLOURS, "categorical"))
        return Arrays(images, shape.numpy(), CLASSES, factors, info)


class Oracle:
    """A model by the contract that decodes what its blocks say: `where` the shape, `paint` the colour."""

    def __init__(self, blocks=("where", "paint")):
        self.blocks = dict.fromkeys(blocks)

    def encode(self, batch):
        shape, colour = (column[:, None] for column in batch["factors"].T)
        return {"where": SimpleNamespace(mean=shape), "paint": SimpleNamespace(mean=colour)}

    def codes(self, batch):
        return {name: q.mean for name, q in self.encode(batch).items()}

    def decode(self, codes):
        return paint(codes["where"][:, 0].long(), codes["paint"][:, 0].long())


@pytest.fixture(scope="module")
def data():
    data = Painted((3, 9, 9), batch_size=50, val_size=100, test_size=100)
    data.setup()
    return data


@pytest.fixture(scope="module")
def judges(data):
    return {target: train_judge(data, target=target, **QUICK) for target in ("label", "colour")}


def batches(data, size=50):
    return [data.batch(index) for index in data.indices["test"].split(size)]


def test_a_judge_learns_labels_and_factors(data, judges):
    batch = data.batch(data.indices["test"])
    truth = {"label": batch["label"], "colour": batch["factors"][:, 1].long()}
    for target, judge in judges.items():
        share = (judge.predict(batch["image"]) == truth[target]).double().mean()
        assert judge.accuracy == pytest.approx(share) and judge.accuracy > 0.97 and not judge.training
        assert judge.chance == truth[target].bincount().max() / 100
        features = judge.features(batch["image"])
        assert features.shape == (100, judge.num_features)
        assert torch.equal(judge.predict((batch["image"] * 255).round().byte()), judge.predict(batch["image"]))


@pytest.mark.parametrize("shape", [(1, 5, 5), (3, 64, 48), (2, 28, 28)])
def test_images_of_any_shape(shape):
    judge = Judge(shape, 7).eval()
    assert judge.predict(torch.rand(2, *shape)).shape == (2,)


def test_large_images_are_reduced_by_averages():
    large, small = Judge((2, 100, 64), 3).eval(), Judge((2, 50, 32), 3).eval()
    small.load_state_dict(large.state_dict())
    images = torch.rand(4, 2, 100, 64)
    torch.testing.assert_close(large(images), small(images.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))))


def test_training_is_a_function_of_the_seed_and_touches_no_generator(data, judges):
    state = torch.get_rng_state()
    again = train_judge(data, **QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    assert_equal(again, judges["label"])
    assert not torch.equal(again.head.weight, train_judge(data, **QUICK | {"seed": 1, "steps": 4}).head.weight)


def test_a_judge_is_trained_in_evaluations_too(data, judges):
    with torch.no_grad():
        assert_equal(train_judge(data, **QUICK), judges["label"])


def assert_equal(judge, other):
    torch.testing.assert_close(judge.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_poisoned_test_labels_change_the_reported_accuracy_and_nothing_else(data, judges):
    arrays = {split: images_and_labels(data, split, None, 20_000) for split in ("train", "val", "test")}
    images, labels = arrays["test"]
    poisoned = train_judge(arrays | {"test": (images, (labels + 1) % CLASSES)}, **QUICK)
    assert_equal(poisoned, judges["label"])
    assert poisoned.accuracy == pytest.approx(1 - judges["label"].accuracy)


def test_unknown_labels_are_left_out_and_splits_need_some(data, judges):
    arrays = {split: images_and_labels(data, split, None, 20_000) for split in ("train", "val", "test")}
    images, labels = arrays["train"]
    noise = torch.rand(300, *images.shape[1:]).mul(255).byte()
    more = torch.cat([images, noise]), torch.cat([labels, torch.full((300,), -1)])
    assert_equal(train_judge(arrays | {"train": more}, **QUICK), judges["label"])
    with pytest.raises(ValueError, match="no val image"):
        train_judge(arrays | {"val": (images, 0 * labels - 1)}, **QUICK)


def test_no_more_images_than_allowed_and_spread_over_the_split(data):
    images, labels = images_and_labels(data, "train", 1, 7)
    index = data.indices["train"]
    batch = data.batch(index[[0, 66, 133, 199, 266, 332, len(index) - 1]])
    assert torch.equal(labels, batch["factors"][:, 1].long()) and images.dtype == torch.uint8
    assert torch.equal(images, (batch["image"] * 255).byte())


@unchecked()
def test_swaps_tell_which_block_carries_the_label(data, judges):
    shape = swap_consistency(Oracle(), batches(data), judges["label"])
    colour = swap_consistency(Oracle(), batches(data), judges["colour"])
    assert shape["follows_where"] > 0.97 and shape["follows_paint"] < 0.03
    assert colour["follows_paint"] > 0.97 and colour["follows_where"] < 0.03


@unchecked()
def test_swaps_do_not_depend_on_the_batch_size(data, judges):
    class Half(Oracle):
        """The colour is that of `paint` in even images only."""

        def decode(self, codes):
            even = codes["where"][:, 0] % 2 == 0
            return paint(codes["where"][:, 0].long(), torch.where(even, codes["paint"][:, 0], 0).long())

    first, other = (swap_consistency(Half(), batches(data, size), judges["colour"]) for size in (7, 100))
    assert first == other != swap_consistency(Half(), batches(data), judges["colour"], seed=1)
    assert 0.3 < first["follows_paint"] < 0.9 and set(first) == {"follows_where", "follows_paint"}


def testpartners_have_another_label_and_are_uniform():
    labels = torch.tensor([0, 2, 0, 1, 2, 2]).repeat(2000)
    partner = partners(labels, seed=0)
    assert (labels[partner] != labels).all()
    of_ones = partner[labels == 1] % 6  # 0, 1, 2, 4, 5 equally often
    shares = of_ones.bincount(minlength=6) / len(of_ones)
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.2, 0.2, 0, 0.2, 0.2]), rtol=0, atol=0.04)


@unchecked()
def test_what_cannot_be_swapped(data, judges):
    with pytest.raises(ValueError, match="two blocks"):
        swap_consistency(Oracle(blocks=("where",)), batches(data), judges["label"])
    same = {"image": torch.rand(3, 3, 9, 9), "index": torch.arange(3), "label": torch.zeros(3).long()}
    with pytest.raises(ValueError, match="two labels"):
        swap_consistency(Oracle(), [same | {"factors": torch.zeros(3, 2)}], judges["label"])
