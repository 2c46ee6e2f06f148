"""Pictures as bytes of an image file."""

from io import BytesIO

import numpy as np
from PIL import Image


def to_png(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as PNG."""
    return _save([Image.fromarray(image)], format="PNG")


def to_gif(frames: np.ndarray, fps: float = 8) -> bytes:
    """uint8 [T, H, W, 3] as an endless GIF; all frames share 256 colours, so that still parts do not flicker."""
    palette = Image.fromarray(frames.reshape(-1, *frames.shape[2:])).quantize(256, Image.Quantize.FASTOCTREE)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    return _save(images, format="GIF", **_timing(fps))


def to_webp(frames: np.ndarray, fps: float = 8) -> bytes:
    """uint8 [T, H, W, 3] as an endless WebP."""
    return _save([Image.fromarray(frame) for frame in frames], format="WEBP", quality=90, **_timing(fps))


def _timing(fps: float) -> dict:
    return {"duration": round(1000 / fps), "loop": 0}


def _save(images: list[Image.Image], **options) -> bytes:
    buffer = BytesIO()
    if len(images) > 1:
        options |= {"save_all": True, "append_images": images[1:]}
    images[0].save(buffer, **options)
    return buffer.getvalue()
