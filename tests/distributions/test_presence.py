"""Relaxed presence and the count prior, against sampling, enumeration and the loop over cells."""

from itertools import product
from math import comb, log

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

from vae_zoo.distributions.presence import (
    count_log_odds,
    kl_bernoulli,
    kl_relaxed,
    log_relaxed,
    prior_log_odds,
    sample_occupied,
)


@pytest.mark.parametrize("temperature", [0.5, 0.8, 1.5])
@pytest.mark.parametrize("a, b, expected", [(2, -1, 1.3144), (10, -7.37, 15.37), (-10, -7.37, 1.0386), (-3, 1, 2.1493)])
def test_kl_of_relaxed_variables_is_the_mean_of_its_draws(a, b, expected, temperature):
    u = torch.rand(1_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = torch.tensor([a, b], dtype=torch.float64)
    y = (a + u.logit()) / temperature
    draws = log_relaxed(y, a, temperature) - log_relaxed(y, b, temperature)
    assert kl_relaxed(a, b) == pytest.approx(expected, abs=5e-4)
    assert (draws.mean() - kl_relaxed(a, b)).abs() < 4 * draws.std() / 1000
    assert (y > 0).double().mean() == pytest.approx(float(a.sigmoid()), abs=3e-3)


def test_relaxed_density_integrates_to_one():
    y = torch.linspace(-60, 60, 200_001, dtype=torch.float64)
    assert torch.trapezoid(log_relaxed(y, torch.tensor(2.0), 0.8).exp(), y) == pytest.approx(1, abs=1e-6)


def test_kl_is_smooth_through_zero_and_everywhere_finite():
    d = torch.tensor([0.0, 1e-6, 0.0099, 0.0101, 1.0, -17.37, 40.0], dtype=torch.float64, requires_grad=True)
    kl = kl_relaxed(d, torch.zeros_like(d))
    kl.sum().backward()
    assert kl[0] == 0 and torch.isfinite(d.grad).all()
    assert torch.allclose(kl[2] / d[2] ** 2, kl[3] / d[3] ** 2, rtol=1e-4)
    assert torch.autograd.gradcheck(lambda x: kl_relaxed(x, torch.ones_like(x)), d[4:6].detach().requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_where_presence_is_certain_and_where_it_is_as_the_prior_says(dtype):
    a = torch.tensor([10.0, -10.0, -7.37, 10.0, -10.0], dtype=dtype, requires_grad=True)
    b = torch.tensor([-7.37, -7.37, -7.37, 10.0, -10.0], dtype=dtype)
    y = (a + torch.tensor([13.8, -13.8, 0.0, 13.8, -13.8])) / 0.8  # as far out as draws go
    for kl in (kl_relaxed(a, b), log_relaxed(y, a, 0.8) - log_relaxed(y, b, 0.8), kl_bernoulli(a, b)):
        [gradient] = torch.autograd.grad(kl.sum(), a, retain_graph=True)
        assert torch.isfinite(kl).all() and torch.isfinite(gradient).all()
    [gradient] = torch.autograd.grad(kl_relaxed(a, b).sum(), a)
    torch.testing.assert_close(gradient[2:], torch.zeros(3, dtype=dtype), atol=1e-6, rtol=0)  # least at d = 0
    assert gradient[0] > 0.99 and -1 < gradient[1] < 0


def test_kl_of_bernoulli_variables():
    a, b = torch.tensor([-3.0, 0.5, 10.0]).double(), torch.tensor([1.0, -2.0, -7.37]).double()
    torch.testing.assert_close(kl_bernoulli(a, b), kl_divergence(Bernoulli(logits=a), Bernoulli(logits=b)))


@pytest.mark.parametrize("s", [1.0, 0.5, 0.01])
def test_count_prior_against_all_configurations(s):
    """The chain of log-odds gives each of 2^5 configurations p(C = k) / binom(N, k)."""
    N = 5
    occupied = torch.tensor([*product([False, True], repeat=N)])
    odds = prior_log_odds(occupied, s).double()
    log_p = torch.where(occupied, odds, -odds).sigmoid().log().sum(1)
    total = sum(s**k for k in range(N + 1))
    expected = torch.tensor([log(s**k / total / comb(N, k)) for k in occupied.sum(1).tolist()], dtype=torch.float64)
    torch.testing.assert_close(log_p, expected, atol=2e-5, rtol=0)
    assert log_p.exp().sum() == pytest.approx(1, abs=1e-5)


def sequential(occupied, s):
    """The loop over cells of 51616/split-vae, in log space: p(k | seen) and the mean of (k - m) / (N - i)."""
    N = occupied.shape[1]
    k = np.arange(N + 1)
    p = np.tile(np.exp(k * log(s) - np.logaddexp.reduce(k * log(s))), (len(occupied), 1))
    seen, odds = np.zeros((len(occupied), 1)), []
    for i in range(N):
        share = ((k - seen) / (N - i)).clip(0, 1)
        probability = (p * share).sum(1)
        odds.append(np.log(probability) - np.log((p * (1 - share)).sum(1)))
        p = p * np.where(occupied[:, [i]], share, 1 - share)
        p, seen = p / p.sum(1, keepdims=True), seen + occupied[:, [i]]
    return np.stack(odds, axis=1)


@pytest.mark.parametrize("s", [1.0, 0.5, 0.0123, 0.01])
def test_count_prior_against_the_loop_over_cells(s):
    occupied = np.random.default_rng(0).random((200, 16)) < np.linspace(0.02, 0.9, 200)[:, None]
    np.testing.assert_allclose(prior_log_odds(torch.from_numpy(occupied), s), sequential(occupied, s), atol=1e-5)


@pytest.mark.parametrize("s", [1.0, 0.01])
def test_count_prior_of_many_cells_against_the_loop(s):
    """float32, so to 1e-5 of odds from -9.4 to 0.2."""
    occupied = np.random.default_rng(1).random((50, 121)) < np.linspace(0.0, 0.9, 50)[:, None]
    found = prior_log_odds(torch.from_numpy(occupied), s).numpy()
    np.testing.assert_allclose(found, sequential(occupied, s), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("s, expected", [(0.01, 0.010101), (1.0, 8.0)])
def test_mean_number_of_objects_of_the_chain(s, expected):
    """The log-odds followed from cell to cell: p(m objects among the first i), i = 0..16."""
    odds = count_log_odds(s, 16).double()
    p = torch.zeros(17, dtype=torch.float64)
    p[0] = 1
    for i in range(16):
        on = odds[i].sigmoid() * p[:16]
        p = torch.cat([p[:16] - on, p[16:]]) + torch.cat([torch.zeros(1), on])
    assert p.sum() == pytest.approx(1) and float(p @ torch.arange(17.0).double()) == pytest.approx(expected, rel=1e-4)


def test_known_values_of_the_count_prior():
    few = count_log_odds(0.01, 16)
    assert float(few[0, 0].sigmoid()) == pytest.approx(6.3131e-4, abs=1e-8)
    few = few[torch.ones(16, 16).tril() > 0]
    assert (float(few.min()), float(few.max())) == pytest.approx((-7.38, -1.83), abs=0.01)
    laplace = count_log_odds(1.0, 16).double()
    for i, m in [(0, 0), (5, 2), (15, 15)]:
        assert float(laplace[i, m].sigmoid()) == pytest.approx((m + 1) / (i + 2), abs=1e-6)
    large = count_log_odds(0.01, 121)[torch.ones(121, 121).tril() > 0]
    assert torch.isfinite(large).all() and -9.42 < large.min() and large.max() < 0.21


def test_the_table_is_made_once_for_each_device():
    """A copy at every call would hold up a GPU."""
    for device in (torch.device("cpu"), torch.device("meta")):
        first = count_log_odds(0.31, 7, device)
        assert first.device == device and count_log_odds(0.31, 7, device) is first
    occupied = torch.zeros(3, 7, dtype=torch.bool, device="meta")
    assert prior_log_odds(occupied, 0.31).device.type == "meta"
    assert count_log_odds.cache_info().maxsize < 10


def test_draws_of_the_count_prior():
    torch.manual_seed(0)
    occupied = sample_occupied(50_000, 6, 0.5, torch.device("cpu"))
    share = torch.bincount(occupied.sum(1), minlength=7) / 50_000
    expected = torch.tensor([0.5**k for k in range(7)])
    torch.testing.assert_close(share, expected / expected.sum(), atol=0.01, rtol=0)
    assert (occupied.float().mean(0) - occupied.float().mean()).abs().max() < 0.01
