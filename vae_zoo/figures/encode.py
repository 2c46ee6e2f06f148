"""Pictures as bytes of an image file."""

from io import BytesIO

import numpy as np
from PIL import Image


def to_png(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as PNG."""
    return _save([Image.fromarray(image)], format="PNG")


def to_webp(frames: np.ndarray, fps: float = 8) -> bytes:
    """uint8 [T, H, W, 3] as an endless WebP."""
    images = [Image.fromarray(frame) for frame in frames]
    return _save(images, format="WEBP", quality=90, duration=round(1000 / fps), loop=0)


def _save(images: list[Image.Image], **options) -> bytes:
    buffer = BytesIO()
    if len(images) > 1:
        options |= {"save_all": True, "append_images": images[1:]}
    images[0].save(buffer, **options)
    return buffer.getvalue()
