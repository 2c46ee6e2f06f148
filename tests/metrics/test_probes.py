import doctest
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from tests.annotations import unchecked
from vae_zoo.metrics import probes
from vae_zoo.metrics.probes import block_factor_matrix, period_of, probe

TRAIN, TEST = 2000, 1000
KINDS = ["categorical", "ordered", "continuous", "circular"]


@dataclass
class Factor:
    name: str
    size: int
    kind: str


FACTORS = [Factor("shape", 3, "categorical"), Factor("angle", 40, "circular"), Factor("place", 32, "ordered")]


def draw(size=10, num=TRAIN, seed=0):
    return np.random.RandomState(seed).randint(size, size=num)


def noise(num=TRAIN, dims=4, seed=1):
    return np.random.RandomState(seed).randn(num, dims)


def options(kind, size=10):
    return {"kind": kind, "period": size if kind == "circular" else None}


def of_code(code, kind, size=10, **more):
    """What is read of a target from code(target) [N, D]."""
    y, y_test = draw(size), draw(size, TEST, 7)
    return probe((code(y, 0), y), (code(y_test, 1), y_test), **options(kind, size), **more)


@pytest.mark.parametrize("kind", KINDS)
def test_an_exact_code_reads_one_and_noise_zero(kind):
    exact = of_code(lambda y, seed: np.stack([-3.0 * y + 5, noise(len(y), 1, seed)[:, 0]], axis=1), kind)
    assert 0.98 < exact <= 1
    assert 0 <= of_code(lambda y, seed: noise(len(y), seed=seed), kind) < 0.05


def test_linear_probes_read_what_is_linear():
    def one_hot(y, _):
        return np.eye(10)[y]

    def angle(y, _):
        return np.stack([np.sin(2 * np.pi * y / 10), np.cos(2 * np.pi * y / 10)], axis=1)

    def square(y, _):
        return (y[:, None] - 4.5) ** 2

    assert of_code(one_hot, "categorical", hidden=None) == 1
    assert of_code(angle, "circular", hidden=None) > 0.999
    assert of_code(lambda y, _: y[:, None], "ordered", hidden=None) > 0.999
    assert of_code(square, "ordered", hidden=None) < 0.05  # the lower and upper half look alike
    assert of_code(lambda y, _: y[:, None], "circular", hidden=None) < 0.7  # a line is no circle


def test_a_score_is_corrected_for_chance():
    """A code that tells class 1 of 9:1 data from nothing else reads 0, though 90 % are right."""
    y, y_test = (draw(10, num, seed) == 0 for num, seed in ((TRAIN, 0), (TEST, 1)))
    assert probe((noise(), y.astype(int)), (noise(TEST), y_test.astype(int)), kind="categorical") < 0.05
    half = of_code(lambda y, _: (y % 3 == 1)[:, None] * 1.0, "categorical", 3)
    assert half == pytest.approx(0.5, abs=0.06)  # 2 of 3 right, 1 of 3 by chance


def test_majority_is_named_by_train_and_scored_on_test():
    y, y_test = np.repeat([0, 1], [1500, 500]), np.repeat([0, 1], [200, 800])
    read = probe((np.zeros((TRAIN, 1)), y), (np.zeros((TEST, 1)), y_test), kind="categorical")
    assert read == 0  # names 0 as the majority does; by the test rows' majority it would be far below it
    x_test = np.where(np.arange(TEST) < 600, y_test, 1 - y_test)[:, None]
    exact = probe((y[:, None], y), (x_test, y_test), kind="categorical")
    assert exact == pytest.approx((0.6 - 0.2) / (1 - 0.2))


@pytest.mark.parametrize("kind", KINDS)
def test_targets_of_one_value_and_unknown_targets(kind):
    x, y, x_test, y_test = noise(), draw(), noise(TEST), draw(num=TEST)
    assert np.isnan(probe((x, y), (x_test, 0 * y_test), **options(kind)))
    assert probe((x, 0 * y), (x_test, y_test), **options(kind)) == 0
    unknown = np.nan if kind == "continuous" else -1
    assert np.isnan(probe((x, np.full(TRAIN, unknown)), (x_test, y_test), **options(kind)))
    assert np.isnan(probe((x, y), (x_test, np.full(TEST, unknown)), **options(kind)))
    x, x_test = y[:, None] + 0.1 * x, y_test[:, None] + 0.1 * x_test
    some, some_test = np.arange(TRAIN) % 3 > 0, np.arange(TEST) % 2 > 0
    hidden, hidden_test = np.where(some, y, unknown), np.where(some_test, y_test, unknown)
    known = probe((x[some], y[some]), (x_test[some_test], y_test[some_test]), **options(kind))
    assert probe((x, hidden), (x_test, hidden_test), **options(kind)) == known


def test_poisoned_test_labels_do_not_reach_the_probe():
    """Each poisoned label that was read right costs exactly itself: the probe's answers are the same."""
    y, y_test = draw(4), draw(4, TEST, 7)
    x, x_test = y[:, None] + 0.3 * noise(), y_test[:, None] + 0.3 * noise(TEST)
    read = probes._fit(x, y[:, None], "categorical", 128, 0).predict(x_test)
    majority = np.bincount(y).argmax()
    for poisoned in (0, 1, 300, TEST):
        labels = y_test.copy()
        labels[:poisoned] = (labels[:poisoned] + 1) % 4
        chance = np.mean(labels == majority)
        expected = max(0, (np.mean(read == labels) - chance) / (1 - chance))
        assert probe((x, y), (x_test, labels), kind="categorical") == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_training_labels_teach(kind):
    def code(y):
        return np.eye(10)[y]

    def wrong(y):
        return (y + 5) % 10  # in every kind worse than the mean

    y, y_test = draw(), draw(num=TEST, seed=7)
    assert probe((code(y), y), (code(y_test), wrong(y_test)), **options(kind)) == 0
    assert probe((code(y), wrong(y)), (code(y_test), y_test), **options(kind)) == 0
    renamed, renamed_test = (np.random.RandomState(4).permutation(10)[v] for v in (y, y_test))
    assert probe((code(y_test), renamed_test), (code(y), renamed), **options(kind)) > 0.95  # roles swapped


@pytest.mark.parametrize("hidden", [128, None])
def test_scale_and_shift_of_a_code_change_nothing(hidden):
    y, y_test = draw(6), draw(6, TEST, 7)
    x, x_test = y[:, None] + 2 * noise(), y_test[:, None] + 2 * noise(TEST)
    scale, shift = np.array([2.0**-20, -4, 2.0**10, 1]), np.array([0, 100, 0, -3])
    for kind in ("categorical", "ordered"):
        before = probe((x, y), (x_test, y_test), kind=kind, hidden=hidden)
        after = probe((x * abs(scale), y), (x_test * abs(scale), y_test), kind=kind, hidden=hidden)
        moved = probe((x * scale + shift, y), (x_test * scale + shift, y_test), kind=kind, hidden=hidden)
        assert before == after and moved == pytest.approx(before, abs=0.03)


def test_the_seed_decides():
    y, y_test = draw(4), draw(4, TEST, 7)
    rows = (y[:, None] + noise(), y), (y_test[:, None] + noise(TEST), y_test)
    first = probe(*rows, kind="categorical", seed=0)
    np.random.rand(3)  # the global state takes no part
    assert probe(*rows, kind="categorical", seed=0) == first != probe(*rows, kind="categorical", seed=1)


def test_rare_classes_and_few_rows():
    y = np.arange(50)  # a class for each row, none of which can be held out
    assert probe((y[:, None], y), (y[:, None], y), kind="categorical") >= 0
    assert probe((y[:5, None], y[:5]), (y[:, None], y), kind="ordered") >= 0
    y = np.where(draw(100) == 0, 1, 0)  # one-hot codes of a rare class are far from the mean, and cut
    assert probe((np.eye(2)[y], y), (np.eye(2)[y], y), kind="categorical") == 1
    outlier = noise(TEST) * 1e30
    assert probe((noise(), draw(3)), (outlier, draw(3, TEST)), kind="ordered") == 0


def test_circular_periods():
    assert period_of(Factor("hue", 10, "circular")) == 10
    assert period_of(Factor("phase", 0, "circular")) == 2 * np.pi
    assert period_of(Factor("size", 10, "ordered")) is None
    orientation = Factor("orientation", 40, "circular")
    orientation.period = 39  # as in dSprites, whose first and last picture are one
    assert period_of(orientation) == 39
    y, y_test = draw(40), draw(40, TEST, 7)
    x, x_test = (np.exp(2j * np.pi * v / 39) for v in (y, y_test))
    x, x_test = (np.stack([v.real, v.imag], axis=1) for v in (x, x_test))
    reads = [probe((x, y), (x_test, y_test), kind="circular", period=period, hidden=None) for period in (39, 40)]
    assert reads[0] > 0.9999 and reads[1] > 0.99
    assert probe((y[:, None] % 2, y % 2), (y[:, None] % 2, y % 2), kind="circular", period=2) > 0.99  # sine: all 0


def grid(num, seed):
    rng = np.random.RandomState(seed)
    return np.stack([rng.randint(factor.size, size=num) for factor in FACTORS], axis=1)


def blocks(factors, seed):
    """`content` holds shape and place, `style` the angle."""
    angle = 2 * np.pi * factors[:, 1:2] / 40
    return {
        "content": factors[:, [0, 2]] + 0.01 * noise(len(factors), 2, seed),
        "style": np.hstack([np.sin(angle), np.cos(angle)]),
    }


def test_block_factor_matrix_shows_which_block_holds_which_factor():
    train, test = grid(TRAIN, 0), grid(TEST, 1)
    codes, test_codes = blocks(train, 0), blocks(test, 1)
    matrix = block_factor_matrix(codes, train, test_codes, test, FACTORS)
    assert matrix.shape == (2, 3)
    np.testing.assert_allclose(matrix, [[1, 0, 1], [0, 1, 0]], atol=0.05)

    one = block_factor_matrix(
        {"style": torch.from_numpy(codes["style"])},
        train[:, 1:2],
        {"style": test_codes["style"]},
        test[:, 1:2],
        FACTORS[1:2],
    )
    assert one[0, 0] == matrix[1, 1]  # whatever other blocks and factors there are


def test_wide_codes_are_reduced_by_components_of_the_training_rows():
    mixing = np.random.RandomState(5).randn(4, 300)
    train, test = grid(500, 0), grid(200, 1)
    x, x_test = (noise(len(f), 3, 2) @ mixing[1:] + f[:, 2:] * mixing[0] for f in (train, test))
    x_small, x_test_small = probes._reduced(x, x_test, 0)
    assert x_small.shape == (500, 64) and x_test_small.shape == (200, 64)
    expected = PCA(4).fit(x).transform(x_test)
    np.testing.assert_allclose(abs(x_test_small[:, :4]), abs(expected), rtol=1e-3, atol=1e-3)
    few = probes._reduced(x, x_test[:7], 0)[1]
    np.testing.assert_allclose(few, x_test_small[:7], rtol=0, atol=1e-3)  # test rows take no part, but for BLAS's rounding
    wide = block_factor_matrix({"pixels": x.reshape(500, 1, 30, 10)}, train, {"pixels": x_test}, test, FACTORS, hidden=None)
    assert wide[0, 2] > 0.95


@unchecked()
def test_refusals():
    x, y = noise(), draw()
    with pytest.raises(ValueError, match="period"):
        probe((x, y), (x, y), kind="circular")
    with pytest.raises(ValueError, match="kind must be"):
        probe((x, y), (x, y), kind="nominal")
    with pytest.raises(ValueError, match="the same width"):
        probe((x, y), (x[:, :1], y), kind="ordered")
    with pytest.raises(ValueError, match="equal N"):
        probe((x, y[:5]), (x, y), kind="ordered")
    with pytest.raises(ValueError, match="finite"):
        probe((x * np.inf, y), (x, y), kind="ordered")
    with pytest.raises(ValueError, match="same blocks"):
        block_factor_matrix({"z": x}, y[:, None], {"u": x}, y[:, None], FACTORS[:1])
    with pytest.raises(ValueError, match="a column for each"):
        block_factor_matrix({"z": x}, y, {"z": x}, y, FACTORS[:1])


def test_examples():
    assert doctest.testmod(probes).failed == 0
