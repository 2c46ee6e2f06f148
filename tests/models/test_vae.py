import torch

from tests.models.builders import build, costs, images, weights_of


def test_vae_minimises_reconstruction_plus_kl():
    model = build("vae")
    terms = costs(model, images())
    assert weights_of(model, images()) == {"rec": 1, "kl_z": 1}
    torch.testing.assert_close(terms["loss"], (terms["rec"] + terms["kl_z"]).mean())


def test_loss_is_in_expectation_the_negative_bound():
    model, batch = build("vae"), images(4)
    torch.manual_seed(0)
    with torch.no_grad():
        losses = torch.stack([costs(model, batch)["loss"] for _ in range(500)])
        bound = model.log_weights(batch, 5000).mean()
    assert abs(losses.mean() + bound) < 4 * losses.std() / 500**0.5
