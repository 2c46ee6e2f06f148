"""Drawn digits show the factors they are said to have, and unseen digits are unseen."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from vae_zoo.data.render.colours import hues
from vae_zoo.data.sets import street_digits
from vae_zoo.data.sets.street_digits import FACTORS, SIZES, TEXTURES, StreetDigits, draw, scenes, textures

NAMES = [factor.name for factor in FACTORS]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    data = StreetDigits(num_images=3000, cache=str(tmp_path_factory.mktemp("cache")), batch_size=10)
    data.setup()
    return data


def column(data, name):
    return data.factors[:, NAMES.index(name)].numpy()


def pixels(data):
    return data.images.numpy().astype(np.float32) / 255


def test_the_same_images_are_drawn_again_and_read_from_the_cache(data, monkeypatch):
    identity, factors = scenes(3000)
    assert np.array_equal(draw(identity, factors), data.images) and np.array_equal(factors, data.factors)
    monkeypatch.setattr(street_digits, "draw", None)
    again = StreetDigits(num_images=3000, cache=str(data.cache))
    again.setup()
    assert torch.equal(again.images, data.images) and again.images.dtype == torch.uint8


def test_digits_of_val_and_test_are_unseen_in_training(data):
    identity = scenes(3000)[0]
    parts = [set(identity[index].tolist()) for index in data.indices.values()]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert sum(map(len, parts)) == 1797 and len(parts[2]) == round(0.1 * 1797)
    assert np.array_equal(data.label, load_digits().target[identity])


def test_factors_are_independent_and_cover_their_values(data):
    for factor, values in zip(FACTORS, data.factors.numpy().T):
        assert np.array_equal(np.unique(values), np.arange(factor.size))
    correlation = np.corrcoef(data.factors.numpy().T)
    assert np.abs(correlation - np.eye(len(FACTORS))).max() < 0.08


def test_colours_of_ground_and_digit_are_those_of_the_factors(data):
    x = pixels(data)
    value = x.max(1)  # grounds are below 0.75, strokes above 0.85
    for name, kept in (("ground_colour", value < 0.78), ("digit_colour", value > 0.85)):
        weight = kept[:, None] / kept.sum((1, 2))[:, None, None, None]
        mean = (x * weight).sum((2, 3))
        pure = (mean - mean.min(1, keepdims=True)) / np.ptp(mean, axis=1)[:, None]
        distance = np.abs(pure[:, None] - hues(np.arange(6) / 6)).sum(-1)  # [N, 6]
        assert (distance.argmin(1) == column(data, name)).mean() > 0.97, name


def test_textures_differ_in_how_the_ground_varies():
    relief = textures(200, torch.Generator().manual_seed(0))
    assert relief.shape == (200, len(TEXTURES), 32, 32) and relief.abs().max() <= 1
    spread = dict(zip(TEXTURES, relief.flatten(2).std(2).mean(0).tolist()))
    assert spread["plain"] == 0 and spread["stripes"] > 0.9 and 0.1 < spread["clouds"] < spread["dots"]
    # a step of one pixel changes clouds little, checks much more often
    change = (relief[..., 1:] - relief[..., :-1]).abs().mean((0, 2, 3))
    assert change[TEXTURES.index("clouds")] < 0.5 * change[TEXTURES.index("checks")]


def test_larger_scales_cover_more(data):
    x = pixels(data)
    strokes = (x[:, :, 6:26, 6:26].min(1) > 0.5).sum((1, 2))
    assert np.all(np.diff([strokes[column(data, "stroke_scale") == k].mean() for k in range(len(SIZES))]) > 0)


def test_neighbours_show_only_at_the_borders():
    """A narrow 1 on plain ground: what is covered at the left and right border belongs to others."""
    identity = np.full(300, 1)
    factors = np.tile([load_digits().target[1], 0, 0, 3, 1], (300, 1))
    covered = draw(identity, factors).max(1) > 0.8 * 255  # [300, 32, 32]
    for border in (covered[:, :, :2], covered[:, :, -2:]):
        assert 0.1 < border.any((1, 2)).mean() < 0.6
    assert covered[:, :, 13:19].any((1, 2)).all() and covered.mean((0, 1))[[3, -4]].max() < 0.05


def test_a_judge_of_them_names_unseen_digits():
    """What is measured of a model is measured with it. Drawn in full, it is 0.98 (docs/methods/split.md)."""
    from vae_zoo.metrics.judge import train_judge

    identity, factors = scenes(2400)
    images, label = torch.from_numpy(draw(identity, factors)), torch.from_numpy(factors[:, 0])
    part = identity % 10
    rows = {"train": part > 2, "val": part == 0, "test": (part == 1) | (part == 2)}
    judge = train_judge({name: (images[kept], label[kept]) for name, kept in rows.items()}, steps=160, batch_size=32)
    assert judge.accuracy > 0.8


def test_images_of_another_size_are_refused():
    from vae_zoo.utils.errors import UserError

    with pytest.raises(UserError, match="image sides must be 32, got 64x64"):
        StreetDigits(image_shape=(3, 64, 64))
