"""SPLIT-SPAIR: who sees the local code, and that its terms are SPAIR's and two more."""

import pytest
import torch

from tests.models.builders import costs, weights_of
from tests.models.test_spair import SHAPE, batch, check_weight, spair
from vae_zoo.distributions import kl_standard, noise
from vae_zoo.models.spair import SPAIR
from vae_zoo.models.split_spair import SplitSPAIR
from vae_zoo.nets import Identity, PatchShuffle


def split_spair(local_to="both", view=None, **options):
    view = view or PatchShuffle(4)
    return spair(kind=SplitSPAIR, local_dim=3, view=view, local_to=local_to, **options)


@pytest.mark.parametrize(
    "local_to, sees", [("none", ""), ("objects", "objects"), ("background", "ground"), ("both", "objects ground")]
)
def test_whose_decoder_sees_the_local_code(local_to, sees):
    model = split_spair(local_to, alpha_bias=0.0).eval()
    codes = model.sample_prior(2)
    objects = codes["objects"].unflatten(1, (model.num_cells, -1)).clone()
    objects[..., -1] = 1
    codes["objects"] = objects.flatten(1)
    first = model.render(codes)
    other = model.render(codes | {"z_local": codes["z_local"] + 1})
    assert torch.equal(first.sprite, other.sprite) == ("objects" not in sees)
    assert torch.equal(first.ground, other.ground) == ("ground" not in sees)
    assert torch.equal(first.box, other.box)


def test_a_local_code_for_a_background_that_is_not_there_is_refused():
    for local_to in ("background", "both"):
        with pytest.raises(ValueError, match=f"local_to={local_to} needs a decoder of the background, got background_dim=0"):
            split_spair(local_to, background_dim=0)
    for local_to in ("none", "objects"):
        model = split_spair(local_to, background_dim=0)
        costs(model, batch())["loss"].backward()
        assert all(p.grad is not None for p in model.parameters())


def test_terms_are_those_of_spair_and_of_the_local_branch():
    model = split_spair("none", beta_local=0.7, aux_weight=0.3)
    others = dict.fromkeys(weights_of(spair(), batch()), 1.0)
    assert weights_of(model, batch()) == others | {"kl_z_local": 0.7, "rec_aux": 0.3}
    torch.manual_seed(1)
    terms = costs(model, batch())
    total = sum(weight * terms[name] for name, weight in weights_of(model, batch()).items()).mean()
    torch.testing.assert_close(terms["loss"], total)
    local = terms["rec_aux"].mean()
    gradients = torch.autograd.grad(local, [*model.parameters()], allow_unused=True)
    reached = {name.split(".")[0] for (name, _), g in zip(model.named_parameters(), gradients) if g is not None}
    assert reached == {"local"}


@pytest.mark.parametrize("term", ["rec_aux", "kl_z_local", "kl_where", "kl_background"])
def test_each_weight_moves_the_gradient_by_that_of_its_term(term):
    check_weight(lambda **betas: split_spair("both", **betas), term)


def test_without_wiring_the_rest_is_spair():
    model, plain = split_spair("none"), spair(kind=SPAIR)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("local.")})
    found = batch()
    with noise.per_image(found["index"]):
        terms = costs(model.eval(), found)
    with noise.per_image(found["index"]):
        expected = costs(plain.eval(), found)
    for name in ("rec", "kl_where", "kl_what", "kl_depth", "kl_pres", "kl_background"):
        torch.testing.assert_close(terms[name], expected[name])


def test_the_view_is_new_at_each_step_and_fixed_in_evaluation():
    model, x = split_spair(), batch()["image"]
    assert torch.equal(model.encode(x)["z_local"].mu, model.encode(x)["z_local"].mu)
    torch.manual_seed(0)
    first, second = (costs(model, {"image": x})["kl_z_local"] for _ in range(2))
    assert not torch.equal(first, second)
    fixed = split_spair(view=Identity())
    torch.testing.assert_close(costs(fixed, {"image": x})["kl_z_local"], kl_standard(fixed.local.posterior(x)))


def test_bound_has_a_row_for_each_draw():
    model, found = split_spair().eval(), batch(5, SHAPE)
    with noise.per_image(found["index"]):
        weights = model.log_weights(found, 3)
    assert weights.shape == (3, 5) and len(weights.flatten().unique()) == 15
