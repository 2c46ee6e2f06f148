import doctest
from itertools import permutations

import numpy as np
import pytest
import sklearn.metrics
import torch
from sklearn.datasets import load_digits

from tests.annotations import unchecked
from vae_zoo.metrics import ami, ari, balanced_accuracy, cluster_accuracy, clustering, contingency, modules, nmi, purity

SCORES = [cluster_accuracy, balanced_accuracy, purity, nmi, ami, ari]


def draw(num_clusters=4, num_classes=4, num=300, seed=0):
    """Clusters that follow the classes half of the time."""
    rng = np.random.RandomState(seed)
    labels = rng.randint(num_classes, size=num)
    clusters = np.where(rng.rand(num) < 0.5, (labels + 1) % num_clusters, rng.randint(num_clusters, size=num))
    return clusters, labels


@pytest.mark.parametrize(("num_clusters", "num_classes"), [(3, 3), (5, 3), (3, 5)])
def test_hungarian_is_the_best_one_to_one_naming(num_clusters, num_classes):
    clusters, labels = draw(num_clusters, num_classes)
    names = range(max(num_clusters, num_classes))  # a name of no class is an error
    best = max(np.mean(np.array(order)[clusters] == labels) for order in permutations(names))
    assert cluster_accuracy(clusters, labels) == pytest.approx(best)


@pytest.mark.parametrize(("num_clusters", "num_classes"), [(3, 3), (12, 3), (3, 5)])
def test_majority_is_purity_and_never_below_hungarian(num_clusters, num_classes):
    clusters, labels = draw(num_clusters, num_classes)
    by_hand = sum(np.bincount(labels[clusters == k]).max() for k in np.unique(clusters)) / len(labels)
    assert purity(clusters, labels) == cluster_accuracy(clusters, labels, mapping="majority") == pytest.approx(by_hand)
    assert purity(clusters, labels) >= cluster_accuracy(clusters, labels)
    assert purity(np.arange(300), labels) == 1
    assert purity(np.zeros(300, int), labels) == np.bincount(labels).max() / 300


@pytest.mark.parametrize("score", SCORES)
def test_names_of_clusters_and_order_of_images_do_not_matter(score):
    clusters, labels = draw()
    order = np.random.RandomState(1).permutation(300)
    renamed = np.array([70, -5, 3, 12])[clusters]
    assert score(renamed[order], labels[order]) == pytest.approx(score(clusters, labels))
    assert score(renamed, clusters) == pytest.approx(1)


def test_scores_equal_scikit_learn():
    clusters, labels = draw(6, 4)
    assert nmi(clusters, labels) == sklearn.metrics.normalized_mutual_info_score(labels, clusters)
    assert ami(clusters, labels) == sklearn.metrics.adjusted_mutual_info_score(labels, clusters)
    assert ari(clusters, labels) == sklearn.metrics.adjusted_rand_score(labels, clusters)
    named = contingency(clusters, labels).argmax(1)[clusters]
    assert balanced_accuracy(clusters, labels) == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels, named))
    assert abs(ari(np.random.RandomState(2).permutation(clusters), labels)) < 0.02


def test_contingency_counts():
    clusters, labels = draw(6, 4)
    table = contingency(clusters, labels)
    assert table.shape == (6, 4)
    assert table[2, 3] == ((clusters == 2) & (labels == 3)).sum()


def test_naming_fitted_elsewhere():
    train, test = ([0, 0, 0, 1, 1, 2, 2], [5, 5, 6, 6, 6, 5, 5]), (np.array([0, 1, 2, 3]), np.array([5, 6, 5, 5]))
    assert cluster_accuracy(*test, mapping="majority", fit=train) == 3 / 4  # cluster 3 was never seen
    assert cluster_accuracy(*test, fit=train) == 2 / 4  # and 2 has no class left
    assert balanced_accuracy(*test, fit=train) == (2 / 3 + 1) / 2
    clusters, labels = draw()
    for mapping in ("hungarian", "majority"):
        fitted_here = cluster_accuracy(clusters, labels, mapping=mapping)
        assert cluster_accuracy(clusters, labels, mapping=mapping, fit=(clusters, labels)) == fitted_here
        assert cluster_accuracy(clusters, labels, mapping=mapping, fit=draw(seed=1)) <= fitted_here


def test_unknown_labels_are_left_out():
    clusters, labels = draw()
    more = np.concatenate([clusters, [0, 1, 9]]), np.concatenate([labels, [-1, -1, -1]])
    for score in SCORES:
        assert score(*more) == score(clusters, labels)
    assert cluster_accuracy(clusters, labels, fit=more) == cluster_accuracy(clusters, labels)


@unchecked()
def test_bad_input_is_refused():
    for score in [*SCORES, contingency]:
        for bad in (([0, 1], [0]), ([[0, 1]], [[0, 1]]), ([], []), ([0.5, 1], [0, 1]), ([0, 1], [-1, -1])):
            with pytest.raises(ValueError, match="label"):
                score(*bad)
    with pytest.raises(ValueError, match="mapping"):
        cluster_accuracy([0], [0], mapping="best")


@pytest.mark.parametrize("name", ["ClusterAccuracy", "BalancedAccuracy", "Purity", "NMI", "AMI", "ARI", "Contingency"])
def test_class_equals_function_over_batches(name):
    clusters, labels = draw()
    metric = getattr(modules, name)()
    for part in np.array_split(np.arange(300), 4):
        metric.update(torch.tensor(clusters[part]), torch.tensor(labels[part]))
    np.testing.assert_array_equal(metric.compute(), metric.function(clusters, labels))


def test_class_takes_settings_and_rows_to_fit_on():
    clusters, labels = draw()
    metric = modules.ClusterAccuracy(mapping="majority")
    metric.update(torch.tensor(clusters), torch.tensor(labels))
    fit = draw(seed=1)
    metric.update(*map(torch.tensor, fit), fit=True)
    assert metric.compute().item() == cluster_accuracy(clusters, labels, mapping="majority", fit=fit)


# ---- confusion, chance, numbers of clusters, members ----------------------------------------------------------------

TABLE = [[8, 2, 0], [1, 3, 0], [0, 1, 5], [2, 0, 0]]  # images in each cluster (rows) of each class


def expanded(table):
    rows, columns = np.indices(np.shape(table))
    counts = np.ravel(table)
    return rows.ravel().repeat(counts), columns.ravel().repeat(counts)


def test_scores_of_a_table_worked_by_hand():
    clusters, labels = expanded(TABLE)
    assert purity(clusters, labels) == pytest.approx(18 / 22)
    assert clustering.confusion(clusters, labels).tolist() == [[10, 2, 0], [1, 3, 0], [0, 1, 5]]
    assert balanced_accuracy(clusters, labels) == pytest.approx(0.80303, abs=1e-5)


@pytest.mark.parametrize("num_clusters, num_classes", [(2, 5), (9, 3), (4, 4)])
def test_confusion_is_that_of_scikit_learn_however_many_clusters_and_whatever_they_are_called(num_clusters, num_classes):
    clusters, labels = draw(num_clusters, num_classes)
    named = contingency(clusters, labels).argmax(1)[clusters]
    table = clustering.confusion(clusters, labels)
    np.testing.assert_array_equal(table, sklearn.metrics.confusion_matrix(named, labels, labels=range(num_classes)))
    names = np.random.RandomState(3).permutation(50)
    np.testing.assert_array_equal(clustering.confusion(names[clusters], labels), table)
    assert np.trace(table) / table.sum() == pytest.approx(purity(clusters, labels))


def test_confusion_with_classes_and_clusters_that_only_one_side_has():
    fit, scored = ([0, 0, 1, 2], [0, 0, 2, 5]), ([0, 1, 1, 3], [0, 2, 4, 4])  # classes 0 2 4 5; cluster 3 has no name
    table = [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert clustering.confusion(*scored, fit=fit).tolist() == table
    poisoned = scored[0], [0, 2, 2, 2]
    assert clustering.confusion(*poisoned, fit=fit).sum(1).tolist() == [1, 2, 0], "scored labels decide no name"


@pytest.mark.parametrize(
    "shares, num_clusters, chance",  # as simulated for the reference: MNIST, 3DShapes' shape and colour
    [([0.1] * 10, 25, 0.126), ([0.25] * 4, 20, 0.32), ([0.25] * 4, 60, 0.38), ([0.1] * 10, 20, 0.17)],
)
def test_chance_of_purity_is_that_of_random_clusters(shares, num_clusters, chance):
    count = 10_000 if num_clusters == 25 else 960
    rng = np.random.default_rng(0)
    labels = rng.choice(len(shares), p=shares, size=count)
    random = [purity(rng.integers(num_clusters, size=count), labels) for _ in range(20)]
    found = clustering.purity_chance(rng.integers(num_clusters, size=count), labels)
    assert found == pytest.approx(np.mean(random), abs=0.01) and found == pytest.approx(chance, abs=0.012)
    assert clustering.purity_chance(labels, labels) < 0.3, "however good the clusters are"


def test_mutual_information_is_that_of_the_table():
    a, b = draw(6, 4)
    joint = contingency(a, b) / 300
    independent = joint.sum(1, keepdims=True) * joint.sum(0)
    by_hand = (joint * np.log(np.where(joint > 0, joint, 1) / independent)).sum()
    assert clustering.mutual_information(a, b) == clustering.mutual_information(b, a) == pytest.approx(by_hand)


def test_numbers_of_clusters():
    assert clustering.used(np.repeat([3, 5, 9], [990, 6, 4])) == 2
    probs = np.random.default_rng(0).dirichlet([0.3] * 7, size=500)
    mean = probs.mean(0)
    assert clustering.effective_number(probs) == pytest.approx(np.prod(mean**-mean))
    assert clustering.effective_number(np.eye(5)[[2, 2]]) == 1


@pytest.mark.parametrize("num_clusters, count", [(3, 4), (40, 10), (5, 200)])
def test_most_confident_members_are_those_of_brute_force(num_clusters, count):
    probs = np.random.default_rng(num_clusters).dirichlet([0.2] * num_clusters, size=150).round(2)  # ties too
    clusters, members = clustering.most_confident(probs, count)
    own, confidence = probs.argmax(1), probs.max(1)
    means = {k: confidence[own == k].mean() for k in set(own.tolist())}
    assert [means[k] for k in clusters] == pytest.approx(sorted(means.values(), reverse=True))
    for k, row in zip(clusters, members, strict=True):
        wanted = sorted(np.flatnonzero(own == k).tolist(), key=lambda n: (-confidence[n], n))[:count]
        assert row.tolist() == wanted + [-1] * (count - len(wanted))


def test_examples_in_the_docstrings():
    result = doctest.testmod(clustering)
    assert result.attempted > result.failed == 0


@pytest.mark.parametrize("width", [3, 300])
def test_k_means_finds_what_lies_apart_and_is_the_same_again(width):
    rng = np.random.default_rng(0)
    middles = 5 * rng.standard_normal((4, width))
    labels = rng.integers(4, size=400)
    vectors = middles[labels] + 0.1 * rng.standard_normal((400, width))
    assign = clustering.k_means(vectors[:200], 4, seed=3)
    assert cluster_accuracy(assign(vectors[200:]), labels[200:]) == 1
    np.testing.assert_array_equal(assign(vectors), clustering.k_means(vectors[:200], 4, seed=3)(vectors))
    assert len(np.unique(clustering.k_means(vectors[:3], 10)(vectors))) == 3, "at most as many as vectors"


def test_k_means_on_pixels_of_digits_has_more_majority_and_no_more_ami_with_more_clusters():
    digits = load_digits()
    train, test = np.arange(0, 1797, 2), np.arange(1, 1797, 2)
    found = {}
    for num_clusters in (10, 60):
        assign = clustering.k_means(digits.data[train], num_clusters)
        fit = assign(digits.data[train]), digits.target[train]
        found[num_clusters] = clustering.scores(assign(digits.data[test]), digits.target[test], fit)
    gain = {name: found[60][name] - found[10][name] for name in found[10]}
    assert gain["cluster_accuracy_majority"] > 0.1 and gain["cluster_accuracy_hungarian"] < 0 and gain["ami"] < 0
