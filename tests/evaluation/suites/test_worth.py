"""A block that the decoder ignores is worth nothing, whatever else its model is good at."""

import logging

import pytest
import torch

from tests.metrics.test_judge import COLOURS, QUICK, Painted, paint
from vae_zoo.contract import Block
from vae_zoo.distributions import Normal
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suites import worth as suite
from vae_zoo.evaluation.suites.worth import Worth
from vae_zoo.metrics.judge import train_judge
from vae_zoo.models.base import LatentVariableModel


class Oracle(LatentVariableModel):
    """`what` says the shape, `how` the colour; drawn a bit too dark. ignores: a block in whose place the decoder sees 0."""

    shared_block, own_block = "what", "how"

    def __init__(self, ignores=None, noisy=False):
        super().__init__((3, 9, 9))
        self.blocks = {"what": Block(1, "gaussian", ""), "how": Block(1, "gaussian", "")}
        self.ignores, self.noisy = ignores, noisy

    def encode(self, batch):
        parts = dict(zip(self.blocks, batch["factors"][:, :, None].unbind(1)))
        if self.noisy:
            parts["how"] = (batch["index"] % COLOURS).float()[:, None]  # a colour that is not the image's
        return {name: Normal(mu, torch.zeros_like(mu)) for name, mu in parts.items()}

    encode_images = encode

    def pool(self, content, group, num_groups):
        raise AssertionError("no group is pooled to exchange blocks of images")

    def decode(self, codes):
        codes = codes | ({self.ignores: torch.zeros_like(codes["what"])} if self.ignores else {})
        return 0.9 * paint(codes["what"][:, 0].long(), codes["how"][:, 0].long())


@pytest.fixture(scope="module")
def data():
    data = Painted((3, 9, 9), batch_size=50, val_size=100, test_size=200, group_by="label")
    data.setup()
    return data


@pytest.fixture(scope="module")
def a_judge(data):
    return train_judge(data, **QUICK)


def evaluated(model, data, a_judge=None, split="test"):
    e = Context(model.eval(), data, split=split)
    if a_judge is not None:
        e.judges["label"] = a_judge
    return Worth().run(e).numbers if a_judge is not None else suite.worth(e)


def test_blocks_that_describe_the_image_are_worth_more_than_it_lacks(data, a_judge, caplog):
    numbers = evaluated(Oracle(), data, a_judge)
    assert numbers["worth/what"] > 10 and numbers["worth/how"] > 10, "a tenth of the brightness is a hundredth of the error"
    assert numbers["worth_rec/what"] > 10 and numbers["worth_rec/how"] > 10
    assert numbers["worth"] == min(value for name, value in numbers.items() if name.startswith("worth"))
    assert numbers["separation"] > 0.9 and not caplog.records


@pytest.mark.parametrize("ignored, used", [("how", "what"), ("what", "how")])
def test_a_block_that_the_decoder_ignores_is_worth_nothing_and_is_called_unused(data, a_judge, caplog, ignored, used):
    with caplog.at_level(logging.WARNING):
        numbers = evaluated(Oracle(ignored), data, a_judge)
    assert numbers["worth"] == numbers[f"worth/{ignored}"] == numbers[f"worth_rec/{ignored}"] == 0
    assert numbers[f"worth/{used}"] > 0.1
    (record,) = caplog.records
    assert f"block {ignored} is unused" in record.getMessage()


def test_separation_is_won_by_a_useless_style_and_so_stands_beside_worth(data, a_judge):
    honest, cheat = (evaluated(Oracle(ignored), data, a_judge) for ignored in (None, "how"))
    assert cheat["separation"] >= honest["separation"] - 0.05 and cheat["worth"] == 0 < honest["worth"]


def test_a_block_that_moves_the_image_without_describing_it_raises_no_error_and_is_worth_nothing(data):
    numbers = evaluated(Oracle(noisy=True), data)
    assert numbers["worth/how"] > 0.5 and abs(numbers["worth_rec/how"]) < 0.1 * numbers["worth/how"]
    assert numbers["worth"] == numbers["worth_rec/how"]


def test_the_own_block_comes_from_the_same_group_and_the_shared_block_from_any_image(data):
    """The style that repeats the group is worth nothing; taken from any image it would look useful."""

    class Repeats(Oracle):
        def encode(self, batch):
            q = super().encode(batch)
            return q | {"how": Normal(q["what"].mu % COLOURS, q["what"].logvar)}

    numbers = evaluated(Repeats(), data)
    assert numbers["worth/how"] == 0 < numbers["worth/what"]


def test_a_few_labelled_pairs_are_not_the_worth_of_a_block(data):
    label = data.label
    few = torch.full_like(label, -1)
    few[data.indices["test"][:6]] = label[data.indices["test"][:6]]
    data.label, data.is_grouped = few, False
    try:
        with_few, pool = suite.worth(Context(Oracle().eval(), data)), suite.pools(Context(Oracle().eval(), data))
        assert torch.equal(pool["within"][1], pool["any"][1]) and with_few["worth/how"] > 10
    finally:
        data.label, data.is_grouped = label, True


def test_other_images_are_others_and_share_what_is_known():
    images = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    shared = torch.randint(-1, 7, (500,), generator=torch.Generator().manual_seed(1))
    shared[3] = 50  # alone
    of = dict(zip(images.tolist(), shared.tolist()))
    scored = images[:300]
    other = suite.other_images(scored, images, shared, seed=0)
    for image, donor in zip(scored.tolist(), other.tolist()):
        if of[image] in (-1, 50):
            assert donor == -1
        else:
            assert donor != image and of[donor] == of[image]
    assert torch.equal(other, suite.other_images(scored, images, shared, seed=0))
    counts = suite.other_images(images[:1].repeat(6000), images[:4], torch.zeros(4).long(), 0).unique(return_counts=True)[1]
    assert len(counts) == 3 and counts.min() > 1800, "each of the others is as likely"


def test_while_training_nothing_is_warned_of(data, a_judge, caplog):
    assert evaluated(Oracle("how"), data, a_judge, split="val")["worth"] == 0 and not caplog.records
