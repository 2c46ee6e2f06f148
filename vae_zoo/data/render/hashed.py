"""Random numbers by address: image j of stream s has its own, whatever is drawn before it or beside it."""

import numpy as np

_STEP, _M1, _M2 = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser on uint64, whose products wrap (Steele et al., 2014)."""
    x = (x + np.uint64(1)) * _STEP
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    return x ^ (x >> np.uint64(31))


def address(root: int, stream: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """uint64 [N] for ints [N]: each part is mixed before the next one comes in, so that no two addresses share numbers."""
    key = mix(mix(np.uint64([root])) ^ np.uint64(stream))
    return mix(mix(key ^ np.asarray(first, np.uint64)) ^ np.asarray(second, np.uint64))


def bits(key: np.ndarray, count: int, start: int = 0) -> np.ndarray:
    """uint64 [N, count]: the numbers from `start` on of each address [N]."""
    return mix(key[:, None] + mix(np.arange(start, start + count, dtype=np.uint64)))


def uniform(key: np.ndarray, count: int, start: int = 0) -> np.ndarray:
    """[N, count] in [0, 1)."""
    return (bits(key, count, start) >> np.uint64(11)) * 2.0**-53
