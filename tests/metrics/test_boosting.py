"""The trees are those of scikit-learn, an independent implementation."""

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.tree import DecisionTreeRegressor

from tests.annotations import unchecked
from vae_zoo.metrics.boosting import Node, boost, grow


def rows(kind: str, num: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    codes = rng.standard_normal((num, 4)).astype(np.float32)
    if kind == "ties":
        codes = np.round(2 * codes) / 2
    if kind == "drawn twice":
        codes[num // 2 :] = codes[: num - num // 2]
    if kind == "nearly equal":
        codes[:, 1] = np.round(codes[:, 1]) + 3e-8 * rng.integers(0, 3, num)
    if kind == "constant column":
        codes[:, 2] = 1.5
    return codes


KINDS = ["continuous", "ties", "drawn twice", "nearly equal", "constant column"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_is_that_of_scikit_learn(kind, num=400):
    codes, test = rows(kind, num), np.random.default_rng(1).standard_normal((300, 4)).astype(np.float32)
    residual = np.random.default_rng(2).standard_normal(num) + codes[:, 0]  # no two splits have the same gain
    x = np.ascontiguousarray(codes.T)
    root = Node(x.argsort(1, kind="stable"), np.arange(len(test)))
    leaves, gains = grow(x, np.ascontiguousarray(test.T), root, residual, np.random.default_rng(0))
    tree = DecisionTreeRegressor(max_depth=3, random_state=0).fit(codes, residual)
    for part, wanted in zip(zip(*leaves), (tree.apply(codes), tree.apply(test))):
        found = np.empty_like(wanted)
        for leaf, members in enumerate(part):
            found[members] = leaf
        assert sum(map(len, part)) == len(wanted)
        pairs = set(zip(found, wanted))
        assert len(pairs) == len({*found}) == len({*wanted}), "the same rows are in one leaf"
    np.testing.assert_allclose(gains / num, tree.tree_.compute_feature_importances(normalize=False), atol=1e-10)


@pytest.mark.parametrize("num_classes", [2, 3, 6])
def test_a_classifier_agrees_with_that_of_scikit_learn(num_classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, 4000) * 10 - 5  # classes need not be 0 .. K - 1
    codes = (rng.standard_normal((4000, 4)) + labels[:, None] / 10 * [1, 0.6, 0.3, 0]).astype(np.float32)
    train, test = slice(3000), slice(3000, None)
    with unchecked():
        found = boost(codes[train], labels[train], codes[test])
    wanted = GradientBoostingClassifier(random_state=0).fit(codes[train], labels[train])
    np.testing.assert_allclose(found.importance, wanted.feature_importances_, atol=0.005)
    assert found.importance.sum() == pytest.approx(1)
    predicted, label = wanted.predict(codes[test]), labels[test]
    assert (found.predicted == predicted).mean() > 0.95
    assert (found.predicted == label).mean() == pytest.approx((predicted == label).mean(), abs=0.02)


def test_the_number_of_threads_changes_nothing():
    labels, codes = np.arange(60) % 3, rows("ties", 60)
    with unchecked():
        one, two, again = (boost(codes, labels, codes, seed, jobs) for seed, jobs in ((0, 1), (0, 2), (1, 1)))
    np.testing.assert_array_equal(one.importance, two.importance)
    np.testing.assert_array_equal(one.predicted, two.predicted)
    assert (one.importance != again.importance).any(), "of splits of equal gain another one"


def test_equal_columns_share_their_importance():
    labels = np.arange(200) % 2
    column = labels + 0.8 * np.random.default_rng(0).standard_normal(200)
    with unchecked():
        importance = boost(np.stack([column, column], 1), labels, np.zeros((1, 2))).importance
    assert importance.min() > 0.35 and importance.sum() == pytest.approx(1)


def test_two_rows_are_enough():
    found = boost(np.array([[0.0, 5.0], [1.0, 5.0]]), np.array([4, 7]), np.array([[0.4, 5.0], [0.6, 5.0]]))
    assert found.importance.tolist() == [1, 0] and found.predicted.tolist() == [4, 7]


def test_without_a_split_the_most_frequent_class_is_predicted():
    found = boost(np.ones((5, 2)), np.array([3, 1, 1, 2, 1]), np.zeros((4, 2)))
    assert found.importance.tolist() == [0, 0] and found.predicted.tolist() == [1] * 4


def test_a_draw_of_two_classes_is_decided_as_by_scikit_learn():
    codes, labels = np.ones((6, 2)), np.arange(6) % 2
    wanted = GradientBoostingClassifier().fit(codes, labels).predict(codes)
    assert boost(codes, labels, codes).predicted.tolist() == wanted.tolist()
