"""Colours by hue, and colouring of grey images."""

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def hues(turns: Array | Sequence[float]) -> Array:
    """Full colours of these hues [N], in turns from red: float32 [N, 3] in [0, 1]."""
    k = (np.array([5, 3, 1], np.float32) + 6 * np.asarray(turns, dtype=np.float32)[:, None]) % 6
    return 1 - np.clip(np.minimum(k, 4 - k), 0, 1)


def ground_and_ink(ground_hue: Array, ink_hue: Array, ground_light: Array, ink_light: Array) -> tuple[Array, Array]:
    """A dark, deep colour and a light, pale one for each image, float32 [N, 3] each, so that strokes stand out.

    Hues in turns; how light, 0 to 1, within what is dark (0.4 to 0.55) and light (0.9 to 1): [N] each.
    """
    ground = (0.4 + 0.15 * ground_light)[:, None] * (0.2 + 0.8 * hues(ground_hue))
    ink = (0.9 + 0.1 * ink_light)[:, None] * (0.6 + 0.4 * hues(ink_hue))
    return ground.astype(np.float32), ink.astype(np.float32)


def coloured(images: Array) -> Array:
    """uint8 [N, 1, H, W] -> [N, 3, H, W]: black becomes a ground's colour, white an ink's, at random for each image but
    always the same for the same N."""
    ground, ink = ground_and_ink(*np.random.default_rng(0).random((4, len(images)), dtype=np.float32))
    out = np.empty((len(images), 3, *images.shape[2:]), dtype=np.uint8)
    for channel in range(3):  # one at a time: floats of all would take four times the memory
        low, high = (255 * colour[:, channel, None, None] for colour in (ground, ink))
        out[:, channel] = np.rint(low + (high - low) * (images[:, 0] / np.float32(255)))
    return out
