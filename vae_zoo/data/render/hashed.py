"""Counter-based random numbers keyed by (stream, image), independent of the order in which images are drawn."""

import numpy as np

from vae_zoo.utils import splitmix


def mix(x: np.ndarray) -> np.ndarray:
    """The hash of uint64 numbers."""
    return splitmix.mix(x.view(np.int64)).view(np.uint64)


def address(root: int, stream: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """uint64 [N] for ints [N]: each part is mixed before the next one comes in, so that no two addresses share numbers."""
    key = mix(mix(np.array([root], np.uint64)) ^ np.uint64(stream))
    return mix(mix(key ^ np.asarray(first, np.uint64)) ^ np.asarray(second, np.uint64))


def bits(key: np.ndarray, count: int, start: int = 0) -> np.ndarray:
    """uint64 [N, count]: the numbers from `start` on of each address [N]."""
    return mix(key[:, None] + mix(np.arange(start, start + count, dtype=np.uint64)))


def uniform(key: np.ndarray, count: int, start: int = 0) -> np.ndarray:
    """[N, count] in [0, 1)."""
    return (bits(key, count, start) >> np.uint64(11)) * 2.0**-53
