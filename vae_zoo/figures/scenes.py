"""Images with boxes drawn on them."""

from collections.abc import Sequence

import numpy as np

from vae_zoo.figures import theme

ZOOM = 4  # pixels of the picture for one of the image, so that a line is thin


def with_boxes(images: np.ndarray, boxes: Sequence[np.ndarray], colour: str) -> np.ndarray:
    """Images [N, 3, H, W], or [N, 1, H, W] of greys, in [0, 1]: in colour and four times as large, with a line around each
    box x0, y0, x1, y1, image pixels."""
    drawn = images.repeat(ZOOM, 2).repeat(ZOOM, 3).repeat(3 // images.shape[1], 1)
    height, width = drawn.shape[2:]
    ink = np.asarray(theme.rgb(colour), np.float32)[:, None] / 255
    for image, of_image in zip(drawn, boxes):
        for box in np.rint(ZOOM * np.asarray(of_image)).astype(int):
            (left, right), (top, bottom) = (
                np.clip([box[i], box[i + 2] - 1], 0, n - 1) for i, n in ((0, width), (1, height))
            )
            image[:, [top, bottom], left : right + 1] = ink[..., None]
            image[:, top : bottom + 1, [left, right]] = ink[..., None]
    return drawn
