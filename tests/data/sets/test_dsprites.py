"""dSprites as a data set: drawn, cached, and read from the published file."""

import pickle
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

from vae_zoo.data.render import sprites
from vae_zoo.data.sets.dsprites import DSprites
from vae_zoo.utils.errors import UserError


@pytest.fixture(scope="module")
def drawn(cache_dir):
    data = DSprites(cache=str(cache_dir), val_size=5000, test_size=10000)
    data.setup()
    return data


def some_of(n=200):
    return np.sort(np.random.default_rng(0).choice(737_280, n, replace=False))


def published(path, places=None, **changes):
    """A part of the data set in the form of the published file, its pickled metadata included."""
    factors = sprites.factor_index(some_of() if places is None else places)
    values = [v[factors[:, i]] for i, v in enumerate(sprites.FACTOR_VALUES)]
    images = [sprites.draw(int(f[1]), v[2], v[3], 16 + 32 * v[4], 16 + 32 * v[5]) for f, v in zip(factors, zip(*values))]
    arrays = {
        "imgs": np.array(images, np.uint8),
        "latents_classes": factors,
        "latents_values": np.stack(values, 1),
        "metadata": np.array({"title": "dSprites"}, dtype=object),
    } | changes
    np.savez_compressed(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_all_images_stay_packed(drawn):
    assert drawn.images.shape == (737_280, 512) and drawn.images.dtype == torch.uint8
    arrays = (drawn.images, drawn.factors, drawn.label, drawn.train_label, *drawn.indices.values())
    distinct = {array.data_ptr(): array.nbytes for array in arrays if array is not None}
    assert sum(distinct.values()) < 0.4e9


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
def test_images_are_mapped_from_the_cache_not_held(drawn, cache_dir):
    assert (cache_dir / "dsprites_v1.npy").stat().st_size > 737_280 * 512
    assert "dsprites_v1.npy" in Path("/proc/self/maps").read_text()


def test_images_are_those_of_their_factors(drawn):
    batch = drawn.batch(torch.from_numpy(some_of(60)))
    assert batch["image"].shape == (60, 1, 64, 64) and set(batch["image"].unique().tolist()) == {0.0, 1.0}
    for image, factors in zip(batch["image"], batch["factors"].long().tolist()):
        shape, scale, orientation, x, y = factors
        _, _, scales, orientations, xs, ys = sprites.FACTOR_VALUES
        wanted = sprites.draw(shape, scales[scale], orientations[orientation], 16 + 32 * xs[x], 16 + 32 * ys[y])
        assert np.array_equal(image[0].numpy(), wanted)


def test_factors_are_the_grid_without_colour(drawn):
    assert drawn.factor_names == ("shape", "scale", "orientation", "pos_x", "pos_y")
    assert drawn.factor_sizes == (3, 6, 40, 32, 32)
    assert drawn.factor_kinds == ("categorical", "ordered", "circular", "ordered", "ordered")
    place = np.array([245760, 40960, 1024, 32, 1])  # what a step of each factor is in the published order
    assert np.array_equal(drawn.factors.long().numpy() @ place, np.arange(737_280))


def test_label_is_the_shape(drawn):
    assert drawn.num_classes == 3 and torch.equal(drawn.label, drawn.factors[:, 0].long())
    assert drawn.default_group == drawn.default_label == "shape"


def test_splits_cover_the_grid(drawn):
    assert [len(drawn.indices[name]) for name in ("train", "val", "test")] == [722_280, 5000, 10_000]
    for column, size in enumerate(drawn.factor_sizes):
        assert len(drawn.factors[drawn.indices["test"], column].unique()) == size


def test_training_batches_of_a_whole_epoch_are_one_small_order(drawn):
    order = drawn.epoch_order(0)
    assert order.shape == (722_280 // 64, 64)
    batch = drawn.train_batch(drawn.batches_per_epoch + 5)
    assert torch.equal(batch["label"], drawn.label[batch["index"]]) and batch["image"].shape == (64, 1, 64, 64)


@pytest.mark.parametrize("shape", [(1, 32, 32), (1, 32, 128), (1, 128, 128)])
def test_other_sizes_are_refused_before_anything_is_drawn(shape):
    with pytest.raises(UserError, match="image sides must be 64"):
        DSprites(image_shape=shape)


def test_three_channels_are_refused(tmp_path):
    data = DSprites(path=str(published(tmp_path / "d.npz")), image_shape=(3, 64, 64))
    with pytest.raises(UserError, match=r"image_shape=\[3, 64, 64\] does not fit"):
        data.setup()


def test_the_published_file_gives_the_same_as_the_drawing(tmp_path, drawn):
    data = DSprites(path=str(published(tmp_path / "d.npz")))
    data.setup()
    places = torch.from_numpy(some_of())
    assert torch.equal(data.images, drawn.images[places])
    assert torch.equal(data.factors, drawn.factors[places]) and torch.equal(data.label, drawn.label[places])
    assert len(data.indices["test"]) == 20


def test_metadata_of_the_published_file_is_never_unpickled(tmp_path, monkeypatch):
    path = published(tmp_path / "d.npz")
    monkeypatch.setattr(pickle, "load", lambda *args, **kwargs: pytest.fail("unpickled"))
    DSprites(path=str(path)).setup()


def test_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    published(tmp_path / "d.npz")
    DSprites(path="~/d.npz").setup()


def cut(path):
    path.write_bytes(path.read_bytes()[:-3000])


def flip(path):
    """One bit of the compressed pixels."""
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)


def without_images(path):
    with zipfile.ZipFile(path) as archive:
        classes = archive.read("latents_classes.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("latents_classes.npy", classes)


def grey(path):
    published(path, imgs=np.full((200, 64, 64), 7, np.uint8))


def text(path):
    path.write_text("<html>404</html>")


def unknown_factors(path):
    published(path, latents_classes=np.full((200, 6), 50))


def pickled_images(path):
    file = BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("imgs.npy", file.getvalue())
        archive.writestr("latents_classes.npy", file.getvalue())


@pytest.mark.parametrize("damage", [cut, flip, without_images, grey, text, unknown_factors, pickled_images])
def test_a_damaged_published_file_is_named_with_the_remedy(tmp_path, damage):
    path = published(tmp_path / "d.npz")
    damage(path)
    with pytest.raises(UserError) as error:
        DSprites(path=str(path)).setup()
    sentence = str(error.value)
    assert str(path) in sentence and "remove data.path" in sentence and "\n" not in sentence


def test_a_missing_published_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nothing.npz cannot be read as dSprites .No such file"):
        DSprites(path=str(tmp_path / "nothing.npz")).setup()
