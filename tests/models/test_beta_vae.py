import torch

from tests.models.builders import build, costs, images, weights_of
from vae_zoo.distributions import kl_standard
from vae_zoo.schedules import Linear


def test_beta_vae_with_beta_one_is_the_vae_and_with_zero_an_autoencoder():
    batch, losses = images(), {}
    for name, options in (("vae", {}), ("beta_vae", {"beta": 1.0}), ("autoencoder", {"beta": 0.0})):
        model = build("vae" if name == "vae" else "beta_vae", **options)
        torch.manual_seed(1)
        terms = costs(model, batch)
        losses[name] = terms["loss"].item()
    assert losses["vae"] == losses["beta_vae"]
    assert losses["autoencoder"] == terms["rec"].mean().item() < losses["vae"]


def test_beta_follows_its_schedule():
    model, batch = build("beta_vae", beta=Linear(0.0, 4.0, 100)), images()
    kl = kl_standard(model.encode(batch)["z"]).mean()
    for step, beta in ((0, 0.0), (25, 1.0), (50, 2.0), (100, 4.0), (900, 4.0)):
        model.trained_steps = step
        terms = costs(model, batch)
        torch.testing.assert_close(terms["loss"] - terms["rec"].mean(), beta * kl, rtol=1e-3, atol=1e-5)
        assert weights_of(model, batch) == {"rec": 1, "kl_z": beta}
