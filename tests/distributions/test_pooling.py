"""Pooling of Gaussians: known numbers, loops and densities on a grid."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.distributions import MultivariateNormal, kl_divergence
from torch.distributions import Normal as TorchNormal

from tests.annotations import unchecked
from vae_zoo.distributions import Normal, kl_standard, pool
from vae_zoo.distributions.pooling import first_of_groups, log_same_group, segment_logsumexp, segment_sum, without_prior

RULES = ("product", "product_with_prior", "mean", "mean_precision")
every_rule = pytest.mark.parametrize("evidence", RULES)


def normal(means, variances, dtype=torch.float64):
    """One dimension: [B, 1]."""
    return Normal(torch.tensor(means, dtype=dtype)[:, None], torch.tensor(variances, dtype=dtype).log()[:, None])


def one_group(q, evidence="product"):
    return pool(q, torch.zeros(len(q.mu), dtype=torch.long), 1, evidence)


def random_groups(sizes=(1, 2, 7), D=3, dtype=torch.float64, seed=0):
    """Gaussians [B, D] and their groups, in no order."""
    generator = torch.Generator().manual_seed(seed)
    B = sum(sizes)
    q = Normal(*(2 * torch.randn(B, D, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)))
    group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return q, group[torch.randperm(B, generator=generator)], len(sizes)


def by_loop(q, group, num_groups, evidence):
    """The formulas with variances, group by group."""
    pooled = []
    for g in range(num_groups):
        mu, var = q.mu[group == g], q.logvar[group == g].exp()
        if evidence == "mean":
            pooled.append((mu.mean(0), var.mean(0).log()))
            continue
        prior = float(evidence == "product_with_prior")
        precision = prior + (1 / var).sum(0)
        n = len(mu) if evidence == "mean_precision" else 1
        pooled.append(((mu / var).sum(0) / precision, (n / precision).log()))
    return Normal(*(torch.stack(parts) for parts in zip(*pooled)))


# ---- known numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evidence", "mean", "variance", "kl"),
    [
        ("product", 4 / 3, 1 / 3, 1.104862),
        ("product_with_prior", 1.0, 0.25, 0.818147),
        ("mean", 1.0, 0.75, 0.518841),
        ("mean_precision", 4 / 3, 2 / 3, 0.924955),
    ],
)
def test_two_images(evidence, mean, variance, kl):
    q = one_group(normal([0.0, 2.0], [1.0, 0.5]), evidence)
    assert (q.mu.item(), q.logvar.exp().item()) == (pytest.approx(mean), pytest.approx(variance))
    assert kl_standard(q).item() == pytest.approx(kl, abs=1e-6)


@every_rule
def test_one_image_is_left_as_it_is_but_for_the_prior(evidence):
    alone = normal([1.0], [4.0])
    q = one_group(alone, evidence)
    if evidence == "product_with_prior":
        assert (q.mu.item(), q.logvar.exp().item()) == (pytest.approx(0.2), pytest.approx(0.8))
        assert kl_standard(q).item() == pytest.approx(0.031572, abs=1e-6)
    else:
        torch.testing.assert_close((q.mu, q.logvar), (alone.mu, alone.logvar))
        assert kl_standard(q).item() == pytest.approx(1.306853, abs=1e-6)


def test_evidence_of_equal_images_adds_up_in_a_product_and_not_in_a_mean():
    four = normal([1.0] * 4, [0.25] * 4)
    assert one_group(four).logvar.exp().item() == pytest.approx(0.0625)
    assert kl_standard(one_group(four)).item() == pytest.approx(1.417544, abs=1e-6)
    assert kl_standard(one_group(four[:1])).item() == pytest.approx(0.818147, abs=1e-6)
    for n in (1, 4, 100):  # standard deviation falls as 1 / sqrt(n)
        q = normal([1.0] * n, [0.25] * n)
        assert (0.5 * one_group(q).logvar).exp().item() == pytest.approx(0.5 / n**0.5)
        assert one_group(q, "mean").logvar.exp().item() == pytest.approx(0.25)
        assert one_group(q, "mean_precision").logvar.exp().item() == pytest.approx(0.25)


@pytest.mark.parametrize("prior", [False, True])
def test_pooling_equals_the_product_of_densities(prior):
    """Numerically: multiplied on a grid and normalised."""
    q = normal([0.3, -1.2, 0.8], [0.5, 1.4, 0.2])
    z = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    log_density = sum(TorchNormal(mu, (0.5 * logvar).exp()).log_prob(z) for mu, logvar in zip(q.mu, q.logvar))
    if prior:
        log_density = log_density + TorchNormal(0.0, 1.0).log_prob(z)
    density = log_density.exp() / torch.trapezoid(log_density.exp(), z)
    mean = torch.trapezoid(density * z, z)
    variance = torch.trapezoid(density * (z - mean).square(), z)
    pooled = one_group(q, "product_with_prior" if prior else "product")
    torch.testing.assert_close((pooled.mu.squeeze(), pooled.logvar.exp().squeeze()), (mean, variance))


# ---- groups ---------------------------------------------------------------------------------------------------------


@every_rule
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_groups_of_any_size_and_order_equal_a_loop(evidence, dtype, tolerance):
    q, group, num_groups = random_groups(dtype=dtype)
    got = pool(q, group, num_groups, evidence)
    wanted = by_loop(q.map(torch.Tensor.double), group, num_groups, evidence)
    for name in ("mu", "logvar"):
        assert getattr(got, name).dtype == dtype
        torch.testing.assert_close(getattr(got, name).double(), getattr(wanted, name), rtol=10 * tolerance, atol=tolerance)


@every_rule
def test_order_of_images_changes_nothing_and_names_of_groups_only_their_order(evidence):
    q, group, num_groups = random_groups()
    before = pool(q, group, num_groups, evidence)
    rows, names = torch.randperm(len(group)), torch.tensor([2, 0, 1])
    mixed, renamed = pool(q[rows], group[rows], num_groups, evidence), pool(q, names[group], num_groups, evidence)
    for name in ("mu", "logvar"):
        torch.testing.assert_close(getattr(mixed, name), getattr(before, name))
        torch.testing.assert_close(getattr(renamed, name)[names], getattr(before, name))


def test_products_of_products_are_products():
    """Evidence can come in any order and portion; the prior counts once."""
    q = random_groups((6,))[0]
    parts = [one_group(q[:2]), one_group(q[2:])]
    both = Normal(*(torch.cat([getattr(p, name) for p in parts]) for name in ("mu", "logvar")))
    for evidence in ("product", "product_with_prior"):
        got, wanted = one_group(both, evidence), one_group(q, evidence)
        torch.testing.assert_close((got.mu, got.logvar), (wanted.mu, wanted.logvar))


def test_a_group_without_images_is_the_prior_where_that_is_a_factor():
    q, group, num_groups = random_groups()
    pooled = pool(q, group, num_groups + 1, "product_with_prior")
    assert pooled.mu[-1].tolist() == pooled.logvar[-1].tolist() == [0, 0, 0]
    empty = pool(q[:0], group[:0], 2, "product_with_prior")
    assert empty.mu.abs().max() == empty.logvar.abs().max() == 0


def test_another_rule_is_refused():
    with unchecked(), pytest.raises(ValueError, match="one of product, product_with_prior, mean, mean_precision, got 'sum'"):
        one_group(normal([0.0], [1.0]), "sum")


def test_segments_equal_a_loop():
    q, group, num_groups = random_groups()
    x = q.mu
    wanted = torch.stack([x[group == g].sum(0) for g in range(num_groups)])
    torch.testing.assert_close(segment_sum(x, group, num_groups), wanted)
    wanted = torch.stack([x[group == g].logsumexp(0) for g in range(num_groups)])
    torch.testing.assert_close(segment_logsumexp(x, group, num_groups), wanted)
    rows = [(group == g).nonzero()[0].item() for g in range(num_groups)]
    assert first_of_groups(group, num_groups).tolist() == rows


# ---- extremes and gradients -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [False, True])
def test_precisions_of_any_size_stay_finite_in_float32(autocast):
    mu = torch.tensor([[1.0], [3.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        sure = one_group(Normal(mu, torch.tensor([[-200.0], [-200.0]])))
        one_sure = one_group(Normal(mu, torch.tensor([[200.0], [-200.0]])))
        pooled = [
            one_group(Normal(mu, torch.tensor([[a], [b]])), e)
            for e in RULES
            for a in (-200.0, 200.0)
            for b in (-200.0, 200.0)
        ]
    assert sure.mu.dtype == torch.float32
    assert (sure.mu.item(), sure.logvar.item()) == (pytest.approx(2, rel=1e-5), pytest.approx(-200.6931))
    assert (one_sure.mu.item(), one_sure.logvar.item()) == (3, -200)
    assert all(q.mu.isfinite().all() and q.logvar.isfinite().all() for q in pooled)


def test_no_rounding_to_bfloat16_under_autocast():
    q, group, num_groups = random_groups(dtype=torch.float32)
    for evidence in RULES:
        exact = pool(q, group, num_groups, evidence)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = pool(q, group, num_groups, evidence)
        assert torch.equal(got.mu, exact.mu) and torch.equal(got.logvar, exact.logvar)


def test_gradients_are_the_weights_of_the_images():
    """d mu_G / d mu_i = w_i, d logvar_G / d logvar_i = w_i, d mu_G / d logvar_i = -w_i (mu_i - mu_G)."""
    q = normal([0.0, 2.0, -1.0], [1.0, 0.5, 3.0])
    mu, logvar = q.mu.requires_grad_(), q.logvar.requires_grad_()
    pooled = one_group(Normal(mu, logvar))
    w = (1 / logvar.exp() / (1 / logvar.exp()).sum()).detach()
    by_mu, by_logvar = torch.autograd.grad(pooled.mu.sum(), (mu, logvar), retain_graph=True)
    torch.testing.assert_close(by_mu, w)
    torch.testing.assert_close(by_logvar, -w * (mu - pooled.mu).detach())
    by_mu, by_logvar = torch.autograd.grad(pooled.logvar.sum(), (mu, logvar), allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(by_logvar, w)
    assert by_mu.abs().max() == 0


@every_rule
def test_gradients_equal_finite_differences(evidence):
    q, group, num_groups = random_groups((1, 2, 3), D=2)

    def pooled(mu, logvar):
        got = pool(Normal(mu, logvar), group, num_groups, evidence)
        return got.mu, got.logvar

    assert gradcheck(pooled, (q.mu.requires_grad_(), q.logvar.requires_grad_()))


# ---- exactness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("evidence", "elbo"), [("product_with_prior", -6.369944), ("product", -6.405399)])
def test_only_with_the_prior_as_a_factor_is_the_bound_tight(evidence, elbo):
    """x_i = c + noise of variance 0.7, what an image says of c is N(x_i, 0.7), x = (0.5, -1, 2)."""
    x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    q = one_group(normal(x.tolist(), [0.7] * 3), evidence)
    variance = q.logvar.exp().squeeze()
    log_px_z = TorchNormal(q.mu.squeeze(), 0.7**0.5).log_prob(x).sum() - 3 * variance / (2 * 0.7)  # expectation under q
    got = log_px_z - kl_divergence(TorchNormal(q.mu.squeeze(), variance.sqrt()), TorchNormal(0.0, 1.0))
    assert got.item() == pytest.approx(elbo, abs=1e-6)
    log_px = MultivariateNormal(torch.zeros(3), torch.ones(3, 3) + 0.7 * torch.eye(3)).log_prob(x.float()).item()
    assert log_px == pytest.approx(-6.369944, abs=1e-5) and got.item() <= log_px + 1e-5


def test_odds_of_one_group_are_those_of_the_densities():
    a, b, noise = [0.5, -1.0], [2.0, 1.5, 0.3], 0.7
    pooled = [one_group(normal(x, [noise] * len(x)), "product_with_prior")[0] for x in (a, b)]
    got = log_same_group(*pooled).item()

    def log_p(x):
        n = len(x)
        covariance = torch.ones(n, n, dtype=torch.float64) + noise * torch.eye(n, dtype=torch.float64)
        return MultivariateNormal(torch.zeros(n, dtype=torch.float64), covariance).log_prob(
            torch.tensor(x, dtype=torch.float64)
        )

    assert got == pytest.approx((log_p(a + b) - log_p(a) - log_p(b)).item()) == pytest.approx(-1.030224, abs=1e-6)
    nothing = normal([0.0], [1.0])[0]  # no image at all says nothing on anybody
    assert log_same_group(nothing, pooled[0]).item() == pytest.approx(0, abs=1e-12)


def test_posteriors_of_images_give_the_odds_of_what_the_images_say():
    """A posterior has the prior in it: of x = z + noise it is N(x / (1 + s), s / (1 + s)), of what x says N(x, s)."""
    a, b, noise = [0.5, -1.0], [2.0, 1.5, 0.3], 0.7
    said = [one_group(normal(x, [noise] * len(x)), "product_with_prior")[0] for x in (a, b)]
    posteriors = [normal([v / (1 + noise) for v in x], [noise / (1 + noise)] * len(x)) for x in (a, b)]
    pooled = [one_group(without_prior(q), "product_with_prior")[0] for q in posteriors]
    assert log_same_group(*pooled).item() == pytest.approx(log_same_group(*said).item(), abs=1e-9)
    twice = [one_group(q, "product_with_prior")[0] for q in posteriors]
    assert log_same_group(*twice).item() != pytest.approx(log_same_group(*said).item(), abs=0.1)


def test_a_posterior_without_its_prior_and_with_it_is_itself_and_one_no_surer_says_nothing():
    q = normal([0.5, -1.0, 0.3], [0.2, 0.999999, 1e-4], torch.float32)
    back = pool(without_prior(q), torch.arange(3), 3, "product_with_prior")
    torch.testing.assert_close(back.mu, q.mu, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(back.logvar, q.logvar, rtol=1e-4, atol=1e-5)
    silent = one_group(without_prior(normal([3.0, -2.0], [1.0, 1.5])), "product_with_prior")
    assert silent.mu.abs().item() == 0 and silent.logvar.abs().item() < 1e-6
