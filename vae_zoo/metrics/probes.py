"""Probes: how well a small supervised model predicts a label or factor from a code; numpy and scikit-learn, no torch.

score: categorical           max(0, (accuracy - majority) / (1 - majority)), majority = accuracy of always predicting the
                             most frequent class of the TRAINING rows
       ordered, continuous   max(0, R2)
       circular              max(0, mean R2 of the sine and the cosine of 2 pi y / period)
0 = no better than a constant, 1 = perfect. Fitted on the training rows and scored on the test rows; test targets are used
only for scoring. Rows with unknown targets (NaN, and -1 unless the kind is continuous) are left out. NaN = undefined: no
known target, or only one value in the test rows. 0 if there is only one value in the training rows.

Probes: hidden = 128   one hidden layer of 128 ReLUs; Adam with learning rate 0.01, batches of 200, at most 60 epochs, early
                       stopping on a tenth of the training rows (off if a class has fewer than 2 rows or there are few
                       rows per class)
        hidden = None  logistic or ridge regression, penalty 1
Codes are standardised with training statistics and clipped at +-10 standard deviations, so the score does not depend on
scale and shift, and nearly collapsed dimensions count as well.
"""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Shaped
from joblib import Parallel, delayed
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from vae_zoo.metrics.arrays import to_numpy

Array = np.ndarray
Rows = tuple[Array, Array]  # codes [N, D], targets [N]
Kind = Literal["categorical", "ordered", "continuous", "circular"]
WIDE, COMPONENTS = 256, 64  # codes with more than WIDE dimensions are reduced to COMPONENTS principal components


@runtime_checkable
class FactorLike(Protocol):
    """A column of factors. A circular factor may also have a `period` other than the default (`period_of`)."""

    @property
    def name(self) -> str:
        """Name of the factor."""
        ...

    @property
    def size(self) -> int:
        """Number of values, 0 when continuous."""
        ...

    @property
    def kind(self) -> Kind:
        """Kind of the factor."""
        ...


def probe(
    train: tuple[Shaped[Any, "N ..."], Shaped[Any, " N"]],
    test: tuple[Shaped[Any, "M ..."], Shaped[Any, " M"]],
    *,
    kind: Kind,
    period: float | None = None,
    hidden: int | None = 128,
    seed: int = 0,
) -> float:
    """Fits a probe on training rows and returns its score on test rows.

    The protocol uses posterior means of 10,000 training and 5,000 test images.

    Args:
        train: Codes [N, D] and targets [N].
        test: The same for the rows that are scored.
        kind: Kind of the target.
        period: Period of a circular target, in its own unit.
        hidden: Units of the hidden layer; None: a linear probe.
        seed: Seed of the network.

    Returns:
        0..1, best 1, or NaN (see above).

    Raises:
        ValueError: Shapes do not fit, codes are not finite, or a circular target has no period.

    >>> rng = np.random.RandomState(0)
    >>> codes, classes = rng.randn(1000, 2), rng.randint(3, size=1000)
    >>> codes[:, 1] = classes == 1  # separates one of three classes; the other two cannot be distinguished
    >>> round(probe((codes[:700], classes[:700]), (codes[700:], classes[700:]), kind="categorical", hidden=None), 1)
    0.5
    """
    (x, y), (x_test, y_test) = _known(train, kind), _known(test, kind)
    if x.shape[1] != x_test.shape[1]:
        raise ValueError(f"training and test codes must have the same width, got {x.shape[1]} and {x_test.shape[1]}")
    y, y_test = _targets(y, kind, period), _targets(y_test, kind, period)
    differ = [column for column, values in enumerate(y_test.T) if len(np.unique(values)) > 1]
    if not len(y) or not differ:
        return float("nan")
    if not np.ptp(y, axis=0).any():
        return 0.0
    if kind == "categorical":
        read = _fit(x, y, kind, hidden, seed).predict(x_test)
        classes, counts = np.unique(y, return_counts=True)
        majority = accuracy_score(y_test, np.full_like(y_test, classes[counts.argmax()]))
        return max(0.0, (accuracy_score(y_test, read) - majority) / (1 - majority))
    scale: Any = StandardScaler().fit(y)  # for the optimiser; changes no R2
    read = _fit(x, scale.transform(y).astype(np.float32), kind, hidden, seed).predict(x_test).reshape(y_test.shape)
    return max(0.0, r2_score(scale.transform(y_test)[:, differ], read[:, differ]))


def block_factor_matrix(
    train_codes: Mapping[str, Shaped[Any, "N ..."]],
    train_factors: Shaped[Any, "N F"],
    test_codes: Mapping[str, Shaped[Any, "M ..."]],
    test_factors: Shaped[Any, "M F"],
    factors: Sequence[FactorLike],
    *,
    hidden: int | None = 128,
    seed: int = 0,
    jobs: int = 1,
) -> Float[np.ndarray, "_ F"]:
    """Computes the score of `probe` for every block (rows) and every factor (columns).

    Baselines are passed as blocks too: the codes of an untrained encoder, and the pixels. Blocks with more than 256
    dimensions are first reduced to their 64 leading principal components, fitted on the training rows (randomised solver),
    since a probe on 4,096 pixels would memorise 10,000 images. So the scores of the pixels are not an upper limit. Scores do
    not depend on the other blocks and factors or on `jobs`.

    Args:
        train_codes: {block: [N, ...]}.
        train_factors: Factors of the same rows.
        test_codes: {block: [M, ...]} of the rows that are scored.
        test_factors: Factors of the same rows.
        factors: Descriptions of the columns.
        hidden: As in `probe`.
        seed: As in `probe`.
        jobs: Number of processes.

    Returns:
        Scores, 0..1 or NaN.

    Raises:
        ValueError: Blocks or shapes do not fit.
    """
    train_factors, test_factors = to_numpy(train_factors), to_numpy(test_factors)
    if set(train_codes) != set(test_codes):
        raise ValueError(f"training and test codes must have the same blocks, got {[*train_codes]} and {[*test_codes]}")
    for name, values in {"train_factors": train_factors, "test_factors": test_factors}.items():
        if values.ndim != 2 or values.shape[1] != len(factors):
            raise ValueError(f"{name} must be [N, {len(factors)}], a column for each of `factors`, got {values.shape}")
    rows = [_reduced(codes, test_codes[block], seed) for block, codes in train_codes.items()]
    fitted = partial(probe, hidden=hidden, seed=seed)
    scores = Parallel(n_jobs=jobs)(
        delayed(fitted)((x, of_train), (x_test, of_test), kind=factor.kind, period=period_of(factor))
        for x, x_test in rows
        for of_train, of_test, factor in zip(train_factors.T, test_factors.T, factors)
    )
    return np.array(scores).reshape(len(rows), len(factors))


def period_of(factor: FactorLike) -> float | None:
    """Period of a circular factor, None for others.

    It is the factor's `period` if it has one, else its `size`, or 2 pi (radians) if the factor is continuous. `size` values
    that are equally spaced on the circle have the period `size`. dSprites has its 40 orientations at k 2 pi / 39 instead,
    with equal images for k = 0 and k = 39, so its period is 39.
    """
    if factor.kind != "circular":
        return None
    return getattr(factor, "period", None) or factor.size or 2 * np.pi


def linear_classifier() -> Pipeline:
    """Makes an unfitted logistic regression on standardised codes; its accuracy is not normalised as in `probe`."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def _fit(x: Array, y: Array, kind: Kind, hidden: int | None, seed: int) -> Pipeline:
    """Fits the probe on codes x [N, D] and targets y [N, T]."""
    y = y[:, 0] if y.shape[1] == 1 else y
    if hidden is None:
        estimator = LogisticRegression(C=1.0, max_iter=1000) if kind == "categorical" else Ridge(alpha=1.0)
    else:
        network: Any = MLPClassifier if kind == "categorical" else MLPRegressor
        counts = np.unique(y, return_counts=True)[1] if kind == "categorical" else [len(y)]  # rows of each class
        estimator = network(
            hidden_layer_sizes=(hidden,),
            learning_rate_init=0.01,
            batch_size="auto",  # at most 200
            max_iter=60,
            n_iter_no_change=15,
            early_stopping=len(y) >= 20 and min(counts) >= 2 and len(counts) <= len(y) // 10,
            random_state=seed,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of iterations is part of the definition
        return make_pipeline(StandardScaler(), FunctionTransformer(_cut), estimator).fit(x, y)


def _cut(x: Array) -> Array:
    return x.clip(-10, 10).astype(np.float32)


def _known(rows: Rows, kind: Kind) -> Rows:
    """Codes [n, D] and targets [n], float64, of the rows whose target is known."""
    x, y = (to_numpy(values).astype(np.float64) for values in rows)
    if y.ndim != 1 or len(x) != len(y):
        raise ValueError(f"need codes [N, D] and targets [N] of equal N, got {x.shape} and {y.shape}")
    if not np.isfinite(x).all():
        raise ValueError("codes must be finite")
    known = ~np.isnan(y) & ((y != -1) | (kind == "continuous"))
    return x.reshape(len(x), -1)[known], y[known]


def _targets(y: Array, kind: Kind, period: float | None) -> Array:
    """Targets of the probe, [N, 1], or their sine and cosine [N, 2] if circular."""
    match kind:
        case "categorical" | "ordered" | "continuous":
            return y[:, None]
        case "circular" if period:
            angle = 2 * np.pi * y / period
            return np.stack([np.sin(angle), np.cos(angle)], axis=1).round(12)  # so that sin(pi) is 0
        case "circular":
            raise ValueError("a circular target needs a period")
        case _:
            raise ValueError(f"kind must be categorical, ordered, continuous or circular, got {kind!r}")


def _reduced(train: Any, test: Any, seed: int) -> tuple[Array, Array]:
    """Codes [N, D] of training and test rows; wide ones are projected to principal components of the training rows."""
    train, test = (to_numpy(codes).astype(np.float32).reshape(len(codes), -1) for codes in (train, test))
    if train.shape[1] <= WIDE:
        return train, test
    pca = PCA(min(COMPONENTS, len(train)), svd_solver="randomized", random_state=seed).fit(train)
    return pca.transform(train), pca.transform(test)
