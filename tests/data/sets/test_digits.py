"""scikit-learn's digits as a data set, and the resizing that others use too."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from vae_zoo.data.sets.digits import Digits, resize


@pytest.fixture(scope="module")
def source():
    return load_digits()


def digits(**settings):
    data = Digits(**settings)
    data.setup()
    return data


def test_at_their_own_size_pixels_and_labels_are_scikit_learns(source):
    data = digits(size=8)
    batch = data.batch(torch.arange(1797))
    assert np.array_equal((batch["image"] * 255).round().numpy()[:, 0], (source.images / 16 * 255).round())
    assert np.array_equal(batch["label"], source.target)
    assert data.num_classes == 10


@pytest.mark.parametrize("size", [28, 32, 64])
def test_enlarged_digits_keep_their_shape_and_shrink_back_to_themselves(source, size):
    data = digits(size=size)
    assert data.images.shape == (1797, 1, size, size) and data.images.dtype == torch.uint8
    x = data.batch(torch.arange(1797))["image"]
    assert x.min() == 0 and x.max() == 1
    back = torch.nn.functional.interpolate(x, size=8, mode="area")[:, 0]
    assert np.corrcoef(back.flatten(), source.images.ravel())[0, 1] > 0.95


def test_every_split_has_every_class():
    data = digits(test_size=0.2)
    assert [len(data.indices[name]) for name in ("train", "val", "test")] == [1258, 180, 359]
    for index in data.indices.values():
        assert (data.label[index].bincount(minlength=10) > 0).all()


def test_resizing_to_the_same_size_only_makes_bytes():
    images = np.arange(256).reshape(1, 1, 16, 16) / 255
    assert np.array_equal(resize(images, (16, 16)).ravel(), np.arange(256))


def test_resizing_keeps_the_mean_and_averages_when_it_shrinks():
    checkers = np.indices((32, 32)).sum(0) % 2 * np.ones((2, 3, 1, 1))
    for size in (8, 64):
        small = resize(checkers, (size, size))
        assert small.shape == (2, 3, size, size) and abs(small.mean() - 127.5) < 1
    assert np.ptp(resize(checkers, (8, 8))[..., 1:-1, 1:-1]) <= 4
