"""Scores on a whole data set instead of sampled factors: variants of FactorVAE, BetaVAE and SAP.

Chunks are of consecutive rows with one value of one factor, so the rows must be in random order. A perfect code of dSprites
has a sap of about 0.25 if its dimensions have variance 1, and of 0.22 if they have range 1: the classifiers are regularised,
so the score depends on the scale of the code. It is not higher since a linear rule on one number cannot distinguish 40
orientations or 32 positions.
Source: sinahmr/parted-vae, utils/metrics.py, where votes of a factor train and test the same majority.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

CHUNK = 100  # rows of a vote, and pairs of a feature
COLLAPSED = 0.1  # deviation below which the votes of a dimension are lost
SAP_ROWS = 25_000


def factor_votes(codes: Float[np.ndarray, "N D"], factors: Int[np.ndarray, "N F"]) -> float:
    """Share of votes for the dimension that varies least in a chunk of 100, which go to its most frequent factor.

    Args:
        codes: One row for each image, in random order.
        factors: Class numbers.

    Returns:
        0 to 1, or NaN where no value has 100 rows or all dimensions are collapsed. A constant dimension gets no vote; the
        official code is NaN then.
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
    """Accuracy of a logistic regression that names the factor which 100 pairs of rows share, from their mean distance.

    Args:
        codes: One row for each image, in random order.
        factors: Class numbers.

    Returns:
        Accuracy on 80 % of the rows, which train, and on 20 %; NaN where a part has too few rows for two factors.
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
    """Mean over factors of the gap between the two best dimensions, by the accuracy of a linear classifier of each.

    Args:
        codes: One row for each image; 25,000 of them count, a fifth for test.
        factors: Class numbers.

    Returns:
        0 to 1, or NaN where there is one dimension.
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
    """(factor, rows [chunks, size]) of every value of every factor that has so many rows, in their order."""
    for k, column in enumerate(factors.T):
        for value in np.unique(column):
            rows = np.flatnonzero(column == value)
            if len(rows) >= size:
                yield k, rows[: len(rows) // size * size].reshape(-1, size)
