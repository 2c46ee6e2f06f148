import doctest
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.ensemble import ExtraTreesClassifier, GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score, roc_auc_score
from sklearn.svm import LinearSVC

from tests.annotations import unchecked
from vae_zoo.metrics import (
    CodeTable,
    FactorSample,
    GridIndex,
    beta_vae_score,
    dci,
    disentanglement,
    explicitness,
    factor_vae_score,
    irs,
    mig,
    modularity,
    modules,
    sample_factors,
    sap,
    udr,
    unsupervised_scores,
)
from vae_zoo.metrics.boosting import boost

DSPRITES = (3, 6, 40, 32, 32)
SMALL = (3, 4, 6)  # the grid of the tests that need many fits
ON_ROWS = [mig, modularity, irs, sap, explicitness, dci]


def draw(sizes=SMALL, num=600, seed=0):
    """Training and test factors, drawn as the reference does."""
    rng = np.random.RandomState(seed)
    return sample_factors(sizes, num, rng), sample_factors(sizes, num // 2, rng)


def grid(sizes=SMALL):
    return np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1)


def mixed(factors, dims=5, seed=0):
    rng = np.random.RandomState(seed)
    codes = factors @ rng.standard_normal((factors.shape[1], dims)) + 0.3 * rng.standard_normal((len(factors), dims))
    return codes.astype(np.float32)


def rows_scores(codes, factors, test_codes, test_factors):
    """Every metric of rows, by name; of DCI's 100 rounds of boosting five."""
    test = (test_codes, test_factors)
    boosting = GradientBoostingClassifier(n_estimators=5)
    return {
        "mig": mig(codes, factors),
        "modularity": modularity(codes, factors),
        "irs": irs(codes, factors),
        "sap": sap(codes, factors, test=test),
        "sap_continuous": sap(codes, factors, continuous=True),
        "explicitness": explicitness(codes, factors, test=test),
    } | dci(codes, factors, test=test, estimator=boosting, jobs=1)


def grid_scores(table, sizes=SMALL, votes=500, **kwargs):
    encode, data = np.asarray(table).__getitem__, GridIndex(sizes)
    few = {"num_train": votes, "num_eval": votes} | kwargs
    return {name: f(encode, data, **few) for name, f in (("factor", factor_vae_score), ("beta", beta_vae_score))}


# -- known answers ----------------------------------------------------------------------------------------------------


def test_index_codes_are_perfect():
    factors, test = draw(num=2000)
    scores = rows_scores(factors, factors, test, test)
    assert min(scores["modularity"], scores["sap_continuous"]) >= 0.999
    assert min(scores["disentanglement"], scores["completeness"], scores["informativeness"]) >= 0.98
    assert scores["explicitness"] > 0.9
    assert scores["irs"] == 1
    assert grid_scores(grid()) == {"factor": 1, "beta": 1}


@pytest.mark.parametrize(("seed", "ceiling"), [(0, 0.8957), (1, 0.8955)])
def test_mig_of_index_codes_on_dsprites_is_its_20_bin_ceiling(seed, ceiling):
    factors = draw(DSPRITES, 10_000, seed)[0]
    assert mig(factors, factors) == pytest.approx(ceiling, abs=5e-5)
    assert mig(-factors, factors) == pytest.approx(ceiling, abs=5e-5)


def test_mig_ceiling_in_closed_form():
    factors = grid((40, 32))  # every combination once: no sampling noise
    ceiling = [entropy(np.histogram(np.arange(n), 20)[0]) / np.log(n) for n in (40, 32)]
    assert mig(factors, factors) == pytest.approx(np.mean(ceiling))
    assert ceiling == pytest.approx([0.812, 0.850], abs=5e-4)


@pytest.mark.parametrize("value", [0.0, 0.3, [0.3, -1.7, 0.1, 5.0]])
def test_constant_codes_score_chance(value):
    factors, test = draw()
    codes = np.zeros((600, 4), np.float32) + np.float32(value)
    scores = rows_scores(codes, factors, codes[:300], test)
    assert {k: v for k, v in scores.items() if v} == {"explicitness": 0.5, "informativeness": scores["informativeness"]}
    table = np.zeros((72, 4), np.float32) + np.float32(value)
    for prune in (0.05, 0.0):
        assert factor_vae_score(table.__getitem__, GridIndex(SMALL), num_train=50, num_eval=50, prune=prune) == 0
    chance = beta_vae_score(table.__getitem__, GridIndex(SMALL), num_train=3000, num_eval=3000)
    assert chance == pytest.approx(1 / 3, abs=0.03)


def test_duplicated_codes():
    factors, test = draw(DSPRITES, 2000)
    codes, test_codes = np.repeat(factors, 2, axis=1), np.repeat(test, 2, axis=1)
    assert mig(codes, factors) == 0
    assert sap(codes, factors, test=(test_codes, test)) == 0
    assert sap(codes, factors, continuous=True) == pytest.approx(0, abs=1e-12)
    assert factor_vae_score(np.repeat(grid(), 2, 1).__getitem__, GridIndex(SMALL), num_train=300, num_eval=300) == 1


def test_a_constant_dimension_does_not_hurt_factor_vae_even_without_pruning():
    table = np.hstack([grid(), np.full((72, 1), 0.3)]).astype(np.float32)
    for prune in (0.0, 0.05):
        assert factor_vae_score(table.__getitem__, GridIndex(SMALL), num_train=300, num_eval=300, prune=prune) == 1


def test_a_constant_dimension_lowers_modularity_by_its_share_and_leaves_the_rest():
    factors, test = draw()
    more, more_test = np.hstack([factors, factors[:, :1] * 0 + 7]), np.hstack([test, test[:, :1] * 0 + 7])
    with_it, without = rows_scores(more, factors, more_test, test), rows_scores(factors, factors, test, test)
    assert with_it.pop("modularity") == pytest.approx(without.pop("modularity") * 3 / 4)
    with_it.pop("sap"), without.pop("sap"), with_it.pop("completeness"), without.pop("completeness")
    assert with_it == pytest.approx(without, abs=1e-3)


# -- invariances ------------------------------------------------------------------------------------------------------


def test_permuting_and_negating_dimensions_changes_nothing():
    factors, test = draw()
    codes, test_codes = mixed(factors), mixed(test)
    order, sign = [3, 0, 4, 2, 1], np.float32([1, -1, -1, 1, -1])
    before = rows_scores(codes, factors, test_codes, test)
    after = rows_scores((codes * sign)[:, order], factors, (test_codes * sign)[:, order], test)
    loose = {k: before.pop(k) for k in ("explicitness", "disentanglement", "completeness", "informativeness")}
    assert {k: after.pop(k) for k in before} == pytest.approx(before, abs=1e-6)
    assert after == pytest.approx(loose, abs=0.01)  # solver and ties between splits
    table = mixed(grid())
    assert grid_scores((table * sign)[:, order]) == pytest.approx(grid_scores(table), abs=0.005)


def test_factors_of_one_value_are_left_out():
    factors, test = draw()
    codes, test_codes = mixed(factors), mixed(test)
    padded = [np.insert(f, [0, 2], 0, axis=1) for f in (factors, test)]
    assert rows_scores(codes, padded[0], test_codes, padded[1]) == rows_scores(codes, factors, test_codes, test)
    assert grid_scores(mixed(grid()), (1, 3, 4, 1, 6)) == grid_scores(mixed(grid()), SMALL)


def test_factor_values_are_only_names_for_classes():
    factors, test = draw()
    codes, test_codes = mixed(factors), mixed(test)
    test[:, 0] = test[:, 0].clip(max=1)  # a class that the test rows lack
    names = np.array([-3.5, 0.25, 0.5, 7, 8, 9.5], np.float32)
    rows = (codes, factors, test_codes, test), (codes, names[factors], test_codes, names[test])
    before, after = (rows_scores(*r) for r in rows)
    before.pop("sap_continuous"), after.pop("sap_continuous"), before.pop("irs"), after.pop("irs")  # these use values
    assert before == after


@pytest.mark.parametrize("to", [torch.tensor, lambda x: torch.tensor(x, dtype=torch.float32).requires_grad_()])
def test_torch_tensors_give_the_same(to):
    factors, test = draw(num=300)
    codes, test_codes = mixed(factors), mixed(test)
    same = rows_scores(to(codes), torch.tensor(factors), to(test_codes), torch.tensor(test))
    assert same == rows_scores(codes, factors, test_codes, test)
    table = mixed(grid())
    torch_encode = to(table).__getitem__
    assert factor_vae_score(torch_encode, GridIndex(SMALL), num_train=50, num_eval=50) == factor_vae_score(
        table.__getitem__, GridIndex(SMALL), num_train=50, num_eval=50
    )


def test_half_precision_bools_and_integers_are_accepted():
    factors = draw()[0]
    assert mig(torch.tensor(factors).bfloat16(), factors) == mig(factors, factors) == mig(factors.astype(np.int8), factors)
    assert modularity(factors > 1, factors > 1) > 0.9


# -- against the definitions and scikit-learn -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bins_are_those_of_numpy_histogram(dtype):
    values = (mixed(draw()[0]) * [1, 1e-6, 1e6, 1, 0] + [0, 5, 0, -3, 0.3]).astype(dtype)
    values[:, 3] = values[:, 3].round(1)
    numpy = [np.digitize(v, np.histogram_bin_edges(v, 20)[:-1]) for v in values.T]
    np.testing.assert_array_equal(disentanglement._binned(values, 20), np.stack(numpy, axis=1))


def test_bins_of_a_range_below_the_precision_are_harmless():
    values = np.float32([1, 1, np.nextafter(np.float32(1), np.float32(2))])[:, None]
    assert len(np.unique(disentanglement._binned(values, 20))) == 2


def test_mig_and_modularity_equal_the_definition():
    factors = draw()[0]
    codes = mixed(factors)
    bins = disentanglement._binned(codes, 20)
    mi = np.array([[mutual_info_score(f, b) for f in factors.T] for b in bins.T])
    top = -np.sort(-mi, axis=0)
    gap = (top[0] - top[1]) / [mutual_info_score(f, f) for f in factors.T]
    assert mig(codes, factors) == pytest.approx(gap.mean())
    per_code = [1 - sum(m**2 for m in row if m != max(row)) / (max(row) ** 2 * 2) for row in mi]
    assert modularity(codes, factors) == pytest.approx(np.mean(per_code))


def test_sap_and_explicitness_equal_scikit_learn_with_its_defaults():
    factors, test = draw()
    codes, test_codes = mixed(factors), mixed(test)

    def accuracy(i, j):
        svm = LinearSVC(C=0.01, class_weight="balanced").fit(codes[:, [i]], factors[:, j])
        return svm.score(test_codes[:, [i]], test[:, j])

    top = -np.sort([[-accuracy(i, j) for i in range(5)] for j in range(3)], axis=1)
    assert sap(codes, factors, test=(test_codes, test)) == pytest.approx(np.mean(top[:, 0] - top[:, 1]))
    squared = np.corrcoef(codes.T, factors.T)[:5, 5:] ** 2
    top = -np.sort(-squared, axis=0)
    assert sap(codes, factors, continuous=True) == pytest.approx(np.mean(top[0] - top[1]), abs=1e-6)

    mean, std = codes.mean(0), codes.std(0)
    aucs = []
    for f, g in zip(factors.T, test.T, strict=True):
        probs = LogisticRegression().fit((codes - mean) / std, f).predict_proba((test_codes - mean) / std)
        aucs.append(roc_auc_score(g, probs, multi_class="ovr"))
    assert explicitness(codes, factors, test=(test_codes, test)) == pytest.approx(np.mean(aucs), abs=1e-6)


def test_dci_follows_its_definition():
    factors, test = draw((2, 3), 100)
    codes, test_codes = mixed(factors), mixed(test)
    found = [boost(codes, f, test_codes, seed=3) for f in factors.T]
    importance = np.stack([one.importance for one in found], axis=1)
    r = importance / importance.sum()
    expected = {
        "disentanglement": sum(row.sum() * (1 - entropy(row) / np.log(2)) for row in r),
        "completeness": sum(column.sum() * (1 - entropy(column) / np.log(5)) for column in r.T),
        "informativeness": np.mean([(one.predicted == g).mean() for one, g in zip(found, test.T, strict=True)]),
    }
    assert dci(codes, factors, test=(test_codes, test), seed=3, jobs=1) == pytest.approx(expected, abs=1e-8)


def test_dci_takes_another_estimator():
    factors, test = draw()
    rows = {"codes": factors, "factors": factors, "test": (test, test), "jobs": 1}
    forest = ExtraTreesClassifier(20)
    assert dci(**rows, estimator=forest, seed=1) == dci(**rows, estimator=forest, seed=1)
    assert min(dci(**rows, estimator=forest).values()) > 0.9


@pytest.mark.parametrize("prune", [0.0, 0.05, 2.0])
def test_factor_vae_equals_the_definition_vote_by_vote(prune):
    table = mixed(grid(), 4) * np.float32([1, 1, 0.01, 1])  # code 2 is inactive at 0.05
    rng = np.random.RandomState(5)
    codes = table[np.ravel_multi_index([rng.randint(n, size=1000) for n in SMALL], SMALL)]
    std = codes.std(0, ddof=1)
    active = np.flatnonzero(std >= prune)

    def votes(num):
        table_of_votes = np.zeros((3, len(active)))
        for _ in range(num):
            k = rng.randint(3)
            factors = np.array([rng.randint(n, size=64) for n in SMALL])
            factors[k] = factors[k, 0]
            local = table[np.ravel_multi_index(factors, SMALL)].std(0, ddof=1)
            table_of_votes[k, np.argmin((local / std)[active])] += 1
        return table_of_votes

    winner = votes(200).argmax(0)
    expected = votes(100)[winner, range(len(active))].sum() / 100
    settings = {"seed": 5, "num_train": 200, "num_eval": 100, "num_variance": 1000, "prune": prune}
    assert factor_vae_score(table.__getitem__, GridIndex(SMALL), **settings) == pytest.approx(expected)


def test_beta_vae_equals_the_definition_pair_by_pair():
    table = mixed(grid(), 4)
    rng = np.random.RandomState(5)

    def samples(num):
        features, labels = [], []
        for _ in range(num):
            k = rng.randint(3)
            first, second = (np.array([rng.randint(n, size=64) for n in SMALL]) for _ in range(2))
            second[k] = first[k]
            codes = [table[np.ravel_multi_index(f, SMALL)] for f in (first, second)]
            features.append(np.abs(codes[0] - codes[1]).mean(0))
            labels.append(k)
        return np.float64(features), labels

    model = LogisticRegression().fit(*samples(200))
    expected = model.score(*samples(100))
    score = beta_vae_score(table.__getitem__, GridIndex(SMALL), seed=5, num_train=200, num_eval=100)
    assert score == pytest.approx(expected)


def test_irs_falls_with_noise_and_with_mixing():
    factors = draw(DSPRITES, 5000)[0]
    noise = np.random.RandomState(0).standard_normal(factors.shape)
    scores = [irs(factors + level * factors.std(0) * noise, factors) for level in (0, 0.02, 0.2)]
    assert scores[0] > scores[1] > 0.9 > scores[2] > irs(mixed(factors), factors)
    assert irs(np.hstack([factors, np.full((5000, 2), 0.1)]), factors) == pytest.approx(scores[0])


# -- unsupervised -----------------------------------------------------------------------------------------------------


def test_udr_prefers_runs_that_agree_up_to_order_and_sign():
    rng = np.random.RandomState(0)
    z = rng.standard_normal((1000, 4))
    same = [z[:, rng.permutation(4)] * rng.choice([-1, 1], 4) * 3 + 1 for _ in range(3)]
    rotated = z @ np.linalg.qr(rng.standard_normal((4, 4)))[0]
    for correlation in ("lasso", "spearman"):
        scores = udr([*same, rotated, 0 * z], [*np.ones((4, 4)), np.zeros(4)], correlation=correlation)
        assert min(scores[:3]) > scores[3] > scores[4] == 0
    assert udr(same, np.ones((3, 4))) == pytest.approx(0.9, abs=0.01)  # the lasso takes alpha = 0.1 off each coefficient
    with_dead = [np.hstack([c, rng.standard_normal((1000, 1))]) for c in same]
    assert udr(with_dead, [[1, 1, 1, 1, 0.01]] * 3) == pytest.approx(udr(same, np.ones((3, 4))))  # runs of any size


def test_unsupervised_scores_in_closed_form():
    codes = np.random.RandomState(0).standard_normal((10_000, 3))
    independent = unsupervised_scores(codes)
    assert all(0 <= v < 0.03 for v in independent.values())
    codes[:, 1] = 2 * (0.6 * codes[:, 0] + 0.8 * codes[:, 1])
    scores = unsupervised_scores(codes)
    assert scores["gaussian_total_correlation"] == pytest.approx(-np.log(1 - 0.6**2) / 2, abs=0.02)
    with_constant = unsupervised_scores(np.hstack([codes, np.full((10_000, 1), 0.1)]))
    assert with_constant.pop("mutual_info_score") == pytest.approx(scores.pop("mutual_info_score") / 2)
    assert with_constant == pytest.approx(scores)
    assert set(unsupervised_scores(np.ones((10, 2))).values()) == {0}
    assert set(unsupervised_scores(codes[:, :1]).values()) == {0}


# -- grids, inputs, classes -------------------------------------------------------------------------------------------


class Data:
    factor_sizes = (1, *SMALL)

    def render(self, factors):
        assert factors.shape[1] == 4
        return torch.tensor(factors[:, 1:]).float()


def test_code_table_encodes_each_image_once_for_all_metrics():
    seen = []

    def encode(images):
        seen.extend(map(tuple, images.int().tolist()))
        return torch.stack([images @ torch.tensor([1.0, 2, 0]), images[:, 2].sin()], dim=1)

    table, few = CodeTable(encode, Data()), {"num_train": 200, "num_eval": 200}
    scores = [f(table, table, **few) for f in (factor_vae_score, beta_vae_score)]
    factors = sample_factors(Data.factor_sizes, 500, np.random.RandomState(0))
    codes = table(table.render(factors))
    assert len(seen) == len(set(seen)) == 72
    assert scores == [f(encode, Data(), **few) for f in (factor_vae_score, beta_vae_score)]
    np.testing.assert_array_equal(codes, encode(Data().render(factors)))


def test_partners_of_a_sample_share_the_factor_and_are_all_equally_likely():
    factors = mixed(grid(), 3).round().astype(int)  # unequal counts and negative values
    sample, rng = FactorSample(factors), np.random.RandomState(0)
    for factor in range(3):
        images = np.repeat(np.arange(72), 400)
        partners = sample.sharing(images, factor, rng)
        assert (factors[partners, factor] == factors[images, factor]).all()
        value, counts = np.unique(factors[:, factor], return_counts=True)
        most = value[counts.argmax()]
        found = np.bincount(partners[factors[images, factor] == most], minlength=72)[factors[:, factor] == most]
        assert found.min() > 320 and found.max() < 480, "400 +- 20 each"


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_scores_of_a_sample_agree_with_those_of_the_grid(seed):
    table = mixed(grid(), 4, seed) + mixed(np.random.RandomState(seed).standard_normal((72, 3)), 4, seed + 5) / 3
    factors = sample_factors(SMALL, 5_000, np.random.RandomState(seed))
    codes = table[np.ravel_multi_index(tuple(factors.T), SMALL)]
    votes = {"num_train": 4000, "num_eval": 4000, "batch_size": 16}
    for score in (factor_vae_score, beta_vae_score):
        whole = score(table.__getitem__, GridIndex(SMALL), seed=seed, **votes)
        assert 0.45 < whole < 1, "neither chance nor perfect, so that a wrong draw would show"
        assert score(codes.__getitem__, FactorSample(factors), seed=seed + 50, **votes) == pytest.approx(whole, abs=0.035)


@pytest.mark.slow
def test_scores_of_50_000_images_of_dsprites_have_the_mean_of_those_of_all():
    rng, factors = np.random.RandomState(0), grid(DSPRITES)
    codes = (factors - factors.mean(0)) / factors.std(0) @ rng.randn(5, 10) + 0.2 * rng.randn(len(factors), 10)
    for score in (factor_vae_score, beta_vae_score):
        whole = [score(codes.__getitem__, GridIndex(DSPRITES), seed=seed) for seed in range(4)]
        rows = [rng.randint(len(factors), size=50_000) for _ in range(8)]
        found = [score(codes[i].__getitem__, FactorSample(factors[i]), seed=seed) for seed, i in enumerate(rows)]
        assert np.mean(found) == pytest.approx(np.mean(whole), abs=0.012), "three standard errors of 0.007 / sqrt(4)"
        assert np.std(found) < 0.015


def bad_rows():
    factors, codes = draw(num=20)[0], mixed(draw(num=20)[0])
    return {
        "codes of one dimension": (codes[:, 0], factors),
        "factors of one dimension": (codes, factors[:, 0]),
        "another number of rows": (codes[:-1], factors),
        "no rows": (codes[:0], factors[:0]),
        "NaN code": (np.where(codes == codes[0, 0], np.nan, codes), factors),
        "infinite code": (np.where(codes == codes[0, 0], np.inf, codes), factors),
        "NaN factor": (codes, np.where(factors == 0, np.nan, factors)),
        "words": (codes, factors.astype(str)),
        "only factors of one value": (codes, 0 * factors),
    }


@unchecked()
@pytest.mark.parametrize("metric", ON_ROWS)
@pytest.mark.parametrize("case", bad_rows())
def test_bad_rows_are_refused(metric, case):
    good = draw(num=20)[0]
    test = {} if metric in (mig, modularity, irs) else {"test": (mixed(good), good)}
    with pytest.raises(ValueError, match=r"codes|factors"):
        metric(*bad_rows()[case], **test)


@unchecked()
def test_other_bad_input_is_refused():
    factors, test = draw(num=60)
    codes = mixed(factors)
    for metric in (sap, explicitness, dci):
        with pytest.raises(ValueError, match="test="):
            metric(codes, factors)
        with pytest.raises(ValueError, match="equal N, D and F"):
            metric(codes, factors, test=(codes[:30, 1:], test))
    for metric in (mig, sap, dci):
        with pytest.raises(ValueError, match="2 codes"):
            metric(codes[:, :1], factors, **({} if metric is mig else {"test": (codes[:, :1], factors)}))
    with pytest.raises(ValueError, match="2 factors"):
        modularity(codes, factors[:, :1])
    with pytest.raises(ValueError, match="bin continuous"):
        mig(codes, codes)
    with pytest.raises(ValueError, match="at least 2 factors"):
        factor_vae_score(codes.__getitem__, GridIndex([60, 1]), num_train=1, num_eval=1)
    with pytest.raises(ValueError, match="at least 2 factors"):
        beta_vae_score(codes.__getitem__, FactorSample(factors[:, :1]), num_train=1, num_eval=1)
    with pytest.raises(ValueError, match=r"factors must be \[N, F\]"):
        FactorSample(factors[:, 0])
    with pytest.raises(ValueError, match="factors must be finite"):
        FactorSample(factors + np.nan)
    with pytest.raises(ValueError, match="encode must"):
        factor_vae_score(lambda images: codes, GridIndex(SMALL), num_train=1, num_eval=1)
    with pytest.raises(ValueError, match="same N images"):
        udr([codes, codes[1:]], np.ones((2, 5)))
    with pytest.raises(ValueError, match="lasso"):
        udr([codes, codes], np.ones((2, 5)), correlation="pearson")


@pytest.mark.parametrize("name", ["MIG", "Modularity", "IRS", "SAP", "Explicitness", "DCI"])
def test_class_equals_function_over_batches(name):
    factors, test = draw((2, 3, 4), num=200)
    codes, test_codes = mixed(factors), mixed(test)
    boosting = GradientBoostingClassifier(n_estimators=10)
    settings = {"seed": 2, "jobs": 1, "estimator": boosting} if name == "DCI" else {}
    metric = getattr(modules, name)(**settings)
    for part in np.array_split(np.arange(200), 3):
        metric.update(torch.tensor(codes[part]), torch.tensor(factors[part]))
    if name in ("SAP", "Explicitness", "DCI"):
        for part in np.array_split(np.arange(100), 2):
            metric.update(torch.tensor(test_codes[part]), torch.tensor(test[part]), test=True)
        settings["test"] = (test_codes, test)
    expected = metric.function(codes, factors, **settings)
    value = metric.compute()
    assert {k: v.item() for k, v in value.items()} == expected if name == "DCI" else value.item() == expected
    assert metric.__doc__ == f"Torchmetrics form of `{metric.function.__name__}`."


def test_grid_classes_and_unsupervised_classes_equal_their_functions():
    factors, few = grid(), {"num_train": 100, "num_eval": 100}
    table, shuffled = mixed(factors), np.random.RandomState(0).permutation(72)
    for name, function in (("FactorVAEScore", factor_vae_score), ("BetaVAEScore", beta_vae_score)):
        metric = getattr(modules, name)(SMALL, **few)
        metric.update(torch.tensor(table[shuffled[:40]]), torch.tensor(factors[shuffled[:40]]))
        with pytest.raises(ValueError, match="40 of 72"):
            metric.compute()
        metric = metric.clone()
        metric.update(torch.tensor(table[shuffled[20:]]), torch.tensor(factors[shuffled[20:]]))
        assert metric.compute().item() == function(table.__getitem__, GridIndex(SMALL), **few)
    codes, kl = np.random.RandomState(0).standard_normal((2, 300, 3, 4))
    metric = modules.UDR()
    metric.update(torch.tensor(codes[:100]), torch.tensor(kl[:100]))
    metric.update(torch.tensor(codes[100:]), torch.tensor(kl[100:]))
    np.testing.assert_array_equal(metric.compute(), udr(codes.transpose(1, 0, 2), kl.mean(0)))
    metric = modules.UnsupervisedScores()
    metric.update(torch.tensor(table))
    assert {k: v.item() for k, v in metric.compute().items()} == unsupervised_scores(table)


def test_functions_need_no_torch():
    code = "import sys; from vae_zoo.metrics import mig, cluster_accuracy; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_examples_in_the_docstrings():
    for module in (disentanglement, modules):
        result = doctest.testmod(module)
        assert result.attempted > result.failed == 0
