"""Conversion of the inputs of metrics."""

from typing import Any

import numpy as np
from jaxtyping import Shaped


def to_numpy(x: Any) -> Shaped[np.ndarray, "..."]:
    """Makes an array of anything array-like; torch tensors come from any device and graph, and torch is not imported."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.float() if x.is_floating_point() and x.element_size() < 4 else x  # numpy has no bfloat16
    return np.asarray(x)
