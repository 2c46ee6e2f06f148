import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.distributions import Independent, kl_divergence
from torch.distributions import Normal as TorchNormal

from vae_zoo.distributions import Normal, kl_standard, noise
from vae_zoo.distributions.normal import covariance, kl_standard_per_dim, log_density_pairs, log_standard_normal, transport


def random_normal(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Normal(
        2 * torch.randn(*shape, generator=generator, dtype=dtype), torch.randn(*shape, generator=generator, dtype=dtype)
    )


def as_torch(q):
    return Independent(TorchNormal(q.mu, (q.logvar / 2).exp()), 1)


def test_densities_equal_torch_distributions():
    q, z = random_normal(4, 3), torch.randn(7, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(z), as_torch(q).log_prob(z))
    torch.testing.assert_close(q.log_prob_per_dim(z).sum(-1), q.log_prob(z))
    standard = Independent(TorchNormal(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)), 1)
    torch.testing.assert_close(log_standard_normal(z), standard.log_prob(z))


def test_draws_of_a_prior_do_not_depend_on_the_images_being_evaluated():
    q, drawn = random_normal(20_000, 3), []
    for images in (7, 20_000):
        torch.manual_seed(0)
        with noise.per_image(torch.arange(images)):
            drawn.append(q.sample())
    assert torch.equal(*drawn)
    standard = (drawn[0] - q.mu) / (q.logvar / 2).exp()
    torch.testing.assert_close(standard.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=0.03)
    torch.testing.assert_close(standard.std(0), torch.ones(3, dtype=torch.float64), rtol=0.03, atol=0)


def test_transport_keeps_the_quantile_of_each_dimension():
    a, b = random_normal(4, 3), random_normal(4, 3, seed=1)
    z = a.mu + a.logvar.exp() * torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None, None]
    quantile = [TorchNormal(q.mu, (q.logvar / 2).exp()).cdf(x) for q, x in ((a, z), (b, transport(z, a, b)))]
    torch.testing.assert_close(*quantile)
    torch.testing.assert_close(transport(transport(z, a, b), b, a), z)


@pytest.mark.parametrize("logvar", [-12.0, 0.0, 6.0])
def test_density_integrates_to_one(logvar):
    q = Normal(torch.tensor([0.7], dtype=torch.float64), torch.tensor([logvar], dtype=torch.float64))
    z = q.mu + torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None] * (q.logvar / 2).exp()
    assert torch.trapezoid(q.log_prob(z).exp(), z[:, 0]).item() == pytest.approx(1, abs=1e-9)


def test_kl_equals_torch_distributions_and_monte_carlo():
    q = random_normal(5, 3)
    p = Independent(TorchNormal(torch.zeros_like(q.mu), torch.ones_like(q.mu)), 1)
    torch.testing.assert_close(kl_standard(q), kl_divergence(as_torch(q), p))
    torch.testing.assert_close(kl_standard_per_dim(q).sum(-1), kl_standard(q))
    torch.manual_seed(0)
    z = q.rsample((20_000,))
    estimates = q.log_prob(z) - log_standard_normal(z)  # [20000, 5]
    error = estimates.std(0) / 20_000**0.5
    assert ((estimates.mean(0) - kl_standard(q)).abs() < 4 * error).all()
    assert (4 * error < 0.1 * kl_standard(q)).all()  # a factor of 1.1 in the closed form would be seen


def test_kl_is_zero_at_the_prior_and_positive_elsewhere():
    assert kl_standard(Normal(torch.zeros(2, 3), torch.zeros(2, 3))).tolist() == [0, 0]
    assert (kl_standard_per_dim(random_normal(100, 3)) > 0).all()


@pytest.mark.parametrize("sample_shape", [(), (4,), (2, 3)])
def test_shape_of_draws(sample_shape):
    q = random_normal(5, 3)
    assert q.rsample(sample_shape).shape == (*sample_shape, 5, 3)
    assert q.log_prob(q.rsample(sample_shape)).shape == (*sample_shape, 5)


def test_draws_have_the_mean_and_variance_of_the_parameters():
    q = random_normal(2, 3)
    torch.manual_seed(0)
    z = q.rsample((40_000,))
    torch.testing.assert_close((z.mean(0) - q.mu) / (q.logvar / 2).exp(), torch.zeros_like(q.mu), rtol=0, atol=0.02)
    torch.testing.assert_close(z.var(0) / q.logvar.exp(), torch.ones_like(q.mu), rtol=0, atol=0.03)


def test_draws_carry_the_gradients_of_their_moments():
    """d E[z^2] / d mu = 2 mu and d E[z^2] / d logvar = var: exact under reparameterisation, zero without it."""
    mu = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
    logvar = torch.tensor([-0.5], dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    Normal(mu, logvar).rsample((40_000,)).square().mean().backward()
    assert mu.grad.item() == pytest.approx(3.0, rel=0.02)
    assert logvar.grad.item() == pytest.approx(np.exp(-0.5), rel=0.05)


def test_gradients_of_kl_and_density_equal_finite_differences():
    q, z = random_normal(2, 3), torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    parameters = q.mu.requires_grad_(), q.logvar.requires_grad_()
    assert gradcheck(lambda mu, logvar: kl_standard(Normal(mu, logvar)), parameters)
    assert gradcheck(lambda mu, logvar, z: Normal(mu, logvar).log_prob(z), (*parameters, z))


def test_density_of_pairs_equals_a_loop():
    q, z = random_normal(4, 3), torch.randn(5, 3, dtype=torch.float64)
    pairs = log_density_pairs(q, z)
    assert pairs.shape == (5, 4, 3)
    for i in range(5):
        for j in range(4):
            expected = TorchNormal(q.mu[j], (q.logvar[j] / 2).exp()).log_prob(z[i])
            torch.testing.assert_close(pairs[i, j], expected)


def test_covariance_equals_numpy():
    x = random_normal(50, 4).mu + 10
    np.testing.assert_allclose(covariance(x), np.cov(x.T, bias=True), rtol=1e-9)


def test_rows_and_maps_act_on_both_parameters():
    q = random_normal(5, 3)
    rows = torch.tensor([3, 3, 0])
    assert torch.equal(q[rows].mu, q.mu[rows]) and torch.equal(q[rows].logvar, q.logvar[rows])
    moved = q.map(torch.Tensor.float)
    assert moved.mu.dtype == moved.logvar.dtype == torch.float32


def test_parameters_are_means_then_log_variances():
    q = Normal.from_params(torch.arange(8.0).view(2, 4))
    assert q.mu.tolist() == [[0, 1], [4, 5]] == q.mean.tolist()
    assert q.logvar.tolist() == [[2, 3], [6, 7]]


def test_float32_is_kept_under_autocast():
    params, z = torch.randn(64, 20).bfloat16(), torch.randn(64, 10)
    exact = Normal.from_params(params.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q = Normal.from_params(params)
        results = [q.rsample(), kl_standard(q), q.log_prob(z), log_density_pairs(q, z), covariance(q.mu)]
    assert [r.dtype for r in results] == [torch.float32] * 5
    expected = [kl_standard(exact), exact.log_prob(z), log_density_pairs(exact, z), covariance(exact.mu)]
    for got, wanted in zip(results[1:], expected):  # a bfloat16 anywhere would miss by 1e-3 at least
        torch.testing.assert_close(got, wanted.float(), rtol=1e-5, atol=1e-5)
