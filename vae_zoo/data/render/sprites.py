"""The sprites of dSprites as vector shapes, the whole data set drawn from them, and the reader of the published file.

A pixel is white iff its centre lies inside the shape; there is no anti-aliasing. Coordinates are pixels: x to the
right, y down; an orientation turns the shape counter-clockwise on screen. Images are kept as bits, 512 bytes each.

Source: github.com/deepmind/dsprites-dataset. It publishes pixels, not shapes: sizes and curves below were fitted to the
full-resolution frames of its dsprites.gif; 0 pixels differ in 64 frames of the square, 8 in 64 of the ellipse and 20 in
192 of the heart.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from vae_zoo.data.storage.array_file import Archive, Member
from vae_zoo.data.storage.download import blaming

SHAPES = ("square", "ellipse", "heart")
FACTOR_NAMES = ("colour", "shape", "scale", "orientation", "pos_x", "pos_y")
FACTOR_SIZES = (1, 3, 6, 40, 32, 32)  # the last one varies fastest
FACTOR_VALUES = (  # value of each class in the published `latents_values`
    np.array([1.0]),
    np.array([1.0, 2.0, 3.0]),
    np.linspace(0.5, 1.0, 6),
    np.linspace(0.0, 2 * np.pi, 40),  # radians, both ends: the last picture is the first again
    *(np.linspace(0.0, 1.0, 32),) * 2,
)


def inside(shape: int | str, u: Float[np.ndarray, "*#at"], v: Float[np.ndarray, "*#at"]) -> Bool[np.ndarray, "*#at"]:
    """Whether points lie inside a shape in its own frame: unturned, scale 1, centre (0, 0).

    Args:
        shape: A name of SHAPES, or its index.
        u: Distances from the centre to the right, pixels.
        v: Distances from the centre down, pixels.

    Raises:
        ValueError: There is no such shape.
    """
    match shape if isinstance(shape, str) else SHAPES[shape]:
        case "square":
            return (np.abs(u) <= 9.5975) & (np.abs(v) <= 9.5975)
        case "ellipse":
            return (u / 12.77) ** 2 + (v / 7.21) ** 2 <= 1
        case "heart":
            # u = 9.5955 sin(t)^3,  v = -1.437 - 0.6622 (13 cos t - 5 cos 2t - 2 cos 3t - cos 4t)
            # A vertical line meets this curve at t and pi - t, where cos t = +-c, and is inside in between. In powers
            # of c the bracket is 4 - 2c^2 - 8c^4 +- c (19 - 8c^2); beyond the left and right end c^2 < 0.
            c2 = 1 - np.cbrt((u / 9.5955) ** 2)
            return ((v + 1.437) / 0.6622 + 4 - (2 + 8 * c2) * c2) ** 2 <= c2 * (19 - 8 * c2) ** 2
    raise ValueError(f"shape must be one of {SHAPES}, got {shape!r}")


def draw(
    shape: int | str, scale: float, orientation: float, cx: float, cy: float, canvas: int = 64
) -> Bool[np.ndarray, "{canvas} {canvas}"]:
    """Draws one sprite, rows first; parts outside the canvas are clipped.

    Args:
        shape: A name of SHAPES, or its index.
        scale: > 0; the published ones are 0.5 to 1.
        orientation: Radians, counter-clockwise.
        cx: Centre, pixels from the left border of the canvas.
        cy: Centre, pixels from its upper border.
        canvas: Side, pixels.
    """
    centres = np.arange(canvas) + 0.5
    return _covers(shape, scale, orientation, centres - cx, centres - cy)


def draw_grid() -> UInt8[np.ndarray, "737280 512"]:
    """Draws all images in the published order, in 5 s of one core.

    Returns:
        Pixels row after row, 8 per byte, the first in the highest bit, as `np.unpackbits` expects.
    """
    images = np.empty((*FACTOR_SIZES[1:], 64), np.uint64)  # a word is one row of pixels
    scales, angles = FACTOR_VALUES[2:4]
    for shape, scale, angle in np.ndindex(3, 6, 39):
        images[shape, scale, angle] = _draw_at_all_positions(shape, float(scales[scale]), float(angles[angle]))
    images[:, :, 39] = images[:, :, 0]
    return images.view(np.uint8).reshape(-1, 512)


def factor_index(index: Int[np.ndarray, " N"]) -> Int[np.ndarray, "N 6"]:
    """Classes of images, columns FACTOR_NAMES.

    Args:
        index: Places in the grid, 0..737279.
    """
    return np.stack(np.unravel_index(index, FACTOR_SIZES), axis=-1)


def read_published(path: Path | str) -> tuple[UInt8[np.ndarray, "N 512"], Int[np.ndarray, "N 6"]]:
    """Reads the published `dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz`, or a part of it in its format.

    Images are packed while they are read, so that their 3 GB of bytes are never held; the pickled `metadata` is never
    opened.

    Args:
        path: The file.

    Returns:
        Images, packed as by `draw_grid`, and their classes, columns FACTOR_NAMES.

    Raises:
        UserError: The file is missing, damaged or of other content.
    """
    form = f"imgs, uint8 [N, 64, 64] of 0 and 1, and latents_classes, integers [N, 6] below {FACTOR_SIZES}"
    sentence = (
        f"{path} cannot be read as dSprites (...); it must contain {form}; download it again or remove data.path to use "
        f"drawn images"
    )
    with blaming(sentence), Archive(path) as archive:
        if missing := {"imgs", "latents_classes"} - {*archive.keys()}:
            raise ValueError(f"it has no {' and no '.join(sorted(missing))}")
        packed = _packed(archive["imgs"])
        return packed, _checked(archive["latents_classes"], len(packed))


def _packed(images: Member) -> np.ndarray:
    """`imgs` as bits: uint8 [N, 512]."""
    if images.shape[1:] != (64, 64) or images.shape[0] < 1 or images.dtype != np.uint8:
        raise ValueError(f"imgs is {images.dtype} {images.shape}")
    packed = np.empty((images.shape[0], 512), np.uint8)
    for start in range(0, len(packed), 1024):  # 4 MB of pixels at a time
        pixels = images[start : start + 1024]
        if pixels.max() > 1:
            raise ValueError(f"imgs has a pixel of {pixels.max()}")
        packed[start : start + 1024] = np.packbits(pixels.reshape(len(pixels), -1), axis=1)
    return packed


def _checked(member: Member, num_images: int) -> np.ndarray:
    """`latents_classes`: int64 [N, 6]."""
    if member.shape != (num_images, 6) or member.dtype.kind not in "iu":
        raise ValueError(f"latents_classes is {member.dtype} {member.shape} for {num_images} images")
    classes = member[:]
    if ((classes < 0) | (classes >= FACTOR_SIZES)).any():
        raise ValueError(f"latents_classes has values from {classes.min(0).tolist()} to {classes.max(0).tolist()}")
    return classes.astype(np.int64)


# The 32 positions lie 32/31 pixels apart. Seen from the sprite's centre, 16 + 32/31 k, the pixel centres p + 0.5 of all
# images therefore lie on one lattice of 1/31 pixel, at (31 p - 32 k - 480.5) / 31.
_LATTICE = 31 * np.arange(64) - 32 * np.arange(32)[:, None] - 480  # [k 32, p 64] half a step more: whole numbers
_RADIUS = 13.6  # pixels at scale 1; the farthest points are the square's corners at 13.573


def _draw_at_all_positions(shape: int, scale: float, orientation: float) -> np.ndarray:
    """One shape drawn once on the lattice, of which an image is every 31st point.

    Returns uint64 [pos_x 32, pos_y 32, row 64], a word for each row of pixels.
    """
    reach = int(31 * _RADIUS * scale) + 1
    point = (np.arange(-reach, reach + 2) - 0.5) / 31  # [P] beyond the shape at both ends
    place = (_LATTICE + reach).clip(0, 2 * reach + 1)  # [32, 64] points farther away are black like the ends
    covered = _covers(shape, scale, orientation, point, point)  # [P, P]
    rows = np.packbits(covered[:, place], axis=-1).view(np.uint64)  # [P, pos_x 32, 1]
    return rows[..., 0].T[:, place]


def _covers(shape: int | str, scale: float, orientation: float, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Whether a sprite covers the points at dx [X], dy [Y] pixels from its centre.  Returns bool [Y, X]."""
    cos, sin = np.cos(orientation) / scale, np.sin(orientation) / scale
    dy = dy[:, None]
    return inside(shape, cos * dx - sin * dy, sin * dx + cos * dy)
