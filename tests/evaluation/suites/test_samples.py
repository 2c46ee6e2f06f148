"""Classifiers of samples of the codes: of models that are known, they read what is there and no more."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.annotations import unchecked
from tests.evaluation.suites.test_grouped import Oracle
from tests.metrics.test_judge import CLASSES, COLOURS, Painted
from vae_zoo.distributions import Normal
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.protocol import check_applies
from vae_zoo.evaluation.suite import DoesNotApply
from vae_zoo.evaluation.suites import samples
from vae_zoo.evaluation.suites.samples import BlockProbe, EvidenceClassifier


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch):
    monkeypatch.setattr(samples, "EPOCHS", 6)
    whole = samples.whole_groups
    monkeypatch.setattr(samples, "whole_groups", lambda data, split, seed: whole(data, split, seed, 400))


@pytest.fixture(scope="module")
def data():
    data = Painted((3, 9, 9), batch_size=50, val_size=100, test_size=200, group_by="label")
    data.setup()
    return data


def test_a_probe_reads_of_samples_what_a_block_has(data, monkeypatch):
    monkeypatch.setattr(samples, "RUNS", 2)
    monkeypatch.setattr(samples, "EPOCHS", 60)
    found = BlockProbe().run(Context(Oracle(), data)).numbers
    shape, colour = data.factor_names
    assert found[f"block_probe/style/{colour}/accuracy"] > 0.99, "its samples are as sharp as its means"
    assert 0.6 < found[f"block_probe/content/{shape}/accuracy"] < 0.99, "a deviation of 0.37 blurs one-hot means"
    assert found[f"block_probe/content/{colour}/accuracy"] < 1 / COLOURS + 0.2
    assert found[f"block_probe/all/{colour}/accuracy"] > 0.95
    assert found[f"block_probe/content/{shape}/accuracy_std"] > 0, "each run has samples of its own"
    with pytest.raises(DoesNotApply, match="not scored during training"):
        check_applies(BlockProbe(), Context(Oracle(), data, split="val"))


def test_more_evidence_tells_the_group_better_and_style_does_not(data):
    """Each image says the group with its own error, of which ten images have a third."""
    found = EvidenceClassifier().run(Context(Oracle(noise=0.8), data)).numbers
    name = "evidence_classifier/content/{}_k{}".format
    assert found[name("accuracy", 1)] + 0.2 < found[name("accuracy", 10)] > 0.9
    assert found[name("conditional_entropy", 1)] > found[name("conditional_entropy", 10)] >= 0
    assert found["evidence_classifier/style/accuracy_k1"] < 1 / CLASSES + 0.15
    assert not any(key.startswith("evidence_classifier/style/") and "_k1" not in key for key in found)


class Plain(Oracle):
    """The same codes, but of a model that shares none."""

    shared_block = own_block = pool = encode_images = property(lambda self: (_ for _ in ()).throw(AttributeError))

    def encode(self, batch):
        return Oracle.encode_images(self, batch)


def test_a_model_that_shares_no_code_is_pooled_over_all_its_blocks(data):
    found = EvidenceClassifier().run(Context(Plain(noise=0.8), data)).numbers
    assert {key.split("/")[1] for key in found} == {"code"}
    assert found["evidence_classifier/code/accuracy_k1"] < found["evidence_classifier/code/accuracy_k10"]


def test_groups_that_training_has_not_seen_are_learned_from_half_of_their_images(data):
    context = Context(Oracle(), data)
    seen = EvidenceClassifier.images(context)
    test = data.indices["test"]
    for index, split in zip(seen, ("train", "test")):
        assert {*index.tolist()} <= {*data.indices[split].tolist()}
    context.data = Unseen(data)
    one, other = EvidenceClassifier.images(context)
    assert {*one.tolist(), *other.tolist()} <= {*test.tolist()} and not {*one.tolist()} & {*other.tolist()}
    groups = [context.data.group_of(torch.from_numpy(index)).unique(return_counts=True) for index in (one, other)]
    assert torch.equal(groups[0][0], groups[1][0]) and (groups[0][1] + groups[1][1]).min() >= samples.LEAST
    assert (groups[0][1] - groups[1][1]).abs().max() <= 1


class Unseen:
    """The same images; test groups have numbers of their own."""

    def __init__(self, data):
        self.data, self.images, self.indices = data, data.images, data.indices
        self.test = np.isin(np.arange(len(data.images)), data.indices["test"].numpy())

    def group_of(self, index):
        return self.data.group_of(index) + 100 * torch.from_numpy(self.test)[index]


def test_samples_are_of_the_posterior_and_repeat(data):
    e = Context(Oracle(), data)
    index = data.indices["test"]
    first, again, other = (samples.sampled(e, index, seed)["content"].numpy() for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    q: Normal = e.model.encode(data.single(index))["content"]
    assert np.std(first - q.mu.numpy()) == pytest.approx(np.exp(-1), rel=0.05)


def test_groups_that_only_one_part_has_are_left_out():
    group = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    data = SimpleNamespace(group_of=lambda index: group[index])
    with unchecked():
        train, test = samples.in_both(SimpleNamespace(data=data), np.array([0, 2, 4]), np.array([1, 5, 7]))
        with pytest.raises(DoesNotApply, match="share no group"):
            samples.in_both(SimpleNamespace(data=data), np.array([0]), np.array([7]))
    assert train.tolist() == [0, 4] and test.tolist() == [1, 5]
