"""What SPLIT adds to the contract (tests/models/test_base.py): which networks see what, and where its views come from."""

from math import log

import pytest
import torch

from tests.models.builders import build, costs, images
from vae_zoo.distributions import Normal, PixelwiseLogistic, kl_standard
from vae_zoo.distributions.noise import key_of
from vae_zoo.models.local_branch import LocalBranch
from vae_zoo.models.split_vae import SplitVAE
from vae_zoo.nets import MLP, GaussianBlur, HighLowPass, Identity, PatchShuffle, ResizeConv


def coloured(B=8, side=8):
    return {"image": torch.randint(256, (B, 3, side, side), generator=torch.Generator().manual_seed(0)) / 255}


def gradients(model, term, batch):
    """{network: whether any gradient of this term reaches it}."""
    model.zero_grad()
    costs(model, batch)[term].sum().backward()
    parts = {
        "encoder": model.encoder,
        "decoder": model.decoder,
        "local.encoder": model.local.encoder,
        "local.decoder": model.local.decoder,
    }
    return {n for n, part in parts.items() if any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())}


def test_each_network_learns_from_what_it_should_and_from_nothing_else():
    model, batch = build("split_vae"), images()
    assert gradients(model, "rec", batch) == {"encoder", "decoder", "local.encoder"}
    assert gradients(model, "rec_aux", batch) == {"local.encoder", "local.decoder"}
    assert gradients(model, "kl_z_global", batch) == {"encoder"}
    assert gradients(model, "kl_z_local", batch) == {"local.encoder"}


def test_learned_scales_of_both_images_are_apart():
    from vae_zoo.distributions import DiscretisedLogistic

    model = build("split_vae", likelihood=DiscretisedLogistic())
    assert model.likelihood.log_scale is not model.local.likelihood.log_scale


def test_shuffled_image_is_explained_by_the_local_code_alone():
    model, z_local = build("split_vae"), torch.randn(8, 3)
    x_aux = model.local.fixed_view(images()["image"])
    expected = -model.likelihood.log_prob(x_aux, model.local.decoder(z_local))
    torch.testing.assert_close(model.local.rec(x_aux, z_local), expected)
    q = Normal.from_softplus(model.local.encoder(x_aux))
    assert torch.equal(model.encode(images())["z_local"].mu, q.mu)


def test_views_are_new_in_training_and_the_images_own_otherwise():
    model, batch = build("split_vae"), images()
    seen = []
    model.local.encoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    costs(model, batch), costs(model, batch)
    model.eval()
    costs(model, batch), model.encode(batch), model.encode(batch["image"][3:4])
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3]) and torch.equal(seen[4], seen[3][3:4])
    before = torch.get_rng_state()
    model.encode(batch)
    assert torch.equal(before, torch.get_rng_state())


def test_keys_of_images_are_functions_of_the_image():
    x = torch.rand(50, 3, 4, 4)
    x[0, 0, 0, 0] = x[1, 0, 0, 0]
    keys = key_of(x)
    assert len(keys.unique()) == 50 and torch.equal(key_of(x[7:9]), keys[7:9])
    assert torch.equal(key_of(x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)), keys)
    x[3, 1, 2, 2] += 1 / 255
    assert key_of(x)[3] != keys[3]
    levels = torch.arange(256.0).view(1, 1, 16, 16)
    assert torch.equal(key_of(levels / 255), key_of(levels * (1 / 255))), "as devices divide"


def test_kl_of_both_codes_is_that_of_one_code_made_of_both():
    q = build("split_vae").encode(images())
    both = Normal(*(torch.cat([getattr(part, name) for part in q.values()], 1) for name in ("mu", "logvar")))
    torch.testing.assert_close(sum(kl_standard(part) for part in q.values()), kl_standard(both))


@pytest.mark.parametrize("mu, std, nats", [(1.0, 1.0, 0.5), (0.0, 2.0, 0.806853), (0.0, log(2), 0.106739), (0.0, 1.0, 0.0)])
def test_softplus_gives_standard_deviations(mu, std, nats):
    raw = torch.tensor(std).expm1().log()
    q = Normal.from_softplus(torch.stack([torch.tensor(mu), raw])[None], floor=0)
    torch.testing.assert_close(kl_standard(q).item(), nats, rtol=0, atol=1e-5)
    floored = Normal.from_softplus(torch.tensor([[0.0, -1000.0]]))
    assert floored.logvar.exp().sqrt().item() == pytest.approx(1e-4)


def test_loss_with_unit_weights_is_the_bound_on_both_images():
    model, one = build("split_vae").eval(), images(1)
    batch = {"image": one["image"].expand(4000, -1, -1, -1)}
    torch.manual_seed(0)
    with torch.no_grad():
        terms = costs(model, batch)
        x, x_aux = batch["image"], model.local.fixed_view(batch["image"])
        q = model.infer(x, x_aux)
        z = {name: torch.distributions.Normal(part.mu, (0.5 * part.logvar).exp()).sample() for name, part in q.items()}
        log_p = model.likelihood.log_prob(x, model.decoder(torch.cat([*z.values()], 1)))
        log_p += model.likelihood.log_prob(x_aux, model.local.decoder(z["z_local"]))
        for name, part in q.items():
            log_p += torch.distributions.Normal(0, 1).log_prob(z[name]).sum(1)
            log_p -= torch.distributions.Normal(part.mu, (0.5 * part.logvar).exp()).log_prob(z[name]).sum(1)
        of_x = model.log_weights(one, 4000)[:, 0]
    spread = 4 * (log_p.std() + terms["rec"].std() + terms["rec_aux"].std()) / 4000**0.5
    assert abs(terms["loss"] + log_p.mean()) < spread
    assert abs(of_x.mean() + (terms["loss"] - terms["rec_aux"].mean())) < spread, "without the shuffled image"


@pytest.mark.parametrize(
    "view", [Identity(), PatchShuffle(1), GaussianBlur(), HighLowPass()], ids=lambda v: type(v).__name__
)
def test_any_view_and_likelihood_will_do(view):
    torch.manual_seed(0)
    network = ResizeConv((4, 4), (4, 4), "elu", (4, 4), (4, 4, 6))
    model = SplitVAE((3, 8, 8), 2, 3, network, PixelwiseLogistic(), view)
    loss = costs(model, coloured())["loss"]
    loss.backward()
    assert loss.isfinite() and model.sample(2).shape == (2, 3, 8, 8)


def test_a_view_that_does_not_fit_is_refused_when_the_model_is_built():
    with pytest.raises(ValueError, match="patches of 5 pixels do not tile images of 8x8"):
        LocalBranch((3, 8, 8), 2, PatchShuffle(5), MLP((8,)), PixelwiseLogistic())


@pytest.mark.parametrize("side, count", [(32, 3_204_748), (64, 8_722_060)])
def test_split_vae_has_the_parameters_of_the_official_code(side, count):
    model = SplitVAE((3, side, side), 128, 128, ResizeConv(), PixelwiseLogistic(), PatchShuffle(1))
    assert sum(p.numel() for p in model.parameters()) == count
