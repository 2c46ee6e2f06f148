"""Which images an evaluation reads."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests import annotations
from vae_zoo.data import Digits
from vae_zoo.evaluation.context import rows
from vae_zoo.metrics.judge import images_and_labels


@pytest.mark.parametrize("pick", ["random", "balanced"])
def test_images_for_probes_are_drawn_apart_from_those_that_were_labelled_in_training(pick):
    data = Digits(labelled=200, label_pick=pick, val_size=100, test_size=100)
    data.setup()
    share = np.isin(rows(data, "train", 300, 0), data.labelled_indices.numpy()).mean()
    assert share == pytest.approx(200 / len(data.indices["train"]), abs=0.07)  # 0.13


@annotations.unchecked()
def test_of_few_labels_all_are_used():
    label = torch.full((1000,), -1)
    label[[5, 500, 999]] = torch.tensor([0, 1, 1])
    data = SimpleNamespace(indices={"train": torch.arange(1000)}, label=label, first_label=label)
    drawn = rows(data, "train", 100, 0)
    assert {*drawn[:3].tolist()} == {5, 500, 999} and len(set(drawn.tolist())) == 100
    batch = lambda index: {"image": torch.zeros(len(index), 1, 2, 2), "label": label[index]}  # noqa: E731
    assert images_and_labels(SimpleNamespace(**vars(data), batch=batch), "train", None, 10)[1].tolist() == [0, 1, 1]
