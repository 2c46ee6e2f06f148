"""Calibration of classifiers; numpy, no torch."""

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from vae_zoo.metrics.arrays import to_numpy

Array = np.ndarray


def ece(probs: Float[Any, "N K"], labels: Shaped[Any, " N"], *, bins: int = 15) -> float:
    """Expected calibration error: the sum over bins of confidence of share * |accuracy - mean confidence|.

    Bin i of b holds confidences (i - 1) / b < max_k p <= i / b.

    Args:
        probs: Probabilities of the classes.
        labels: Classes; -1 (unknown) is left out.
        bins: Number of bins, >= 1.

    Returns:
        0..1, best 0; NaN when no label is known.

    Raises:
        ValueError: The shapes do not fit.

    Source: Guo et al. (2017), equation 3, with its 15 bins.

    >>> ece(np.array([[0.75, 0.25]] * 4), np.array([0, 0, 0, 1]))
    0.0
    >>> ece(np.array([[1.0, 0.0]] * 4), np.array([0, 0, 0, 1]))
    0.25
    """
    probs, labels = to_numpy(probs), to_numpy(labels)
    if probs.ndim != 2 or labels.shape != probs.shape[:1]:
        raise ValueError(f"need probabilities [N, K] and labels [N], got {probs.shape} and {labels.shape}")
    probs, labels = probs[labels >= 0].astype(np.float64), labels[labels >= 0]
    if not len(labels):
        return float("nan")
    confidence, right = probs.max(1), probs.argmax(1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
