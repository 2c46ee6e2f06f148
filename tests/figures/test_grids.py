"""Grids show the right image in the right place, in its own colours."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vae_zoo.figures import grid, grids, reconstructions, samples, swap_grid, theme, traversal_animation, traversals
from vae_zoo.figures.encode import to_png, to_webp

PAPER = np.array(theme.rgb(theme.PAPER))


def colours(*shape):
    """Images [*shape, 3, 8, 8], each of one random colour, and these colours in 0..255."""
    values = np.random.default_rng(0).integers(0, 256, (*shape, 3))
    return np.broadcast_to(values[..., None, None] / 255, (*shape, 3, 8, 8)).astype(np.float32), values


def tiles(picture, count):
    """The colours of the `count` largest one-coloured squares in reading order, found without knowing the layout."""
    side = 8 * 7 - 2  # an 8 x 8 image is enlarged 7 times; a pixel less on each side for safety
    height, width, _ = picture.shape
    found, used = [], np.zeros((height, width), bool)
    paper = (picture == PAPER).all(-1)
    for y in range(height - side):
        for x in range(width - side):
            if used[y, x] or used[y, x + side - 1] or paper[y, x]:
                continue
            square = picture[y : y + side, x : x + side]
            if (square[0, 0] == square[-1, -1]).all() and (square == square[0, 0]).all():
                found.append(square[0, 0])
                used[y : y + side + 4, x : x + side] = True
    assert len(found) == count
    return np.array(found)


def test_grid_puts_each_image_in_its_cell():
    images, values = colours(3, 4)
    picture = grid(images, ["a", "b", "c"], ["1", "2", "3", "4"], "title")
    assert picture.dtype == np.uint8
    assert (tiles(picture, 12).reshape(3, 4, 3) == values).all()


def test_reconstructions_stand_below_their_inputs_over_several_bands():
    images, values = colours(2, 14)
    picture = reconstructions(images[0], images[1])  # two bands of seven pairs
    x, x_rec = values
    assert (tiles(picture, 28).reshape(4, 7, 3) == [x[:7], x_rec[:7], x[7:], x_rec[7:]]).all()


def test_samples_fill_a_square_and_leave_the_rest_blank():
    images, values = colours(7)
    picture = samples(images)
    assert (tiles(picture, 7) == values).all()
    assert picture.shape[0] == picture.shape[1]
    last = picture[-grids.MARGIN - 60 : -grids.MARGIN, -grids.MARGIN - 60 : -grids.MARGIN]
    assert (last == PAPER).all()


def test_swap_grid_keeps_donors_in_the_margin():
    rows, row_values = colours(2)
    columns, column_values = 1 - rows[[0, 1, 0]], 255 - row_values[[0, 1, 0]]
    body, body_values = colours(2, 3)
    picture = swap_grid(rows, columns, body, "content", "style")
    want = [*column_values, row_values[0], *body_values[0], row_values[1], *body_values[1]]
    assert (tiles(picture, 11) == want).all()
    for colour in theme.SERIES[:2]:  # the frames of the two kinds of donors
        assert (picture == theme.rgb(colour)).all(-1).sum() > 200


def test_animation_goes_forth_and_back_with_every_row_moving():
    images, values = colours(5, 4)
    frames = traversal_animation(images, list("abcde"))
    assert len(frames) == 6
    assert (frames[1] == frames[5]).all() and (frames[2] == frames[4]).all()
    for frame, step in zip(frames, [0, 1, 2, 3, 2, 1], strict=True):
        for value in values[:, step]:  # tiles are 96 pixels wide here
            assert (frame == value).all(-1).sum() >= 96 * 96
    assert len(traversal_animation(images[:, :1], list("abcde"))) == 1


def test_grey_becomes_rgb_and_equals_the_colour_image():
    grey = np.random.default_rng(0).random((6, 1, 28, 28), np.float32)
    assert (samples(grey) == samples(grey.repeat(3, 1))).all()


def test_small_images_are_enlarged_without_smoothing():
    image = np.zeros((1, 1, 28, 28), np.float32)
    image[0, 0, ::2] = 1
    body = samples(image)[grids.MARGIN + 2 : -grids.MARGIN - 2, grids.MARGIN + 2 : -grids.MARGIN - 2]
    assert body.shape == (56, 56, 3)
    assert (body == np.repeat(image[0, 0], 2, 0).repeat(2, 1)[..., None] * 255).all()
    assert samples(np.zeros((1, 3, 218, 178)))[grids.MARGIN :].shape[1] == 178 + 4 + 2 * grids.MARGIN


def test_values_outside_the_range_are_clipped_and_nan_is_red():
    images = np.stack([np.full((1, 8, 8), value, np.float32) for value in (-3, 7, np.inf, np.nan)])
    assert (tiles(samples(images), 4) == [[0] * 3, [255] * 3, [255] * 3, theme.rgb(theme.FLAW)]).all()


def test_traversals_show_values_without_minus_zero(monkeypatch):
    seen = []
    monkeypatch.setattr(grids, "_text", lambda text, height, width, **_: seen.append(text) or grids._blank(height, width))
    traversals(colours(1, 3)[0], ["z[0]"], [-1.5, -0.001, 2 / 3])
    assert seen == ["-1.5", "0", "0.67", "z[0]"]


def test_long_labels_are_cut_and_never_widen_a_column():
    images = colours(1, 2)[0]
    short, long = grid(images, column_labels=["a", "b"]), grid(images, column_labels=["a" * 80, "b"])
    assert short.shape == long.shape
    assert grid(images, row_labels=["a" * 500]).shape[1] < short.shape[1] + grids.MAX_ROW_LABEL + 20
    assert grid(images, title="t" * 60).shape[1] > short.shape[1]  # but a title is shown whole


@pytest.mark.parametrize(
    "call",
    [
        lambda: samples(np.zeros((4, 3, 8, 8), np.uint8)),
        lambda: samples(np.zeros((4, 2, 8, 8))),
        lambda: samples(np.zeros((0, 3, 8, 8))),
        lambda: reconstructions(np.zeros((0, 3, 8, 8)), np.zeros((0, 3, 8, 8))),
        lambda: reconstructions(np.zeros((4, 3, 8, 8)), np.zeros((3, 3, 8, 8))),
        lambda: traversals(np.zeros((2, 3, 1, 8, 8)), ["one"]),
        lambda: traversals(np.zeros((2, 3, 1, 8, 8)), ["one", "two"], [0.0]),
        lambda: traversal_animation(np.zeros((2, 3, 1, 8, 8)), ["one"]),
        lambda: swap_grid(np.zeros((2, 1, 8, 8)), np.zeros((3, 1, 8, 8)), np.zeros((3, 2, 1, 8, 8)), "a", "b"),
    ],
)
def test_what_does_not_fit_is_refused(call):
    with pytest.raises(ValueError, match="got"):
        call()


def test_files_hold_the_picture(tmp_path):
    picture = samples(colours(4)[0])
    frames = traversal_animation(colours(2, 3)[0], ["a", "b"])
    (tmp_path / "a.png").write_bytes(to_png(picture))
    assert (np.asarray(Image.open(tmp_path / "a.png")) == picture).all()
    (tmp_path / "a.webp").write_bytes(to_webp(frames, fps=4))
    with Image.open(tmp_path / "a.webp") as image:
        assert image.n_frames == 4 and image.info["loop"] == 0
        for step in range(4):
            image.seek(step)
            assert np.abs(np.asarray(image.convert("RGB"), int) - frames[step]).mean() < 3
        assert image.info["duration"] == 250


def test_grids_import_neither_matplotlib_nor_torch():
    code = "import sys, vae_zoo.figures; sys.exit(bool({'matplotlib', 'torch'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
