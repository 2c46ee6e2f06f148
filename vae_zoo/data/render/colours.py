"""Colours by hue, and colouring of grey images."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

Reals = Float[np.ndarray, " N"]
Colours = Float[np.ndarray, "N 3"]


def hues(turns: Reals | Sequence[float]) -> Colours:
    """Full colours of hues, RGB in [0, 1].

    Args:
        turns: Hues in turns of the colour circle, 0 = red.
    """
    k = (np.array([5, 3, 1], np.float32) + 6 * np.asarray(turns, dtype=np.float32)[:, None]) % 6
    return 1 - np.clip(np.minimum(k, 4 - k), 0, 1)


def ground_and_ink(ground_hue: Reals, ink_hue: Reals, ground_light: Reals, ink_light: Reals) -> tuple[Colours, Colours]:
    """A dark, deep colour and a light, pale one for each image, so that strokes stand out.

    Args:
        ground_hue: Hues of the dark colours, in turns.
        ink_hue: Hues of the light colours, in turns.
        ground_light: Brightness of the dark colours, 0 to 1 for HSV values of 0.4 to 0.55.
        ink_light: Brightness of the light colours, 0 to 1 for HSV values of 0.9 to 1.

    Returns:
        RGB in [0, 1], float32.
    """
    ground = (0.4 + 0.15 * ground_light)[:, None] * (0.2 + 0.8 * hues(ground_hue))
    ink = (0.9 + 0.1 * ink_light)[:, None] * (0.6 + 0.4 * hues(ink_hue))
    return ground.astype(np.float32), ink.astype(np.float32)


def coloured(images: UInt8[np.ndarray, "N 1 H W"]) -> UInt8[np.ndarray, "N 3 H W"]:
    """Colours grey images: black becomes a random dark colour, white a random light one.

    Args:
        images: Grey. The colours of each are random, but always the same for the same N.
    """
    ground, ink = ground_and_ink(*np.random.default_rng(0).random((4, len(images)), dtype=np.float32))
    out = np.empty((len(images), 3, *images.shape[2:]), dtype=np.uint8)
    for channel in range(3):  # one at a time: floats of all would take four times the memory
        low, high = (255 * colour[:, channel, None, None] for colour in (ground, ink))
        out[:, channel] = np.rint(low + (high - low) * (images[:, 0] / np.float32(255)))
    return out
