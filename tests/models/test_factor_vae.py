from itertools import permutations
from math import log

import pytest
import torch
from scipy import stats
from torch import nn

from tests.models.builders import build, costs, fit, images
from vae_zoo.distributions import noise
from vae_zoo.models.factor_vae import permute_dims


def permuted_dims(z):
    return permute_dims(z, noise.uniform(z))


# ---- the permutation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("B", "D"), [(1, 3), (2, 1), (64, 10)])
def test_permutation_keeps_what_each_dimension_holds(B, D):
    z = torch.randn(B, D)
    permuted = permuted_dims(z)
    assert torch.equal(permuted.sort(0).values, z.sort(0).values)
    assert B == 1 or D == 1 or not torch.equal(permuted, z)


def test_permutations_are_uniform_and_independent_between_dimensions():
    """All 6 x 6 pairs of orders of two columns of three rows are equally likely; one order for both has but 6."""
    orders = {order: place for place, order in enumerate(permutations(range(3)))}
    z = torch.arange(3.0)[:, None].expand(3, 2)
    counts = torch.zeros(6, 6)
    torch.manual_seed(0)
    for _ in range(7200):
        first, second = permuted_dims(z).T.int().tolist()
        counts[orders[tuple(first)], orders[tuple(second)]] += 1
    assert stats.chisquare(counts.flatten()).pvalue > 1e-3


def test_permutation_makes_dimensions_independent():
    torch.manual_seed(0)
    z = torch.randn(20_000, 1) + 0.1 * torch.randn(20_000, 3)  # correlations of 0.99
    correlations = permuted_dims(z).T.corrcoef()
    assert (z.T.corrcoef() > 0.98).all() and (correlations - torch.eye(3)).abs().max() < 0.03


def test_permutation_of_evaluation_does_not_shift_training():
    before, z = torch.get_rng_state(), torch.randn(8, 3, generator=torch.Generator())
    with noise.per_image(torch.arange(8)):
        assert torch.equal(permuted_dims(z).sort(0).values, z.sort(0).values)
    assert torch.equal(torch.get_rng_state(), before)


# ---- the density ratio ----------------------------------------------------------------------------------------------

RHO = 0.8
CORRELATED = torch.distributions.MultivariateNormal(torch.zeros(2), torch.tensor([[1, RHO], [RHO, 1]]))


class Ratio(nn.Module):
    """The optimal discriminator of the correlated Gaussian, whose logits differ by a * log q(z) / prod q(z_d) + b."""

    def __init__(self, a=1.0, b=0.0):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, z):
        ratio = CORRELATED.log_prob(z) - torch.distributions.Normal(0, 1).log_prob(z).sum(-1)
        return torch.stack([self.a * ratio + self.b, torch.zeros(len(z))], dim=-1)


def test_discriminator_loss_is_least_at_the_true_density_ratio():
    model = build("factor_vae", latent_dim=2)
    torch.manual_seed(0)
    z = CORRELATED.sample((100_000,))
    for a, b, expected in (
        (1.0, 0.0, (0, 0)),
        (0.5, 0.0, (-1, 0)),
        (1.5, 0.0, (1, 0)),
        (1.0, 0.5, (0, 1)),
        (-1.0, 0.0, (-1, 0)),
    ):
        model.discriminator = Ratio(a, b)
        model.discriminator_loss(z).mean().backward()
        slope_a, slope_b = model.discriminator.a.grad.item(), model.discriminator.b.grad.item()
        if expected == (0, 0):
            assert abs(slope_a) < 0.004 and abs(slope_b) < 0.004
            assert model.discriminator_loss(z).mean() < log(2) - 0.05
        else:  # the cost rises away from the ratio on every side, and towards exchanged classes (a = -1) too
            slope, sign = (slope_a, expected[0]) if expected[0] else (slope_b, expected[1])
            assert slope * sign > 0.015


def test_a_trained_discriminator_recovers_the_total_correlation():
    model = build("factor_vae", latent_dim=2, discriminator_hidden=(64, 64))
    optimizer = torch.optim.Adam(model.discriminator.parameters(), lr=3e-3)
    torch.manual_seed(0)
    for _ in range(400):
        optimizer.zero_grad()
        model.discriminator_loss(CORRELATED.sample((256,))).mean().backward()
        optimizer.step()
    with torch.no_grad():
        logits = model.discriminator(CORRELATED.sample((20_000,)))
    tc = (logits[:, 0] - logits[:, 1]).mean().item()
    assert tc == pytest.approx(-0.5 * log(1 - RHO**2), abs=0.12)  # 0.51; exchanged classes would give -0.51


def test_total_correlation_of_the_objective_is_the_log_ratio_at_the_draw():
    model, batch = build("factor_vae", latent_dim=2), images()
    model.discriminator = Ratio(b=0.3)
    torch.manual_seed(1)
    tc = costs(model, batch)["tc"]
    torch.manual_seed(1)
    z = model.encode(batch)["z"].rsample()
    expected = CORRELATED.log_prob(z) - torch.distributions.Normal(0, 1).log_prob(z).sum(-1) + 0.3
    torch.testing.assert_close(tc, expected)


def test_discriminator_that_knows_nothing_costs_log_two():
    model = build("factor_vae")
    nn.init.zeros_(model.discriminator[-1].weight), nn.init.zeros_(model.discriminator[-1].bias)
    torch.testing.assert_close(costs(model, images())["discriminator"], torch.full((8,), log(2)))
    assert costs(model, images())["tc"].abs().max() == 0


def test_discriminator_is_that_of_the_paper():
    model = build("factor_vae", latent_dim=10, discriminator_hidden=(1000,) * 6)
    # six layers of 1000 with leaky ReLU of 0.2, two logits
    assert sum(p.numel() for p in model.discriminator.parameters()) == 10 * 1000 + 1000 + 5 * 1_001_000 + 2002
    assert [m.negative_slope for m in model.discriminator if isinstance(m, nn.LeakyReLU)] == [0.2] * 6


# ---- two players ----------------------------------------------------------------------------------------------------


def parts(model):
    """Its state, of the VAE and of the discriminator."""
    split = {"vae": {}, "discriminator": {}}
    for name, value in model.state_dict().items():
        split["discriminator" if name.startswith("discriminator.") else "vae"][name] = value.clone()
    return split


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_gradients_do_not_reach_the_other_player():
    model = build("factor_vae", gamma=1000.0)
    terms = costs(model, images())
    vae = [p for name, p in model.named_parameters() if not name.startswith("discriminator.")]
    discriminator = list(model.discriminator.parameters())
    options = {"retain_graph": True, "allow_unused": True}
    assert all(g is None for g in torch.autograd.grad(terms["loss"], discriminator, **options))
    assert all(g is None for g in torch.autograd.grad(terms["discriminator"].mean(), vae, **options))
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(terms["loss"], vae, **options))
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(terms["discriminator"].mean(), discriminator, **options))


def test_a_step_trains_each_player_by_its_own_loss():
    """After one step the discriminator does not know gamma and the VAE does not know the discriminator's learning rate;
    after two they have met in each other's input."""

    def train(steps, gamma=35.0, lr=1e-3):
        model = build("factor_vae", (1, 8, 8), gamma=gamma, discriminator_optimizer=lambda p: torch.optim.Adam(p, lr=lr))
        before = parts(model)
        fit(model, steps)
        after = parts(model)
        assert not same(before["vae"], after["vae"]) and not same(before["discriminator"], after["discriminator"])
        return after

    base, other_gamma, other_lr = train(1), train(1, gamma=1000.0), train(1, lr=0.1)
    assert same(base["discriminator"], other_gamma["discriminator"]) and not same(base["vae"], other_gamma["vae"])
    assert same(base["vae"], other_lr["vae"]) and not same(base["discriminator"], other_lr["discriminator"])
    base, other_gamma, other_lr = train(2), train(2, gamma=1000.0), train(2, lr=0.1)
    assert not same(base["discriminator"], other_gamma["discriminator"]) and not same(base["vae"], other_lr["vae"])


def test_two_optimisers_count_one_step_a_batch():
    model = build("factor_vae", (1, 8, 8))
    seen = []
    objective = model.objective
    model.objective = lambda batch: (seen.append(batch["index"].tolist()), objective(batch))[1]
    trainer = fit(model, 7)
    assert trainer.global_step == 7 and len(trainer.optimizers) == 2
    assert seen[:7] == [trainer.datamodule.train_indices(step).tolist() for step in range(7)]


def test_each_player_is_clipped_by_its_own_norm():
    model = build("factor_vae", (1, 8, 8))
    norms = []

    def step(self):
        norms.append([torch.cat([p.grad.flatten() for p in g["params"]]).norm().item() for g in self.param_groups][0])

    for optimizer in ("optimizer", "discriminator_optimizer"):
        kind = type("Spy", (torch.optim.SGD,), {"step": lambda self, closure=None: step(self)})
        setattr(model, optimizer, lambda p, kind=kind: kind(p, lr=0.0))
    fit(model, 1, gradient_clip_val=1e-3)
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-3)
