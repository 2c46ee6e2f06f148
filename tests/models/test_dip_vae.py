from math import log

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from tests.models.builders import build, costs, images
from vae_zoo.distributions import Normal, kl_standard
from vae_zoo.models.dip_vae import dip_penalties

variants = pytest.mark.parametrize("variant", ["i", "ii"])


def posterior(B=50, D=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(D, D, generator=generator, dtype=torch.float64)
    mu = torch.randn(B, D, generator=generator, dtype=torch.float64) @ mixing + 5
    return Normal(mu, torch.randn(B, D, generator=generator, dtype=torch.float64))


def spread(scales, variance):
    """A posterior whose means have the diagonal covariance `scales` exactly: 2 D images on the axes."""
    scales = torch.tensor(scales)
    axes = (len(scales) * scales).sqrt().diag()
    mu = torch.cat([axes, -axes])
    return Normal(mu, torch.full_like(mu, log(variance)))


@variants
def test_penalties_equal_numpy(variant):
    q = posterior()
    cov = np.cov(q.mu.T, bias=True)
    if variant == "ii":
        cov += np.diag(np.exp(q.logvar.numpy()).mean(0))
    off = sum(cov[i, j] ** 2 for i in range(4) for j in range(4) if i != j)
    diagonal = sum((cov[i, i] - 1) ** 2 for i in range(4))
    got = dip_penalties(q, variant)
    np.testing.assert_allclose([v.item() for v in got], [off, diagonal], rtol=1e-9)


def test_second_variant_is_the_covariance_of_draws():
    q = posterior()
    torch.manual_seed(0)
    cov = np.cov(q.rsample((20_000,)).flatten(0, 1).T, bias=True)
    off, diagonal = dip_penalties(q, "ii")
    np.fill_diagonal(cov_off := cov.copy(), 0)
    assert off.item() == pytest.approx((cov_off**2).sum(), rel=0.01)
    assert diagonal.item() == pytest.approx(((cov.diagonal() - 1) ** 2).sum(), rel=0.01)


@variants
def test_penalties_vanish_at_the_identity(variant):
    variance = 0.36  # the second variant's own, which the first does not see
    q = spread([1.0, 1.0, 1.0] if variant == "i" else [1 - variance] * 3, variance)
    off, diagonal = dip_penalties(q, variant)
    assert off == 0 and diagonal < 1e-12
    other = dip_penalties(q, "ii" if variant == "i" else "i")[1]
    assert other.item() == pytest.approx(3 * variance**2, rel=1e-5)


@variants
def test_penalties_of_known_covariances(variant):
    off, diagonal = dip_penalties(spread([4.0, 0.25], 0.5), variant)
    added = 0.5 if variant == "ii" else 0
    assert off == 0 and diagonal.item() == pytest.approx((3 + added) ** 2 + (-0.75 + added) ** 2, rel=1e-5)


def test_covariances_are_not_lost_beside_large_variances():
    """Squares of 1e6 less squares of 1e6 would leave no digit of 2e-6, and may come out as -0."""
    mu = spread([1e3, 1e3], 1.0).mu
    mu[:, 1] += 1e-6 * mu[:, 0]
    q = Normal(mu, torch.zeros_like(mu))
    assert dip_penalties(q, "i")[0].item() == pytest.approx(2 * np.cov(mu.double().T, bias=True)[0, 1] ** 2, rel=1e-3)
    off, _ = dip_penalties(spread([0.1, 3.3, 700.0, 12.7], 1.0), "ii")
    assert str(off.item()) == "0.0"


@variants
def test_penalties_do_not_depend_on_location_order_and_signs(variant):
    q = posterior()
    changed = Normal((q.mu * torch.tensor([1, -1, 1, -1]) - 3).flip(0), q.logvar.flip(0))
    for got, wanted in zip(dip_penalties(changed, variant), dip_penalties(q, variant)):
        torch.testing.assert_close(got, wanted)


@variants
def test_gradients_equal_finite_differences(variant):
    q = posterior(B=5, D=3)
    parameters = q.mu.requires_grad_(), q.logvar.requires_grad_()
    assert gradcheck(lambda mu, logvar: dip_penalties(Normal(mu, logvar), variant), parameters)


def test_only_the_second_variant_trains_the_variances():
    for variant in ("i", "ii"):
        q = posterior(B=5, D=3)
        q.logvar.requires_grad_(), q.mu.requires_grad_()
        (gradient,) = torch.autograd.grad(dip_penalties(q, variant)[1], q.logvar, allow_unused=True, materialize_grads=True)
        assert (gradient.abs().max() > 1e-3) == (variant == "ii")


@variants
def test_loss_adds_the_penalties_of_the_batch_once(variant):
    model, batch = build("dip_vae", variant=variant, lambda_off=3.0, lambda_diagonal=0.5), images()
    q = model.encode(batch)["z"]
    off, diagonal = dip_penalties(q, variant)
    terms = costs(model, batch)
    torch.testing.assert_close(terms["loss"] - terms["rec"].mean(), kl_standard(q).mean() + 3 * off + 0.5 * diagonal)
    torch.testing.assert_close((terms["dip_off_diagonal"], terms["dip_diagonal"]), (off, diagonal))


def test_penalties_stay_in_float32_under_autocast():
    q = posterior().map(torch.Tensor.float)
    exact = dip_penalties(q, "ii")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = dip_penalties(q, "ii")
    assert all(v.dtype == torch.float32 for v in got)
    torch.testing.assert_close(got, exact)
