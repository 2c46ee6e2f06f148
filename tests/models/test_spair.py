"""SPAIR's renderer, terms and bound, against loops and torch.distributions; learning: test_spair_learning.py."""

from dataclasses import replace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.distributions import Normal as TorchNormal
from torch.distributions import kl_divergence
from torchvision.ops import box_iou

from tests.models.builders import costs, fit, images, weights_of
from vae_zoo import config_dir
from vae_zoo.cli.compose import register_resolvers
from vae_zoo.data.sets.digits import Digits
from vae_zoo.distributions import Bernoulli, Gaussian, noise
from vae_zoo.distributions.presence import kl_bernoulli, kl_relaxed, log_relaxed, prior_log_odds
from vae_zoo.metrics.likelihood import importance_weighted
from vae_zoo.models.spair import SPAIR, ObjectCode, composite
from vae_zoo.nets import MLP
from vae_zoo.nets.spatial import Windows, crop, have_duplicates, paste
from vae_zoo.schedules import Constant, Cyclic, Linear

SHAPE = (3, 16, 16)
TERMS = ("rec", "kl_where", "kl_what", "kl_depth", "kl_pres", "kl_background")


def spair(image_shape=SHAPE, background_dim=3, likelihood=None, kind=SPAIR, **options):
    small = {"channels": [8, 8, 8], "strides": [2, 2, 2], "features": 12, "head_kernel": 3, "head_hidden": [16, 8]}
    small |= {"what_dim": 4, "glimpse_size": 6, "anchor": 8.0, "scale_prior": 1.0, "count_prior": 0.3}
    small |= {"reach": 1.0, "presence_bias": 0.0, "alpha_bias": 0.0, "alpha_scale": 1.0, "presence_warmup_steps": 0}
    small |= dict.fromkeys(("beta_where", "beta_what", "beta_depth", "beta_pres", "beta_background"), 1.0) | (
        {"beta_local": 1.0} if "local_dim" in options else {}
    )
    small |= {"network": MLP(hidden=(16,)), "object_network": MLP(hidden=(16,)), "background_dim": background_dim}
    torch.manual_seed(options.pop("seed", 0))
    return kind(image_shape, likelihood=likelihood or Gaussian(0.15), **small | options)


def batch(B=4, shape=SHAPE):
    found = images(B, shape)
    return found | {"image": 0.8 * found["image"] + 0.1}


# ---- the renderer ---------------------------------------------------------------------------------------------------


WINDOWS = Windows(rows=1, columns=5, cell=2, reach=2.7, height=2, width=10)  # 6 x 6 pixels: each pixel is in 3 to 5 of them


def scene(N=5, B=2, side=6):
    torch.manual_seed(1)
    return torch.rand(B, N, 3, side, side), torch.rand(B, N, side, side), torch.randn(B, N)


@pytest.mark.parametrize("weight", ["split", "softmax"])
def test_compositing_against_a_loop_over_pixels(weight):
    """A window contributes colour 0 and t = 0 to the pixels outside."""
    (colour, t, depth), near = scene(), (-scene()[2]).sigmoid()
    drawn = composite(colour, t, depth, weight, WINDOWS)
    assert WINDOWS.side == 6 and drawn.colour.shape == (2, 3, 2, 10)
    for b, y, x in [(0, 0, 0), (1, 1, 5), (1, 0, 9)]:
        inside = [(i, y + 2, x + 2 - 2 * i) for i in range(5)]  # margins of 2 pixels, cells of 2
        inside = [(i, row, column) for i, row, column in inside if 0 <= column < 6]
        assert 2 <= len(inside) < 5
        seen, shades = torch.zeros(5), torch.zeros(5, 3)
        for i, row, column in inside:
            seen[i], shades[i] = t[b, i, row, column], colour[b, i, :, row, column]
        w = seen * (near[b] + 0.5) if weight == "split" else (100 * seen * near[b]).softmax(0)
        w = w / w.sum()
        torch.testing.assert_close(drawn.colour[b, :, y, x], w @ shades)
        torch.testing.assert_close(drawn.opaque[b, 0, y, x], w @ seen)
        torch.testing.assert_close(drawn.share[b, :, y, x], (w @ seen) * w * (seen > 0))


@pytest.mark.parametrize("weight, front", [("split", 0.75), ("softmax", 1.0)])
def test_how_much_a_near_object_hides_a_far_one(weight, front):
    pair = Windows(rows=1, columns=2, cell=1, reach=1.5, height=1, width=2)
    colour = torch.eye(3)[:2][None, :, :, None, None].expand(1, 2, 3, 3, 3)  # red and green
    drawn = composite(colour, torch.ones(1, 2, 3, 3), torch.tensor([[-20.0, 20.0]]), weight, pair)
    torch.testing.assert_close(drawn.colour[0, :, 0, 0], torch.tensor([front, 1 - front, 0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(drawn.opaque, torch.ones(1, 1, 1, 2))


@pytest.mark.parametrize("shape, strides", [((3, 24, 24), [2, 2, 2]), ((3, 50, 44), [2, 2, 3]), ((3, 16, 16), [1, 2, 2])])
def test_windows_show_what_the_whole_image_would(shape, strides):
    """Objects of the largest size at the largest distance from their cells are cut out and drawn as on the whole image."""
    model = spair(image_shape=shape, strides=strides, reach=1.0).eval()
    codes = {name: 3 * z for name, z in model.sample_prior(4).items()}
    code = codes["objects"].unflatten(1, (model.num_cells, -1))
    code[..., :4], code[..., -1] = 50.0 * code[..., :4].sign(), 1
    shown, x = model.render(codes), torch.rand(4, *shape)
    whole = paste(shown.sprite, shown.box, *shape[1:])
    drawn = paste(shown.sprite, model.windows.local(shown.box), *[model.windows.side] * 2)
    torch.testing.assert_close(model.windows.add_up(drawn), whole.sum(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(model.windows.place(drawn[:, :, 0]), whole[:, :, 0], atol=1e-5, rtol=0)
    cut = crop(model.windows.cut(x), model.windows.local(shown.box), 6)
    torch.testing.assert_close(cut, crop(x[:, None], shown.box, 6), atol=1e-5, rtol=0)


def test_a_box_stays_within_reach_of_its_cell():
    model = spair(reach=0.6)  # 2 x 2 cells of 8 pixels
    z = torch.zeros(1, 4, 4)
    z[..., 2], z[..., 3] = 50.0, -50.0
    middle = torch.tensor([[4.0, 4], [12, 4], [4, 12], [12, 12]]) + torch.tensor([4.8, -4.8])
    torch.testing.assert_close(model.box(z)[0], torch.cat([middle, torch.full((4, 2), 4.0)], dim=1))  # half the anchor of 8


def test_without_presence_there_is_the_background_and_opaque_objects_hide_it():
    model = spair(alpha_bias=40.0).eval()
    codes = model.sample_prior(3)
    objects = codes["objects"].unflatten(1, (model.num_cells, -1)).clone()
    objects[..., -1] = 0
    alone = model.render(codes | {"objects": objects.flatten(1)})
    torch.testing.assert_close(alone.image, alone.ground, atol=1e-6, rtol=0)
    objects[:, 1, -1], objects[..., :4] = 1, 0  # one object, half the anchor wide, in the middle of its cell
    shown = model.render(codes | {"objects": objects.flatten(1)})
    torch.testing.assert_close(shown.box[:, 1], torch.tensor([12.0, 4.0, 4.0, 4.0]).expand(3, 4))
    pasted = paste(shown.sprite, shown.box, 16, 16)[:, 1]
    torch.testing.assert_close(shown.image[:, :, 2:6, 10:14], pasted[:, :, 2:6, 10:14], atol=1e-5, rtol=0)
    outside = torch.ones(16, 16, dtype=torch.bool)
    outside[1:7, 9:15] = False
    torch.testing.assert_close(shown.image[..., outside], shown.ground[..., outside])
    assert shown.image.min() >= 0 and shown.image.max() <= 1 + 1e-6


# ---- terms ----------------------------------------------------------------------------------------------------------


def test_terms_against_torch():
    model, x = spair(scale_prior=Linear(2.0, 1.0, 10), count_prior=0.2), batch()["image"]
    model.trained_steps = 5
    q = model.infer(x, model.draw(x, 1))
    terms = model.kl_objects(q)

    def kl(q, mean, std):
        return kl_divergence(TorchNormal(q.mu, (0.5 * q.logvar).exp()), TorchNormal(mean, std)).flatten(1).sum(1)

    torch.testing.assert_close(terms["kl_where"], kl(q.scale, 1.5, 0.5) + kl(q.shift, 0.0, 1.0))
    torch.testing.assert_close(terms["kl_what"], kl(q.what, 0.0, 1.0))
    torch.testing.assert_close(terms["kl_depth"], kl(q.depth, 0.0, 1.0))
    prior = prior_log_odds(q.y > 0, 0.2)
    torch.testing.assert_close(terms["kl_pres"], kl_relaxed(q.logit, prior).sum(1))
    for name, expected in (
        ("mc", log_relaxed(q.y, q.logit, 0.8) - log_relaxed(q.y, prior, 0.8)),
        ("bernoulli", kl_bernoulli(q.logit, prior)),
    ):
        model.presence = replace(model.presence, pres_kl=name)
        torch.testing.assert_close(model.kl_objects(q)["kl_pres"], expected.sum(1))


def gradients(model, value):
    found = torch.autograd.grad(value, [*model.parameters()], retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found)]


def check_weight(build, term):
    """Loss and gradients with the weight of a term at 2 and at 0 are those at 1 and the term's own, added or taken away."""
    option = "aux_weight" if term == "rec_aux" else "beta_local" if term == "kl_z_local" else f"beta_{term[3:]}"

    def objective(**betas):
        model = build(**betas)
        torch.manual_seed(3)
        return model, costs(model, batch())

    model, base = objective()
    own, of_loss = gradients(model, base[term].mean()), gradients(model, base["loss"])
    assert any(g.abs().max() > 0 for g in own)
    for value in (2.0, 0.0):
        other, terms = objective(**{option: value})
        assert weights_of(other, batch()) == weights_of(model, batch()) | {term: value}
        torch.testing.assert_close(terms["loss"] - base["loss"], (value - 1) * base[term].mean(), atol=1e-2, rtol=1e-4)
        for found, g, one in zip(gradients(other, terms["loss"]), of_loss, own):
            scale = 1e-5 * float(g.abs().max() + one.abs().max()) + 1e-6
            torch.testing.assert_close(found, g + (value - 1) * one, atol=scale, rtol=1e-4)


@pytest.mark.parametrize("term", TERMS[1:])
def test_each_weight_moves_the_gradient_by_that_of_its_term(term):
    check_weight(spair, term)


def test_background_alone_explains_the_image_while_it_has_a_weight():
    """The term is that of the background without objects; its gradient reaches the background and no object."""
    plain, model = spair(), spair(background_weight=Linear(3.0, 0.0, 10))
    torch.manual_seed(3)
    base = costs(plain, batch())
    torch.manual_seed(3)
    terms = costs(model, batch())
    torch.testing.assert_close(terms["loss"] - base["loss"], 3 * terms["rec_background"].mean(), atol=1e-2, rtol=1e-4)
    own = dict(zip(dict(model.named_parameters()), gradients(model, terms["rec_background"].mean())))
    reached = {name.partition(".")[0] for name, g in own.items() if g.any()}
    assert reached == {"encoder", "decoder"}
    x = batch()["image"]
    terms, codes = model.scene_terms(x, model.encode_whole(x))
    expected = -model.likelihood.log_prob(x, model.decoder(codes["background"]).sigmoid())
    torch.testing.assert_close(terms["rec_background"].value, expected)
    model.trained_steps = 10
    assert "rec_background" not in costs(model, batch())


def test_the_loss_is_the_sum_of_its_terms():
    terms = costs(spair(), batch())
    torch.testing.assert_close(terms["loss"], sum(terms[name] for name in TERMS).mean())


# What conf/experiment/spair says, by hand: at the first step, half-way through its schedules, and after them.
SMALL = {"rec": 1, "kl_where": 0.5, "kl_what": 0.05, "kl_depth": 0.5, "kl_background": 1}
OFFICIAL = {"rec": 1, "kl_where": 0.5, "kl_what": 0.05, "kl_depth": 0.5, "kl_background": 10}
PRESETS = {  # (step, s, mu_s, weight of kl_pres)
    "scenes_small": (SMALL, [(0, 1, 2, 0.5), (1000, 1, 2, 0.5), (1750, 0.505, 1.5, 3.25), (2500, 0.01, 1, 6)]),
    "scenes_easy": (SMALL, [(0, 1, 2, 0.5), (1000, 1, 2, 0.5), (1750, 0.505, 1.2, 15.25), (2500, 0.01, 0.4, 30)]),
    "scenes_hard": (
        SMALL | {"rec_background": 1},
        [(0, 1, 2, 0.5), (1000, 1, 2, 0.5), (1750, 0.505, 1.2, 7.75), (2500, 0.01, 0.4, 15)],
    ),
    "scenes_official": (OFFICIAL, [(0, 1, 10, 0.5), (5000, 0.505, 5, 0.5), (10_000, 0.01, 0, 0.5), (20_000, 0.01, 0, 0.5)]),
}

# README.md of 51616/split-vae: what_dim, background_dim, local_dim, weights of the KL of background and appearance.
OFFICIAL_SETTINGS = {
    "spair/scenes_official": ("split_easy", "ResizeConv", 64, 4, None, 10, 0.05),
    "split_spair/easy_official": ("split_easy", "MLP", 64, 4, 4, 10, 0.05),
    "spair/hard_official": ("split_hard", "ResizeConv", 64, 64, None, 1, 0.05),
    "split_spair/hard_official": ("split_hard", "MLP", 64, 64, 64, 1, 0.25),
}


@pytest.mark.parametrize("experiment", OFFICIAL_SETTINGS)
def test_official_presets_have_the_settings_of_the_official_readme(experiment):
    cfg = composed(experiment)
    m = cfg["model"]
    network, local = m["network"]["_target_"].rpartition(".")[2], m.get("local_dim")
    found = (
        cfg["data"]["variant"],
        network,
        m["what_dim"],
        m["background_dim"],
        local,
        m["beta_background"],
        m["beta_what"],
    )
    assert found == OFFICIAL_SETTINGS[experiment]
    if experiment.startswith("split"):
        assert (m["local_to"], m["view"]["patch"], m["beta_local"], m["network"]["hidden"]) == (
            "objects",
            8,
            0.1,
            [1024, 500],
        )
    own = {"_target_", "network", "background_dim", "beta_background", "beta_what"}
    easy = composed("spair/scenes_official")
    assert {key: m[key] for key in {*easy["model"]} - own} == {key: easy["model"][key] for key in {*easy["model"]} - own}
    assert (cfg["trainer"], cfg["data"] | {"variant": ""}) == (easy["trainer"], easy["data"] | {"variant": ""})


def composed(experiment: str) -> dict:
    register_resolvers()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("train", overrides=[f"experiment={experiment}"])
    return {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("model", "data", "trainer")}


@pytest.mark.parametrize("name", PRESETS)
def test_schedules_and_weights_of_the_presets(name):
    settings = composed(f"spair/{name}")["model"]
    own = (
        "scale_prior",
        "count_prior",
        "pres_kl",
        "temperature",
        "background_weight",
        *(k for k in settings if k.startswith("beta_")),
    )
    model = spair(**{key: instantiate(settings[key]) if isinstance(settings[key], dict) else settings[key] for key in own})
    weights, steps = PRESETS[name]
    for step, s, mu_s, beta_pres in steps:
        model.trained_steps = step
        assert (model.count_prior(step), model.scale_prior(step)) == pytest.approx((s, mu_s))
        terms, by_hand = costs(model, batch()), weights | {"kl_pres": beta_pres}
        torch.testing.assert_close(terms["loss"], sum(weight * terms[name].mean() for name, weight in by_hand.items()))


def test_warm_up_keeps_depth_and_presence_where_they_are():
    for step, moves in ((9, False), (10, True)):
        model = spair(presence_warmup_steps=10)
        model.trained_steps = step
        costs(model, batch())["loss"].backward()
        assert all((head[-1].weight.grad.abs().sum() > 0) == moves for head in (model.depth_head, model.pres_head))
        assert all(net[-2].weight.grad.abs().sum() > 0 for net in (model.object_decoder, model.decoder))
        assert model.where_head[-1].weight.grad.abs().sum() > 0


def test_without_background_the_ground_is_black():
    model = spair(background_dim=0, likelihood=Bernoulli())
    assert set(model.blocks) == {"objects"} and not model.render(model.sample_prior(2)).ground.any()
    assert torch.isfinite(costs(model, batch())["loss"])


def test_bound_belongs_to_its_image_and_draw_and_is_that_of_the_terms():
    model = spair().eval()
    found = batch(5)
    with noise.per_image(found["index"]):
        together = model.log_weights(found, 3)
    assert together.shape == (3, 5) and len(together.flatten().unique()) == 15
    for i in range(5):
        with noise.per_image(found["index"][[i]]):
            alone = model.log_weights({"image": found["image"][[i]]}, 3)
        torch.testing.assert_close(together[:, [i]], alone, atol=1e-2, rtol=1e-4)
    model.presence, model.trained_steps = replace(model.presence, pres_kl="mc"), 0
    many = {"image": found["image"][:1].repeat(3000, 1, 1, 1), "index": torch.arange(3000)}
    with torch.no_grad(), noise.per_image(many["index"]):
        bound, terms = model.log_weights(many, 1)[0], costs(model, many)
    torch.testing.assert_close(
        bound.mean(), -terms["loss"], atol=4 * float((bound + terms["loss"]).std()) / 3000**0.5, rtol=0
    )
    assert importance_weighted(model, [found], 20) < -float(together.detach().mean())


@pytest.mark.parametrize("prior", [0.0, -0.1, Linear(1.0, 0.0, 10), Cyclic(0.0, 1.0, 10), Constant(0.0)])
def test_a_count_prior_of_zero_is_refused(prior):
    with pytest.raises(ValueError, match="count_prior must be > 0 at every step, got .*; use a small number"):
        spair(count_prior=prior)


# ---- what is found --------------------------------------------------------------------------------------------------


def test_detections_are_certain_boxes_within_the_image():
    model = spair((3, 20, 28)).eval()
    x = torch.rand(3, 3, 20, 28)
    found, again = model.detect(x), model.detect(x)
    logit = model.encode(x)["objects"].logit
    for one, two, scores in zip(found, again, logit.sigmoid()):
        assert torch.equal(one["boxes"], two["boxes"]) and len(one["boxes"]) == (scores > 0.05).sum() == len(one["labels"])
        assert (one["boxes"] >= 0).all() and (one["boxes"][:, 2] <= 28).all() and (one["boxes"][:, 3] <= 20).all()
    torch.testing.assert_close(model.reconstruct(x), model.decode({n: q.mean for n, q in model.encode(x).items()}))


def test_of_detections_that_overlap_the_most_probable_is_kept():
    torch.manual_seed(0)
    model = spair(presence_bias=0.0, reach=1.0, anchor=30.0).eval()
    x = torch.rand(8, *model.image_shape)
    every, codes = model.detect(x, least=0), model.codes(x)
    model.presence = replace(model.presence, max_iou=0.3)
    fewer = 0
    for before, after in zip(every, model.detect(x, least=0), strict=True):
        overlap = box_iou(after["boxes"], before["boxes"])
        among = box_iou(after["boxes"], after["boxes"]).fill_diagonal_(0)
        assert among.max() <= 0.3 and after["scores"].max() == before["scores"].max()
        left_out = ~(before["scores"][:, None] == after["scores"]).any(1)
        better = after["scores"][:, None] > before["scores"][left_out]
        assert ((overlap[:, left_out] > 0.3) & better).any(0).all(), "each of them has a more probable one that overlaps"
        fewer += int(left_out.sum())
    assert fewer > 0
    assert all(torch.equal(code, codes[name]) for name, code in model.codes(x).items())


def test_two_boxes_on_one_object_are_seen():
    box = torch.tensor([[[10.0, 10, 8, 8], [11.0, 10, 8, 8], [30.0, 10, 8, 8]]]).repeat(2, 1, 1)
    present = torch.tensor([[True, True, True], [True, False, True]])
    assert have_duplicates(box, present).tolist() == [True, False]


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"presence_warmup_steps": 4},
            "depth and presence get no gradient in this run, since model.presence_warmup_steps=4 is not below",
        ),
        ({"presence_bias": -9.0}, "no object is found in 100 %"),
        ({"presence_bias": -9.0, "presence_warmup_steps": 3}, None),  # presence has not begun to learn
        ({"presence_bias": 9.0, "anchor": 60.0, "beta_pres": 2.0}, "in 100 % of the images two boxes cover one object"),
        ({"presence_bias": 9.0, "anchor": 60.0, "beta_pres": Linear(0.5, 2.0, 4)}, None),  # the pressure is still to come
    ],
)
def test_a_run_warns_of_objects_that_die_and_of_two_boxes_on_one(options, message, caplog):
    with caplog.at_level("WARNING", logger="vae_zoo"):
        fit(spair((1, 16, 16), **options), 4, val_check_interval=3, data=Digits(size=16))
    told = [record.getMessage() for record in caplog.records if record.name == "vae_zoo.models.spair"]
    assert len(told) == (message is not None) and (message or "") in "".join(told)


def test_a_copy_in_one_image_of_a_batch_changes_no_object_of_a_full_one():
    model = spair().eval()
    torch.manual_seed(0)
    codes = model.sample_prior(2)
    code = ObjectCode.of(codes["objects"], model.num_cells)
    presence = torch.ones_like(code.presence)
    presence[1, 1:] = 0
    codes |= {"objects": code._replace(presence=presence).join()}
    centre = model.centres[[0, 0]]
    for object_ in (0, model.num_cells - 1):
        placed = model.with_object_placed(codes, torch.tensor([object_, 0]), centre, keep=True)
        after = ObjectCode.of(placed["objects"], model.num_cells)
        assert torch.equal(after.what[0], ObjectCode.of(codes["objects"], model.num_cells).what[0])
        assert (after.presence[1] > 0.5).sum() == 2, "the other image has a copy"


@pytest.mark.parametrize("kind", ["crop", "paste"])
def test_glimpses_and_images_are_not_rounded_to_bfloat16(kind):
    torch.manual_seed(0)
    box, image, glimpse = torch.tensor([[[8.0, 7.0, 9.0, 6.0]]]), torch.rand(1, 1, 3, 16, 16), torch.rand(1, 1, 3, 6, 6)
    draw = (lambda: crop(image, box, 6)) if kind == "crop" else (lambda: paste(glimpse, box, 16, 16))
    with torch.autocast("cpu", torch.bfloat16):
        found = draw()
    torch.testing.assert_close(found, draw())


def test_adam_counts_no_steps_of_depth_and_presence_before_they_learn():
    model = spair((1, 16, 16), presence_warmup_steps=2)
    state = fit(model, 5, data=Digits(size=16)).optimizers[0].state
    late = {*model.depth_head.parameters(), *model.pres_head.parameters()}
    assert {int(state[p]["step"]) for p in late} == {3}
    assert {int(state[p]["step"]) for p in model.parameters() if p not in late} == {5}
