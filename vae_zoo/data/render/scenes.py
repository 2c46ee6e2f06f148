"""Draws scenes from a recipe: a background, sprites on it, and a map of the sprite that each pixel shows.

Scene i of a split is a function of (split, i) and the recipe alone: all numbers are hashes of its address. Sprites are tiles
of S x S pixels at whole pixels; a tile that covers an earlier one by more than `max_overlap` of its area is placed again,
and the later of two lies in front. Lengths are pixels, x to the right, y down; colours are reals in [0, 1].

Palettes, sizes and the rotated chequerboard: 51616/split-vae at 58b6efa, spair/data.py. Its sprites, birds cut out of
CUB-200-2011, are not published, and it never uses the last row and column of positions; here they are used.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from vae_zoo.data.render import hashed, sprites
from vae_zoo.utils.errors import UserError

VERSION = 1  # a new number whenever other pixels are drawn
SPLITS = ("train", "val", "test", "test_unseen")
COUNT, PLACE, SPRITE, GROUND = range(4)  # streams of the hash
TRIES, AT_ONCE, RESTARTS = 200, 20, 20  # positions tried for a sprite, of these at a time, restarts of a scene
CHUNK = 64  # scenes drawn at a time
REACH = np.array([13.573, 12.77, 11.253])  # from the centre to the farthest point of each of sprites.SHAPES at scale 1
SEEN, UNSEEN = 0, 1


def _rgb(colours: str) -> list[tuple[int, ...]]:
    """Colours as web pages write them, as numbers from 0 to 255."""
    return [tuple(bytes.fromhex(colour)) for colour in colours.split()]


PALETTES = {  # of backgrounds, seen and unseen
    "solid": (_rgb("64d148 d14864 d17f48 4881d1 54b8d1 d16d54 b8d154 6d54d1"), _rgb("dede66 6464db db64db 64db64")),
    "chequer": (_rgb("c387ff c1ff87 ffa587 51c5ff ffe551 ff518b"), _rgb("ff7de3 7dffb8 ffcd7d")),
}
PALETTES["texture"] = PALETTES["chequer"]
GROUNDS = ("black", "grey", "random", *PALETTES)
SQUARE = 6  # side of the chequerboard's squares
WAVES = 4  # that a texture is made of


@dataclass(frozen=True)
class Recipe:
    """Settings from which scenes are drawn.

    Args:
        size: Side of the image, pixels.
        sprite_size: Side of the tile of a sprite, S pixels, at most `size`.
        num_objects: Smallest and largest number of sprites of a scene, all numbers equally likely, 0 to 254.
        ground: Background, one of GROUNDS; not used with `ground_images`.
        phase_jitter: Whether the chequerboard is shifted at random; otherwise one of its corners is in the image centre.
        max_overlap: Largest share of a tile that another one covers, 0 to 1.
        scales: Smallest and largest scale of the shapes of dSprites, > 0.
        alike: Whether scales are those of dSprites, whose ellipses and hearts are smaller; otherwise every shape fills its
            tile at scale 1.
        colour: `random` for each object, `white`, or `own` of the tile.
        sprites: Tiles, colours and opacity in [0, 1]; None: the shapes of dSprites, of any angle.
        ground_images: Background images in [0, 1], at least of the side `size`, which are cropped at random; None: `ground`.
        held_out: Share of `sprites` that only test scenes show, and of `ground_images` that only test_unseen shows.
    """

    size: int = 48
    sprite_size: int = 14
    num_objects: tuple[int, int] = (0, 5)
    ground: str = "solid"
    phase_jitter: bool = False
    max_overlap: float = 0.15
    scales: tuple[float, float] = (0.8, 1.0)
    alike: bool = False
    colour: str = "random"
    sprites: Float[np.ndarray, "_ S S 4"] | None = None
    ground_images: Float[np.ndarray, "_ side side 3"] | None = None
    held_out: float = 0.2


def draw(recipe: Recipe, split: str, index: Int[np.ndarray, " N"]) -> UInt8[np.ndarray, "N 4 H W"]:
    """Draws scenes.

    Args:
        recipe: The recipe.
        split: One of SPLITS.
        index: Numbers of the scenes, >= 0.

    Returns:
        RGB and the instance map: 0 is the background, k the k-th sprite, larger numbers in front; a pixel belongs to a
        sprite that covers half of it.

    Raises:
        UserError: The sprites do not fit into the image.
    """
    scenes = np.empty((len(index), 4, recipe.size, recipe.size), dtype=np.uint8)
    for start in range(0, len(index), CHUNK):
        scenes[start : start + CHUNK] = _draw(recipe, SPLITS.index(split), index[start : start + CHUNK])
    return scenes


def counts(recipe: Recipe, split: str, index: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Counts the sprites of scenes without drawing them.

    Args:
        recipe: The recipe.
        split: One of SPLITS.
        index: Numbers of the scenes, >= 0.
    """
    least, most = recipe.num_objects
    key = hashed.address(SPLITS.index(split), COUNT, index, np.zeros_like(index))
    return least + _whole(hashed.uniform(key, 1)[:, 0], most - least + 1)


def _draw(recipe: Recipe, split: int, index: np.ndarray) -> np.ndarray:
    most, count = recipe.num_objects[1], counts(recipe, SPLITS[split], index)
    key = {stream: hashed.address(split, stream, index, np.zeros_like(index)) for stream in (PLACE, SPRITE, GROUND)}
    place = _places(recipe, key[PLACE], count)  # [n, K, 2]
    canvas = _ground(recipe, split, key[GROUND])  # [n, H, W, 3]
    instance = np.zeros(canvas.shape[:3], dtype=np.uint8)
    scene, slot = np.nonzero(np.arange(most) < count[:, None])  # [M] each
    colour, alpha = _sprites(recipe, split, hashed.uniform(key[SPRITE], most * 6).reshape(len(index), most, 6)[scene, slot])
    for k in range(most):  # over the sprites of a scene, the far ones first
        own = slot == k
        row, column = place[scene[own], k].T[..., None, None] + np.arange(recipe.sprite_size)  # [m, 1, S] each
        where = scene[own, None, None], row.swapaxes(1, 2), column
        canvas[where] += alpha[own, ..., None] * (colour[own] - canvas[where])
        instance[where] = np.where(alpha[own] >= 0.5, k + 1, instance[where])
    rgb = np.rint(255 * canvas).astype(np.uint8).transpose(0, 3, 1, 2)
    return np.concatenate([rgb, instance[:, None]], axis=1)


def _places(recipe: Recipe, key: np.ndarray, count: np.ndarray, restart: int = 0) -> np.ndarray:
    """Rows and columns of the tiles' upper left corners: int [n, K, 2], 0 where there is no sprite."""
    if restart == RESTARTS:
        raise UserError(
            f"{count.max()} sprites of {recipe.sprite_size} pixels cannot all be visible in {recipe.size}x{recipe.size} "
            f"pixels; lower data.num_objects or data.sprite_size"
        )
    side, most = recipe.sprite_size, recipe.num_objects[1]
    place = np.zeros((len(key), most, 2), dtype=np.int64)
    failed = np.zeros(len(key), dtype=bool)
    for k in range(most):
        waiting = np.flatnonzero((count > k) & ~failed)
        for first in range(0, TRIES, AT_ONCE):
            start = 2 * ((restart * most + k) * TRIES + first)
            u = hashed.uniform(key[waiting], 2 * AT_ONCE, start).reshape(-1, AT_ONCE, 2)
            tried = _whole(u, recipe.size - side + 1)  # [w, T, 2]
            apart = np.abs(tried[:, :, None] - place[waiting, None, :k])  # [w, T, k, 2]
            allowed = ((side - apart).clip(0).prod(-1) <= recipe.max_overlap * side**2).all(-1)  # [w, T]
            found = allowed.any(1)
            place[waiting[found], k] = tried[found, allowed[found].argmax(1)]
            waiting = waiting[~found]
            if not len(waiting):
                break
        failed[waiting] = True
    if failed.any():
        place[failed] = _places(recipe, key[failed], count[failed], restart + 1)
    return place


def _sprites(recipe: Recipe, split: int, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours, float32 [M, S, S, 3] or [M, 1, 1, 3], and opacity [M, S, S] of the sprites that numbers u [M, 6] choose."""
    colour = np.array((1 + 254 * u[:, None, None, 3:]) / 255, np.float32)
    if recipe.sprites is None:
        low, high = recipe.scales
        alpha = _shapes(recipe, _whole(u[:, 0], 3), 2 * np.pi * u[:, 1], low + (high - low) * u[:, 2])
    else:
        tile = recipe.sprites[_pick(u[:, 0], len(recipe.sprites), SPLITS[split].startswith("test"), recipe.held_out)]
        colour, alpha = (tile[..., :3] if recipe.colour == "own" else colour), tile[..., 3]
    return (np.ones_like(colour) if recipe.colour == "white" else colour), alpha


def _shapes(recipe: Recipe, shape: np.ndarray, angle: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Opacity [M, S, S]: which of 2 x 2 points of each pixel lie inside the shape, in the middle of its tile."""
    side = recipe.sprite_size
    point = np.array((np.arange(2 * side) + 0.5) / 2 - side / 2, np.float32)
    reach = np.full(3, REACH.max()) if recipe.alike else REACH
    unit = np.float32(2 * reach[shape] / (side * scale))
    cos, sin = ((f(angle) * unit).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    u, v = cos * point - sin * point[:, None], sin * point + cos * point[:, None]  # [M, 2 S, 2 S]
    covered = np.empty(u.shape, dtype=bool)
    for s in range(3):
        covered[shape == s] = sprites.inside(s, u[shape == s], v[shape == s])
    return covered.reshape(-1, side, 2, side, 2).mean((2, 4), dtype=np.float32)


def _ground(recipe: Recipe, split: int, key: np.ndarray) -> np.ndarray:
    """float32 [n, H, W, 3]."""
    size, u = recipe.size, hashed.uniform(key, 5 + 3 * WAVES)
    unseen = SPLITS[split] == "test_unseen"
    if recipe.ground_images is not None:
        images = recipe.ground_images
        picked = _pick(u[:, 0], len(images), unseen, recipe.held_out)
        row, column = (_whole(u[:, i], images.shape[1] - size + 1)[:, None, None] for i in (1, 2))
        return images[picked[:, None, None], row + np.arange(size)[:, None], column + np.arange(size)]
    if recipe.ground not in PALETTES:
        flat = {"black": np.zeros((len(key), 3)), "grey": u[:, [0, 0, 0]], "random": u[:, :3]}[recipe.ground]
        return np.array(flat, np.float32)[:, None, None].repeat(size, 1).repeat(size, 2)
    palette = np.array(PALETTES[recipe.ground][UNSEEN if unseen else SEEN], np.float32) / 255
    first = _whole(u[:, 0], len(palette))
    if recipe.ground == "solid":
        return palette[first][:, None, None].repeat(size, 1).repeat(size, 2)
    second = (first + 1 + _whole(u[:, 1], len(palette) - 1)) % len(palette)  # another colour
    share = (_chequer if recipe.ground == "chequer" else _waves)(recipe, u[:, 2:])[..., None]
    return share * palette[first][:, None, None] + (1 - share) * palette[second][:, None, None]


def _chequer(recipe: Recipe, u: np.ndarray) -> np.ndarray:
    """Share of the first of two colours [n, H, W] on a board turned about the centre of the image.

    By up to a right angle either way. Edges are as soft as bilinear interpolation makes them: one pixel of the board.
    """
    along, down = _turned(recipe.size, np.pi * (u[:, 0] - 0.5))
    if recipe.phase_jitter:
        along, down = (axis + np.float32(2 * SQUARE * u[:, i, None, None]) for i, axis in ((1, along), (2, down)))

    def stripes(x):
        distance = np.abs((x + SQUARE / 2) % (2 * SQUARE) - SQUARE) - SQUARE / 2  # to the next edge, signed
        return (2 * distance).clip(-1, 1)

    return (1 + stripes(along) * stripes(down)) / 2


def _waves(recipe: Recipe, u: np.ndarray) -> np.ndarray:
    """Share of the first of two colours [n, H, W]: a sum of plane waves 8 to 24 pixels long, of any direction and phase."""
    angle, length, phase = u[:, 3 : 3 + 3 * WAVES].reshape(-1, 3, WAVES).transpose(1, 2, 0)  # [waves, n] each
    total = 0
    for wave in range(WAVES):
        along, _ = _turned(recipe.size, 2 * np.pi * angle[wave])
        pixels, offset = (np.array(x[wave], np.float32)[:, None, None] for x in (8 + 16 * length, phase))
        total = total + np.sin(np.float32(2 * np.pi) * (along / pixels + offset))
    return np.asarray(0.5 + total / (2 * WAVES))


def _turned(size: int, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixels [n, H, W], from the centre of the image, in axes turned by `angle` [n]."""
    cos, sin = (np.array(f(angle), np.float32)[:, None, None] for f in (np.cos, np.sin))
    point = np.arange(size, dtype=np.float32) + 0.5 - size / 2
    return cos * point + sin * point[:, None], cos * point[:, None] - sin * point


def _whole(u: np.ndarray, count: int) -> np.ndarray:
    """Maps numbers in [0, 1) to integers below `count`."""
    return (u * count).astype(np.int64)


def _pick(u: np.ndarray, count: int, held_out: bool, share: float) -> np.ndarray:
    """Indices below `count`: from the last `share` of them, which are held out, or from the others."""
    kept = count - max(1, round(share * count))
    return kept + _whole(u, count - kept) if held_out else _whole(u, kept)
