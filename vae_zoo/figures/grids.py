"""Grids of images: reconstructions, samples, traversals, swaps.

Every function takes float images [..., C, H, W] with C = 1 or 3 and returns a uint8 picture [H, W, 3]. Values outside [0, 1]
are clipped, and NaN is drawn in red so that a broken decoder is noticed. Small images are enlarged by an integer factor
without smoothing. Integer images, no images, other numbers of channels and labels that do not fit the number of rows or
columns raise ValueError.

Only numpy and Pillow are imported: grids are drawn while a model trains, and matplotlib takes longer to import.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from math import ceil, sqrt

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vae_zoo.figures import theme

TILE = 56  # pixels: smaller images are enlarged until their longer side has at least this
MARGIN, GAP, LABEL, TITLE = 12, 10, 18, 26  # pixels: around the page, between bands, height of a label and of the title
MAX_ROW_LABEL = 180  # pixels; a longer label ends in an ellipsis
MAX_PAIRS = 10  # reconstructions side by side in one band


def grid(
    images: np.ndarray,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
) -> np.ndarray:
    """Images [R, C, ch, H, W] in R rows and C columns, labelled on the left and above."""
    heading = [(title, theme.INK)] if title else []
    return _page(_labelled(_tiles(images), row_labels, column_labels), *heading)


def reconstructions(x: np.ndarray, x_rec: np.ndarray) -> np.ndarray:
    """Images [N, ch, H, W], each above its reconstruction, in as many bands as needed."""
    if x.shape != x_rec.shape:
        raise ValueError(f"x and x_rec must have the same shape, got {x.shape} and {x_rec.shape}")
    columns = ceil(len(x) / max(1, ceil(len(x) / MAX_PAIRS)))
    bands = zip(_wrap(_tiles(x), columns), _wrap(_tiles(x_rec), columns), strict=True)
    return _page(_stack(_labelled(np.stack(pair), ["input", "reconstruction"]) for pair in bands))


def samples(x: np.ndarray) -> np.ndarray:
    """Images [N, ch, H, W] in a square, or nearly so."""
    return _page(_mosaic(_wrap(_tiles(x), ceil(sqrt(len(x))))))


def traversals(images: np.ndarray, labels: Sequence[str], values: Sequence[float] | np.ndarray | None = None) -> np.ndarray:
    """Images [D, S, ch, H, W]: row d shows the images decoded while latent d takes the S `values`."""
    columns = None if values is None else [f"{round(float(value), 2) + 0.0:g}" for value in values]  # + 0.0: no "-0"
    return grid(images, labels, columns)


def traversal_animation(images: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """The rows of `traversals`, all moving at once, back and forth: uint8 [T, H, W, 3] with T = max(1, 2 S - 2)."""
    tiles = _tiles(images, at_least=96)
    _check_labels(labels, len(tiles))
    columns = ceil(sqrt(len(tiles)))
    heads = [[*labels[i : i + columns], *[""] * columns][:columns] for i in range(0, len(labels), columns)]

    def frame(step: int) -> np.ndarray:
        bands = zip(_wrap(tiles[:, step], columns), heads, strict=True)
        return _page(_stack(_labelled(band[None], columns=head) for band, head in bands))

    forth = [frame(step) for step in range(tiles.shape[1])]
    return np.stack(forth + forth[-2:0:-1])


def swap_grid(rows: np.ndarray, columns: np.ndarray, grid: np.ndarray, row_label: str, column_label: str) -> np.ndarray:
    """Grid of the images decoded from each pair of donors.

    rows: [R, ch, H, W], donors of the block `row_label`; columns: [K, ch, H, W], donors of the block `column_label`;
    grid: [R, K, ch, H, W], decoded from row r's code and column k's code. Donors are in the margin.
    """
    if grid.shape[:2] != (len(rows), len(columns)):
        raise ValueError(f"grid must start with ({len(rows)}, {len(columns)}), got {grid.shape[:2]}")
    row_colour, column_colour = theme.SERIES[:2]
    left = _mosaic(_tiles(rows, row_colour, around=row_colour)[:, None])
    top = _mosaic(_tiles(columns, column_colour, around=column_colour)[None])
    body = _mosaic(_tiles(grid))
    above = np.hstack([_blank(len(top), left.shape[1] + GAP), top])
    below = np.hstack([left, _blank(len(left), GAP), body])
    caption = (f"rows give {row_label},", row_colour), (f"columns give {column_label}", column_colour)
    return _page(_stack([above, below]), *caption)


def _tiles(images: np.ndarray, frame: str = theme.LINE, around: str = theme.PAPER, at_least: int = TILE) -> np.ndarray:
    """Images [..., ch, H, W] as uint8 tiles [..., h, w, 3]: a line of `frame` about an image, a line `around` that."""
    if not np.issubdtype(images.dtype, np.floating) or images.ndim < 4 or images.shape[-3] not in (1, 3):
        raise ValueError(f"images must be float [..., 1 or 3, H, W] in [0, 1], got {images.dtype} {images.shape}")
    if images.size == 0:
        raise ValueError(f"a picture needs at least one image, got {images.shape}")
    x = np.moveaxis(images, -3, -1)
    broken = np.isnan(x).any(-1, keepdims=True)
    x = np.where(broken, theme.rgb(theme.FLAW), np.rint(255 * x.clip(0, 1)))  # [..., H, W, 3], grey too
    zoom = ceil(at_least / max(x.shape[-3:-1]))
    x = x.astype(np.uint8).repeat(zoom, -3).repeat(zoom, -2)
    tiles = np.full((*x.shape[:-3], x.shape[-3] + 4, x.shape[-2] + 4, 3), theme.rgb(around), np.uint8)
    tiles[..., 1:-1, 1:-1, :] = theme.rgb(frame)
    tiles[..., 2:-2, 2:-2, :] = x
    return tiles


def _wrap(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Tiles [N, h, w, 3] as rows [R, columns, h, w, 3], the last one filled up with paper."""
    rows = ceil(len(tiles) / columns)
    sheet = np.full((rows * columns, *tiles.shape[1:]), theme.rgb(theme.PAPER), np.uint8)
    sheet[: len(tiles)] = tiles
    return sheet.reshape(rows, columns, *tiles.shape[1:])


def _mosaic(tiles: np.ndarray) -> np.ndarray:
    """Tiles [R, C, h, w, 3] as one picture [R h, C w, 3]."""
    rows, columns, height, width, _ = tiles.shape
    return tiles.swapaxes(1, 2).reshape(rows * height, columns * width, 3)


def _labelled(tiles: np.ndarray, rows: Sequence[str] | None = None, columns: Sequence[str] | None = None) -> np.ndarray:
    """Tiles [R, C, h, w, 3] as one picture with a label left of each row and above each column."""
    picture, (height, width) = _mosaic(tiles), tiles.shape[2:4]
    if columns is not None:
        _check_labels(columns, tiles.shape[1])
        picture = np.vstack([np.hstack([_text(label, LABEL, width) for label in columns]), picture])
    if rows is not None:
        _check_labels(rows, tiles.shape[0])
        span = min(MAX_ROW_LABEL, max(map(_length, rows))) + 8
        side = [_text(label, height, span, align="r") for label in rows]
        picture = np.hstack([np.vstack([_blank(len(picture) - len(side) * height, span), *side]), picture])
    return picture


def _page(picture: np.ndarray, *heading: tuple[str, str]) -> np.ndarray:
    """The picture on a page, below a heading of (text, colour) parts; the page is as wide as the wider of the two."""
    if heading:
        head = np.hstack([_text(text, TITLE, _length(text, 14) + 6, "l", 14, colour) for text, colour in heading])
        span = max(head.shape[1], picture.shape[1])
        picture = np.vstack([np.hstack([part, _blank(len(part), span - part.shape[1])]) for part in (head, picture)])
    height, width, _ = picture.shape
    page = _blank(height + 2 * MARGIN, width + 2 * MARGIN)
    page[MARGIN:-MARGIN, MARGIN:-MARGIN] = picture
    return page


def _stack(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Pictures of one width, below each other with a gap."""
    first, *others = pictures
    return np.vstack([first, *(part for other in others for part in (_blank(GAP, other.shape[1]), other))])


def _blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), theme.rgb(theme.PAPER), np.uint8)


def _text(text: str, height: int, width: int, align: str = "m", size: int = 13, colour: str = theme.MUTED) -> np.ndarray:
    """One line of text, left, in the middle or right of a box [height, width, 3]; cut where it is too long."""
    text = str(text)
    if _length(text, size) > width - 4:
        while text and _length(text + "…", size) > width - 4:
            text = text[:-1]
        text += "…"
    box = Image.new("RGB", (width, height), theme.PAPER)
    x = {"l": 2, "m": width / 2, "r": width - 6}[align]
    ImageDraw.Draw(box).text((x, height / 2), text, theme.rgb(colour), _font(size), anchor=f"{align}m")
    return np.asarray(box)


def _length(text: str, size: int = 13) -> int:
    return ceil(_font(size).getlength(str(text)))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _check_labels(labels: Sequence[str], count: int) -> None:
    if len(labels) != count:
        raise ValueError(f"{count} labels are needed, one for each row or column, got {len(labels)}")
