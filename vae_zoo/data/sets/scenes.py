"""Scenes: sprites on a background, with known boxes, masks and counts. Drawn here, nothing to download.

Scene i of a split is always the same (vae_zoo.data.render.scenes), so training may also use an endless stream in which each
scene occurs once. The split `test` has the backgrounds of training, `test_unseen` has others.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from vae_zoo.config.types import Count, NumObjects, Probability, Shape, Side, SpriteSide
from vae_zoo.contract import Batch
from vae_zoo.data.arrays import Arrays
from vae_zoo.data.datamodule import DataModule, share
from vae_zoo.data.render import scenes as scene_drawing
from vae_zoo.data.render.scenes import Recipe
from vae_zoo.data.sets.digits import resize_bytes
from vae_zoo.data.sets.image_folder import read_images
from vae_zoo.data.storage.array_file import converted, layout, member, opened, to_bytes, values
from vae_zoo.data.storage.cache import cached_array
from vae_zoo.data.storage.download import blaming
from vae_zoo.data.storage.pictures import fingerprint
from vae_zoo.data.storage.table import fields_of
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.memory import to_device

Variant = Literal["split_easy", "split_hard", "binarized", "colored_on_grayscale", "colored_on_colored"]
MOST = 254  # largest number of an object in a mask of bytes
LEAST = 4  # pixels of an object that must be visible, else it has no box and does not count
MULTI_DSPRITES = {"sprite_size": 28, "max_overlap": 1.0, "scales": (0.5, 1.0), "alike": True}
VARIANTS = {  # settings of the Recipe for each data.variant
    "split_easy": {"ground": "solid"},
    "split_hard": {"ground": "chequer"},
    "binarized": MULTI_DSPRITES | {"num_objects": (2, 3), "ground": "black", "colour": "white"},
    "colored_on_grayscale": MULTI_DSPRITES | {"num_objects": (2, 5), "ground": "grey"},
    "colored_on_colored": MULTI_DSPRITES | {"num_objects": (1, 4), "ground": "random"},
}


class Scenes(DataModule):
    """Sprites on a background, with known boxes, masks and counts; the label is the number of objects.

    Batches for evaluation have `mask`, `count` and `boxes`, tight around the visible pixels. val_size and test_size are
    numbers of scenes, or shares of train_size; the split test_unseen has as many, on backgrounds unseen in training.

    Args:
        variant: Values of the settings below that are None: `split_easy` and `split_hard` (solid and chequered background)
            as in SPLIT; `binarized`, `colored_on_grayscale` and `colored_on_colored` as in Multi-dSprites, at size 64.
        path: File (.npz, .h5, .zarr) of scenes drawn elsewhere, `image` uint8 [N, H, W, 3] and `mask` [N, H, W], 0 =
            background, or one mask for each object; the other settings do not apply. None: scenes are drawn.
        size: Side of the images, pixels >= 8.
        sprites: `dsprites`, `digits`, or a folder of at least two cut-outs with transparency.
        sprite_size: Side of the sprites' tiles, pixels, 3 to `size`; None: set by the variant.
        num_objects: [min, max] number of objects per scene, 0 to 254; None: set by the variant.
        ground: Background: black, grey, random, solid, chequer, texture, or a folder of at least two pictures; None: set by
            the variant.
        colour: Colour of the sprites: `random`, `white`, or `own`, that of the cut-out; None: set by the variant.
        phase_jitter: Whether the chequerboard is shifted at random.
        max_overlap: Largest share of a tile that another one covers, 0 to 1; None: set by the variant.
        train_size: Number of training scenes, >= 1.
        endless: Whether training draws new scenes at every step; there are neither groups nor labels then.
        cache: Folder for drawn and converted scenes.
        image_shape: [3, size, size], also if None.
        **common: As in DataModule.

    Source: github.com/51616/split-vae, spair/data.py; github.com/deepmind/multi_object_datasets.
    """

    licence = ("mit", "drawn by vae_zoo; sprites, backgrounds and scenes of the author of the run keep their terms of use")
    default_label = "count"

    def __init__(
        self,
        variant: Variant = "split_easy",
        path: str | None = None,
        size: Side = 48,
        sprites: str = "dsprites",
        sprite_size: SpriteSide | None = None,
        num_objects: NumObjects | None = None,
        ground: str | None = None,
        colour: Literal["random", "white", "own"] | None = None,
        phase_jitter: bool = False,
        max_overlap: Probability | None = None,
        train_size: Count = 100_000,
        endless: bool = False,
        cache: str = "~/.cache/vae_zoo",
        image_shape: Shape | None = None,
        **common,
    ):
        super().__init__(image_shape or (3, size, size), **common)
        self.path, self.train_size, self.endless = path, train_size, endless
        self.sprites, self.cache = sprites, Path(cache).expanduser()
        chosen = {"sprite_size": sprite_size, "ground": ground, "colour": colour, "max_overlap": max_overlap}
        chosen["num_objects"] = num_objects and tuple(num_objects)
        self.settings = {"size": size, "phase_jitter": phase_jitter} | VARIANTS[variant]
        self.settings |= {name: value for name, value in chosen.items() if value is not None}

    def load(self) -> Arrays:
        """Draws the scenes once, or converts those of a file once.

        Raises:
            UserError: Settings do not fit each other, or a file cannot be read.
        """
        if self.path is not None:
            return self._published()
        side = self.settings["size"]
        if self.image_shape != (3, side, side):  # reported before minutes of drawing
            raise UserError(
                f"data.image_shape must be {[3, side, side]} for data.size={side}, got {list(self.image_shape)}; remove it, "
                f"since it is derived from data.size"
            )
        self.recipe = recipe = self._recipe()
        sizes = {"train": self.train_size}
        for name, size in (("val", self.val_size), ("test", self.test_size)):
            sizes[name] = max(1, round(size * self.train_size)) if size < 1 else int(size)
        if recipe.ground_images is not None or recipe.ground in scene_drawing.PALETTES:  # training does not show all
            sizes["test_unseen"] = sizes["test"]
        parts = [(name, np.arange(count)) for name, count in sizes.items()]
        total, split = sum(sizes.values()), np.repeat(np.arange(len(sizes)), [*sizes.values()])

        def drawn(parts, channels):
            return np.concatenate([scene_drawing.draw(recipe, *part)[:, channels] for part in parts])

        stem = f"scenes_v{scene_drawing.VERSION}_{_digest(recipe)}_{'_'.join(map(str, sizes.values()))}"
        path, masks_path = self.cache / f"{stem}.npy", self.cache / f"{stem}_masks.npy"
        images = cached_array(path, lambda: drawn(parts, slice(3)), (total, 3, side, side))
        masks = cached_array(masks_path, lambda: drawn(parts[1:], 3), (total - self.train_size, side, side))
        self.masks = torch.from_numpy(masks)
        count = np.concatenate([scene_drawing.counts(recipe, *part) for part in parts])
        return Arrays(images, count, recipe.num_objects[1] + 1, split=split, extra_splits=tuple(sizes)[3:])

    def setup(self, stage: str | None = None) -> None:
        """Reads the data, as in DataModule.

        Args:
            stage: Stage of Lightning; all splits are made in each.

        Raises:
            UserError: As in DataModule, or `endless` is combined with `path`, groups or labels.
        """
        if self.endless and (self.path is not None or self.group_by or {"group", "supervised"} & self.needs):
            raise UserError(
                "data.endless=true has neither groups nor labels and cannot be used with data.path; set data.endless=false"
            )
        super().setup(stage)

    def _published(self) -> Arrays:
        assert self.path is not None
        path = Path(self.path).expanduser()
        where = f"data.path={path}"
        with opened(path, "data.path") as file:
            form = "give a file with image [N, H, W, 3] and mask [N, H, W], where 0 is the background"
            image, mask = (member(file, key, where, form) for key in ("image", "mask"))
            (_, *sides), moved = layout(image.shape, where)
            number, stem = image.shape[0], f"scenes_{fingerprint(path, None, path.resolve())}"
            if mask.shape[0] != number or not number:
                what = "one mask for each image" if number else "at least one scene per split"
                raise UserError(f"{where} has image {image.shape} and mask {mask.shape}; give {what}")
            others = {key: file[key] for key in sorted({*file.keys()} - {"image", "mask"}) if hasattr(file[key], "shape")}
            columns = {key: values(array) for key, array in others.items() if array.shape == (number,)}
            known = fields_of(columns, f"{where}, ", {})
            images = converted(self.cache / f"{stem}.npy", image, lambda part: to_bytes(moved(part), None, where))
            masks = converted(self.cache / f"{stem}_masks.npy", mask, lambda part: _numbered(part, sides, where))
        self.masks = torch.from_numpy(masks)
        count = np.array([np.count_nonzero(np.bincount(one.ravel())[1:]) for one in masks])
        factors = {key: known[key] for key in ("factors", "factor_info") if key in known}
        return Arrays(images, count, num_classes=int(count.max()) + 1, **factors)

    def _recipe(self) -> Recipe:
        settings: dict[str, Any] = dict(self.settings)
        size = settings["size"]
        side = settings.get("sprite_size", Recipe.sprite_size)
        if side > size:
            raise UserError(f"data.sprite_size must be at most data.size={size}, got {side}")
        if self.sprites == "digits":
            settings["sprites"] = _digits(side)
        elif self.sprites != "dsprites":
            settings = {"colour": "own"} | settings | {"sprites": _cut_outs(Path(self.sprites).expanduser(), side)}
        elif settings.get("colour") == "own":
            raise UserError("data.colour=own, but dSprites have no colours; choose random or white")
        if settings["ground"] not in scene_drawing.GROUNDS:
            pictures = read_images(Path(settings["ground"]).expanduser(), (3, 2 * size, 2 * size), "data.ground").images
            if len(pictures) < 2:
                raise UserError(
                    f"data.ground={settings['ground']} has one image; give two or more, as test_unseen needs one"
                )
            settings["ground_images"] = (pictures / np.float32(255)).transpose(0, 2, 3, 1)
        return Recipe(**settings)

    # ---- batches --------------------------------------------------------------------------------------------------

    def train_indices(self, step: int, stream: Literal["main", "supervised"] = "main") -> Int[Tensor, " B"]:
        """Indices of the images of a training step, as in DataModule; with `endless`, numbers of new scenes.

        Args:
            step: Number of the step, >= 0.
            stream: As in DataModule.
        """
        if not self.endless:
            return super().train_indices(step, stream)
        return torch.arange(self.batch_size) + step * self.batch_size + (self.seed << 32)

    def train_batch(self, step: int, rank: int = 0, world_size: int = 1, device: torch.device | str = "cpu") -> Batch:
        """Makes a training batch, as in DataModule; with `endless`, of new scenes.

        Args:
            step: Number of the step, >= 0.
            rank: Number of the process, 0..world_size-1.
            world_size: Number of processes.
            device: Device of the batch.

        Raises:
            UserError: The processes cannot share the step evenly.
        """
        if not self.endless:
            return super().train_batch(step, rank, world_size, device)
        index = share(self.train_indices(step), rank, world_size)
        scenes = scene_drawing.draw(self.recipe, "train", index.numpy())
        image = self.to_float(to_device(torch.from_numpy(scenes[:, :3]), device))
        return {"image": image, "index": to_device(index, device)}

    def single(self, index: Int[Tensor, " B"], device: torch.device | str = "cpu") -> Batch:
        """Makes a batch without groups, with masks, boxes and counts unless one of the scenes was drawn for training.

        Args:
            index: Indices of the scenes, 0..N-1.
            device: Device of the batch.
        """
        # masks of training scenes are not kept
        batch, place = super().single(index, device), index - (len(self.images) - len(self.masks))
        if (place < 0).any():
            return batch
        mask = self.masks[place]
        box, pixels = boxes_of(mask)
        boxes = [one[seen] for one, seen in zip(box, pixels >= LEAST)]
        count = torch.tensor([len(one) for one in boxes])
        known = {"mask": to_device(mask, device).long(), "count": to_device(count, device)}
        return cast(Batch, batch | known | {"boxes": [to_device(one, device) for one in boxes]})


def boxes_of(mask: Integer[Tensor, "N H W"], most: int | None = None) -> tuple[Float[Tensor, "N O 4"], Int[Tensor, "N O"]]:
    """Finds the tight box of each number 1..O in maps.

    Args:
        mask: Number of the object that each pixel shows, 0 = background.
        most: O; None: the largest number.

    Returns:
        Boxes x0 y0 x1 y1, pixels, meaningless if no pixel has the number; and the number of pixels of each object.
    """
    number = torch.arange(1, (int(mask.max()) if most is None else most) + 1, device=mask.device)
    shown = mask[:, None] == number[:, None, None]  # [N, K, H, W]
    ends = []
    for axis in (2, 3):  # projections to columns, then to rows
        some = shown.any(axis).float()  # [N, K, side]
        ends += [some.argmax(-1), some.shape[-1] - some.flip(-1).argmax(-1)]
    return torch.stack([ends[0], ends[2], ends[1], ends[3]], dim=-1).float(), shown.sum((2, 3))


def _numbered(mask: np.ndarray, sides: Sequence[int], where: str) -> np.ndarray:
    """Maps uint8 [N, H, W] of such maps of numbers, or of one mask for each object [N, K, H, W], the background first."""
    mask = mask[..., 0] if mask.shape[-1] == 1 else mask
    mask = mask.argmax(1) if mask.ndim == 4 else mask
    with np.errstate(invalid="ignore"):
        numbers = mask.astype(np.uint8)
    if [*mask.shape[1:]] != [*sides]:
        raise UserError(
            f"{where}: mask must be [N, {sides[0]}, {sides[1]}], or such a mask for each object, got {mask.shape}"
        )
    if (numbers != mask).any() or mask.max() > MOST:
        raise UserError(
            f"{where}: mask must contain whole numbers from 0, the background, to {MOST}, got values from {mask.min()} to "
            f"{mask.max()}"
        )
    return numbers


def _digest(recipe: Recipe) -> str:
    """A digest of all settings of a recipe."""
    values = vars(recipe).values()
    text = b"".join(np.ascontiguousarray(v).tobytes() if isinstance(v, np.ndarray) else repr(v).encode() for v in values)
    return f"{zlib.crc32(text):08x}"


def _digits(side: int) -> np.ndarray:
    """scikit-learn's handwritten digits as white tiles [1797, S, S, 4]."""
    digits: Any = load_digits()
    glyphs = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    alpha = np.array(resize_bytes(glyphs, (side, side))[:, 0] / 255, np.float32)
    return np.concatenate([np.ones((*alpha.shape, 3), np.float32), alpha[..., None]], axis=-1)


def _cut_outs(folder: Path, side: int) -> np.ndarray:
    """The pictures of a folder, cropped to their visible part and centred in tiles [K, S, S, 4]."""
    if not folder.is_dir():
        raise UserError(f"data.sprites={folder} is not a folder; give dsprites, digits or a folder of transparent PNG files")
    paths = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    if len(paths) < 2:
        raise UserError(f"data.sprites={folder} has {len(paths)} images; give two or more, as the test split needs one")
    return np.stack([_cut_out(path, side) for path in paths])


def _cut_out(path: Path, side: int) -> np.ndarray:
    with blaming(f"{path} cannot be read as an image (...); remove it or save it as PNG"), Image.open(path) as picture:
        picture = picture.convert("RGBA")
    box = picture.getchannel("A").getbbox()
    if box is None:
        raise UserError(f"{path} is fully transparent; remove it")
    picture = picture.crop(box).convert("RGBa")  # premultiplied, so that transparent pixels add no colour
    longer = max(picture.size)
    tile = Image.new("RGBa", (longer, longer))
    tile.paste(picture, ((longer - picture.width) // 2, (longer - picture.height) // 2))
    return np.array(tile.resize((side, side), Image.Resampling.LANCZOS).convert("RGBA"), np.float32) / 255
