import colorsys

import numpy as np

from vae_zoo.data.render.colours import coloured, ground_and_ink, hues


def test_hues_are_full_colours():
    turns = np.linspace(0, 1, 25)
    np.testing.assert_allclose(hues(turns), [colorsys.hsv_to_rgb(turn, 1, 1) for turn in turns], atol=1e-6)


def test_strokes_are_lighter_than_their_ground_whatever_the_hues():
    ground, ink = ground_and_ink(*np.random.default_rng(1).random((4, 2000), dtype=np.float32))
    luminance = np.array([0.299, 0.587, 0.114])
    assert ((ink - ground) @ luminance > 0.15).all() and 0 <= ground.min() and ink.max() <= 1


def test_grey_levels_run_from_the_ground_to_the_ink_of_each_image():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (300, 1, 5, 4), dtype=np.uint8)
    grey[:, 0, 0, 0], grey[:, 0, 0, 1] = 0, 255
    colour = coloured(grey)
    assert colour.shape == (300, 3, 5, 4) and np.array_equal(colour, coloured(grey))
    low, high = (colour[:, :, 0, i].astype(float)[:, :, None, None] for i in (0, 1))
    np.testing.assert_allclose(colour, low + (high - low) * grey / 255, atol=1.5)
    assert len(np.unique(colour[:, :, 0, 0], axis=0)) > 250, "a colour for each image"


def test_colours_do_not_depend_on_what_is_drawn():
    grey = np.random.default_rng(0).integers(0, 256, (8, 1, 2, 2), dtype=np.uint8)
    grey[:, 0, 0, 0] = 0
    other = np.roll(grey, 1, axis=0)
    assert np.array_equal(coloured(grey)[:, :, 0, 0], coloured(other)[:, :, 0, 0])
