"""Every value of shared/metrics_parity, made by disentanglement_lib itself (its README.md), within its tolerances."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.annotations import unchecked
from vae_zoo.metrics import (
    GridIndex,
    explicitness,
    irs,
    mig,
    modularity,
    sample_factors,
    sap,
    unsupervised_scores,
)
from vae_zoo.metrics.boosting import boost
from vae_zoo.metrics.disentanglement import _beta_vae, _dci_scores, _factor_vae

FOLDER = Path(__file__).parents[3] / "shared" / "metrics_parity"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no {FOLDER}")
EXPECTED = json.loads((FOLDER / "expected.json").read_text()) if FOLDER.is_dir() else {"cases": {}, "meta": {}}
TOLERANCE = EXPECTED["meta"].get("suggested_tolerance", {})
SLOW = pytest.mark.slow
SEEDS = [0, *(pytest.param(seed, marks=SLOW) for seed in range(1, 5))]
# perfect codes without the reference's numbers: test_disentanglement.py
CASES = [pytest.param(name, marks=SLOW) if name == "perfect" else name for name in EXPECTED["cases"]]
entangled = pytest.mark.parametrize("case", CASES, indirect=True)


@pytest.fixture(scope="module", params=list(EXPECTED["cases"]))
def case(request):
    """(expected values, codes of the whole grid, the grid): the encoder of the README, in closed form."""
    with np.load(FOLDER / f"{request.param}.npz") as stored:
        c = dict(stored)
    grid = GridIndex(c["factor_sizes"])
    factors = np.stack(np.unravel_index(np.arange(np.prod(grid.factor_sizes)), grid.factor_sizes), axis=1)
    noise = np.random.RandomState(int(c["noise_seed"])).standard_normal(tuple(c["noise_shape"]))
    z = (factors - c["factor_mean"]) / c["factor_std"] @ c["matrix"].T + c["bias"] + c["noise_std"] * noise
    step = c["quant_step"]
    z = np.where(step > 0, np.floor(z / np.where(step > 0, step, 1) + 0.5) * step, z).astype(np.float32)
    with np.load(FOLDER / "factors.npz") as f:
        np.testing.assert_array_equal(z[grid.render(f["train_seed0"])], c["codes_train"])
        np.testing.assert_array_equal(z[grid.render(f["test_seed0"])], c["codes_test"])
    return EXPECTED["cases"][request.param], z, grid


def rows(case, seed):
    """Codes and factors of the training rows, then of the test rows: one stream of draws."""
    _, z, grid = case
    rng = np.random.RandomState(seed)
    train, test = (sample_factors(grid.factor_sizes, num, rng) for num in (10_000, 5_000))
    with np.load(FOLDER / "factors.npz") as f:
        np.testing.assert_array_equal(train, f[f"train_seed{seed}"])
        np.testing.assert_array_equal(test, f[f"test_seed{seed}"])
    return z[grid.render(train)], train, z[grid.render(test)], test


def agrees(case, seed, tolerance, **values):
    for name, value in values.items():
        assert value == pytest.approx(case[0][name]["values"][seed], abs=tolerance), name


@pytest.mark.parametrize("seed", SEEDS)
def test_scores_of_rows(case, seed):
    codes, factors, test_codes, test_factors = rows(case, seed)
    agrees(case, seed, TOLERANCE["mig"], mig=mig(codes, factors))
    agrees(case, seed, TOLERANCE["modularity"], modularity=modularity(codes, factors))
    agrees(case, seed, TOLERANCE["irs"], irs=irs(codes, factors))
    agrees(case, seed, TOLERANCE["sap"], sap=sap(codes, factors, test=(test_codes, test_factors)))
    agrees(case, seed, TOLERANCE["sap_continuous"], sap_continuous=sap(codes, factors, continuous=True))
    agrees(case, seed, 1e-5, **unsupervised_scores(codes))


@SLOW  # 4 s: test_disentanglement.py compares it with scikit-learn on fewer rows
@entangled
@pytest.mark.parametrize("seed", range(5))
def test_explicitness(case, seed):
    codes, factors, *test = rows(case, seed)
    both = {"train": (codes, factors), "test": tuple(test)}
    scores = {f"explicitness_{name}": explicitness(codes, factors, test=rows) for name, rows in both.items()}
    agrees(case, seed, TOLERANCE["explicitness"], **scores)


@entangled
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("name", "prune"), [("factor_vae", 0.05), pytest.param("factor_vae_no_pruning", 0.0, marks=SLOW)])
def test_factor_vae(case, seed, name, prune):
    train, evaluation = _factor_vae(case[1].__getitem__, case[2], seed, 10_000, 5_000, 64, 10_000, prune)
    agrees(case, seed, TOLERANCE["factor_vae_same_rng"], **{f"{name}_train": train, f"{name}_eval": evaluation})


@SLOW  # 5 s: test_disentanglement.py compares it with its definition on fewer pairs
@entangled
@pytest.mark.parametrize("seed", range(5))
def test_beta_vae(case, seed):
    train, evaluation = _beta_vae(case[1].__getitem__, case[2], seed, 10_000, 5_000, 64)
    agrees(case, seed, TOLERANCE["beta_vae_same_rng"], beta_vae_train=train, beta_vae_eval=evaluation)


@SLOW
@pytest.mark.parametrize(("size", "num"), [("small", 1000), ("full", 10_000)])
def test_dci(case, size, num):
    """Splits of equal gain are chosen at random, in the reference by other random numbers."""
    expected = case[0][f"dci_{size}"]
    for i, seed in enumerate(expected["seeds"]):
        codes, factors, test_codes, test_factors = (
            part[: num // (1, 1, 2, 2)[j]] for j, part in enumerate(rows(case, seed))
        )
        with unchecked():  # millions of small steps
            found = [boost(codes, f, np.concatenate([codes, test_codes]), seed) for f in factors.T]
        importance = np.stack([one.importance for one in found], axis=1)
        right = np.stack([one.predicted for one in found], axis=1) == np.concatenate([factors, test_factors])
        scores = _dci_scores(importance) | {
            "informativeness_train": right[:num].mean(),
            "informativeness_test": right[num:].mean(),
        }
        for name, value in scores.items():
            assert value == pytest.approx(expected[name]["values"][i], abs=0.003 if num == 10_000 else 0.01), name
        if seed == 0:
            np.testing.assert_allclose(importance, case[0]["detail_seed0"][f"dci_{size}_importance"], atol=0.01)
