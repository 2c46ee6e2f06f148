"""Counter-based random numbers keyed by (stream, image), independent of the order in which images are drawn."""

import numpy as np
from jaxtyping import Float, Integer, UInt64

from vae_zoo.utils import splitmix

Keys = UInt64[np.ndarray, " N"]


def mix(x: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """Hashes numbers."""
    return splitmix.mix(x.view(np.int64)).view(np.uint64)


def address(root: int, stream: int, first: Integer[np.ndarray, " N"], second: Integer[np.ndarray, " N"]) -> Keys:
    """The key of each image: its parts are mixed one after the other, so that no two addresses share numbers.

    Args:
        root: >= 0.
        stream: Number of the purpose, >= 0.
        first: First number of each image, >= 0.
        second: Second number of each image, >= 0.
    """
    key = mix(mix(np.array([root], np.uint64)) ^ np.uint64(stream))
    return mix(mix(key ^ np.asarray(first, np.uint64)) ^ np.asarray(second, np.uint64))


def bits(key: Keys, count: int, start: int = 0) -> UInt64[np.ndarray, "N {count}"]:
    """Random bits, 64 at a time.

    Args:
        key: Keys from `address`.
        count: Numbers for each image.
        start: The first of them in the image's sequence, >= 0.
    """
    return mix(key[:, None] + mix(np.arange(start, start + count, dtype=np.uint64)))


def uniform(key: Keys, count: int, start: int = 0) -> Float[np.ndarray, "N {count}"]:
    """Uniform numbers in [0, 1), float64.

    Args:
        key: Keys from `address`.
        count: Numbers for each image.
        start: The first of them in the image's sequence, >= 0.
    """
    return (bits(key, count, start) >> np.uint64(11)) * 2.0**-53
