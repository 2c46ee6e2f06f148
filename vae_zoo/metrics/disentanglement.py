"""Disentanglement metrics: functions on arrays of codes and ground-truth factors. Only DCI imports torch.

Definitions, sample sizes and the order of the random draws are those of disentanglement_lib (google-research, commit
86a644d); the default settings are those of its study of unsupervised disentanglement (Locatello et al., 2019,
arXiv:1811.12359): the same codes, factors and seed give the same numbers. The protocol of the study for a model:

    rng = np.random.RandomState(seed)                              # a separate stream for each metric
    factors = sample_factors(data.factor_sizes, 10_000, rng)       # the whole grid, with replacement
    held_out = sample_factors(data.factor_sizes, 5_000, rng)       # continues the stream
    codes = encode(data.render(factors))                           # posterior MEANS, eval mode

Everywhere: codes [N, D] and factors [N, F] are numpy arrays or torch tensors; a factor with one value is left out;
each distinct value of a factor is a class; NaN, and shapes or sizes that leave a score undefined, raise ValueError.
Published values also depend on scikit-learn's solvers: these are the solvers of scikit-learn >= 0.22.

The evaluation of a run gives FactorVAE and BetaVAE scores a `FactorSample`, which changes their draws. Other deviations,
none of which changes a value that the reference can compute: constant dimensions are inactive for FactorVAE at any
threshold (in the reference 0/0 wins every vote) and a zero column for explicitness (an error in the reference); a class
that is missing in the test rows is left out of explicitness (an error in the reference), and one that is missing in the
training rows counts as an error of the classifiers.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.stats import entropy, rankdata
from sklearn.base import ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso, LogisticRegression
from sklearn.metrics import mutual_info_score, roc_auc_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from vae_zoo.metrics.arrays import to_numpy
from vae_zoo.metrics.boosting import Boosted, boost

Array = np.ndarray
Rows = tuple[Shaped[Any, "M D"], Shaped[Any, "M F"]]  # codes and factors of other rows, which are scored
CHUNK = 4096  # images rendered and encoded at a time


@runtime_checkable
class FactorData(Protocol):
    """A data set that can draw any combination of its factors."""

    @property
    def factor_sizes(self) -> Sequence[int]:
        """Number of values of each factor, F of them."""
        ...

    def render(self, factors: Shaped[Any, "N F"]) -> Any:
        """Makes the input of the encoder.

        Args:
            factors: Values, 0..size-1.

        Returns:
            [N, ...].
        """
        ...


class FactorSample:
    """Random images with known factors, a substitute for the whole grid in `factor_vae_score` and `beta_vae_score`.

    These then need the codes of these images only, and `encode` turns row numbers of the sample into codes. With 50,000
    images and three random linear mixes of dSprites' factors the mean FactorVAE score was that of the grid within 0.004,
    and single scores varied no more with the seed (0.003 to 0.005; grid: 0.005 to 0.007). Each value needs many images: 64
    draws from a few vary too little.

    Args:
        factors: Values of the N images; each distinct value is a class.

    Raises:
        ValueError: The factors are not finite numbers [N, F].

    >>> factors = sample_factors([4, 5], 1000, np.random.RandomState(0))
    >>> codes = factors * [-1.0, 2.0]
    >>> factor_vae_score(codes.__getitem__, FactorSample(factors), num_train=100, num_eval=100)
    1.0
    """

    def __init__(self, factors: Shaped[Any, "N F"]):
        factors = _finite("factors", factors)
        if factors.ndim != 2 or 0 in factors.shape:
            raise ValueError(f"factors must be [N, F] and not empty, got {factors.shape}")
        found = [np.unique(column, return_inverse=True, return_counts=True) for column in factors.T]
        self.factors = np.stack([values for _, values, _ in found], axis=1)
        self.factor_sizes = tuple(len(distinct) for distinct, _, _ in found)
        self._counts = [counts for _, _, counts in found]
        self._order = [values.argsort(kind="stable") for _, values, _ in found]  # images, those of a value side by side

    def sharing(self, images: Int[np.ndarray, "*N"], factor: int, rng: np.random.RandomState) -> Int[np.ndarray, "*N"]:
        """Draws, for each image, a random one with the same value of a factor (perhaps itself)."""
        values, counts = self.factors[images, factor], self._counts[factor]
        first = counts.cumsum()[values] - counts[values]
        return self._order[factor][first + rng.randint(counts[values])]


# -- histogram estimates of mutual information ------------------------------------------------------------------------


def mig(codes: Shaped[Any, "N D"], factors: Shaped[Any, "N F"], *, bins: int = 20, classes: Sequence[int] = ()) -> float:
    """Mutual information gap: mean over factors of (largest - second largest I(code; factor)) / H(factor).

    Estimator: plug-in, `bins` equal-width bins between each code's own minimum and maximum (so one outlier compresses
    the rest, and the scale of a code does not matter); the study uses 10,000 rows. Range 0..1, best 1, but factors with more
    than `bins` values limit it: a perfect code of dSprites has 0.902. Not the sampled estimator of the paper.

    Args:
        codes: Posterior means, D >= 2.
        factors: Classes.
        bins: Number of bins, >= 1.
        classes: Columns of codes that hold classes, whose values are not binned.

    Returns:
        0..1, best 1.

    Raises:
        ValueError: Shapes or sizes leave the score undefined.

    Source: Chen et al., 2018, arXiv:1802.04942; disentanglement_lib mig.py.

    >>> factors = sample_factors([4, 5], 1000, np.random.RandomState(0))
    >>> round(mig(-2.0 * factors, factors), 3), round(mig(factors.sum(1)[:, None] ** [1, 1], factors), 3)
    (0.996, 0.0)
    """
    codes, factors = _checked(codes, factors, min_codes=2)
    second, first = np.sort(_mutual_information(_binned(codes, bins, classes), factors), axis=0)[-2:]
    return float(np.mean((first - second) / [entropy(np.bincount(f)) for f in factors.T]))


def modularity(
    codes: Shaped[Any, "N D"], factors: Shaped[Any, "N F"], *, bins: int = 20, classes: Sequence[int] = ()
) -> float:
    """Modularity: mean over codes of 1 - sum_other MI^2 / (F-1) max MI^2. Is each code informative about only one factor?

    Estimator: mutual information as in `mig`, 10,000 rows. A code without any information counts as 0, so each exactly
    constant dimension lowers the mean; the score of pure noise is arbitrary, since only its plug-in bias is compared. It
    does not measure whether a factor is spread over several codes.

    Args:
        codes: Posterior means.
        factors: Classes, F >= 2.
        bins: Number of bins, >= 1.
        classes: Columns of codes that hold classes, whose values are not binned.

    Returns:
        0..1, best 1.

    Raises:
        ValueError: Shapes or sizes leave the score undefined.

    Source: Ridgeway and Mozer, 2018, arXiv:1802.05312, section 3; disentanglement_lib modularity_explicitness.py.

    >>> factors = sample_factors([4, 5], 1000, np.random.RandomState(0))
    >>> round(modularity(factors, factors), 3), round(modularity(factors @ [[1, 0, 0], [0, 1, 0]], factors), 3)
    (1.0, 0.667)
    """
    codes, factors = _checked(codes, factors, min_factors=2)
    squared = _mutual_information(_binned(codes, bins, classes), factors) ** 2
    best = squared.max(axis=1)
    other = (squared.sum(axis=1) - best) / (squared.shape[1] - 1)
    return float(np.mean(1 - np.divide(other, best, out=np.ones_like(best), where=best > 0)))


def _binned(values: Array, bins: int, classes: Sequence[int] = ()) -> Array:
    """Number of left edges <= value (1..bins): equal-width bins per column, edges in the column's own precision.

    Columns of classes keep their values.
    """
    low, high = values.min(axis=0), values.max(axis=0)
    low, high = np.where(low == high, low - 0.5, low), np.where(low == high, high + 0.5, high)
    edges = np.linspace(low, high, bins + 1, dtype=np.result_type(values, np.float32))[:-1]  # [bins, D]
    found = np.stack([np.searchsorted(e, v, side="right") for e, v in zip(edges.T, values.T, strict=True)], axis=1)
    found[:, list(classes)] = values[:, list(classes)]
    return found


def _mutual_information(left: Array, right: Array) -> Array:
    """Plug-in mutual information in nats of every column of left [N, A] with every column of right [N, B]: [A, B]."""
    tables = [[contingency_matrix(a, b) for b in right.T] for a in left.T]
    return np.array([[mutual_info_score(None, None, contingency=table) for table in row] for row in tables])


# -- predictability of a factor from one code or from all -------------------------------------------------------------


def sap(
    codes: Shaped[Any, "N D"],
    factors: Shaped[Any, "N F"],
    *,
    test: Rows | None = None,
    seed: int = 0,
    continuous: bool = False,
    C: float = 0.01,
) -> float:
    """Separated attribute predictability: mean over factors of S(best code) - S(second best code).

    Discrete mode (the study's): S = test accuracy of a linear one-vs-rest SVM on that one code (squared hinge, class
    weights balanced), 10,000 training and 5,000 test rows. Such a classifier can predict only a few of 32 ordered
    values, so a PERFECT dSprites code scores 0.246. `continuous=True`: S = squared correlation on the training rows, no
    test rows needed, a perfect code scores 1. Report the mode with the score. Range 0..1. The solver is deterministic:
    `seed` has no effect with current scikit-learn.

    Args:
        codes: Posterior means of the training rows, D >= 2.
        factors: Classes, or reals if `continuous`.
        test: The rows that are scored; needed unless `continuous`.
        seed: Seed of the solver.
        continuous: The mode.
        C: Inverse penalty of the SVM, > 0.

    Returns:
        0..1, best 1.

    Raises:
        ValueError: Shapes or sizes leave the score undefined.

    Source: Kumar et al., 2018, arXiv:1711.00848, section 3; disentanglement_lib sap_score.py.

    >>> factors = sample_factors([4, 5], 1000, np.random.RandomState(0))
    >>> round(sap(factors, factors, continuous=True), 3), round(sap(factors, factors, test=(factors, factors)), 3)
    (1.0, 0.427)
    """
    if continuous:
        codes, factors = _checked(codes, factors, min_codes=2, discrete=False)
        codes, factors = codes - codes.mean(axis=0, dtype=np.float64), factors - factors.mean(axis=0)
        variance = (codes**2).mean(axis=0)[:, None]
        covariance = codes.T @ factors / len(codes)
        score = np.where(variance > 1e-12, covariance**2 / np.maximum(variance, 1e-12) / (factors**2).mean(axis=0), 0)
    else:
        codes, factors, test_codes, test_factors = _checked(codes, factors, _needed(test, "sap"), min_codes=2)
        informative = ~_constant(codes)  # the prediction from a constant depends on rounding: use 0
        codes, test_codes = codes * informative, test_codes * informative
        primal: Any = False
        svm = LinearSVC(C=C, class_weight="balanced", dual=primal, tol=1e-4, max_iter=1000, random_state=seed)
        score = np.array(
            [
                [np.mean(svm.fit(x, f).predict(t) == g) for f, g in zip(factors.T, test_factors.T, strict=True)]
                for x, t in zip(codes.T[:, :, None], test_codes.T[:, :, None], strict=True)
            ]
        )
    second, first = np.sort(score, axis=0)[-2:]
    return float(np.mean(first - second))


def explicitness(
    codes: Shaped[Any, "N D"], factors: Shaped[Any, "N F"], *, test: Rows | None = None, seed: int = 0
) -> float:
    """Explicitness: mean over factors and classes of the one-vs-rest ROC-AUC of a linear classifier.

    Estimator: one multinomial logistic regression per factor (L2, C=1, lbfgs, 100 iterations, often not converged) on
    codes standardised by the training rows; AUC on the test rows; 10,000 and 5,000 rows. Not comparable with values from
    scikit-learn < 0.22 (0.940 there instead of 0.987).

    Args:
        codes: Posterior means of the training rows.
        factors: Classes.
        test: The rows that are scored.
        seed: Seed of the solver.

    Returns:
        0.5 (chance)..1, best 1.

    Raises:
        ValueError: There are no test rows, or shapes or sizes leave the score undefined.

    Source: Ridgeway and Mozer, 2018, arXiv:1802.05312, section 3; disentanglement_lib modularity_explicitness.py.

    >>> factors = sample_factors([4, 5], 1000, np.random.RandomState(0))
    >>> round(explicitness(factors, factors, test=(factors, factors)), 2)
    1.0
    """
    codes, factors, test_codes, test_factors = _checked(codes, factors, _needed(test, "explicitness"))
    mean, std = codes.mean(axis=0), np.where(_constant(codes), np.inf, codes.std(axis=0))
    codes, test_codes = (codes - mean) / std, (test_codes - mean) / std

    def auc(factor: Array, truth: Array) -> float:
        is_class = truth[:, None] == np.unique(factor)  # [N, K]
        seen = is_class.any(axis=0) & ~is_class.all(axis=0)
        if not seen.any():
            raise ValueError("explicitness needs at least two classes of every factor in the test rows")
        probs = _logistic(codes, factor, seed).predict_proba(test_codes)
        return roc_auc_score(is_class[:, seen], probs[:, seen], average="macro")

    return float(np.mean([auc(f, g) for f, g in zip(factors.T, test_factors.T, strict=True)]))


def dci(
    codes: Shaped[Any, "N D"],
    factors: Shaped[Any, "N F"],
    *,
    test: Rows | None = None,
    seed: int = 0,
    estimator: ClassifierMixin | None = None,
    jobs: int = -1,
) -> dict[str, float]:
    """Disentanglement, completeness, informativeness, from the importance R [D, F] of each code for each factor.

    One classifier of gradient-boosted trees per factor (vae_zoo.metrics.boosting); R = its impurity importances.
    `disentanglement` = 1 - entropy (base F) of a code's row, weighted by the row's sum; `completeness` = 1 - entropy
    (base D) of a factor's column; `informativeness` = mean test ACCURACY (the paper's is an error). 10,000 training and
    5,000 test rows: under a minute (dSprites, 10 codes: 11,300 trees), growing linearly with rows and D. Scores of
    different numbers of rows are not comparable: 0.13 on 1,000 and 0.19 on 10,000 for the disentanglement of the same
    linear mix. All 0..1, best 1.

    `jobs` threads (-1: all cores) share the trees of a round without changing the result. `estimator`: any scikit-learn
    classifier with `feature_importances_`, as RandomForestClassifier(), which is NOT comparable: disentanglement 0.05
    instead of 0.16 on the same codes (benchmarks/metrics.py prints the differences).

    Args:
        codes: Posterior means of the training rows, D >= 2.
        factors: Classes, F >= 2.
        test: The rows that are scored.
        seed: Seed of the classifiers.
        estimator: The classifier; None: gradient boosting.
        jobs: Number of threads of gradient boosting, -1: all cores.

    Returns:
        {"disentanglement", "completeness", "informativeness"}, 0..1, best 1.

    Raises:
        ValueError: There are no test rows, or shapes or sizes leave the score undefined.

    Source: Eastwood and Williams, 2018, openreview By-7dz-AZ; disentanglement_lib dci.py.

    >>> factors = sample_factors([2, 3], 200, np.random.RandomState(0))
    >>> {name: round(value, 2) for name, value in dci(factors, factors, test=(factors, factors), jobs=1).items()}
    {'disentanglement': 1.0, 'completeness': 1.0, 'informativeness': 1.0}
    """
    rows = _checked(codes, factors, _needed(test, "dci"), min_codes=2, min_factors=2)
    codes, factors, test_codes, test_factors = rows
    if estimator is None:
        found = [boost(codes, f, test_codes, seed, jobs) for f in factors.T]
    else:
        found = [_fitted(estimator, codes, f, test_codes, seed) for f in factors.T]
    importance = np.stack([one.importance for one in found], axis=1)
    accuracy = [(one.predicted == f).mean() for one, f in zip(found, test_factors.T, strict=True)]
    return _dci_scores(importance) | {"informativeness": float(np.mean(accuracy))}


def _fitted(estimator: ClassifierMixin, codes: Array, factor: Array, test_codes: Array, seed: int) -> Boosted:
    """The same of another classifier."""
    model = cast(Any, clone(estimator))
    model.set_params(**{"random_state": seed} if "random_state" in model.get_params() else {}).fit(codes, factor)
    return Boosted(np.abs(model.feature_importances_), model.predict(test_codes))


def _dci_scores(importance: Array) -> dict[str, float]:
    """Disentanglement and completeness of an importance matrix [D, F]; 0 for a matrix of zeros."""
    axes = {"disentanglement": 1, "completeness": 0}
    if not importance.any():
        return dict.fromkeys(axes, 0.0)
    scores = {name: 1 - entropy(importance + 1e-11, base=importance.shape[axis], axis=axis) for name, axis in axes.items()}
    return {name: float(np.average(scores[name], weights=importance.sum(axis))) for name, axis in axes.items()}


# -- scores from interventions: one factor held fixed -----------------------------------------------------------------


def factor_vae_score(
    encode: Callable[[Any], Array],
    factor_data: FactorData | FactorSample,
    *,
    seed: int = 0,
    num_train: int = 10_000,
    num_eval: int = 5_000,
    batch_size: int = 64,
    num_variance: int = 10_000,
    prune: float = 0.05,
) -> float:
    """FactorVAE score: is there one code, specific to factor k, that varies least while k is held fixed?

    A vote: draw k, then `batch_size` images that share its value; the active code with the least local / global
    variance votes for k. Each code is assigned the factor for which it got most of the `num_train` votes; the score is the
    share of the `num_eval` new votes that agree. Duplicated codes do not lower it.

    Needs about 970,000 codes. For a network choose from a `FactorSample`, or wrap both arguments, so that each distinct
    image is encoded once, for this and the other metrics: `table = CodeTable(encode, data); factor_vae_score(table, table)`.

    Args:
        encode: Images to posterior means [N, D].
        factor_data: Draws images of any combination of factors, or a sample of images to choose from.
        seed: Seed of the draws.
        num_train: Votes that assign factors to codes.
        num_eval: Votes that are scored.
        batch_size: Images of a vote.
        num_variance: Images for the global variances.
        prune: Smallest standard deviation of an active code; constant codes are never active.

    Returns:
        0..1, best 1, chance about 1/F; 0 if no code is active.

    Source: Kim and Mnih, 2018, arXiv:1802.05983, section 4; disentanglement_lib factor_vae.py, with the study's pruning
    (the function's own default there is 0).

    >>> grid = GridIndex([4, 5])
    >>> codes = np.stack(np.unravel_index(np.arange(20), (4, 5)), axis=1) * [-1.0, 2.0]
    >>> factor_vae_score(codes.__getitem__, grid, num_train=100, num_eval=100)
    1.0
    """
    return _factor_vae(encode, factor_data, seed, num_train, num_eval, batch_size, num_variance, prune)[1]


def _factor_vae(encode, data, seed, num_train, num_eval, batch_size, num_variance, prune) -> tuple[float, float]:
    """Accuracies on the training and on the evaluation votes."""
    rng, num_factors = np.random.RandomState(seed), len(data.factor_sizes)
    if isinstance(data, FactorSample):
        codes = _looked_up(encode, rng.randint(len(data.factors), size=num_variance))
    else:
        codes = _encoded(encode, data, _draw(rng, data.factor_sizes, num_variance))
    variance = codes.var(axis=0, ddof=1)
    active = (np.sqrt(variance) >= prune) & ~_constant(codes)
    if not active.any():
        return 0.0, 0.0

    def votes(num: int) -> Array:  # [F, active D]
        fixed, (codes,) = _held_fixed(encode, data, rng, num, batch_size, pairs=False)
        table = np.zeros((num_factors, active.sum()), np.int64)
        local = codes.var(axis=1, ddof=1)  # [V, D]
        np.add.at(table, (fixed, np.argmin(local[:, active] / variance[active], axis=1)), 1)
        return table

    train = votes(num_train)
    winners = train.argmax(axis=0), np.arange(train.shape[1])  # the factor of each code
    return float(train[winners].sum() / num_train), float(votes(num_eval)[winners].sum() / num_eval)


def beta_vae_score(
    encode: Callable[[Any], Array],
    factor_data: FactorData | FactorSample,
    *,
    seed: int = 0,
    num_train: int = 10_000,
    num_eval: int = 5_000,
    batch_size: int = 64,
) -> float:
    """BetaVAE score: accuracy of predicting which factor two images share from |difference of their codes|.

    A sample: draw k, then `batch_size` pairs of images, each pair sharing its own value of k; feature = mean over the
    pairs of |z1 - z2|, label k. Multinomial logistic regression (L2, C=1, lbfgs, 100 iterations) on `num_train`
    samples, accuracy on `num_eval`. Range 1/F (chance) .. 1, best 1. Saturates: a random linear mix of the factors
    still has 0.99, so never report it alone; features are not standardised, so it depends on the codes' scale.

    Needs 1,920,000 codes: use a `FactorSample` or a `CodeTable`, as for `factor_vae_score`.

    Args:
        encode: Images to posterior means [N, D].
        factor_data: Draws images of any combination of factors, or a sample of images to choose from.
        seed: Seed of the draws.
        num_train: Samples that the classifier is fitted on.
        num_eval: Samples that are scored.
        batch_size: Pairs of a sample.

    Returns:
        1/F (chance)..1, best 1.

    Source: Higgins et al., 2017, openreview Sy2fzU9gl; disentanglement_lib beta_vae.py.

    >>> grid = GridIndex([4, 5])
    >>> codes = np.stack(np.unravel_index(np.arange(20), (4, 5)), axis=1) * [-1.0, 2.0]
    >>> beta_vae_score(codes.__getitem__, grid, num_train=100, num_eval=100)
    1.0
    """
    return _beta_vae(encode, factor_data, seed, num_train, num_eval, batch_size)[1]


def _beta_vae(encode, data, seed, num_train, num_eval, batch_size) -> tuple[float, float]:
    """Accuracies on the training and on the evaluation samples."""
    rng = np.random.RandomState(seed)

    def samples(num: int) -> tuple[Array, Array]:
        fixed, (first, second) = _held_fixed(encode, data, rng, num, batch_size, pairs=True)
        return np.abs(first - second).mean(axis=1).astype(np.float64), fixed

    train = samples(num_train)
    model = _logistic(*train, seed)
    return float(model.score(*train)), float(model.score(*samples(num_eval)))


def irs(codes: Shaped[Any, "N D"], factors: Shaped[Any, "N F"], *, quantile: float = 0.99, bins: int = 20) -> float:
    """Interventional robustness: how little does a code move while its factor is fixed and the others change?

    For each value of a factor the `quantile` of |code - mean code in that group|, averaged over values, divided by the
    code's largest deviation from its mean; per code 1 - the least over factors; mean over codes weighted by the largest
    deviation. 10,000 rows; factors of more than `bins` values are merged to `bins`, as the reference does; constant
    codes do not count; 0 if all are. Range 0..1, best 1; noise lowers it (perfect code with 2 % noise: 0.956).

    Args:
        codes: Posterior means.
        factors: Classes or reals.
        quantile: Quantile of the deviations, in [0, 1].
        bins: Largest number of values of a factor.

    Returns:
        0..1, best 1.

    Raises:
        ValueError: Shapes or sizes leave the score undefined.

    Source: Suter et al., 2019, arXiv:1811.00007 (quantile 1 there); disentanglement_lib irs.py.

    >>> factors = sample_factors([4, 5], 1000, np.random.RandomState(0))
    >>> round(irs(factors, factors), 3), round(irs(factors @ [[1, 1], [1, -1]], factors), 3)
    (1.0, 0.555)
    """
    codes, factors = _checked(codes, factors, discrete=False)
    codes = codes[:, ~_constant(codes)]
    if not codes.size:
        return 0.0
    largest = np.abs(codes - codes.mean(axis=0)).max(axis=0)

    def deviation(group: Array) -> Array:  # [D]
        return np.quantile(np.abs(group - group.mean(axis=0)), quantile, axis=0)

    moved = [np.mean([deviation(codes[f == v]) for v in np.unique(f)], axis=0) for f in _binned(factors, bins).T]
    return float(np.average(1 - np.min(moved, axis=0) / largest, weights=largest))


# -- without ground truth ---------------------------------------------------------------------------------------------


def udr(
    codes: Sequence[Shaped[Any, "N _"]] | Shaped[Any, "M N D"],
    kl: Sequence[Shaped[Any, " _"] | Sequence[float]] | Shaped[Any, "M _"],
    *,
    correlation: str = "lasso",
    alpha: float = 0.1,
    threshold: float = 0.01,
) -> Float[np.ndarray, " M"]:
    """Unsupervised disentanglement ranking: do the runs of one setting agree, up to order and sign of the codes?

    For a pair of runs R = |lasso coefficients| or |Spearman correlation|; its score is the mean over columns of max^2 / sum,
    averaged with the same over rows. Meaningful for 5 or more runs.

    Args:
        codes: For each of M runs [N, D], means of the SAME N images (1,000 in the reference).
        kl: For each run [D], mean KL to the prior of each dimension, nats.
        correlation: `lasso` or `spearman`.
        alpha: Penalty of the lasso.
        threshold: KL up to which a dimension is left out, nats.

    Returns:
        For each run the median over the other runs; higher is better, 0 for a collapsed run.

    Raises:
        ValueError: Shapes do not fit, or there are fewer than 2 runs.

    Source: Duan et al., 2020, arXiv:1905.12614; disentanglement_lib udr.py (which averages the two sides; the paper
    does not).

    >>> z = np.random.RandomState(0).standard_normal((1000, 3))
    >>> udr([z, -z[:, [2, 0, 1]], z @ [[1, 1, 1], [1, -1, 0], [1, 1, -2]]], np.ones((3, 3))).round(2)
    array([0.62, 0.62, 0.28])
    """
    codes, kl = [_checked_codes(c) for c in codes], [to_numpy(k) for k in kl]
    shapes, sizes = [c.shape for c in codes], [k.shape for k in kl]
    if len(codes) < 2 or len({n for n, _ in shapes}) > 1 or sizes != [(d,) for _, d in shapes]:
        raise ValueError(f"need codes [N, D] of the same N images and KL [D] from 2 or more runs, got {shapes}, {sizes}")
    if correlation not in ("lasso", "spearman"):
        raise ValueError(f"correlation must be 'lasso' or 'spearman', got {correlation!r}")
    kept = [StandardScaler().fit_transform(c)[:, k > threshold] for c, k in zip(codes, kl, strict=True)]

    def strength(x: Array, y: Array) -> Array:  # [columns of x, columns of y]
        if correlation == "lasso":
            return np.abs(np.atleast_2d(Lasso(alpha=alpha).fit(x, y).coef_)).T
        ranks = StandardScaler().fit_transform(rankdata(np.hstack([x, y]), axis=0))
        return np.abs(ranks[:, : x.shape[1]].T @ ranks[:, x.shape[1] :]) / len(ranks)

    def score(x: Array, y: Array) -> float:
        if not x.size or not y.size:
            return 0.0
        r = strength(x, y)
        sides = [r.max(axis=a) ** 2 / np.maximum(r.sum(axis=a), np.finfo(float).tiny) for a in (0, 1)]
        return (sides[0].mean() + sides[1].mean()) / 2

    return np.array([np.median([score(x, y) for i, x in enumerate(kept) if i != j]) for j, y in enumerate(kept)])


def unsupervised_scores(codes: Shaped[Any, "N D"], *, bins: int = 20) -> dict[str, float]:
    """Dependence of the codes on each other; 0: independent, which does not mean useful. For 10,000 rows.

    With C the covariance: `gaussian_total_correlation` = (sum log diag C - log det C) / 2 in nats, without bound for
    linearly dependent codes; `gaussian_wasserstein_correlation` = 2 tr C - 2 tr sqrtm(diag(C) C), and `..._norm` the
    same over tr C; `mutual_info_score` = mean over pairs of codes of the histogram mutual information in nats. Constant
    dimensions are independent of all others and only add pairs to this mean.

    Args:
        codes: Posterior means.
        bins: Number of bins of the histograms.

    Returns:
        The four scores by name.

    Source: Locatello et al., 2019, arXiv:1811.12359, appendix; disentanglement_lib unsupervised_metrics.py.

    >>> codes = np.random.RandomState(0).standard_normal((10_000, 2))
    >>> round(unsupervised_scores(codes @ [[1, 1], [1, -2]])["gaussian_total_correlation"], 2)  # -log(1 - rho^2) / 2
    0.05
    """
    codes = _checked_codes(codes)
    cov = np.atleast_2d(np.cov(codes.T[~_constant(codes)]))
    variance, num_codes = np.diag(cov), codes.shape[1]
    scale = np.sqrt(variance)
    roots = np.sqrt(np.linalg.eigvalsh(cov * scale * scale[:, None]).clip(min=0))  # those of diag(C) C
    wasserstein = 2 * variance.sum() - 2 * roots.sum()
    pairs = _mutual_information(*[_binned(codes, bins)] * 2)[~np.eye(num_codes, dtype=bool)]
    return {
        "gaussian_total_correlation": float(np.log(variance).sum() - np.linalg.slogdet(cov)[1]) / 2,
        "gaussian_wasserstein_correlation": float(wasserstein),
        "gaussian_wasserstein_correlation_norm": float(wasserstein / variance.sum()) if variance.size else 0.0,
        "mutual_info_score": float(pairs.mean()) if pairs.size else 0.0,
    }


# -- grids of factors -------------------------------------------------------------------------------------------------


def sample_factors(
    factor_sizes: Sequence[int] | Int[np.ndarray, " F"], num: int, rng: np.random.RandomState, *, batch_size: int = 16
) -> Int[np.ndarray, "_ F"]:
    """Draws factor values [num, F], uniform over the grid, with replacement, in the order of the reference.

    Args:
        factor_sizes: Number of values of each factor.
        num: Number of draws.
        rng: The stream.
        batch_size: Draws at a time, which decides the order.

    >>> sample_factors([1, 3, 6], 2, np.random.RandomState(0)).tolist()
    [[0, 0, 0], [0, 1, 3]]
    """
    return np.concatenate([_draw(rng, factor_sizes, min(batch_size, num - i)) for i in range(0, num, batch_size)])


class GridIndex:
    """A `FactorData` whose images are the row-major index of the factors in the grid, last factor fastest.

    It makes an encoder of a table of the codes of all images:
    `factor_vae_score(codes.__getitem__, GridIndex(sizes))`.

    Args:
        factor_sizes: Number of values of each factor.
    """

    def __init__(self, factor_sizes: Sequence[int] | Int[np.ndarray, " F"]):
        self.factor_sizes = tuple(int(n) for n in factor_sizes)

    def render(self, factors: Shaped[Any, "N F"]) -> Int[np.ndarray, " N"]:
        """Index of factor values in the grid."""
        return np.asarray(np.ravel_multi_index(tuple(to_numpy(factors).astype(np.int64).T), self.factor_sizes))


class CodeTable(GridIndex):
    """Encoder and data in one: encodes each distinct image once, on first use, and caches its code.

        table = CodeTable(encode, data)
        factor_vae_score(table, table); beta_vae_score(table, table); mig(table(table.render(factors)), factors)

    Memory: D floats per image of the grid, 29 MB for 10 codes of dSprites.

    Args:
        encode: Images to codes [N, D]; must be deterministic (means, eval mode).
        factor_data: Draws images of any combination of factors.
    """

    def __init__(self, encode: Callable[[Any], Array], factor_data: FactorData):
        super().__init__(factor_data.factor_sizes)
        self.encode, self.factor_data = encode, factor_data
        self.codes: Array | None = None
        self.known = np.zeros(np.prod(self.factor_sizes), bool)

    def __call__(self, index: Int[np.ndarray, " N"]) -> Shaped[np.ndarray, "N D"]:
        """Codes of the images at these places of the grid."""
        new = np.unique(index[~self.known[index]])
        if new.size:
            codes = _encoded(self.encode, self.factor_data, np.stack(np.unravel_index(new, self.factor_sizes), axis=1))
            if self.codes is None:
                self.codes = np.empty((self.known.size, codes.shape[1]), codes.dtype)
            self.codes[new], self.known[new] = codes, True
        assert self.codes is not None
        return self.codes[index]


# -- draws and checks -------------------------------------------------------------------------------------------------


def _draw(rng: np.random.RandomState, sizes: Sequence[int] | Array, num: int) -> Array:
    """Factor values [num, F]; a factor of size 1 needs no random number."""
    return np.stack([rng.randint(n, size=num) for n in sizes], axis=1)


def _draw_fixed(
    rng: np.random.RandomState, sizes: Sequence[int] | Array, num: int, batch: int, sets: int
) -> tuple[Array, Array]:
    """The factor to hold fixed, one per sample [V], then `sets` batches of factor values for it [sets, V, batch, F]."""
    choices = _choices(sizes)
    fixed, factors = np.empty(num, np.int64), np.empty((sets, num, batch, len(sizes)), np.int64)
    for i in range(num):
        fixed[i] = choices[rng.randint(len(choices))]
        for one in factors[:, i]:
            one[:] = _draw(rng, sizes, batch)
    return fixed, factors


def _choices(sizes: Sequence[int] | Array) -> Array:
    """Factors that can be held fixed."""
    choices = np.flatnonzero(np.asarray(sizes) > 1)
    if len(choices) < 2:
        raise ValueError(f"need at least 2 factors of 2 or more values, got factor_sizes {tuple(sizes)}")
    return choices


def _held_fixed(
    encode: Callable, data: FactorData | FactorSample, rng: np.random.RandomState, num: int, batch: int, pairs: bool
) -> tuple[Array, list[Array]]:
    """The factor held fixed, one per sample [V], and codes [V, batch, D].

    pairs: two arrays of codes, of images that share their value pair by pair; otherwise one, whose batches share one value.
    """
    rows = np.arange(num)
    if isinstance(data, FactorSample):
        choices = _choices(data.factor_sizes)
        fixed = choices[rng.randint(len(choices), size=num)]
        first = rng.randint(len(data.factors), size=(num, batch))
        first = first if pairs else np.repeat(first[:, :1], batch, axis=1)
        second = np.empty_like(first)
        for factor in choices:
            second[fixed == factor] = data.sharing(first[fixed == factor], int(factor), rng)
        return fixed, [_looked_up(encode, images) for images in ([first, second] if pairs else [second])]
    fixed, factors = _draw_fixed(rng, data.factor_sizes, num, batch, sets=1 + pairs)
    shared = factors[0] if pairs else factors[0][:, :1]
    factors[-1][rows, :, fixed] = shared[rows, :, fixed]
    return fixed, [_encoded(encode, data, one) for one in factors]


def _looked_up(encode: Callable[[Any], Array], images: Array) -> Array:
    """Codes [..., D] of images [...] of a sample."""
    return _checked_codes(encode(images.ravel())).reshape(*images.shape, -1)


def _encoded(encode: Callable[[Any], Array], data: FactorData, factors: Array) -> Array:
    """Codes [..., D] of factor values [..., F], rendered and encoded CHUNK images at a time."""
    rows = factors.reshape(-1, factors.shape[-1])
    codes = np.concatenate([to_numpy(encode(data.render(rows[i : i + CHUNK]))) for i in range(0, len(rows), CHUNK)])
    if len(codes) != len(rows):
        raise ValueError(f"encode must turn N images into codes [N, D], got {codes.shape} for N = {len(rows)}")
    return _checked_codes(codes).reshape(*factors.shape[:-1], -1)


def _logistic(x: Array, y: Array, seed: int) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 100 iterations are part of the definition
        return LogisticRegression(C=1.0, solver="lbfgs", tol=1e-4, max_iter=100, random_state=seed).fit(x, y)


def _constant(codes: Array) -> Array:
    return np.ptp(codes, axis=0) == 0  # rounding can make the deviation of a constant column positive


def _finite(name: str, x: Any) -> Array:
    x = to_numpy(x)
    if x.dtype.kind not in "biuf" or not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite numbers, got NaN, infinity or no numbers ({x.dtype})")
    return x + 0  # bool to int


def _checked_codes(codes: Any) -> Array:
    codes = _finite("codes", codes)
    if codes.ndim != 2 or 0 in codes.shape:
        raise ValueError(f"codes must be [N, D] and not empty, got {codes.shape}")
    return codes if codes.dtype in (np.float32, np.float64) else codes.astype(np.float64)


def _checked(
    codes: Any, factors: Any, *test: Rows, min_codes: int = 1, min_factors: int = 1, discrete: bool = True
) -> tuple[Array, ...]:
    """codes [N, D], factors [N, F] without those of one value, then the same of the test rows.

    discrete: factors as class numbers, the classes being the values in the first rows and -1 any other.
    """
    rows = [(_checked_codes(c), _finite("factors", f)) for c, f in ((codes, factors), *test)]
    for c, f in rows:
        if f.ndim != 2 or len(c) != len(f) or (c.shape[1], f.shape[1]) != (rows[0][0].shape[1], rows[0][1].shape[-1]):
            raise ValueError(f"need codes [N, D] and factors [N, F] of equal N, D and F, got {c.shape} and {f.shape}")
    varied, num_codes = ~_constant(rows[0][1]), rows[0][0].shape[1]
    if num_codes < min_codes or varied.sum() < max(1, min_factors):
        need = f"{min_codes} codes and {min_factors} factors that vary"
        raise ValueError(f"need at least {need}, got {num_codes} and {varied.sum()}")
    rows = [(c, f[:, varied]) for c, f in rows]
    if discrete:
        levels = [np.unique(column) for column in rows[0][1].T]
        if any(len(v) > len(rows[0][0]) / 2 and (v % 1).any() for v in levels):
            raise ValueError("a factor has almost as many values as there are rows: bin continuous factors first")
        rows = [(c, np.stack([_class(x, v) for x, v in zip(f.T, levels, strict=True)], axis=1)) for c, f in rows]
    return tuple(array for pair in rows for array in pair)


def _class(values: Array, levels: Array) -> Array:
    index = np.searchsorted(levels, values).clip(max=len(levels) - 1)
    return np.where(levels[index] == values, index, -1)


def _needed(test: Rows | None, metric: str) -> Rows:
    if test is None:
        raise ValueError(f"{metric} needs test=(codes, factors), rows that it is scored on")
    return test
