import pytest
import torch

from tests.models.builders import build, costs, images
from vae_zoo.distributions import kl_standard
from vae_zoo.schedules import Linear


def at_step(model, step, batch):
    model.trained_steps = step
    return costs(model, batch)


def test_gap_is_the_distance_of_the_mean_kl_from_the_capacity():
    model, batch = build("annealed_vae", gamma=7.0, capacity=Linear(0.0, 25.0, 100)), images()
    kl = kl_standard(model.encode(batch)["z"]).mean().item()
    for step, capacity in ((0, 0.0), (1, 0.25), (50, 12.5), (100, 25.0), (5000, 25.0)):
        terms = at_step(model, step, batch)
        assert terms["capacity_gap"].item() == pytest.approx(abs(kl - capacity), rel=1e-5)
        assert (terms["loss"] - terms["rec"].mean()).item() == pytest.approx(7 * abs(kl - capacity), rel=1e-4)
    assert 0 < kl < 0.25  # so the list above has capacities on both sides


def test_kl_is_averaged_before_the_modulus():
    """Images may carry more or less than the capacity as long as the batch carries it on average."""
    model, batch = build("annealed_vae"), images()
    kl = kl_standard(model.encode(batch)["z"])
    model.capacity = lambda step: kl.mean().item()
    assert at_step(model, 0, batch)["capacity_gap"] < 1e-6 < 1e-3 < (kl - kl.mean()).abs().mean()


@pytest.mark.parametrize(("capacity", "direction"), [(0.0, 1), (25.0, -1)])
def test_kl_is_pulled_towards_the_capacity_from_both_sides(capacity, direction):
    model, batch = build("annealed_vae", gamma=2.0, capacity=capacity), images()
    terms, kl = at_step(model, 0, batch), kl_standard(model.encode(batch)["z"]).mean()
    parameters = list(model.encoder.parameters())
    pull = torch.autograd.grad(terms["loss"] - terms["rec"].mean(), parameters)
    for got, wanted in zip(pull, torch.autograd.grad(kl, parameters)):
        torch.testing.assert_close(got, 2 * direction * wanted)


def test_capacity_zero_and_gamma_beta_is_the_beta_vae():
    losses = []
    for name, options in (("annealed_vae", {"gamma": 3.0, "capacity": 0.0}), ("beta_vae", {"beta": 3.0})):
        model = build(name, **options)
        torch.manual_seed(1)
        losses.append(costs(model, images())["loss"])
    torch.testing.assert_close(*losses)
