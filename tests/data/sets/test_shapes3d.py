"""3DShapes, drawn or from a small file in the published format: the grid, its parts, and what is refused."""

import sys

import h5py
import numpy as np
import pytest
import torch

from tests.annotations import unchecked
from vae_zoo.contract import Block
from vae_zoo.data.render import rooms
from vae_zoo.data.render.colours import hues
from vae_zoo.data.sets.shapes3d import Shapes3D
from vae_zoo.distributions import Normal
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suites.factors import Disentanglement
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.utils.errors import UserError

PAPER = {1: {"wall_hue": [5], "object_hue": [6]}, 2: {"floor_hue": [0], "object_hue": [6]}}  # MFCVAE's configurations
NAMES = rooms.FACTOR_NAMES
PART = (2, 3, 1, 2, 4, 3)  # values of each factor in the small file, the first ones


@pytest.fixture(scope="module")
def drawn(cache_dir):
    def make(**settings):
        data = Shapes3D(cache=str(cache_dir), **({"val_size": 0.01, "test_size": 0.02} | settings))
        data.setup()
        return data

    return make


@pytest.fixture(scope="module")
def whole(drawn):
    return drawn()


def image(data, *places):
    """Of the values at these places in the grid of the data."""
    index = np.ravel_multi_index(places, data.factor_sizes)
    return data.single(torch.tensor([index]))["image"][0]


# ---- drawn ----------------------------------------------------------------------------------------------------------


def test_the_whole_grid_takes_six_bytes_an_image(whole):
    assert len(whole.images) == 480_000 and whole.images.numpy().nbytes == 6 * 480_000
    assert whole.factor_names == NAMES and whole.factor_sizes == rooms.FACTOR_SIZES and whole.is_grid
    assert whole.factor_kinds == ("categorical",) * 3 + ("ordered", "categorical", "ordered")
    assert torch.equal(whole.label, whole.factors[:, 4].long()) and whole.num_classes == 4
    batch = whole.train_batch(0)
    assert batch["image"].shape == (64, 3, 64, 64) and batch["image"].dtype == torch.float32
    levels = 255 * batch["image"].double()
    assert abs(levels - levels.round()).max() < 1e-4 and batch["image"].min() >= 0 and batch["image"].max() == 1


def test_an_image_is_the_sum_of_its_layers_in_their_colours(whole, cache_dir):
    layers = np.load(cache_dir / "rooms_v1.npy", mmap_mode="r")
    for places in np.random.default_rng(0).integers(0, rooms.FACTOR_SIZES, size=(20, 6)):
        colours = [*hues(places[:3] / 10), rooms.SKY, np.ones(3)]
        expected = sum(layer * colour[:, None, None] for layer, colour in zip(layers[tuple(places[3:])], colours))
        np.testing.assert_allclose(image(whole, *places), expected.clip(0, 1), atol=0.5 / 255 + 1e-5)


@pytest.mark.parametrize("factor", range(6))
def test_a_factor_changes_its_own_part_of_the_picture(whole, factor):
    """Hues: the pixels that show floor, wall or object, and only these; the other factors: the object among others."""
    places = [1, 4, 8, 3, 2, 9]
    other = [*places]
    other[factor] += 1
    changed = (image(whole, *places) != image(whole, *other)).any(0).numpy()
    shown, then = (whole.layers.view(8, 4, 15, 5, 64, 64)[*where[3:]].numpy() > 0 for where in (places, other))
    if factor < 3:
        assert (changed <= shown[factor]).all(), "nothing else changes"
        assert changed[shown[factor]].mean() > 0.95, "but for pixels of which it is a sliver"
    else:
        assert changed.any() and changed[shown[2]].any()
        walls = shown[1] & ~shown[2] & ~then[2]
        assert changed[walls].any() == (factor == 5), "only the camera moves the walls"


def test_images_are_the_same_alone_in_a_batch_and_drawn_again(whole, drawn):
    index = torch.from_numpy(np.random.default_rng(0).permutation(480_000)[:50])
    images = whole.single(index)["image"]
    assert torch.equal(images, drawn().single(index)["image"])
    assert all(torch.equal(whole.single(index[[n]])["image"][0], images[n]) for n in (0, 17, 49))
    assert len(images.unique(dim=0)) == 50


@pytest.mark.parametrize("number, varied", [(1, "floor_hue"), (2, "wall_hue")])
def test_the_papers_configurations_are_the_same_images_as_in_the_whole_grid(whole, drawn, number, varied):
    data = drawn(factors=PAPER[number])
    assert len(data.images) == 4800 and data.factor_names == (varied, "scale", "shape", "orientation") and data.is_grid
    where = {name: values[0] for name, values in PAPER[number].items()}
    for hue, scale, shape, orientation in [(0, 0, 0, 0), (3, 7, 2, 1), (9, 4, 3, 14)]:
        places = where | {varied: hue, "scale": scale, "shape": shape, "orientation": orientation}
        in_grid = image(whole, *(places[name] for name in NAMES))
        assert torch.equal(image(data, hue, scale, shape, orientation), in_grid)


def test_factors_count_the_values_in_use_in_their_own_order(whole, drawn):
    data = drawn(factors={"floor_hue": [7, 2], "wall_hue": [3], "shape": [3, 1], "scale": [0]}, num_classes=2)
    assert data.factor_names == ("floor_hue", "object_hue", "shape", "orientation")
    assert data.factor_sizes == (2, 10, 2, 15) and data.is_grid and data.label.unique().tolist() == [0, 1]
    assert torch.equal(image(data, 1, 6, 0, 4), image(whole, 7, 3, 6, 0, 1, 4))


def test_small_images_are_means_of_the_large_ones(whole, drawn):
    small = drawn(size=32)
    index = torch.arange(0, 480_000, 31_234)
    blocks = whole.single(index)["image"].unflatten(3, (32, 2)).unflatten(2, (32, 2))
    bright = blocks.amax((3, 5)) == 1  # where the sum of layers is cut at white, it is cut before or after the mean
    difference = abs(small.single(index)["image"] - blocks.mean((3, 5)))
    assert difference[~bright].max() < 1.1 / 255 and difference.max() < 0.1


def test_scores_draw_factors_from_the_whole_of_a_part(drawn):
    """A code that is the factors has the scores of a perfect one, so the images are those of the factors asked for."""

    class Perfect(LatentVariableModel):
        def __init__(self):
            super().__init__((3, 32, 32))
            self.blocks = {"z": Block(4, "gaussian", "the factors")}

        def encode(self, batch):
            return {"z": Normal(batch["factors"], torch.zeros_like(batch["factors"]))}

    data = drawn(factors=PAPER[1], size=32)
    numbers = Disentanglement().run(Context(Perfect(), data)).numbers
    assert numbers["mig"] > 0.99 and numbers["modularity"] > 0.99


@unchecked()
def test_what_is_not_offered_is_refused(drawn, cache_dir):
    with pytest.raises(UserError, match="data.factors.flor_hue is not a factor of 3DShapes; choose from floor_hue, "):
        Shapes3D(factors={"flor_hue": [0]})
    with pytest.raises(UserError, match="image sides must be 32 or 64, got 48x48"):
        Shapes3D(size=48)
    with pytest.raises(UserError, match="data.group_by=floor_hue is not a grouping of this data set"):
        drawn(factors={"floor_hue": [0]}, group_by="floor_hue")
    with pytest.raises(UserError, match="data.num_classes=4, but the data set has 2 classes"):
        drawn(factors={"shape": [0, 1]}, num_classes=4)


# ---- the published file ---------------------------------------------------------------------------------------------


def contents(seed=0):
    """Images and labels of a part of the grid, in the published order and form."""
    places = np.stack(np.meshgrid(*map(np.arange, PART), indexing="ij"), axis=-1).reshape(-1, 6)
    labels = np.stack([values[column] for values, column in zip(rooms.FACTOR_VALUES, places.T)], axis=1)
    images = np.random.default_rng(seed).integers(0, 256, (len(places), 64, 64, 3), dtype=np.uint8)
    return images, labels, places


def write(path, images, labels, chunks=(13, 16, 16, 1)):
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=images, chunks=chunks, compression="gzip" if chunks else None)
        file.create_dataset("labels", data=labels)
    return path


@pytest.fixture
def published(tmp_path):
    return write(tmp_path / "3dshapes.h5", *contents()[:2])


def read(path, **settings):
    data = Shapes3D(path=str(path), cache=str(path.parent / "cache"), **settings)
    data.setup()
    return data


def test_published_images_and_factors_are_those_of_the_file(published):
    images, _, places = contents()
    data = read(published)
    assert np.array_equal(data.images, images.transpose(0, 3, 1, 2))
    assert np.array_equal(data.factors, places) and np.array_equal(data.label, places[:, 4])
    assert torch.equal(data.single(torch.tensor([5]))["image"][0], torch.from_numpy(images[5]).permute(2, 0, 1) / 255)


@pytest.mark.parametrize("chunks", [(13, 16, 16, 1), (1, 64, 64, 3), None])
def test_only_the_chosen_rows_are_kept_whatever_the_chunks(tmp_path, monkeypatch, chunks):
    monkeypatch.setattr("vae_zoo.data.sets.shapes3d.ROWS", 20)
    images, labels, places = contents()
    path = write(tmp_path / "3dshapes.h5", images, labels, chunks)
    data = read(path, factors={"floor_hue": [1], "wall_hue": [0, 2], "shape": [3, 0]}, num_classes=2)
    rows = (places[:, 0] == 1) & np.isin(places[:, 1], [0, 2]) & np.isin(places[:, 4], [0, 3])
    assert np.array_equal(data.images, images[rows].transpose(0, 3, 1, 2))
    assert data.factor_names == ("wall_hue", "object_hue", "scale", "shape", "orientation")
    assert np.array_equal(data.factors[:, 0], places[rows, 1] // 2)
    assert np.array_equal(data.label, places[rows, 4] // 3)


def test_published_images_are_halved_by_rounded_means(published):
    images = contents()[0]
    half = images.reshape(-1, 32, 2, 32, 2, 3).mean((2, 4))
    assert np.array_equal(read(published, size=32).images, np.floor(half + 0.5).astype(np.uint8).transpose(0, 3, 1, 2))


def test_the_file_is_unpacked_once_until_it_changes(published, monkeypatch):
    first = read(published)
    with monkeypatch.context() as patch:
        patch.setattr("vae_zoo.data.sets.shapes3d._images", lambda *_: pytest.fail("unpacked again"))
        assert torch.equal(read(published).images, first.images)
    write(published, *contents(seed=1)[:2])
    assert not torch.equal(read(published).images, first.images)


@pytest.mark.parametrize(
    "damage, told",
    [
        (lambda images, labels: (images[:-1], labels), "images is uint8 \\(143, 64, 64, 3\\) for 144 labels"),
        (lambda images, labels: (images.astype(np.float32), labels), "images is float32"),
        (
            lambda images, labels: (images, labels + [0, 0, 0, 0, 0, 1]),
            "0, 5\\] = -29 is not a value of orientation",
        ),
        (lambda images, labels: (images, labels + [0, 0, 0, 0, 2, 0]), "labels\\[[0-9]+, 4\\] = 4 is not a value of shape"),
        (lambda images, labels: (images, labels[:, :5]), "broadcast|shape"),
    ],
)
def test_files_of_other_content_are_refused(tmp_path, damage, told):
    path = write(tmp_path / "3dshapes.h5", *damage(*contents()[:2]), chunks=None)
    with pytest.raises(UserError, match=f"3dshapes.h5 cannot be read as 3DShapes .*({told}).*; it must contain images"):
        read(path)


def test_no_file_and_damaged_files_are_told(tmp_path, published):
    with pytest.raises(UserError, match="nowhere.h5 cannot be read as 3DShapes .*No such file.*remove data.path"):
        read(tmp_path / "nowhere.h5")
    (tmp_path / "text.h5").write_text("<html>not found</html>")
    with pytest.raises(UserError, match="text.h5 cannot be read as 3DShapes .*signature"):
        read(tmp_path / "text.h5")
    whole = published.read_bytes()
    published.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="3dshapes.h5 cannot be read as 3DShapes .*truncated"):
        read(published)
    published.write_bytes(whole[: len(whole) // 2] + bytes(2000) + whole[len(whole) // 2 + 2000 :])
    with pytest.raises(UserError, match="3dshapes.h5 cannot be read as 3DShapes"):
        read(published)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()], "no half of it is kept"


def test_what_the_file_does_not_have_cannot_be_chosen(published):
    with pytest.raises(UserError, match="has no image with these data.factors; choose other values"):
        read(published, factors={"floor_hue": [9]})


def test_h5py_is_asked_for_only_where_a_file_is_read(published, drawn, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    drawn(factors=PAPER[1])
    with pytest.raises(UserError, match="needs h5py, which is not installed; run `pip install h5py`, or remove data.path"):
        read(published)


def test_a_cache_that_cannot_be_written_is_told_with_what_it_needs(published):
    (published.parent / "cache").write_text("a file")
    with pytest.raises(UserError, match="cannot be written .*; set paths.cache to a folder with 1,.* bytes of free space"):
        read(published)


def test_another_number_of_channels_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"data.image_shape=\[1, 32, 32\], but 3DShapes has 3 channels"):
        Shapes3D(image_shape=(1, 32, 32), cache=str(tmp_path))
