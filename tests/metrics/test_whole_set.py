"""The official scores of whole data sets: their values for codes that are known, on the factors of dSprites."""

import numpy as np
import pytest

from vae_zoo.metrics import whole_set

SIZES = (3, 6, 40, 32, 32)  # shape, scale, orientation, x, y


@pytest.fixture(scope="module")
def factors():
    """Those of 150,000 images in a random order."""
    places = np.random.default_rng(0).permutation(np.prod(SIZES))[:150_000]
    return np.stack(np.unravel_index(places, SIZES), axis=1)


def perfect(factors):
    return (factors / (np.array(SIZES) - 1)).astype(np.float32)


# Values: measured with the official code, shared/reference/partedvae.md section 5
@pytest.mark.parametrize("columns, value", [([0, 1, 2, 3, 4], 1.0), ([0, 1, 2, 3, 4, 0, 1], 1.0), ([3, 4], 0.4)])
def test_votes_of_a_perfect_code(factors, columns, value):
    assert whole_set.factor_votes(perfect(factors)[:, columns], factors) == pytest.approx(value, abs=5e-3)


def test_votes_of_noise_are_near_chance(factors):
    noise = np.random.default_rng(1).normal(size=(100_000, 5)).astype(np.float32)
    assert whole_set.factor_votes(noise, factors[:100_000]) == pytest.approx(0.205, abs=0.02)


def test_collapsed_dimensions_lose_their_votes_and_constant_ones_get_none(factors):
    few, codes = factors[:60_000], perfect(factors[:60_000])
    constant = np.hstack([codes, np.ones((len(codes), 1), np.float32)])
    assert whole_set.factor_votes(constant, few) == 1.0
    assert whole_set.factor_votes(codes * np.float32(0.01), few) != whole_set.factor_votes(codes, few)
    assert np.isnan(whole_set.factor_votes(codes * np.float32(0.01), few))
    assert np.isnan(whole_set.factor_votes(codes[:90], few[:90])), "no value has a chunk"


def test_pairs_tell_the_factor_of_a_perfect_code_and_not_of_noise(factors):
    few = factors[:120_000]
    train, test = whole_set.beta_pairs(perfect(few), few)
    assert train > 0.95 and test > 0.95
    noise = np.random.default_rng(1).normal(size=few.shape)
    assert whole_set.beta_pairs(noise, few)[1] < 0.5
    assert np.isnan(whole_set.beta_pairs(perfect(few[:300]), few[:300])).all()


def test_gap_is_that_of_the_two_best_dimensions():
    rng = np.random.default_rng(0)
    factors = rng.integers(2, size=(1500, 1))
    half = np.where(rng.random(1500) < 0.5, factors[:, 0], rng.integers(2, size=1500))  # right for three quarters
    codes = np.stack([factors[:, 0], half, rng.normal(size=1500)], 1).astype(np.float32)
    assert whole_set.sap_classes(codes, factors) == pytest.approx(0.25, abs=0.07)


@pytest.mark.slow
def test_gap_of_a_perfect_code_of_dsprites(factors):
    """The reference's ceiling is that of codes of variance 1; regularised classifiers give less to narrower codes."""
    code = perfect(factors)
    assert 0.235 < whole_set.sap_classes((code - code.mean(0)) / code.std(0), factors) < 0.265
    assert 0.2 < whole_set.sap_classes(code, factors) < 0.235
