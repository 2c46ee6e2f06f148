"""The drawn data set against the facts published about the original, and the reader of the published file."""

import tracemalloc
import zipfile

import numpy as np
import pytest

from vae_zoo.data.render import sprites
from vae_zoo.data.sets.dsprites import CACHE_NAME
from vae_zoo.data.storage.cache import cached_array
from vae_zoo.utils.errors import UserError

ORIENTATIONS = sprites.FACTOR_VALUES[3]


@pytest.fixture(scope="module")
def grid(cache_dir):
    return cached_array(cache_dir / CACHE_NAME, sprites.draw_grid, shape=(737_280, 512))


def draw_classes(classes):
    """The image of one row of classes by `draw` alone."""
    _, shape, scale, orientation, x, y = (values[k] for values, k in zip(sprites.FACTOR_VALUES, classes, strict=True))
    return sprites.draw(int(shape) - 1, scale, orientation, 16 + 32 * x, 16 + 32 * y)


@pytest.mark.parametrize(
    ("shape", "white"),
    [
        ("square", [100, 144, 196, 256, 324, 400]),
        ("ellipse", [76, 104, 144, 184, 228, 288]),
        ("heart", [58, 84, 108, 140, 180, 222]),  # the original has 182 at scale 0.9, the fitted curve 180
    ],
)
def test_white_pixel_counts_are_those_of_the_original(shape, white):
    assert [sprites.draw(shape, scale, 0.0, 16, 16).sum() for scale in sprites.FACTOR_VALUES[2]] == white


def test_turned_squares_have_364_to_372_white_pixels():
    counts = [sprites.draw("square", 1.0, orientation, 16, 16).sum() for orientation in ORIENTATIONS[1:-1]]
    assert min(counts) == 364 and max(counts) == 372


def test_heart_equals_its_parametric_curve():
    t = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    u = 9.5955 * np.sin(t) ** 3
    v = -1.437 - 0.6622 * (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    assert sprites.inside("heart", 0.9999 * u, 0.9999 * v).all()  # star-shaped about (0, 0)
    assert not sprites.inside("heart", 1.0001 * u, 1.0001 * v).any()


def test_shapes_turn_counter_clockwise_and_the_heart_points_down():
    rows, cols = np.nonzero(sprites.draw("ellipse", 1.0, np.pi / 4, 32, 32))
    assert np.corrcoef(rows, cols)[0, 1] < -0.4  # right end up; rows grow downwards
    heart = sprites.draw("heart", 1.0, 0.0, 32, 32)
    assert heart[:32].sum() > heart[32:].sum()


def test_shapes_go_by_name_or_index_and_others_are_refused():
    for index, name in enumerate(sprites.SHAPES):
        assert np.array_equal(sprites.draw(index, 1.0, 0.5, 32, 32), sprites.draw(name, 1.0, 0.5, 32, 32))
    with pytest.raises(ValueError, match="got 'star'"):
        sprites.draw("star", 1.0, 0.5, 32, 32)


def test_sprites_are_cut_off_at_the_border_of_any_canvas():
    whole = sprites.draw("heart", 0.8, 0.3, 40.2, 40.7, canvas=80)
    assert np.array_equal(sprites.draw("heart", 0.8, 0.3, 8.2, 8.7, canvas=48), whole[32:, 32:])


def test_grid_holds_what_draw_draws(grid):
    index = np.random.default_rng(0).integers(0, len(grid), 400)
    images = np.unpackbits(grid[index], axis=1).reshape(-1, 64, 64)
    assert np.array_equal(images, [draw_classes(classes) for classes in sprites.factor_index(index)])


def test_the_cache_is_of_this_drawing(grid):
    """If this fails without a new number in CACHE_NAME, users keep the old images."""
    scale, angle = sprites.FACTOR_VALUES[2][4], ORIENTATIONS[7]
    anew = [sprites._draw_at_all_positions(shape, float(scale), float(angle)) for shape in range(3)]
    by_factor = grid.reshape(3, 6, 40, -1)
    assert np.array_equal(by_factor[:, 4, 7], np.ascontiguousarray(anew).view(np.uint8).reshape(3, -1))


def test_last_orientation_is_the_first_again(grid):
    by_factor = grid.reshape(3, 6, 40, 1024, 512)
    assert np.array_equal(by_factor[:, :, 0], by_factor[:, :, 39])
    for shape in sprites.SHAPES:
        first, last = (sprites.draw(shape, 0.7, angle, 30.0, 31.3) for angle in ORIENTATIONS[[0, -1]])
        assert np.array_equal(first, last)


def test_two_outermost_rows_and_columns_are_black_and_the_next_are_used(grid):
    used = np.unpackbits(np.bitwise_or.reduce(grid)).reshape(64, 64)
    for lines in (used.any(axis=0), used.any(axis=1)):
        assert np.flatnonzero(lines).tolist() == list(range(2, 62))


def test_mean_white_share(grid):
    assert np.bitwise_count(grid).mean() / 8 == pytest.approx(0.0425, abs=1e-4)


def test_index_and_classes_are_inverse():
    index = np.array([0, 1, 32, 1024, 40960, 245760, 737279, *np.random.default_rng(0).integers(0, 737280, 100)])
    classes = sprites.factor_index(index)
    assert classes[:7].tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 2, 5, 39, 31, 31],
    ]
    assert np.array_equal(np.ravel_multi_index(tuple(classes.T), sprites.FACTOR_SIZES), index)


def published(path, num=5, save=np.savez_compressed, **changes):
    """Writes `num` random images in the published format, with `changes` to its arrays (None: left out)."""
    rng = np.random.default_rng(0)
    classes = sprites.factor_index(rng.integers(0, 737280, num))
    arrays = {
        "imgs": rng.integers(0, 2, (num, 64, 64), dtype=np.uint8),
        "latents_values": classes.astype(float),
        "latents_classes": classes,
        "metadata": np.array({"title": "dSprites"}, dtype=object),
    } | changes
    save(path, **{key: array for key, array in arrays.items() if array is not None})
    return arrays


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("num", [1, 5, 1500])
def test_published_file_is_read_as_it_was_written(tmp_path, num, save):
    arrays = published(tmp_path / "dsprites.npz", num, save)
    images, classes = sprites.read_published(tmp_path / "dsprites.npz")
    assert np.array_equal(np.unpackbits(images, axis=1).reshape(-1, 64, 64), arrays["imgs"])
    assert np.array_equal(classes, arrays["latents_classes"]) and classes.dtype == np.int64


def test_published_images_are_never_held_as_bytes(tmp_path):
    published(tmp_path / "dsprites.npz", imgs=np.zeros((16384, 64, 64), np.uint8), num=16384)  # 67 MB, 8 as bits
    tracemalloc.start()
    sprites.read_published(tmp_path / "dsprites.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32e6


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"imgs": None}, "no imgs"),
        ({"latents_classes": None}, "no latents_classes"),
        ({"imgs": np.zeros((5, 32, 32), np.uint8)}, r"uint8 \(5, 32, 32\)"),
        ({"imgs": np.zeros((0, 64, 64), np.uint8)}, r"uint8 \(0, 64, 64\)"),
        ({"imgs": np.zeros((64, 64, 5), np.uint8).T}, "Fortran order"),
        ({"imgs": np.zeros((5, 64, 64))}, "float64"),
        ({"imgs": np.full((5, 64, 64), 255, np.uint8)}, "pixel of 255"),
        ({"imgs": np.zeros((4, 64, 64), np.uint8)}, "for 4 images"),
        ({"latents_classes": np.zeros((5, 5), np.int64)}, r"int64 \(5, 5\)"),
        ({"latents_classes": np.zeros((5, 6))}, "float64"),
        ({"latents_classes": np.full((5, 6), -1)}, "from .-1"),
        ({"latents_classes": np.tile(sprites.FACTOR_SIZES, (5, 1))}, "to .1, 3, 6, 40, 32, 32"),
        ({"latents_classes": np.array([{}], dtype=object)}, "holds objects"),
    ],
)
def test_published_file_with_other_arrays_is_refused(tmp_path, changes, reason):
    published(tmp_path / "dsprites.npz", **changes)
    with pytest.raises(UserError, match=reason):
        sprites.read_published(tmp_path / "dsprites.npz")


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)


def promise_more_images(path):
    with zipfile.ZipFile(path, "w") as archive:
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000000, 64, 64), }\n"
        archive.writestr("imgs.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(4096))
        archive.writestr("latents_classes.npy", b"")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("<html>404</html>"),
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        flip_a_byte,
        promise_more_images,
    ],
    ids=["missing", "folder", "empty", "page", "truncated", "flipped_byte", "header"],
)
def test_damaged_published_file_is_refused_in_one_sentence_that_helps(tmp_path, damage):
    path = tmp_path / "dsprites.npz"
    published(path)
    damage(path)
    with pytest.raises(UserError) as caught:
        sprites.read_published(path)
    message = str(caught.value)
    assert str(path) in message and "download it again or remove data.path" in message and "\n" not in message
