"""Columns of a user's tables and arrays as labels, groups, splits and factors."""

import numpy as np
import pytest

from vae_zoo.data.storage.table import fields_of, labels, splits, with_label
from vae_zoo.utils.errors import UserError


def column(*values):
    return np.array(values, dtype=object)


@pytest.mark.parametrize(
    ("values", "wanted", "classes"),
    [
        (column("0", "2", "1", ""), [0, 2, 1, -1], 3),
        (column("0.0", "1.0", ""), [0, 1, -1], 2),
        (column("10", "30", "20"), [0, 2, 1], 3),
        (column("dog", "", "cat", "dog"), [1, -1, 0, 1], 2),
        (np.array([3, -1, 0]), [1, -1, 0], 2),
        (np.array([[0, 4], [1, -1]]), [[0, 4], [1, -1]], 5),
        (np.array(["b", "a"]), [1, 0], 2),
        (np.array([True, False]), [1, 0], 2),
    ],
)
def test_labels_are_numbered_from_0_and_unknown_ones_are_minus_1(values, wanted, classes):
    found, number = labels(values, "label")
    assert found.tolist() == wanted and number == classes


def test_splits_have_names_or_numbers():
    assert splits(column("train", "validation", "val", "test"), "split").tolist() == [0, 1, 1, 2]
    assert splits(np.array([b"train", b"test"]), "split").tolist() == [0, 2]
    assert splits(np.array([2, 0, 1]), "split").tolist() == [2, 0, 1]
    with pytest.raises(UserError, match="got '3'"):
        splits(np.array([0, 3]), "split")


def test_kinds_of_factors_are_guessed_from_their_values_or_given():
    rng = np.random.default_rng(0)
    columns = {
        "text": np.array(["b", "a"] * 50),
        "whole": np.arange(100) % 7 * 2,
        "grid": np.arange(100) % 5 / 4,
        "real": rng.random(100),
        "many": np.arange(100),
        "one": np.ones(100),
        "angle": rng.random(100),
        "forced": np.arange(100) % 3,
    }
    fields = fields_of(columns, "", {"angle": "circular", "forced": "continuous"})
    info = {f.name: (f.size, f.kind) for f in fields["factor_info"]}
    assert info == {
        "text": (2, "categorical"),
        "whole": (7, "ordered"),
        "grid": (5, "ordered"),
        "real": (0, "continuous"),
        "many": (100, "ordered"),
        "angle": (0, "circular"),
        "forced": (0, "continuous"),
    }
    values = dict(zip(info, fields["factors"].T))
    assert values["text"].tolist() == [1, 0] * 50 and values["whole"].tolist() == (np.arange(100) % 7).tolist()
    assert np.array_equal(values["real"], columns["real"])


def test_groups_are_numbered_and_unknown_ones_are_minus_1():
    assert fields_of({"group": column("b", "", "a", "b")}, "", {})["groups"]["group"].tolist() == [2, -1, 1, 2]
    assert fields_of({"group": np.array([7, -1, 7])}, "", {})["groups"]["group"].tolist() == [1, -1, 1]


def test_without_a_label_the_first_categorical_factor_is_one():
    columns = {"x": np.arange(6), "shape": np.array(["b", "a"] * 3), "real": np.random.default_rng(0).random(6)}
    fields = with_label(fields_of(columns, "", {}))
    assert fields["label"].tolist() == [1, 0] * 3 and fields["num_classes"] == 2
    assert with_label({"label": 1} | fields_of(columns, "", {}))["label"] == 1
    assert "label" not in with_label(fields_of({"real": columns["real"]}, "", {}))


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (column("12_3", "1_23", "4_5", ""), [0, 1, 2, -1]),  # no numbers, though Python reads them as such
        (column("anna", "-1", "", "anna"), [0, -1, -1, 0]),
        (np.array([100000000000000001, 100000000000000002, -1]), [0, 1, -1]),
        (column("100000000000000001", "100000000000000002", ""), [0, 1, -1]),
        (np.array([-5, -5, 3, -1]), [0, 0, 1, -1]),
        (np.array([1.5, np.nan, 2.5]), [0, -1, 1]),
    ],
)
def test_different_groups_stay_different(values, wanted):
    group = fields_of({"group": values}, "", {})["groups"]["group"]
    known = sorted({*group.tolist()} - {-1})
    assert [-1 if g < 0 else known.index(g) for g in group.tolist()] == wanted


def test_a_text_label_of_minus_1_is_unknown():
    found, number = labels(column("cat", "-1", "", "dog", "1_1", "11"), "label")
    assert found.tolist() == [2, -1, -1, 3, 1, 0] and number == 4
