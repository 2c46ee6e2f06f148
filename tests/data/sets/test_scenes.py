"""Scenes: what is drawn, what is known of it, and that neither depends on who asks."""

import time
import tracemalloc
from contextlib import nullcontext

import h5py
import numpy as np
import pytest
import torch
import zarr
from PIL import Image
from scipy.stats import chisquare

from vae_zoo.data.render import scenes as scene_drawing
from vae_zoo.data.render import sprites
from vae_zoo.data.render.scenes import PALETTES, Recipe
from vae_zoo.data.sets.scenes import LEAST, Scenes, boxes_of
from vae_zoo.utils.errors import UserError


def scenes(tmp_path, **options):
    options = {"train_size": 60, "val_size": 10, "test_size": 30, "batch_size": 8, "cache": str(tmp_path)} | options
    data = Scenes(**options)
    data.setup()
    return data


def test_a_scene_is_the_same_in_whatever_company_it_is_drawn():
    recipe, index = Recipe(ground="chequer"), np.arange(150)
    together = scene_drawing.draw(recipe, "train", index)
    order = np.random.default_rng(0).permutation(index)
    assert (scene_drawing.draw(recipe, "train", order) == together[order]).all()
    assert (scene_drawing.draw(recipe, "train", index[97:98]) == together[97:98]).all()
    assert (scene_drawing.draw(recipe, "test", index) != together).any((1, 2, 3)).all()


def test_numbers_of_objects_are_equally_likely_and_places_reach_every_border():
    recipe, index = Recipe(), np.arange(3000)
    count = scene_drawing.counts(recipe, "train", index)
    assert chisquare(np.bincount(count, minlength=6)).pvalue > 0.01
    box, pixels = boxes_of(torch.from_numpy(scene_drawing.draw(Recipe(scales=(1, 1)), "train", index)[:, 3]))
    shown = box[pixels > 0]
    assert shown.amin(0)[:2].tolist() == [0, 0] and shown.amax(0)[2:].tolist() == [48, 48]


def test_the_map_shows_as_many_sprites_as_there_are():
    index = np.arange(300)
    drawn = scene_drawing.draw(Recipe(), "val", index)[:, 3]
    count = scene_drawing.counts(Recipe(), "val", index)
    assert [len(np.unique(one)) - 1 for one in drawn] == count.tolist()


def test_tiles_overlap_no_more_than_allowed():
    recipe = Recipe(num_objects=(5, 5), max_overlap=0.15)
    key = np.arange(400, dtype=np.uint64)
    place = scene_drawing._places(recipe, key, np.full(400, 5))
    apart = np.abs(place[:, :, None] - place[:, None])
    covered = (14 - apart).clip(0).prod(-1)[:, ~np.eye(5, dtype=bool)]
    assert covered.max() <= 0.15 * 14**2 and covered.max() > 0
    with pytest.raises(UserError, match="cannot all be visible"):
        scene_drawing.draw(Recipe(size=20, num_objects=(5, 5), max_overlap=0.0), "train", np.arange(3))


@pytest.mark.parametrize("ground, colours", [("solid", 1), ("chequer", 2), ("texture", 2)])
def test_grounds_mix_the_colours_of_their_palette_and_unseen_ones_others(ground, colours):
    recipe = Recipe(num_objects=(0, 0), ground=ground)
    for split, palette in (("test", PALETTES[ground][0]), ("test_unseen", PALETTES[ground][1])):
        images = scene_drawing.draw(recipe, split, np.arange(200))[:, :3].transpose(0, 2, 3, 1)
        used = set()
        for image in images:
            pixels, number = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
            if ground != "texture":
                common = pixels[number.argsort()[-colours:]]
                assert number.max() >= len(image) ** 2 / colours * 0.5
                used |= {tuple(c) for c in common.tolist()}
            least, most = np.array(palette).min(0), np.array(palette).max(0)
            assert (pixels >= least).all() and (pixels <= most).all()
        assert ground == "texture" or used == {*palette}
    assert not {*PALETTES[ground][0]} & {*PALETTES[ground][1]}


def test_a_shape_is_that_of_dsprites():
    """At 64 pixels and the scale of dSprites itself, against its own renderer; soft edges are the only difference."""
    recipe = Recipe(sprite_size=64, alike=True)
    unit = 2 * scene_drawing.REACH.max() / 64  # of a tile
    for shape in range(3):
        soft = scene_drawing._shapes(recipe, np.array([shape]), np.array([0.0]), np.array([unit]))[0]
        assert np.abs(soft - sprites.draw(shape, 1.0, 0.0, 32, 32)).mean() < 0.01


def test_truth_of_a_batch(tmp_path):
    data = scenes(tmp_path)
    assert {name: len(index) for name, index in data.indices.items()} == {
        "train": 60,
        "val": 10,
        "test": 30,
        "test_unseen": 30,
    }
    batch = data.single(data.indices["test_unseen"])
    for mask, boxes, count in zip(batch["mask"].numpy(), batch["boxes"], batch["count"]):
        expected = []
        for k in range(1, mask.max() + 1):
            rows, columns = np.nonzero(mask == k)
            if len(rows) >= LEAST:
                expected.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert boxes.tolist() == expected and count == len(expected)
    assert batch["label"].tolist() == batch["count"].tolist()
    assert "boxes" not in data.train_batch(0)
    again = scenes(tmp_path)
    assert torch.equal(again.images, data.images) and torch.equal(again.masks, data.masks)


def test_endless_training_draws_each_scene_once_and_the_same_on_any_number_of_ranks(tmp_path):
    data = scenes(tmp_path, endless=True, seed=3)
    whole = data.train_batch(5)
    parts = [data.train_batch(5, rank, 2)["image"] for rank in range(2)]
    assert torch.equal(torch.cat(parts), whole["image"]) and len(whole["image"]) == 8
    assert not set(whole["index"].tolist()) & set(data.train_batch(6)["index"].tolist())
    with pytest.raises(UserError, match="data.endless=true"):
        scenes(tmp_path, endless=True, group_by="label")


def test_no_batch_waits_for_the_gpu(tmp_path, monkeypatch):
    """Copies to a GPU come from pinned memory; here they go nowhere."""
    pinned, copied = [], []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, non_blocking=False: copied.append(non_blocking) or self)
    for endless in (True, False):
        data = scenes(tmp_path, endless=endless)
        pinned.clear(), copied.clear()
        data.train_batch(5, device="cuda")
        data.single(data.indices["val"], device="cuda")
        assert all(copied) and len(pinned) == len(copied) >= 6


def test_a_users_cut_outs_and_pictures(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "cut_outs").mkdir(), (tmp_path / "grounds").mkdir()
    for i in range(3):
        rgba = np.zeros((20, 30, 4), np.uint8)
        rgba[5:15, 4:24] = (255, 0, 0, 255)  # twice as wide as high
        Image.fromarray(rgba).save(tmp_path / "cut_outs" / f"{i}.png")
        Image.fromarray(rng.integers(100, 110, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "grounds" / f"{i}.png")
    folders = {"sprites": str(tmp_path / "cut_outs"), "ground": str(tmp_path / "grounds")}
    data = scenes(tmp_path, **folders, num_objects=(1, 1))
    batch = data.single(data.indices["test_unseen"])
    sides = torch.stack([one[0, 2:] - one[0, :2] for one in batch["boxes"]])
    assert (sides[:, 0] == 14).all() and ((sides[:, 1] == 7) | (sides[:, 1] == 8)).all()
    red = batch["image"].movedim(1, -1)[batch["mask"] == 1]
    assert (red[:, 0] > 0.7).float().mean() > 0.9 and red[:, 1].mean() < 0.1
    Image.new("RGBA", (4, 4)).save(tmp_path / "cut_outs" / "9.png")
    with pytest.raises(UserError, match="is fully transparent"):
        scenes(tmp_path, **folders)


def test_scenes_of_a_file(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    mask = np.zeros((40, 16, 16), np.uint8)
    mask[:, 2:6, 3:9] = 1
    np.savez(tmp_path / "scenes.npz", image=image, mask=mask)
    data = scenes(tmp_path, path=str(tmp_path / "scenes.npz"), size=16, val_size=4, test_size=4)
    batch = data.single(data.indices["test"])
    assert batch["boxes"][0].tolist() == [[3, 2, 9, 6]] and len(data.indices["train"]) == 32
    torch.testing.assert_close(batch["image"][0], torch.from_numpy(image[batch["index"][0]]).permute(2, 0, 1) / 255)
    np.savez(tmp_path / "other.npz", image=image)
    with pytest.raises(UserError, match="has no 'mask', only image; give a file with"):
        scenes(tmp_path, path=str(tmp_path / "other.npz"))


@pytest.mark.parametrize(
    "number, scenes_of, told",
    [
        (256, 40, "mask must contain whole numbers from 0, the background, to 254, got values from 0 to 256"),
        (-1, 40, "mask must contain whole numbers .* got values from -1 to 0"),
        (255, 40, "mask must contain whole numbers .* got values from 0 to 255"),
        (0.5, 40, "mask must contain whole numbers .* got values from 0.0 to 0.5"),
        (np.nan, 40, "mask must contain whole numbers .* got values from nan to nan"),
        (1, 0, "give at least one scene per split"),
    ],
)
def test_masks_that_are_none_are_refused(tmp_path, number, scenes_of, told):
    mask = np.zeros((scenes_of, 16, 16), np.float64 if isinstance(number, float) else np.int64)
    mask[:, 2:6, 3:9] = number
    np.savez(tmp_path / "scenes.npz", image=np.zeros((scenes_of, 16, 16, 3), np.uint8), mask=mask)
    with pytest.raises(UserError, match=told):
        scenes(tmp_path, path=str(tmp_path / "scenes.npz"), size=16, val_size=4, test_size=4)


@pytest.mark.parametrize("form", ["h5", "zarr"])
def test_scenes_of_published_forms_have_masks_of_each_object_and_factors(tmp_path, form):
    rng = np.random.default_rng(0)
    image, number = rng.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8), rng.integers(0, 3, (40, 16, 16))
    arrays = {"image": image, "mask": (number[:, None] == np.arange(3)[:, None, None])[..., None].astype(np.uint8) * 255}
    arrays |= {"light": np.arange(40) % 4, "colour": rng.random((40, 3, 3)), "kind": np.arange(40) // 20}
    path = tmp_path / f"scenes.{form}"
    with h5py.File(path, "w") if form == "h5" else nullcontext(zarr.open_group(str(path), mode="w")) as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array) if form == "h5" else file.create_array(key, data=array.astype(array.dtype))
    for _ in range(2):
        data = scenes(tmp_path, path=str(path), size=16, val_size=4, test_size=4)
        batch = data.single(torch.arange(40))
        assert np.array_equal(batch["mask"], number) and np.array_equal(data.images, image.transpose(0, 3, 1, 2))
        assert data.factor_names == ("kind", "light") and data.factor_sizes == (2, 4)


def test_objects_of_a_file_are_counted_scene_by_scene(tmp_path):
    mask = np.zeros((2000, 64, 64), np.int64)
    mask[:, 0, :4], mask[:, 1, :4] = 254, np.arange(2000)[:, None] % 3 * 7
    np.savez_compressed(tmp_path / "scenes.npz", image=np.zeros((2000, 64, 64, 3), np.uint8), mask=mask)
    tracemalloc.start()
    data = scenes(tmp_path, path=str(tmp_path / "scenes.npz"), size=64)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.label.tolist() == (1 + (np.arange(2000) % 3 > 0)).tolist()
    assert most < 3 * mask.nbytes, "what grows with the number of objects is not kept for all scenes at once"


@pytest.mark.parametrize(
    "variant, least, most", [("binarized", 2, 3), ("colored_on_grayscale", 2, 5), ("colored_on_colored", 1, 4)]
)
def test_variants_after_multi_dsprites(tmp_path, variant, least, most):
    data = scenes(tmp_path, variant=variant, size=64, sprites="dsprites")
    batch = data.single(data.indices["val"])
    ground = batch["image"].movedim(1, -1)[batch["mask"] == 0]
    assert data.label.min() >= least and data.label.max() <= most and "test_unseen" not in data.indices
    if variant == "binarized":
        sprite = batch["image"].movedim(1, -1)[batch["mask"] > 0]
        assert not ground.any(1).float().mean() > 0.1 and (sprite == sprite[:, :1]).all() and sprite.mean() > 0.9
    if variant == "colored_on_grayscale":
        inside = ground[(ground == ground[:, :1]).all(1)]
        assert len(inside) > 0.9 * len(ground)


@pytest.mark.slow
def test_drawing_is_ten_times_faster_than_training():
    """Training of the small setting takes about 0.06 s for 16 scenes on one core."""
    start = time.perf_counter()
    scene_drawing.draw(Recipe(size=24, sprite_size=9, num_objects=(0, 3)), "train", np.arange(2000))
    assert time.perf_counter() - start < 0.1 * 0.06 * 2000 / 16


@pytest.mark.parametrize("seed", [0, 20240101, 2**31 - 1])
def test_endless_scenes_of_any_seed_have_the_indices_that_the_data_module_names(tmp_path, seed):
    data = scenes(tmp_path, endless=True, seed=seed)
    index = data.train_batch(5)["index"]
    assert torch.equal(index, data.train_indices(5)) and index.min() >= 0
    if seed:
        assert not set(index.tolist()) & set(scenes(tmp_path, endless=True).train_batch(5)["index"].tolist())
