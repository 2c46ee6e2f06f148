from itertools import permutations
from math import log

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from tests.models.builders import build, costs, images, training_data
from vae_zoo.distributions import Normal
from vae_zoo.distributions.normal import log_standard_normal
from vae_zoo.models.beta_tc_vae import decompose_kl, log_weights_of_batch

samplings = pytest.mark.parametrize("sampling", ["weighted", "stratified"])


def posteriors(N, D=2, seed=0):
    """N posteriors and a draw from each."""
    generator = torch.Generator().manual_seed(seed)
    mu, logvar, noise = (torch.randn(N, D, generator=generator, dtype=torch.float64) for _ in range(3))
    return Normal(mu, 0.5 * logvar - 1), mu + noise * (0.25 * logvar - 0.5).exp()


def density_by_scipy(q, z):
    """q(z[i, d] | x[j]): [i, j, d]."""
    return stats.norm.pdf(z.numpy()[:, None], q.mu.numpy()[None], np.exp(q.logvar.numpy()[None] / 2))


# ---- the weights ----------------------------------------------------------------------------------------------------


def test_weighted_weights_are_one_over_data_set_and_batch():
    weights = log_weights_of_batch(4, 50, "weighted").exp()
    torch.testing.assert_close(weights, torch.full((4, 4), 1 / 200))


def test_stratified_weights_are_those_of_the_appendix():
    # N = 50, B = 4, M = 3: own 1/50, next (50 - 3) / (50 * 3), others 1/3
    own, following, other = 1 / 50, 47 / 150, 1 / 3
    expected = [
        [own, following, other, other],
        [other, own, following, other],
        [other, other, own, following],
        [following, other, other, own],
    ]
    torch.testing.assert_close(log_weights_of_batch(4, 50, "stratified").exp(), torch.tensor(expected))


@pytest.mark.parametrize(("B", "N"), [(2, 2), (2, 100), (5, 5), (64, 663_552)])
def test_stratified_rows_sum_to_one(B, N):
    torch.testing.assert_close(log_weights_of_batch(B, N, "stratified").exp().sum(1), torch.ones(B))


# ---- the estimates against brute force ------------------------------------------------------------------------------


@pytest.mark.parametrize(("N", "B"), [(4, 2), (5, 3), (5, 5), (6, 2), (6, 4)])
def test_stratified_estimate_averaged_over_all_batches_is_the_aggregate_posterior(N, B):
    """q(z) itself, not its log, is estimated without bias: over every ordered batch that holds the image, at any place.

    The deviation of the official code (an image's own weight in the first column) fails this.
    """
    q, z = posteriors(N)
    exact = density_by_scipy(q, z).prod(-1).mean(1)  # [N] q(z[n]) = 1/N sum_j q(z[n] | x_j)
    estimates = [[] for _ in range(N)]
    for batch in permutations(range(N), B):
        rows = torch.tensor(batch)
        mi, _, _ = decompose_kl(q[rows], z[rows], N, "stratified")
        q_z = (q[rows].log_prob(z[rows]) - mi).exp()
        for n, estimate in zip(batch, q_z.tolist()):
            estimates[n].append(estimate)
    np.testing.assert_allclose([np.mean(e) for e in estimates], exact, rtol=1e-5)
    if B < N:
        assert max(np.std(e) for e in estimates) > 0.01 * exact.min()  # single batches do miss it


@samplings
def test_terms_equal_loops_over_the_definitions(sampling):
    B, N, D = 5, 40, 3
    q, z = posteriors(B, D)
    density = density_by_scipy(q, z)
    for i in range(B):
        weight = {j: 1 / (N * B) for j in range(B)}
        if sampling == "stratified":
            weight = {j: 1 / (B - 1) for j in range(B)} | {i: 1 / N, (i + 1) % B: (N - B + 1) / (N * (B - 1))}
        log_q_z = log(sum(weight[j] * density[i, j].prod() for j in range(B)))
        log_q_dims = [log(sum(weight[j] * density[i, j, d] for j in range(B))) for d in range(D)]
        mi, tc, kl_dims = (term[i].item() for term in decompose_kl(q, z, N, sampling))
        assert mi == pytest.approx(log(density[i, i].prod()) - log_q_z, rel=1e-5)
        assert tc == pytest.approx(log_q_z - sum(log_q_dims), rel=1e-5)
        assert kl_dims == pytest.approx(sum(log_q_dims) - stats.norm.logpdf(z[i]).sum(), rel=1e-5)


@samplings
@pytest.mark.parametrize("B", [1, 2, 7])
def test_the_three_terms_sum_to_the_kl_of_the_draw(sampling, B):
    q, z = posteriors(B, 4)
    terms = decompose_kl(q, z, 100, sampling)
    assert all(term.shape == (B,) and term.isfinite().all() for term in terms)
    torch.testing.assert_close(sum(terms), q.log_prob(z) - log_standard_normal(z))


@samplings
def test_terms_do_not_depend_on_the_names_of_dimensions(sampling):
    q, z = posteriors(6, 4)
    order = torch.tensor([2, 0, 3, 1])
    renamed = decompose_kl(Normal(q.mu[:, order], q.logvar[:, order]), z[:, order], 100, sampling)
    for got, wanted in zip(renamed, decompose_kl(q, z, 100, sampling)):
        torch.testing.assert_close(got, wanted)


def test_stratified_total_correlation_is_zero_without_dependence():
    q, z = posteriors(6, 1)
    assert decompose_kl(q, z, 100, "stratified")[1].abs().max() < 1e-12  # one dimension
    idle = Normal(torch.cat([q.mu, torch.zeros(6, 2)], 1), torch.cat([q.logvar, torch.zeros(6, 2)], 1))
    tc = decompose_kl(idle, torch.cat([z, torch.randn(6, 2)], 1), 100, "stratified")[1]
    assert tc.abs().max() < 1e-5  # dimensions that say nothing of the image


def test_weighted_total_correlation_is_zero_for_one_dimension():
    q, z = posteriors(6, 1)
    assert decompose_kl(q, z, 100, "weighted")[1].abs().max() < 1e-12


def test_weighted_terms_carry_the_known_constants():
    """log q(z) is low by log N for images of one posterior: so is each log q(z_d), and tc is high by (D - 1) log N."""
    N, D = 1000, 3
    q = Normal(torch.zeros(8, D), torch.zeros(8, D))
    mi, tc, kl_dims = decompose_kl(q, torch.randn(8, D), N, "weighted")
    for term, expected in ((mi, log(N)), (tc, (D - 1) * log(N)), (kl_dims, -D * log(N))):
        torch.testing.assert_close(term, torch.full((8,), expected), rtol=0, atol=1e-3)


def test_stratified_terms_recover_the_closed_forms_of_a_gaussian():
    """Posteriors of variance s whose draws are N(0, S) together, with unit variances and correlation rho."""
    rho, s, N = 0.6, 0.3, 1500
    S = np.array([[1, rho], [rho, 1]])
    mu = torch.from_numpy(np.random.default_rng(0).multivariate_normal([0, 0], S - s * np.eye(2), N))
    q = Normal(mu, torch.full_like(mu, log(s)))
    torch.manual_seed(0)
    mi, tc, kl_dims = (term.mean().item() for term in decompose_kl(q, q.rsample(), N, "stratified"))
    assert tc == pytest.approx(-0.5 * log(1 - rho**2), abs=0.06)  # 0.22
    assert mi == pytest.approx(0.5 * log(np.linalg.det(S) / s**2), abs=0.06)  # 0.98
    assert kl_dims == pytest.approx(0, abs=0.06)


def test_logarithms_survive_densities_that_underflow():
    q, z = posteriors(4)
    far = Normal(q.mu.float() * 1000, q.logvar.float() - 20)
    for sampling in ("weighted", "stratified"):
        terms = decompose_kl(far, far.rsample(), 100, sampling)
        assert all(term.isfinite().all() for term in terms)
    assert logsumexp(far.log_prob(far.mu.flip(0))) < -1000  # the densities between images are 0 in float32


# ---- the model ------------------------------------------------------------------------------------------------------


@samplings
def test_the_model_decomposes_with_the_size_of_the_training_set(sampling):
    model, batch = build("beta_tc_vae", sampling=sampling), images()
    for num_train, N in (
        (None, 8),
        (1000, 1000),
        (3, 8),
    ):  # never below the batch, for which the weights are not defined
        model.training_data = num_train and training_data(num_train)
        torch.manual_seed(1)
        terms = costs(model, batch)
        torch.manual_seed(1)
        q = model.encode(batch)["z"]
        for name, expected in zip(("mi", "tc", "kl_dims"), decompose_kl(q, q.rsample(), N, sampling)):
            torch.testing.assert_close(terms[name], expected)


@samplings
def test_equal_weights_give_the_beta_vae_in_expectation(sampling):
    """alpha = beta = gamma: the estimates of q(z) cancel, and the KL of the draw is left."""
    batch = images(4)
    tc, plain = build("beta_tc_vae", alpha=2.0, beta=2.0, gamma=2.0, sampling=sampling), build("beta_vae", beta=2.0)
    torch.manual_seed(0)
    with torch.no_grad():
        difference = torch.stack([costs(tc, batch)["loss"] for _ in range(800)])
        wanted = torch.stack([costs(plain, batch)["loss"] for _ in range(800)])
    error = ((difference.var() + wanted.var()) / 800).sqrt()
    assert abs(difference.mean() - wanted.mean()) < 4 * error < 0.5
