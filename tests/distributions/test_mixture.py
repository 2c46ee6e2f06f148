"""Mixtures against torch.distributions, sums over components and integrals; the numbers are those of the reference."""

from math import log

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal
from torch.distributions import Normal as TorchNormal

from vae_zoo.distributions import MixturePrior, Normal
from vae_zoo.distributions.mixture import FLOOR

each = pytest.mark.parametrize("covariance", ["diagonal", "full"])


def mixture(num_components=5, dim=3, covariance="diagonal", dtype=torch.float64, seed=0, **options):
    """Random weights, means and covariances."""
    torch.manual_seed(seed)
    prior = MixturePrior(num_components, dim, covariance, **options).to(dtype)
    with torch.no_grad():
        prior.logits.copy_(torch.randn(num_components))
        prior.mu.copy_(torch.randn(num_components, dim))
        prior.raw_scale.copy_(torch.rand_like(prior.raw_scale) + 0.2)
    return prior


def given(weights, means, variances):
    """A mixture in one dimension."""
    prior = MixturePrior(len(means), 1).double()
    with torch.no_grad():
        prior.logits.copy_(torch.tensor(weights).log())
        prior.mu.copy_(torch.tensor(means)[:, None])
        prior._set_variances(torch.tensor(variances, dtype=torch.float64)[:, None])
    return prior


def components(prior):
    return MultivariateNormal(prior.mu, scale_tril=prior.scale_tril())


def posterior(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return Normal(*(torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2)))


def close(got, wanted, tolerance=1e-6):
    torch.testing.assert_close(got, torch.as_tensor(wanted, dtype=got.dtype), rtol=0, atol=tolerance)


# ---- densities ------------------------------------------------------------------------------------------------------


def test_two_components_in_one_dimension():
    prior, z = given([0.25, 0.75], [0.0, 2.0], [1.0, 4.0]), torch.ones(1, dtype=torch.float64)
    close(prior.log_joint(z), [-2.805233, -2.024768])
    close(prior.responsibilities(z), [0.314220, 0.685780])
    close(prior.log_prob(z), -1.647570)
    a = prior.expected_log_joint(Normal(z, torch.tensor([0.5], dtype=torch.float64).log()))
    close(a, [-3.055233, -2.087268])
    close(a.softmax(-1), [0.275286, 0.724714])
    close(a.logsumexp(-1), -1.765289)


def test_one_correlated_component():
    prior = MixturePrior(1, 2, "full").double()
    with torch.no_grad():
        prior._set_variances(torch.tensor([[1.0, 4.0]], dtype=torch.float64))
        prior.raw_scale[0, 1, 0] = 0.5
        prior.mu.zero_()
    close(prior.scale_tril()[0], [[1.0, 0.0], [0.5, 2.0]])
    close(prior.log_prob(torch.tensor([1.0, 2.0], dtype=torch.float64)), -3.312274)


@each
def test_densities_are_those_of_torch(covariance):
    prior = mixture(covariance=covariance)
    z = 2 * torch.randn(4, 7, 3, dtype=torch.float64)  # any number of leading dimensions
    wanted = components(prior).log_prob(z[..., None, :]) + prior.log_weights()
    torch.testing.assert_close(prior.log_joint(z), wanted)
    torch.testing.assert_close(prior.log_prob(z), wanted.logsumexp(-1))
    mix = MixtureSameFamily(Categorical(logits=prior.logits), components(prior))
    torch.testing.assert_close(prior.log_prob(z), mix.log_prob(z))


def test_full_covariance_without_correlations_is_the_diagonal_one():
    diagonal, full = (mixture(covariance=c) for c in ("diagonal", "full"))
    with torch.no_grad():
        full.logits.copy_(diagonal.logits)
        full.mu.copy_(diagonal.mu)
        full._set_variances(diagonal.scale_tril().diagonal(dim1=1, dim2=2).square())
    q = posterior(6, 3)
    for name in ("log_joint", "log_prob_per_dim"):
        torch.testing.assert_close(getattr(full, name)(q.mu), getattr(diagonal, name)(q.mu))
    torch.testing.assert_close(full.expected_log_prob_per_dim(q), diagonal.expected_log_prob_per_dim(q))
    torch.testing.assert_close(full.bhattacharyya(), diagonal.bhattacharyya())


@each
def test_expected_log_joint_is_the_mean_over_draws(covariance):
    prior, q = mixture(covariance=covariance), posterior(2, 3)
    torch.manual_seed(0)
    draws = prior.log_joint(q.rsample((100_000,)))  # [S, 2, K]
    error = 5 * draws.std(0) / 100_000**0.5
    assert ((draws.mean(0) - prior.expected_log_joint(q)).abs() < error).all()
    assert (error < 0.2 * prior.expected_log_joint(q).abs()).all()


@each
def test_dimensions_add_up_and_the_first_is_its_marginal(covariance):
    prior, z = mixture(covariance=covariance), torch.randn(6, 3, dtype=torch.float64)
    per_dim = prior.log_prob_per_dim(z)
    torch.testing.assert_close(per_dim.sum(-1), components(prior).log_prob(z[:, None]))
    first = TorchNormal(prior.mu[:, 0], prior.scale_tril()[:, 0, 0])
    torch.testing.assert_close(per_dim[..., 0], first.log_prob(z[:, :1]))


@each
def test_many_components_far_away_leave_everything_finite(covariance):
    """K = 200, D = 22 as for SVHN, and codes 10,000 standard deviations off."""
    torch.manual_seed(0)
    prior, near = MixturePrior(200, 22, covariance), torch.randn(8, 22)
    z = torch.cat([near, near + 1e3]).requires_grad_()
    log_prob = prior.log_prob(z)
    assert log_prob.isfinite().all() and log_prob.dtype == torch.float32
    torch.testing.assert_close(prior.responsibilities(z).sum(-1), torch.ones(16))
    log_prob.sum().backward()
    assert all(t.grad.isfinite().all() and t.grad.abs().max() > 0 for t in (z, *prior.parameters()))


@each
def test_upper_triangles_and_fixed_weights_do_not_learn(covariance):
    prior = mixture(covariance=covariance, weights="fixed")
    prior.log_prob(torch.randn(6, 3, dtype=torch.float64)).sum().backward()
    assert not isinstance(prior.logits, torch.nn.Parameter) and "logits" in prior.state_dict()
    if covariance == "full":
        gradient = prior.raw_scale.grad
        assert (gradient.triu(1) == 0).all() and (gradient.tril()[:, *torch.tril_indices(3, 3)] != 0).all()


@each
def test_precision_of_the_networks_is_not_that_of_the_densities(covariance):
    prior, z = mixture(covariance=covariance, dtype=torch.float32), torch.randn(6, 3)
    q = Normal(z, -torch.ones(6, 3))
    wanted = prior.log_joint(z), prior.expected_log_joint(q)
    with torch.autocast("cpu", torch.bfloat16):
        got = prior.log_joint(z), prior.expected_log_joint(q)
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)


@each
def test_copies_of_one_component_are_one(covariance):
    one, many = MixturePrior(1, 3, covariance), MixturePrior(7, 3, covariance)
    with torch.no_grad():
        many.mu.copy_(one.mu.expand(7, 3))
        many.logits.normal_()
    z = torch.randn(5, 3) / 5
    torch.testing.assert_close(many.log_prob(z), one.log_prob(z))
    assert one.log_weights() == 0


# ---- q(c | x) -------------------------------------------------------------------------------------------------------


def expected_kl(prior, c_probs, draws):
    """E_q(z) KL(q(c) || p(c | z)) at draws [S, D], nats."""
    log_p = prior.log_joint(draws).log_softmax(-1)
    return (c_probs * (c_probs.log() - log_p)).sum(-1).mean()


def test_best_clusters_are_the_geometric_mean_and_the_gap_of_the_bounds_is_their_kl():
    """q* = exp E log p(c | z) / Z: E KL at q* is -log Z, what the analytic bound is below E log p(z), and no other q(c), nor
    the arithmetic mean of p(c | z), comes lower."""
    prior, q = mixture(7, 3), posterior(3)
    a = prior.expected_log_joint(q)
    torch.manual_seed(0)
    draws = q.rsample((40_000,))
    best, log_p = a.softmax(-1), prior.log_joint(draws).log_softmax(-1)
    at_best = expected_kl(prior, best, draws)
    minus_log_z = -log_p.mean(0).logsumexp(-1)  # Z sums exp E log p(c | z)
    close(at_best, minus_log_z.item(), 1e-4)
    assert at_best > 0.2
    close(prior.log_prob(draws).mean() - a.logsumexp(-1), at_best.item(), 0.04)
    torch.testing.assert_close(log_p.mean(0).softmax(-1), best, rtol=0, atol=0.02)  # many draws converge to it
    arithmetic = log_p.exp().mean(0)
    for other in (arithmetic, prior.responsibilities(q.mu), *torch.rand(5, 7, dtype=torch.float64).log().softmax(-1)):
        assert expected_kl(prior, other, draws) > at_best + 1e-3


def test_clusters_at_one_draw_are_bayes_rule():
    prior, z = mixture(4, 2), torch.randn(2, dtype=torch.float64)
    joint = [w * p.exp() for w, p in zip(prior.log_weights().exp(), components(prior).log_prob(z))]
    torch.testing.assert_close(prior.responsibilities(z), torch.stack(joint) / sum(joint))


def test_order_of_components_changes_nothing():
    prior, q, order = mixture(covariance="full"), posterior(4, 3), torch.tensor([3, 0, 4, 1, 2])
    mixed = mixture(covariance="full")
    with torch.no_grad():
        for name in ("logits", "mu", "raw_scale"):
            getattr(mixed, name).copy_(getattr(prior, name)[order])
    torch.testing.assert_close(mixed.log_prob(q.mu), prior.log_prob(q.mu))
    torch.testing.assert_close(mixed.expected_log_joint(q), prior.expected_log_joint(q)[:, order])


# ---- first values, draws, overlap -----------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("variance", [0.01, 1.0, 2 * FLOOR])
def test_first_values(covariance, variance):
    torch.manual_seed(0)
    prior = MixturePrior(25, 5, covariance, variance=variance)
    scale = prior.scale_tril()
    assert scale.diagonal(dim1=1, dim2=2).detach().numpy() == pytest.approx(variance**0.5, rel=1e-4)
    assert (scale.tril(-1) == 0).all() and (scale.triu(1) == 0).all()
    assert prior.log_weights().tolist() == pytest.approx([-log(25)] * 25)
    assert prior.mu.std().item() == pytest.approx((2 / 30) ** 0.5, rel=0.1)


def test_variances_have_a_floor():
    for covariance in ("diagonal", "full"):
        prior = MixturePrior(2, 3, covariance)
        with torch.no_grad():
            prior.raw_scale.fill_(-100.0)
        variance = (prior.scale_tril() @ prior.scale_tril().mT).diagonal(dim1=1, dim2=2)
        assert (variance >= 0.99 * FLOOR).all() and prior.log_prob(torch.zeros(3)).isfinite()
    with pytest.raises(ValueError, match="must be > 1e-06, got 1e-07"):
        MixturePrior(2, 3, variance=1e-7)


@each
def test_temperature_scales_the_standard_deviation(covariance):
    prior = mixture(covariance=covariance)
    c = torch.arange(5).repeat_interleave(20_000)
    assert torch.equal(prior.sample(c, temperature=0.0), prior.mu[c])
    for temperature in (1.0, 0.3):
        torch.manual_seed(0)
        draws = prior.sample(c, temperature).view(5, 20_000, 3)
        for k in range(5):
            wanted = temperature**2 * components(prior).covariance_matrix[k]
            error = (draws[k].T.cov() - wanted).norm() / wanted.norm()
            assert error < 0.05
        torch.testing.assert_close(draws.mean(1), prior.mu.data, rtol=0, atol=0.05)


@each
def test_components_are_found_in_codes(covariance):
    truth = MixtureSameFamily(
        Categorical(torch.tensor([0.2, 0.8])),
        Independent(TorchNormal(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), torch.tensor([[0.1, 0.2], [0.3, 0.1]])), 1),
    )
    torch.manual_seed(0)
    codes = truth.sample((20_000,))
    prior = MixturePrior(2, 2, covariance)
    prior.init_from_codes(codes, "means")
    order = prior.mu[:, 0].argsort()
    close(prior.mu[order], [[-1.0, 0.0], [1.0, 0.5]], 0.02)
    close(prior.log_weights().exp(), [0.5, 0.5])
    assert prior.scale_tril().diagonal(dim1=1, dim2=2).detach().numpy() == pytest.approx(0.1, rel=1e-4)
    prior.init_from_codes(codes, "means+vars+weights")
    order = prior.mu[:, 0].argsort()
    close(prior.log_weights().exp()[order], [0.2, 0.8], 0.01)
    close(prior.scale_tril().diagonal(dim1=1, dim2=2)[order], [[0.1, 0.2], [0.3, 0.1]], 0.01)
    again = MixturePrior(2, 2, covariance)
    again.init_from_codes(codes, "means+vars+weights")
    assert torch.equal(again.mu, prior.mu), "one seed, one fit"


def test_overlap_of_every_pair_is_the_integral():
    prior = mixture(4, 2, covariance="full", seed=3)
    axis = torch.linspace(-15, 15, 601, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flatten(0, 1)  # [N, 2]
    log_p = components(prior).log_prob(grid[:, None])  # [N, K]
    roots = (0.5 * log_p).exp()
    torch.testing.assert_close(prior.bhattacharyya(), roots.T @ roots * 0.05**2, rtol=0, atol=1e-5)
    torch.testing.assert_close(prior.bhattacharyya().diagonal(), torch.ones(4, dtype=torch.float64))
