import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.autograd import gradcheck

from vae_zoo.distributions import Bernoulli, DiscretisedLogistic, Gaussian, Laplace, PixelwiseGaussian, PixelwiseLogistic
from vae_zoo.distributions.likelihoods import discretised_logistic

LIKELIHOODS = [Bernoulli(), Gaussian(0.3), Gaussian(0.3, learn=True), DiscretisedLogistic(0.05), Laplace(0.2)]
every = pytest.mark.parametrize(
    "likelihood", LIKELIHOODS, ids=["bernoulli", "gaussian", "gaussian_learned", "logistic", "laplace"]
)
LEVELS = torch.arange(256, dtype=torch.float64) / 255


def grey_images(*shape, seed=0):
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed)) / 255


# ---- what all have in common ----------------------------------------------------------------------------------------


@every
def test_log_probability_is_one_number_an_image_and_adds_up_over_pixels(likelihood):
    x, params = grey_images(5, 3, 4, 6), torch.randn(5, 3, 4, 6)
    together = likelihood.log_prob(x, params)
    assert together.shape == (5,)
    alone = [
        likelihood.log_prob(x[:, c : c + 1, h : h + 1], params[:, c : c + 1, h : h + 1]) for c in range(3) for h in range(4)
    ]
    torch.testing.assert_close(together, sum(alone))


@every
def test_shown_image_lies_in_the_pixel_range(likelihood):
    params = torch.linspace(-100, 100, 48).view(1, 3, 4, 4)
    mean = likelihood.mean(params)
    assert mean.shape == params.shape
    assert mean.min() == 0 and mean.max() == 1


@every
def test_shown_image_is_the_best_explained_grey_level(likelihood):
    params = torch.tensor([-0.8, 0.1, 0.4, 0.6]).view(4, 1, 1, 1)  # beyond 0.9 the outermost bin of the logistic wins
    shown = likelihood.mean(params).flatten()
    at_levels = torch.stack([likelihood.log_prob(torch.full((4, 1, 1, 1), v), params) for v in LEVELS.float()])
    if isinstance(likelihood, Bernoulli):  # linear in x, so it prefers the nearer end of the range
        assert at_levels.argmax(0).tolist() == [0, 255, 255, 255] == (shown > 0.5).mul(255).tolist()
    else:
        assert ((at_levels.argmax(0) / 255 - shown).abs() < 0.5 / 255 + 1e-6).all()


@every
def test_bfloat16_parameters_are_summed_in_float32(likelihood):
    x, params = grey_images(4, 1, 32, 32), torch.randn(4, 1, 32, 32).bfloat16()
    expected = likelihood.log_prob(x, params.float()), likelihood.mean(params.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = likelihood.log_prob(x, params), likelihood.mean(params)
    for value, wanted in zip(got, expected):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, wanted, rtol=1e-6, atol=1e-6)  # bfloat16 keeps three digits


@every
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_gradients_are_finite_wherever_the_decoder_points(likelihood, size):
    params = (
        (size * torch.tensor([-1.0, -0.1, 0.0, 0.1, 1.0])).view(5, 1, 1, 1).expand(5, 1, 16, 16).clone().requires_grad_()
    )
    x = (torch.arange(256) / 255).view(1, 1, 16, 16).expand(5, 1, 16, 16)
    log_prob = likelihood.log_prob(x, params)
    gradients = torch.autograd.grad(log_prob.sum(), [params, *likelihood.parameters()])
    assert log_prob.isfinite().all() and all(g.isfinite().all() for g in gradients)
    assert all(g.abs().max() > 0 for g in gradients)


# ---- Bernoulli ------------------------------------------------------------------------------------------------------


def test_bernoulli_equals_torch_distributions():
    x, logits = grey_images(6, 1, 5, 5).round(), 3 * torch.randn(6, 1, 5, 5)
    expected = torch.distributions.Bernoulli(logits=logits).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(Bernoulli().log_prob(x, logits), expected)
    torch.testing.assert_close(Bernoulli().mean(logits), torch.distributions.Bernoulli(logits=logits).mean)


def test_bernoulli_of_grey_values_is_the_cross_entropy_of_pixels():
    x, logits = grey_images(6, 1, 5, 5), torch.randn(6, 1, 5, 5)
    p = logits.sigmoid()
    expected = (x * p.log() + (1 - x) * (1 - p).log()).flatten(1).sum(1)
    torch.testing.assert_close(Bernoulli().log_prob(x, logits), expected)


def test_bernoulli_is_exact_at_extreme_logits():
    x = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(4, 1, 1, 1)
    logits = torch.tensor([200.0, 200.0, -200.0, -200.0]).view(4, 1, 1, 1)
    assert Bernoulli().log_prob(x, logits).tolist() == [-200, 0, 0, -200]


# ---- Gaussian -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.01, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("learn", [False, True])
def test_gaussian_equals_scipy_with_its_constant(sigma, learn):
    x, params = grey_images(6, 3, 4, 4), torch.rand(6, 3, 4, 4)
    expected = stats.norm.logpdf(x, params, sigma).reshape(6, -1).sum(1)
    np.testing.assert_allclose(Gaussian(sigma, learn).log_prob(x, params).detach(), expected, rtol=1e-4)


def test_gaussian_density_integrates_to_one():
    x = torch.linspace(-3, 4, 5001).view(-1, 1, 1, 1)
    density = Gaussian(0.2).log_prob(x, torch.full_like(x, 0.4)).exp()
    assert torch.trapezoid(density, x.flatten()).item() == pytest.approx(1, abs=1e-5)


def test_gaussian_may_take_logits_of_its_means():
    x, params = torch.rand(2, 1, 3, 4), torch.randn(2, 1, 3, 4)
    squashed, plain = Gaussian(0.3, sigmoid=True), Gaussian(0.3)
    torch.testing.assert_close(squashed.log_prob(x, params), plain.log_prob(x, params.sigmoid()))
    torch.testing.assert_close(squashed.mean(params), params.sigmoid())


def test_learned_sigma_is_drawn_to_the_root_mean_squared_error():
    x = grey_images(8, 1, 8, 8)
    params = x + 0.1 * torch.randn(8, 1, 8, 8)
    best = (x - params).square().mean().sqrt().item()
    for factor, sign in ((0.5, 1), (1.0, 0), (2.0, -1)):  # below it the likelihood rises with sigma, above it falls
        likelihood = Gaussian(factor * best, learn=True)
        likelihood.log_prob(x, params).mean().backward()
        slope = likelihood.logvar.grad.item() / 64  # of one pixel
        assert abs(slope) < 1e-5 if sign == 0 else slope * sign > 0.1


# ---- discretised logistic -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("location", [-30.0, -1.0, -0.999, -0.3, 0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("log_scale", [-7.0, -4.0, -2.0, 0.0, 5.0, 20.0])
def test_masses_of_the_grey_levels_sum_to_one(location, log_scale):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 5e-4)):
        arguments = LEVELS.to(dtype), torch.tensor(location, dtype=dtype), torch.tensor(log_scale, dtype=dtype)
        assert discretised_logistic(*arguments).exp().sum().item() == pytest.approx(1, abs=tolerance)


@pytest.mark.parametrize("location", [-1.0, -0.3, 0.0, 0.7, 1.5])
@pytest.mark.parametrize("log_scale", [-5.0, -2.0, 0.0, 4.0])
def test_masses_equal_differences_of_the_logistic_cdf(location, log_scale):
    edges = np.concatenate([[-np.inf], np.arange(1, 256) * 2 / 255 - 1 - 1 / 255, [np.inf]])
    logistic = stats.logistic(location, np.exp(log_scale))
    low, high = edges[:-1], edges[1:]
    upper_tail = low > location  # there the difference of survival functions keeps the digits that the cdf loses
    mass = np.where(upper_tail, logistic.sf(low) - logistic.sf(high), logistic.cdf(high) - logistic.cdf(low))
    arguments = (torch.tensor(v, dtype=torch.float64) for v in (location, log_scale))
    got = discretised_logistic(LEVELS, *arguments)
    np.testing.assert_allclose(got.exp(), mass, rtol=1e-9)


def test_outermost_levels_hold_all_the_mass_beyond():
    location, log_scale = torch.tensor([-5.0, 5.0], dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64)
    lowest, highest = (discretised_logistic(torch.full((2,), v, dtype=torch.float64), location, log_scale) for v in (0, 1))
    assert lowest[0].exp() > 0.9999 and highest[1].exp() > 0.9999
    scale = np.exp(-1)
    np.testing.assert_allclose(lowest, stats.logistic.logcdf(-1 + 1 / 255, location, scale), rtol=1e-12)
    np.testing.assert_allclose(highest, stats.logistic.logsf(1 - 1 / 255, location, scale), rtol=1e-12)


@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 10.0])
def test_gradients_of_the_masses_equal_finite_differences(log_scale):
    x = LEVELS[[0, 1, 100, 254, 255]]
    location = torch.tensor([-1.0, 0.2, -0.2, 0.99, 1.1], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(log_scale, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda m, s: discretised_logistic(x, m, s), (location, scale), eps=1e-7, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("log_scale", [-7.0, 0.0, 30.0, 84.0, 120.0])
@pytest.mark.parametrize("location", [-50.0, -1.0, 0.0, 1.0, 50.0])
def test_float32_masses_and_gradients_stay_finite_at_extremes(log_scale, location):
    m, s = torch.full((256,), location, requires_grad=True), torch.tensor(log_scale, requires_grad=True)
    log_mass = discretised_logistic(LEVELS.float(), m, s)
    gradients = torch.autograd.grad(log_mass.sum(), (m, s))
    assert log_mass.isfinite().all() and all(g.isfinite().all() for g in gradients)
    assert (log_mass <= 0).all()


def test_logistic_parameters_live_on_minus_one_to_one():
    likelihood = DiscretisedLogistic(scale=0.2)
    x, params = grey_images(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    expected = discretised_logistic(x, params, torch.tensor(0.2).log()).flatten(1).sum(1)
    torch.testing.assert_close(likelihood.log_prob(x, params), expected)
    assert likelihood.mean(torch.tensor([[[[-1.0, 0.0, 0.5, 1.0]]]])).flatten().tolist() == [0, 0.5, 0.75, 1]


def test_log_scale_is_bounded_below():
    likelihood = DiscretisedLogistic(scale=0.01)
    x, params = torch.full((1, 1, 1, 1), 100 / 255), torch.full((1, 1, 1, 1), 2 * 100 / 255 - 1)
    with torch.no_grad():
        likelihood.log_scale.fill_(-7.0)
        at_bound = likelihood.log_prob(x, params)
        likelihood.log_scale.fill_(-1000.0)  # exp(1000) would be infinite
    assert likelihood.log_prob(x, params) == at_bound
    assert at_bound.exp().item() == pytest.approx(0.97, abs=0.005)  # as its docstring says


# ---- with a scale for each pixel -------------------------------------------------------------------------------------


def pixelwise(k, location, log_scale, **options):
    """-log p of one pixel of level k, nats."""
    x, params = torch.full((1, 1, 1, 1), k / 255), torch.tensor([location, log_scale]).view(1, 2, 1, 1)
    return -PixelwiseLogistic(**options).log_prob(x.double(), params).item()


@pytest.mark.parametrize(
    "k, location, log_scale, nats",
    [
        (0, 0.0, 0.0, 1.310396),
        (255, 0.0, 0.0, 1.310396),
        (128, 0.0, 0.0, 6.234416),
        (200, 0.3, -2.0, 5.090448),
        (0, -0.9, -3.0, 2.065348),
        (128, 1 / 255, -7.0, 0.027125),
        (255, 0.5, -7.0, 544.016057),
    ],
)
def test_pixels_cost_what_the_official_code_says(k, location, log_scale, nats):
    """51616/split-vae in float64. Where it takes the density at the centre of a thin bin for its mass, ours is exact."""
    assert pixelwise(k, location, log_scale) == pytest.approx(nats, rel=1e-5, abs=2e-5)


def test_pixelwise_is_the_elementwise_mass_with_bounded_scales():
    x, params = grey_images(3, 3, 4, 4), torch.randn(3, 6, 4, 4)
    params[:, 3:, 0] = -90.0
    location, log_scale = params[:, :3], params[:, 3:].clamp(min=-7)
    expected = discretised_logistic(x, location, log_scale).flatten(1).sum(1)
    likelihood, params = PixelwiseLogistic(), params.requires_grad_()
    torch.testing.assert_close(likelihood.log_prob(x, params), expected)
    (gradient,) = torch.autograd.grad(likelihood.log_prob(x, params).sum(), params)
    assert gradient.isfinite().all() and (gradient[:, 3:, 0] == 0).all()
    assert likelihood.param_shape((3, 4, 4)) == (6, 4, 4)
    torch.testing.assert_close(likelihood.mean(params), ((params[:, :3] + 1) / 2).clamp(0, 1))
    assert pixelwise(100, -0.2, -90.0) == pixelwise(100, -0.2, -7.0)


@pytest.mark.parametrize("k, location, log_scale", [(0, 0.4, -1.0), (100, -0.2, -6.5), (254, 0.9, 2.0)])
def test_mirrored_levels_and_locations_cost_the_same(k, location, log_scale):
    assert pixelwise(k, location, log_scale) == pytest.approx(pixelwise(255 - k, -location, log_scale), rel=1e-5)


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_laplace_equals_torch_distributions(scale):
    x, params = torch.rand(4, 1, 3, 3), torch.randn(4, 1, 3, 3)
    wanted = torch.distributions.Laplace(params.sigmoid(), scale).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(Laplace(scale).log_prob(x, params), wanted)
    with pytest.raises(ValueError, match="scale must be > 0, got 0"):
        Laplace(0)


# ---- construction ---------------------------------------------------------------------------------------------------


def test_only_learned_scales_are_parameters_and_all_are_saved():
    for kind, name in ((Gaussian, "logvar"), (DiscretisedLogistic, "log_scale")):
        assert [n for n, _ in kind(0.1, learn=True).named_parameters()] == [name]
        assert [n for n, _ in kind(0.1, learn=False).named_parameters()] == []
        assert list(kind(0.1, learn=True).state_dict()) == list(kind(0.1, learn=False).state_dict()) == [name]


@pytest.mark.parametrize("value", [0, -1])
def test_scales_must_be_positive(value):
    with pytest.raises(ValueError, match=f"sigma must be > 0, got {value}"):
        Gaussian(value)
    with pytest.raises(ValueError, match=f"got {value}"):
        DiscretisedLogistic(value)


def test_a_scale_below_its_bound_is_refused():
    with pytest.raises(ValueError, match="0.000912, got 0.0001"):
        DiscretisedLogistic(1e-4)
    assert DiscretisedLogistic(1e-4, min_log_scale=-12).log_scale.item() == pytest.approx(np.log(1e-4))


# ---- a Gaussian with a variance for each pixel ----------------------------------------------------------------------


@pytest.mark.parametrize("bound", [1.0, 3.0])
def test_pixelwise_gaussian_is_the_density_with_the_bounded_variance(bound):
    x, params = torch.rand(5, 3, 2, 2), 4 * torch.randn(5, 6, 2, 2)
    mu, raw = params[:, :3], params[:, 3:]
    density = torch.distributions.Normal(mu, (0.5 * bound * raw.tanh()).exp()).log_prob(x).sum((1, 2, 3))
    likelihood = PixelwiseGaussian(bound)
    assert torch.allclose(likelihood.log_prob(x, params), density, rtol=1e-5)
    assert torch.equal(likelihood.mean(params), mu.clamp(0, 1)) and likelihood.param_shape((3, 2, 2)) == (6, 2, 2)


def test_pixelwise_gaussian_is_surest_at_its_bound_where_the_mean_is_right():
    x = torch.full((1, 1, 1, 1), 0.5)
    sure = PixelwiseGaussian().log_prob(x, torch.tensor([0.5, -50.0]).view(1, 2, 1, 1))
    assert sure.item() == pytest.approx(0.5 - 0.5 * math.log(2 * math.pi), abs=1e-6)  # variance exp(-1), no smaller
    with pytest.raises(ValueError, match="bound must be > 0, got 0"):
        PixelwiseGaussian(0.0)
