"""Scores on a whole data set instead of sampled factors: variants of FactorVAE, BetaVAE and SAP.

Chunks are consecutive rows with the same value of one factor, so the rows must be in random order. A perfect code of
dSprites has a SAP of about 0.25 if its dimensions have variance 1, and of 0.22 if they have range 1: the classifiers are
regularised, so the score depends on the scale of the code. It is not higher since a linear classifier of one number cannot
distinguish 40 orientations or 32 positions.
Source: sinahmr/parted-vae, utils/metrics.py, where the majority classifier is fitted and scored on the same votes.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

CHUNK = 100  # rows per vote, and pairs per feature
COLLAPSED = 0.1  # dimensions with a smaller standard deviation get no votes
SAP_ROWS = 25_000


def factor_votes(codes: Float[np.ndarray, "N D"], factors: Int[np.ndarray, "N F"]) -> float:
    """FactorVAE score: each chunk of 100 rows votes for the dimension that varies least; accuracy of a majority classifier.

    Args:
        codes: One row for each image, in random order.
        factors: Class numbers.

    Returns:
        0 to 1, or NaN if no value has 100 rows or all dimensions are collapsed. A constant dimension gets no vote; the
        official code returns NaN in this case.
    """
    sigma = codes.std(0)
    scaled = codes / np.where(sigma > 0, sigma, 1)
    votes = np.zeros((factors.shape[1], codes.shape[1]))
    for k, rows in _chunks(factors, CHUNK):
        spread = np.where(sigma > 0, scaled[rows].var(axis=1), np.inf)  # [chunks, D]
        votes[k] += np.bincount(spread.argmin(1), minlength=codes.shape[1])
    votes[:, sigma < COLLAPSED] = 0
    return float(votes.max(0).sum() / votes.sum()) if votes.sum() else float("nan")


def beta_pairs(codes: Float[np.ndarray, "N D"], factors: Int[np.ndarray, "N F"]) -> tuple[float, float]:
    """BetaVAE score: a logistic regression predicts which factor 100 pairs of rows share, from their mean distance.

    Args:
        codes: One row for each image, in random order.
        factors: Class numbers.

    Returns:
        Training accuracy on 80 % of the rows and test accuracy on 20 %; NaN if a part has too few rows for two factors.
    """
    order, parts = np.random.default_rng(0).permutation(len(codes)), []
    for rows in np.split(order, [int(0.8 * len(order))]):
        x, y = [], []
        for k, chunk in _chunks(factors[rows], 2 * CHUNK):
            r = codes[rows][chunk]  # [chunks, 2 CHUNK, D]
            x.append(np.abs(r[:, :CHUNK] - r[:, CHUNK:]).mean(1))
            y.append(np.full(len(r), k))
        parts.append((np.concatenate(x), np.concatenate(y)) if x else (np.empty((0, codes.shape[1])), np.empty(0)))
    if min(len(np.unique(y)) for _, y in parts) < 2:
        return float("nan"), float("nan")
    fitted = LogisticRegression().fit(*parts[0])
    return float(fitted.score(*parts[0])), float(fitted.score(*parts[1]))


def sap_classes(codes: Float[np.ndarray, "N D"], factors: Int[np.ndarray, "N F"]) -> float:
    """SAP: mean over factors of the gap in accuracy between the linear classifiers on the two best single dimensions.

    Args:
        codes: One row for each image; at most 25,000 are used, a fifth of them for testing.
        factors: Class numbers.

    Returns:
        0 to 1, or NaN if there is only one dimension.
    """
    rows = np.random.default_rng(0).permutation(len(codes))[:SAP_ROWS]
    train, test = np.split(rows, [int(0.8 * len(rows))])
    accuracy = np.empty((codes.shape[1], factors.shape[1]))
    for i, x in enumerate(codes.T[:, :, None]):
        for k, y in enumerate(factors.T):
            machine = LinearSVC(C=0.01, class_weight="balanced", dual=False)  # pyright: ignore[reportArgumentType]
            accuracy[i, k] = machine.fit(x[train], y[train]).score(x[test], y[test])
    best = np.sort(accuracy, axis=0)
    return float((best[-1] - best[-2]).mean()) if len(best) > 1 else float("nan")


def _chunks(factors: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """(factor, rows [chunks, size]) of every value of every factor with at least `size` rows, in their order."""
    for k, column in enumerate(factors.T):
        for value in np.unique(column):
            rows = np.flatnonzero(column == value)
            if len(rows) >= size:
                yield k, rows[: len(rows) // size * size].reshape(-1, size)
