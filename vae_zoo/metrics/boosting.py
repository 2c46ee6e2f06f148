"""Gradient-boosted trees for DCI: the exact trees of scikit-learn's GradientBoostingClassifier with its default settings.

scikit-learn sorts the rows of each node again. Here they are sorted once by each column, and a node has its rows in these
orders, which is several times as fast on 10,000 rows. For the same residuals the trees are the same, except that of several
splits of equal gain another one may be taken; so scores differ by about as much as between two of scikit-learn's seeds.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.special import expit, softmax

from vae_zoo.utils.threads import num_cores

ROUNDS, RATE, DEPTH = 100, 0.1, 3  # scikit-learn's defaults
APART = np.float32(1e-7)  # values that differ by less are not separated, as in scikit-learn


class Boosted(NamedTuple):
    """The result of `boost`.

    Attributes:
        importance: Impurity importance of each column, >= 0; the sum is 1, or 0 if no tree has a split.
        predicted: Predicted class of each test row.
    """

    importance: Float[np.ndarray, " D"]
    predicted: Int[np.ndarray, " M"]


class Node(NamedTuple):
    """Rows of a node of a tree.

    Attributes:
        order: Its training rows in the order of each column; a leaf at the largest depth has only one column.
        test: Its test rows.
    """

    order: Int[np.ndarray, "D N"]
    test: Int[np.ndarray, " M"]


class Split(NamedTuple):
    """The best split of a node: the column, the position after which its rows go to the right, and the gain."""

    column: int
    at: int
    gain: float


def boost(
    codes: Shaped[np.ndarray, "N D"],
    labels: Int[np.ndarray, " N"],
    test_codes: Shaped[np.ndarray, "M D"],
    seed: int = 0,
    jobs: int = -1,
) -> Boosted:
    """Fits a classifier: multinomial deviance, or binomial for two classes.

    Args:
        codes: Training rows; values are rounded to float32, as in scikit-learn.
        labels: Their classes, two or more.
        test_codes: Rows that are predicted.
        seed: Seed of the choice between splits of equal gain.
        jobs: Number of threads, -1: all cores. The result does not depend on it.

    Source: Friedman, 2001, Annals of Statistics 29, p. 1189, algorithms 5 and 6.
    """
    x, test = (np.ascontiguousarray(part.T, dtype=np.float32) for part in (codes, test_codes))
    classes, index = np.unique(labels, return_inverse=True)
    K, several = len(classes), len(classes) > 2
    target = (np.eye(K)[index] if several else index[:, None]).T.astype(np.float64)  # [K, N], or [1, N] for two classes
    share = target.mean(1, keepdims=True)
    start = np.log(share) if several else np.log(share / (1 - share))
    raw, raw_test = (start.repeat(part.shape[1], 1) for part in (x, test))
    root = Node(x.argsort(1, kind="stable"), np.arange(test.shape[1]))
    rngs = [np.random.default_rng([seed, k]) for k in range(len(target))]
    importance = np.zeros(len(x))

    def step(k: int) -> np.ndarray:
        leaves, gains = grow(x, test, root, target[k] - probs[k], rngs[k])
        hessian = probs[k] * (1 - probs[k])
        for rows, test_rows in leaves:
            curvature = hessian.take(rows).mean()
            value = (target[k] - probs[k]).take(rows).mean() / curvature if curvature > 1e-150 else 0.0
            value *= RATE * ((K - 1) / K if several else 1)
            raw[k, rows] += value
            raw_test[k, test_rows] += value
        return gains

    with ThreadPoolExecutor(num_cores() if jobs < 0 else jobs) as pool:
        for _ in range(ROUNDS):
            probs = softmax(raw, axis=0) if several else expit(raw)
            importance += sum(pool.map(step, range(len(target))))
    total = importance.sum()
    predicted = raw_test.argmax(0) if several else (raw_test[0] >= 0).astype(np.int64)
    return Boosted(importance / total if total > 0 else importance, classes[predicted])


def grow(
    x: Float[np.ndarray, "D N"],
    test: Float[np.ndarray, "D M"],
    root: Node,
    residual: Float[np.ndarray, " N"],
    rng: np.random.Generator,
) -> tuple[list[tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]], Float[np.ndarray, " D"]]:
    """Grows a regression tree of the residuals, by least squares.

    Args:
        x: Training rows.
        test: Test rows.
        root: All rows.
        residual: What the tree predicts.
        rng: Chooses between splits of equal gain.

    Returns:
        Training and test rows of each leaf, and the decrease of the squared error by the splits of each column.
    """
    leaves, gains, is_left = [], np.zeros(len(x)), np.zeros(x.shape[1], dtype=bool)
    nodes = [root]
    for depth in range(DEPTH + 1):
        deeper = []
        for order, rows in nodes:
            found = split(x, order, residual, rng) if depth < DEPTH else None
            if found is None:
                leaves.append((order[0], rows))
                continue
            column, at, gain = found
            gains[column] += gain
            one = order[column]
            low, high = x[column, one[at]], x[column, one[at + 1]]
            threshold = low / 2.0 + high / 2.0
            goes_left = test[column].take(rows) <= (low if threshold == high else threshold)
            if depth + 1 == DEPTH:
                left, right = one[None, : at + 1], one[None, at + 1 :]
            else:
                is_left[one[: at + 1]], is_left[one[at + 1 :]] = True, False
                left, right = _parted(order, is_left)
            deeper += [Node(left, rows.compress(goes_left)), Node(right, rows.compress(~goes_left))]
        nodes = deeper
    return leaves, gains


def split(
    x: Float[np.ndarray, "D N"], order: Int[np.ndarray, "D n"], residual: Float[np.ndarray, " N"], rng: np.random.Generator
) -> Split | None:
    """Finds the split of a node that decreases the squared error most; None if no split does.

    Args:
        x: Training rows.
        order: Rows of the node in the order of each column.
        residual: What the tree predicts.
        rng: Chooses between splits of equal gain.
    """
    n = order.shape[1]
    sums = residual.take(order, mode="clip")  # `clip` does not copy
    sums -= sums[0].mean()
    if n < 2 or sums[0] @ sums[0] / n <= np.finfo(np.float64).eps:
        return None
    gain = _cumulative(sums)
    count = np.arange(1, n)
    gain *= gain
    gain *= np.append(1 / count + 1 / (n - count), 0)  # the last position does not split
    columns, last = np.arange(len(x)), gain.shape[1] - 1
    at = gain.argmax(1)
    gain[:, last] = -1
    for column in columns[_is_tied(x, order, at)]:
        values = x[column].take(order[column])
        gain[column, :last][values[1:] <= values[:-1] + APART] = -1
        at[column] = gain[column].argmax()
    best = gain[columns, at]
    if (largest := best.max()) < 0:
        return None
    column = rng.choice(np.flatnonzero(best == largest))
    return Split(int(column), int(at[column]), float(largest))


def _is_tied(x: np.ndarray, order: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Whether the values before and after the best position of each column are the same, so that it does not split."""
    columns, after = np.arange(len(x)), np.minimum(at + 1, order.shape[1] - 1)
    return x[columns, order[columns, after]] <= x[columns, order[columns, at]] + APART


def _cumulative(x: np.ndarray) -> np.ndarray:
    import torch  # its sum is four times as fast as numpy's; not above, since other scores need no torch

    return torch.from_numpy(x).cumsum(1).numpy()


def _parted(order: np.ndarray, is_left: np.ndarray) -> list[np.ndarray]:
    """The rows of both children in the order of each column."""
    goes_left = is_left.take(order, mode="clip").ravel()
    return [order.ravel().compress(part).reshape(len(order), -1) for part in (goes_left, ~goes_left)]
