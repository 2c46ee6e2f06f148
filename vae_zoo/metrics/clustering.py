"""Clustering metrics: functions on cluster numbers [N] and class labels [N]; numpy, scipy and scikit-learn, no torch.

Any integers serve as numbers and there may be more or fewer clusters than classes. Images whose label is -1 (unknown)
are left out; ValueError if none is left. Report Hungarian and majority accuracy, NMI and ARI together, with the number
of clusters: the SPLIT and MFCVAE papers' "accuracy" is the majority vote on the scored images themselves (`purity`),
the VaDE line of papers has the Hungarian one.
"""

from typing import Any, Literal

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from vae_zoo.metrics.arrays import to_numpy

Array = np.ndarray
Mapping = Literal["hungarian", "majority"]
Pair = tuple[Array, Array]  # clusters [N], labels [N]


def cluster_accuracy(clusters: Array, labels: Array, *, mapping: Mapping = "hungarian", fit: Pair | None = None) -> float:
    """Accuracy after naming clusters by classes. Range 0..1, best 1.

    `hungarian`: the one-to-one naming with most images right; clusters beyond the number of classes are errors.
    `majority`: each cluster takes its most frequent class (ties: the lower label); never below Hungarian, grows with
    the number of clusters, is 1 for one image per cluster, and its floor is the share of the largest class: print it
    beside.
    `fit=(clusters, labels)`: the naming is found there (the training set) and only applied here; a cluster that does
    not occur there counts as an error. Without it the naming is found on the scored images, as the papers do.
    Source: Kuhn, 1955 (scipy's assignment); SPLIT vae/trainer.py and MFCVAE utils.py for the majority vote.

    >>> clusters, labels = [0, 0, 1, 1, 2, 2], [1, 1, 0, 0, 0, 1]
    >>> round(cluster_accuracy(clusters, labels), 3), round(cluster_accuracy(clusters, labels, mapping="majority"), 3)
    (0.667, 0.833)
    >>> cluster_accuracy(clusters, labels, fit=([0, 1], [1, 0]))  # cluster 2 has no name
    0.6666666666666666
    """
    clusters, labels = _checked(clusters, labels)
    return float(np.mean(_named(clusters, fit or (clusters, labels), mapping) == labels))


def balanced_accuracy(clusters: Array, labels: Array, *, mapping: Mapping = "majority", fit: Pair | None = None) -> float:
    """Mean over classes of the share of their images that `cluster_accuracy` counts as right. Range 0..1, best 1.

    Source: MFCVAE utils.py, class-weighted accuracy after the majority map.

    >>> balanced_accuracy([0, 0, 0, 0, 0], [0, 0, 0, 0, 1])
    0.5
    """
    clusters, labels = _checked(clusters, labels)
    right = _named(clusters, fit or (clusters, labels), mapping) == labels
    return float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))


def purity(clusters: Array, labels: Array) -> float:
    """Share of images in the largest class of their cluster: majority accuracy, fitted on the scored images.

    >>> purity([0, 0, 0, 1], [5, 5, 7, 7])
    0.75
    """
    return cluster_accuracy(clusters, labels, mapping="majority")


def nmi(clusters: Array, labels: Array) -> float:
    """Normalised mutual information, by the arithmetic mean of the entropies (older papers: geometric). 0..1, best 1.

    >>> round(nmi([0, 0, 1, 1], [7, 7, 3, 3]), 3)
    1.0
    """
    clusters, labels = _checked(clusters, labels)
    return float(normalized_mutual_info_score(labels, clusters, average_method="arithmetic"))


def ami(clusters: Array, labels: Array) -> float:
    """Mutual information adjusted for chance (arithmetic mean): 0 for random clusters of any number, best 1.

    >>> round(ami([0, 1, 2, 3], [7, 7, 3, 3]), 3)
    0.0
    """
    clusters, labels = _checked(clusters, labels)
    return float(adjusted_mutual_info_score(labels, clusters, average_method="arithmetic"))


def ari(clusters: Array, labels: Array) -> float:
    """Rand index (agreement on pairs of images) adjusted for chance: 0 for random clusters, best 1, least -0.5.

    >>> round(ari([0, 0, 1, 2], [7, 7, 3, 3]), 3)
    0.571
    """
    clusters, labels = _checked(clusters, labels)
    return float(adjusted_rand_score(labels, clusters))


def contingency(clusters: Array, labels: Array) -> Array:
    """Number of images [K, C] in each cluster that occurs, of each class that occurs, both in increasing order.

    The confusion matrix of a clustering, and what every score here is a function of.

    >>> contingency([4, 4, 9], [0, 1, 1])
    array([[1, 1],
           [0, 1]])
    """
    return _table(*_checked(clusters, labels))[0]


def _table(clusters: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Counts [K, C], cluster numbers [K], classes [C]."""
    return contingency_matrix(clusters, labels), np.unique(clusters), np.unique(labels)


def _named(clusters: Array, fit: Pair, mapping: Mapping) -> Array:
    """The class [N] that each image's cluster is named by; -1 for a cluster without a name."""
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


def _checked(clusters: Any, labels: Any) -> Pair:
    clusters, labels = to_numpy(clusters), to_numpy(labels)
    if clusters.ndim != 1 or clusters.shape != labels.shape:
        raise ValueError(f"need clusters [N] and labels [N] of equal N, got {clusters.shape} and {labels.shape}")
    if not all(np.issubdtype(a.dtype, np.integer) or a.dtype == bool for a in (clusters, labels)):
        raise ValueError(f"clusters and labels must be integers, got {clusters.dtype} and {labels.dtype}")
    known = labels != -1
    if not known.any():
        raise ValueError(f"no image has a known label (all {len(labels)} are -1)")
    return clusters[known], labels[known]
