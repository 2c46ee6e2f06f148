"""Clustering metrics: functions on cluster numbers and class labels; numpy, scipy and scikit-learn, no torch.

Numbers may be any integers, and there may be more or fewer clusters than classes. Images whose label is -1 (unknown)
are left out; ValueError if none is left. Report Hungarian and majority accuracy, NMI and ARI together, with the number
of clusters: the SPLIT and MFCVAE papers' "accuracy" is the majority vote on the scored images themselves (`purity`),
papers that follow VaDE use Hungarian accuracy.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.optimize import linear_sum_assignment
from scipy.stats import entropy
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, mutual_info_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.pipeline import make_pipeline

from vae_zoo.metrics.arrays import to_numpy
from vae_zoo.metrics.probes import COMPONENTS, WIDE

Array = np.ndarray
Mapping = Literal["hungarian", "majority"]
Numbers = Shaped[Any, " N"] | Sequence[int]  # a cluster or a class for each image
Pair = tuple[Shaped[Any, " M"] | Sequence[int], Shaped[Any, " M"] | Sequence[int]]  # clusters and labels of the same images


def cluster_accuracy(
    clusters: Numbers, labels: Numbers, *, mapping: Mapping = "hungarian", fit: Pair | None = None
) -> float:
    """Accuracy after clusters are assigned to classes.

    `hungarian`: the one-to-one assignment with the most correct images; images of unassigned clusters are errors.
    `majority`: each cluster gets its most frequent class (ties: the lower label). Without `fit` it is never below
    Hungarian accuracy. It grows with the number of clusters, is 1 for one image per cluster, and is at least the share of
    the largest class, which should be reported too.

    Args:
        clusters: Number of the cluster of each image.
        labels: Class of each image, -1 = unknown.
        mapping: How clusters are assigned to classes.
        fit: (clusters, labels) of other images, the training set, on which the assignment is fitted; a cluster that does not
            occur there counts as an error. None: it is fitted on the scored images, as in the papers.

    Returns:
        0..1, best 1.

    Raises:
        ValueError: Shapes do not fit, or no label is known.

    Source: Kuhn, 1955 (scipy's assignment); SPLIT vae/trainer.py and MFCVAE utils.py for the majority vote.

    >>> clusters, labels = [0, 0, 1, 1, 2, 2], [1, 1, 0, 0, 0, 1]
    >>> round(cluster_accuracy(clusters, labels), 3), round(cluster_accuracy(clusters, labels, mapping="majority"), 3)
    (0.667, 0.833)
    >>> cluster_accuracy(clusters, labels, fit=([0, 1], [1, 0]))  # cluster 2 has no class
    0.6666666666666666
    """
    clusters, labels = _checked(clusters, labels)
    return float(np.mean(_named(clusters, fit or (clusters, labels), mapping) == labels))


def balanced_accuracy(
    clusters: Numbers, labels: Numbers, *, mapping: Mapping = "majority", fit: Pair | None = None
) -> float:
    """Mean over classes of the share of their images that `cluster_accuracy` counts as correct.

    Args:
        clusters: Number of the cluster of each image.
        labels: Class of each image, -1 = unknown.
        mapping: As in `cluster_accuracy`.
        fit: As in `cluster_accuracy`.

    Returns:
        0..1, best 1.

    Source: MFCVAE utils.py, class-weighted accuracy after the majority map.

    >>> balanced_accuracy([0, 0, 0, 0, 0], [0, 0, 0, 0, 1])
    0.5
    """
    clusters, labels = _checked(clusters, labels)
    right = _named(clusters, fit or (clusters, labels), mapping) == labels
    return float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))


def purity(clusters: Numbers, labels: Numbers) -> float:
    """Share of images in the largest class of their cluster: majority accuracy, fitted on the scored images.

    Args:
        clusters: Number of the cluster of each image.
        labels: Class of each image, -1 = unknown.

    Returns:
        0..1, best 1.

    >>> purity([0, 0, 0, 1], [5, 5, 7, 7])
    0.75
    """
    return cluster_accuracy(clusters, labels, mapping="majority")


def purity_chance(clusters: Numbers, labels: Numbers, *, repeats: int = 20, seed: int = 0) -> float:
    """Purity of clusters of these sizes that are independent of the labels: mean over `repeats` shuffles of the labels.

    At least the share of the largest class, and 1 for one image per cluster.

    Args:
        clusters: Number of the cluster of each image.
        labels: Class of each image, -1 = unknown.
        repeats: Number of shuffles, >= 1.
        seed: Seed of the shuffles.

    Returns:
        0..1.

    >>> purity_chance([0, 1, 2, 3], [5, 5, 7, 7]), purity_chance([0, 0, 0, 0], [5, 5, 5, 7])
    (1.0, 0.75)
    """
    clusters, labels = (np.unique(numbers, return_inverse=True)[1] for numbers in _checked(clusters, labels))
    num_clusters, num_classes = clusters.max() + 1, labels.max() + 1
    rng, right = np.random.default_rng(seed), 0
    for _ in range(repeats):
        pairs = clusters * num_classes + rng.permutation(labels)
        right += np.bincount(pairs, minlength=num_clusters * num_classes).reshape(num_clusters, -1).max(1).sum()
    return float(right / (repeats * len(labels)))


def scores(clusters: Numbers, labels: Numbers, fit: Pair) -> dict[str, float]:
    """Computes all scores, by the names that they have in a run.

    Args:
        clusters: Number of the cluster of each image.
        labels: Class of each image, -1 = unknown.
        fit: (clusters, labels) on which clusters are assigned to classes, except for `cluster_purity`.
    """
    return {
        "cluster_accuracy_majority": cluster_accuracy(clusters, labels, mapping="majority", fit=fit),
        "cluster_accuracy_hungarian": cluster_accuracy(clusters, labels, mapping="hungarian", fit=fit),
        "cluster_balanced_accuracy": balanced_accuracy(clusters, labels, fit=fit),
        "cluster_purity": purity(clusters, labels),
        "cluster_purity_chance": purity_chance(clusters, labels),
        "nmi": nmi(clusters, labels),
        "ami": ami(clusters, labels),
        "ari": ari(clusters, labels),
    }


def k_means(vectors: Shaped[np.ndarray, "N D"], num_clusters: int, *, seed: int = 0) -> Callable[[Array], Array]:
    """Fits k-means, which can then be applied to any vectors; on pixels it is the baseline of a model's clusters.

    Args:
        vectors: The rows on which it is fitted.
        num_clusters: K.
        seed: Seed of the start.

    Returns:
        A function from vectors [M, D] to their clusters [M].
    """
    vectors = to_numpy(vectors).astype(np.float32)
    fitted: Any = KMeans(min(num_clusters, len(vectors)), n_init=cast(Any, 10), random_state=seed)
    if vectors.shape[1] > WIDE:
        reduced = PCA(min(COMPONENTS, len(vectors)), svd_solver="randomized", random_state=seed)
        fitted = make_pipeline(reduced, fitted)
    fitted.fit(vectors)
    return lambda others: fitted.predict(to_numpy(others).astype(np.float32))


def nmi(clusters: Numbers, labels: Numbers) -> float:
    """Normalised mutual information, by the arithmetic mean of the entropies (older papers: geometric). 0..1, best 1.

    >>> round(nmi([0, 0, 1, 1], [7, 7, 3, 3]), 3)
    1.0
    """
    clusters, labels = _checked(clusters, labels)
    return float(normalized_mutual_info_score(labels, clusters, average_method="arithmetic"))


def ami(clusters: Numbers, labels: Numbers) -> float:
    """Mutual information adjusted for chance (arithmetic mean): 0 for random clusters of any number, best 1.

    >>> round(ami([0, 1, 2, 3], [7, 7, 3, 3]), 3)
    0.0
    """
    clusters, labels = _checked(clusters, labels)
    return float(adjusted_mutual_info_score(labels, clusters, average_method="arithmetic"))


def ari(clusters: Numbers, labels: Numbers) -> float:
    """Rand index (agreement on pairs of images) adjusted for chance: 0 for random clusters, best 1, least -0.5.

    >>> round(ari([0, 0, 1, 2], [7, 7, 3, 3]), 3)
    0.571
    """
    clusters, labels = _checked(clusters, labels)
    return float(adjusted_rand_score(labels, clusters))


def pairwise_ari(clusterings: Sequence[Numbers]) -> Float[np.ndarray, "M M"]:
    """ARI of each pair of M clusterings of the same images, such as those of runs with different seeds.

    >>> pairwise_ari([np.array([0, 0, 1, 1]), np.array([5, 5, 2, 2])])
    array([[1., 1.],
           [1., 1.]])
    """
    table = np.eye(len(clusterings))
    for i, j in combinations(range(len(clusterings)), 2):
        table[i, j] = table[j, i] = adjusted_rand_score(clusterings[i], clusterings[j])
    return table


def contingency(clusters: Numbers, labels: Numbers) -> Int[np.ndarray, "_ _"]:
    """Number of images in each cluster that occurs (rows), of each class that occurs (columns), both in increasing order.

    It is the confusion matrix of a clustering, and every score here is a function of it.

    Args:
        clusters: Number of the cluster of each image.
        labels: Class of each image, -1 = unknown.

    >>> contingency([4, 4, 9], [0, 1, 1])
    array([[1, 1],
           [0, 1]])
    """
    return _table(*_checked(clusters, labels))[0]


def confusion(
    clusters: Numbers, labels: Numbers, *, mapping: Mapping = "majority", fit: Pair | None = None
) -> Int[np.ndarray, "_ _"]:
    """Number of images whose cluster is assigned to the class of the row and whose label is the class of the column.

    The classes of labels and fit come in increasing order. Images of a cluster without a class are in no row.

    Args:
        clusters: Number of the cluster of each image.
        labels: Class of each image, -1 = unknown.
        mapping: As in `cluster_accuracy`.
        fit: As in `cluster_accuracy`.

    Source: MFCVAE utils.py.

    >>> confusion([4, 4, 4, 9, 6], [0, 0, 1, 1, 0])
    array([[3, 1],
           [0, 1]])
    """
    clusters, labels = _checked(clusters, labels)
    fit = fit or (clusters, labels)
    named, classes = _named(clusters, fit, mapping), np.union1d(labels, _checked(*fit)[1])
    known = named >= 0
    table = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(table, (np.searchsorted(classes, named[known]), np.searchsorted(classes, labels[known])), 1)
    return table


def mutual_information(clusters: Numbers, others: Numbers) -> float:
    """Mutual information of two clusterings of the same images, nats.

    It is 0 if they are independent, except for a plug-in bias of about (K - 1) (K' - 1) / (2 N); `ami` has none.

    >>> round(mutual_information([0, 0, 1, 1], [7, 7, 3, 3]), 3)  # log 2
    0.693
    """
    return float(mutual_info_score(clusters, others))


def used(clusters: Numbers, share: float = 0.005) -> int:
    """Number of clusters with at least this share of the images.

    Args:
        clusters: Number of the cluster of each image.
        share: In [0, 1].

    >>> used([0, 0, 0, 1, 7], share=0.4)
    1
    """
    return int((np.unique(clusters, return_counts=True)[1] >= share * len(clusters)).sum())


def effective_number(probs: Float[np.ndarray, "N K"]) -> float:
    """Effective number of clusters, exp of the entropy of the mean of probabilities.

    Args:
        probs: q(c | x) of each image.

    Returns:
        K if all clusters are equally large, 1 if one has all images.

    >>> round(effective_number(np.array([[1.0, 0], [0, 1]])), 6)
    2.0
    """
    return float(np.exp(entropy(probs.mean(0, dtype=np.float64))))


def most_confident(probs: Float[np.ndarray, "N K"], count: int) -> tuple[Int[np.ndarray, " R"], Int[np.ndarray, "R _"]]:
    """Finds the images with the highest probability of each cluster.

    An image belongs to its most probable cluster, with this probability as its confidence. Clusters without members are left
    out; the others are sorted by the mean confidence of their members, and members by their own confidence, the highest
    first (ties: the lower number first).

    Args:
        probs: q(c | x) of each image.
        count: Members of each cluster.

    Returns:
        R clusters, and their members [R, count], -1 where a cluster has fewer.

    Source: MFCVAE train.py.

    >>> most_confident(np.array([[0.6, 0.4, 0], [0.1, 0.9, 0], [0.9, 0.1, 0]]), count=3)
    (array([1, 0]), array([[ 1, -1, -1],
           [ 2,  0, -1]]))
    """
    cluster, confidence = probs.argmax(1), probs.max(1)
    size = np.bincount(cluster, minlength=probs.shape[1])
    order = np.lexsort((np.arange(len(probs)), -confidence, cluster))
    rank = np.arange(len(probs)) - (np.cumsum(size) - size)[cluster[order]]
    members = np.full((probs.shape[1], count), -1)
    first = rank < count
    members[cluster[order[first]], rank[first]] = order[first]
    there = np.flatnonzero(size)
    mean = np.bincount(cluster, confidence)[there] / size[there]
    there = there[np.argsort(-mean, kind="stable")]
    return there, members[there]


def _table(clusters: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Counts [K, C], cluster numbers [K], classes [C]."""
    return np.asarray(contingency_matrix(clusters, labels)), np.unique(clusters), np.unique(labels)


def _named(clusters: Array, fit: Pair, mapping: Mapping) -> Array:
    """The class assigned to each image's cluster, [N]; -1 for a cluster without a class."""
    counts, names, classes = _table(*_checked(*fit))
    match mapping:
        case "hungarian":
            rows, columns = linear_sum_assignment(counts, maximize=True)
        case "majority":
            rows, columns = np.arange(len(names)), counts.argmax(axis=1)
        case _:
            raise ValueError(f"mapping must be 'hungarian' or 'majority', got {mapping!r}")
    name = dict(zip(names[rows].tolist(), classes[columns].tolist(), strict=True))
    return np.array([name.get(k, -1) for k in clusters.tolist()])


def _checked(clusters: Any, labels: Any) -> tuple[Array, Array]:
    clusters, labels = to_numpy(clusters), to_numpy(labels)
    if clusters.ndim != 1 or clusters.shape != labels.shape:
        raise ValueError(f"need clusters [N] and labels [N] of equal N, got {clusters.shape} and {labels.shape}")
    if not all(np.issubdtype(a.dtype, np.integer) or a.dtype == bool for a in (clusters, labels)):
        raise ValueError(f"clusters and labels must be integers, got {clusters.dtype} and {labels.dtype}")
    known = labels != -1
    if not known.any():
        raise ValueError(f"no image has a known label (all {len(labels)} are -1)")
    return clusters[known], labels[known]
