"""GMVAE and SPLIT-GMVAE: the contract of models/base.py and discrete.py, and the mathematics of their mixtures."""

from functools import partial
from math import log

import pytest
import torch
import torch.nn.functional as F

from tests.models.builders import (
    MIXTURES,
    check_gradient_of_weight_is_that_of_its_term,
    check_weights_belong_to_their_image_and_draw,
    costs,
    fit,
    images,
    model_class,
    weights_of,
)
from vae_zoo.data.sets.digits import Digits
from vae_zoo.distributions import Bernoulli, PixelwiseLogistic
from vae_zoo.nets import MLP, PatchShuffle, ResizeConv

every_model = pytest.mark.parametrize("name", MIXTURES)
K, D = 4, 3


def build(name, image_shape=(1, 6, 6), **options):
    torch.manual_seed(0)
    if name == "split_gmvae":
        options = {"local_dim": 2, "local_network": MLP((16,)), "view": PatchShuffle(2)} | options
    options = {"z_dim": D, "num_classes": K, "class_hidden": (16, 8), "z_hidden": 12} | options
    return model_class(name)(image_shape, **{"network": MLP((16,)), "likelihood": Bernoulli()} | options)


def rough(model):
    """Components that differ, so that clusters matter."""
    with torch.no_grad():
        model.z_prior.weight.normal_()
        model.c_hidden.weight.normal_()
    return model


@every_model
def test_draws_and_terms_stay_in_float32_under_autocast(name):
    model = build(name)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        values = [*costs(model, images()).values(), *model.draw_z(images()["image"], 2), model.log_weights(images(), 2)]
    assert {value.dtype for value in values} == {torch.float32}


# ---- the contract ---------------------------------------------------------------------------------------------------


@every_model
def test_codes_and_images_have_the_shapes_and_ranges_of_the_contract(name):
    model = build(name).eval()
    posterior, gaussian = model.encode(images(4)), [b for b, block in model.blocks.items() if block.kind == "gaussian"]
    assert (
        posterior.keys() == model.blocks.keys() == model.sample_prior(2).keys()
        and [*model.kl_per_dim(posterior)] == gaussian
    )
    for block, q in posterior.items():
        size = model.blocks[block].size
        assert q.mean.shape == q.rsample().shape == (4, size) and model.sample_prior(7)[block].shape == (7, size)
    for image in (model.decode({b: q.rsample() for b, q in posterior.items()}), model.sample(4)):
        assert image.shape == (4, 1, 6, 6) and 0 <= image.min() < image.max() <= 1
    assert model.reconstruct(images(4)["image"]).shape == (4, 1, 6, 6)


@every_model
def test_images_are_encoded_independently_of_their_batch(name):
    model, x = build(name).eval(), images()["image"]
    for block, q in model.encode(x).items():
        torch.testing.assert_close(q.mean, torch.cat([model.encode(image[None])[block].mean for image in x]))


@every_model
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_loss_is_the_sum_of_the_weighted_terms(name, training):
    extra = {"beta_local": 1.5, "aux_weight": 0.7} if name == "split_gmvae" else {}
    model = build(name, beta=2.0, alpha=3.0, **extra).train(training)
    terms, weights = costs(model, images()), weights_of(model, images())
    assert all(value.shape in ((), (8,)) and value.isfinite().all() for value in terms.values())
    torch.testing.assert_close(terms["loss"], sum(w * terms[term].mean() for term, w in weights.items()))


OPTIONS = {"beta": "kl_z", "alpha": "kl_c"}
SPLIT_OPTIONS = {"beta": "kl_z_global", "beta_local": "kl_z_local", "alpha": "kl_c", "aux_weight": "rec_aux"}
PAIRS = [("gmvae", *pair) for pair in OPTIONS.items()] + [("split_gmvae", *pair) for pair in SPLIT_OPTIONS.items()]


@pytest.mark.parametrize("name, option, term", PAIRS)
def test_gradient_of_each_weight_is_that_of_its_term(name, option, term):
    check_gradient_of_weight_is_that_of_its_term(partial(build, name), option, term)


@every_model
def test_weights_belong_to_their_image_and_draw(name):
    check_weights_belong_to_their_image_and_draw(build(name).eval())


@every_model
def test_loss_falls_and_clusters_are_counted(name):
    recs, logged = [], {}
    model = build(name, image_shape=(1, 8, 8))
    model.log_values = logged.update
    with torch.no_grad():
        recs.append(costs(model, images(32, (1, 8, 8)))["rec"].mean())
    fit(model, 30, data=Digits(size=8, batch_size=32), val_check_interval=30)
    recs.append(model.terms["rec"].value.mean())
    assert recs[1] < recs[0] and 1 <= logged["val/classes_used"] <= K


# ---- mathematics ----------------------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_kl_terms_are_those_of_torch_distributions(name, training):
    model, batch = rough(build(name, dropout=0.0)).train(training), images()
    seen = []
    model.z_prior.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    model.z_head.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    torch.manual_seed(2)
    terms = costs(model, batch)
    (_, posterior), (c, prior) = seen
    q, p = (
        torch.distributions.Normal(m, F.softplus(s) + 1e-4) for m, s in (part.chunk(2, 1) for part in (posterior, prior))
    )
    torch.testing.assert_close(terms[f"kl_{model.z_name}"], torch.distributions.kl_divergence(q, p).sum(1))
    probs = model.class_log_probs(batch["image"]).exp()
    uniform = torch.distributions.Categorical(probs=torch.ones(8, K))
    torch.testing.assert_close(
        terms["kl_c"], torch.distributions.kl_divergence(torch.distributions.Categorical(probs=probs), uniform)
    )
    torch.testing.assert_close(c.sum(1), torch.ones(8))
    assert ((c == 0) | (c == 1)).all() != training, "a soft draw in training, the arg max in evaluation"


def test_kl_of_the_cluster_lies_between_certainty_and_none():
    model = build("gmvae", num_classes=30)
    for logits, nats in ((torch.zeros(1, 30), 0.0), (1e4 * torch.eye(30)[:1], log(30))):
        assert model.classes.kl(model.classes.log_softmax(logits)).item() == pytest.approx(nats, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 0.4, 2.0])
def test_largest_of_a_relaxed_draw_has_the_probability_of_its_cluster(temperature):
    model = build("gmvae", temperature=temperature).train()
    torch.manual_seed(0)
    log_c = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(20_000, -1)
    c = model.draw_class(log_c)
    torch.testing.assert_close(c.sum(1), torch.ones(20_000))
    share = F.one_hot(c.argmax(1), K).float().mean(0)
    error = (log_c[0].exp() * (1 - log_c[0].exp()) / 20_000).sqrt()
    assert ((share - log_c[0].exp()).abs() < 4 * error).all()


@every_model
def test_temperature_is_that_of_the_draw(name):
    """The same noise: logits of a draw are those of one at temperature 1, over the temperature."""
    log_c, logits = torch.randn(5, K).log_softmax(1), []
    for temperature in (1.0, 2.5):
        torch.manual_seed(0)
        c = build(name, temperature=temperature).train().draw_class(log_c)
        logits.append(temperature * (c / c[:, :1]).log())
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)


def test_local_code_is_that_of_the_shuffled_image():
    """A new permutation for each step of training, one for each image in evaluation."""
    model, batch, seen = build("split_gmvae").train(), images(), []
    model.local.encoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    costs(model, batch), costs(model, batch)
    assert not torch.equal(seen[0], seen[1])
    model.eval()
    terms, codes = costs(model, batch), model.encode(batch)
    assert torch.equal(seen[2], seen[3]) and torch.equal(seen[3], model.local.fixed_view(batch["image"]))
    q = torch.distributions.Normal(codes["z_local"].mu, (0.5 * codes["z_local"].logvar).exp())
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0, 1))
    torch.testing.assert_close(terms["kl_z_local"], kl.sum(1))
    torch.testing.assert_close(model.kl_per_dim(codes)["z_local"].expand_as(kl), kl)


@every_model
def test_draws_of_the_posterior_are_weighed_by_both_mixtures(name):
    """log p(z) - log q(z | x) by a loop over the components."""
    model, x = rough(build(name)).eval(), images(5)["image"]
    torch.manual_seed(0)
    with torch.no_grad():
        z, log_ratio = model.draw_z(x, 6)
        log_c, h = model.infer(x)
        p = q = torch.zeros(6, 5)
        for k in range(K):
            one = torch.eye(K)[k].expand(5, K)
            q = q + (log_c[:, k] + model.posterior_z(h, one).log_prob(z)).exp()
            p = p + model.prior_z(one).log_prob(z).exp() / K
    torch.testing.assert_close(log_ratio, p.log() - q.log(), rtol=1e-4, atol=1e-4)


@every_model
def test_draws_average_to_the_likelihood(name):
    """log p(x) by integration over a grid of the codes, which knows no posterior."""
    model, batch = rough(build(name, z_dim=1, **({"local_dim": 1} if name == "split_gmvae" else {}))).eval(), images(2)
    z = torch.linspace(-12, 12, 401)
    p_z = model.prior_z(torch.eye(K))
    log_p = (p_z.log_prob(z[:, None, None]) - log(K)).logsumexp(-1)  # [401]
    codes = z[:, None]
    if name == "split_gmvae":
        codes = torch.cartesian_prod(z, z)
        log_p = torch.cartesian_prod(log_p, torch.distributions.Normal(0, 1).log_prob(z)).sum(1)
    with torch.no_grad():
        params = model.decoder(codes)
        for i, x in enumerate(batch["image"]):
            log_px_z = model.likelihood.log_prob(x.expand(len(codes), -1, -1, -1), params)
            exact = (log_px_z + log_p).logsumexp(0) + codes.shape[1] * (z[1] - z[0]).log()
            torch.manual_seed(0)
            log_w = model.log_weights({"image": x[None]}, 50_000)[:, 0]
            assert log_w.logsumexp(0) - log(len(log_w)) == pytest.approx(exact.item(), abs=0.02), i
            assert (log_w - exact).std() > 0.1, "else no weight matters"


@every_model
def test_bound_rises_with_the_draws_to_a_likelihood_that_knows_no_posterior(name):
    """log p(x) does not know q(c | x): with many draws its bound hardly moves when the class head does."""
    model, batch = build(name).eval(), images(2)
    bounds = []
    for shift in (0.0, 1.0):
        with torch.no_grad():
            model.c_head[-1].bias[0] += shift
            torch.manual_seed(0)
            log_w = model.log_weights(batch, 20_000)
        one, many = log_w.mean(0), log_w.logsumexp(0) - log(len(log_w))
        assert (one < many).all()
        bounds.append(many)
    torch.testing.assert_close(bounds[0], bounds[1], rtol=0, atol=0.03)


@every_model
def test_draws_of_a_cluster_have_its_mean_and_deviation(name):
    model = rough(build(name))
    torch.manual_seed(0)
    with torch.no_grad():
        z = model.sample_class(torch.full((20_000, 1), 2))[model.z_name]
        p = model.prior_z(torch.eye(K)[2])
    std = (0.5 * p.logvar).exp()
    torch.testing.assert_close((z.mean(0) - p.mu) / std, torch.zeros(D), rtol=0, atol=0.03)
    torch.testing.assert_close(z.std(0) / std, torch.ones(D), rtol=0.02, atol=0)


def test_draws_of_a_cluster_have_local_codes_of_the_standard_normal():
    model = build("split_gmvae")
    torch.manual_seed(0)
    z = model.sample_class(torch.full((20_000, 1), 2))["z_local"]
    torch.testing.assert_close(z.mean(0), torch.zeros(2), rtol=0, atol=0.03)
    torch.testing.assert_close(z.std(0), torch.ones(2), rtol=0.02, atol=0)


@every_model
def test_a_code_keeps_its_place_in_a_component_of_another_mean_and_deviation(name):
    model = rough(build(name)).eval()
    old, new = (model.prior_z(torch.eye(K)[k].expand(4, -1)) for k in (0, 2))
    z = old.mu + torch.randn(4, D)
    codes = {"c": torch.eye(K)[[0] * 4], model.z_name: z}
    moved = model.with_class(codes, torch.full((4, 1), 2))[model.z_name]
    place = (z - old.mu) / (0.5 * old.logvar).exp()
    torch.testing.assert_close((moved - new.mu) / (0.5 * new.logvar).exp(), place, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.class_means(torch.full((4, 1), 2))[model.z_name], new.mu)


@every_model
def test_another_cluster_moves_its_own_code_alone(name):
    model = rough(build(name)).eval()
    codes = {block: q.mean for block, q in model.encode(images(4)).items()}
    old = codes["c"].argmax(1, keepdim=True)
    back = model.with_class(model.with_class(codes, (old + 1) % K), old)
    torch.testing.assert_close(back[model.z_name], codes[model.z_name])
    moved = model.with_class(codes, (old + 1) % K)
    assert {b for b in codes if not torch.equal(codes[b], moved[b])} == {"c", model.z_name}


def test_split_gmvae_with_equal_components_is_split_vae():
    """All components N(0, I): the KL of z_global is that to the standard normal."""
    from vae_zoo.distributions import kl_standard

    model = build("split_gmvae").eval()
    with torch.no_grad():
        model.z_prior.weight.zero_(), model.z_prior.bias[:D].zero_()
        model.z_prior.bias[D:] = torch.tensor(1 - 1e-4).expm1().log()
    q = model.encode(images())["z_global"]
    torch.testing.assert_close(costs(model, images())["kl_z_global"], kl_standard(q), rtol=1e-4, atol=1e-4)


def test_gmvae_is_split_gmvae_without_the_local_code():
    """The same weights, a decoder that ignores z_local: what is left of the loss is GMVAE's."""
    split, plain = build("split_gmvae").eval(), build("gmvae").eval()
    own = split.state_dict()
    first = "decoder.0.weight"
    plain.load_state_dict({n: own[n][:, :D] if n == first else own[n] for n in plain.state_dict()})
    with torch.no_grad():
        split.decoder[0].weight[:, D:] = 0
    terms = []
    for model in (split, plain):
        torch.manual_seed(0)
        terms.append(costs(model, images()))
    left = terms[0]["loss"] - terms[0]["rec_aux"].mean() - terms[0]["kl_z_local"].mean()
    torch.testing.assert_close(left, terms[1]["loss"])


def test_cluster_and_global_code_do_not_learn_from_the_shuffled_image():
    model = build("split_gmvae")
    costs(model, images())["rec_aux"].sum().backward()
    reached = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == {"local"}


def test_the_image_teaches_the_local_encoder_and_not_the_decoder_of_the_shuffled_image():
    model = build("split_gmvae")
    costs(model, images())["rec"].sum().backward()
    learns = {
        part: any(p.grad is not None and p.grad.any() for p in getattr(model.local, part).parameters())
        for part in ("encoder", "decoder")
    }
    assert learns == {"encoder": True, "decoder": False}


@pytest.mark.parametrize("side, plain, split", [(32, 5_041_924, 6_775_370), (64, 15_271_684, 20_157_002)])
def test_models_have_the_parameters_of_the_official_code(side, plain, split):
    trunk = ResizeConv(channels=(128, 128, 128), activation="elu")
    common = {
        "z_dim": 128,
        "num_classes": 30,
        "class_hidden": (1024, 128),
        "z_hidden": 512,
        "likelihood": PixelwiseLogistic(),
    }
    common |= {"network": trunk, "image_shape": (3, side, side)}
    local = {"local_dim": 128, "local_network": ResizeConv(), "view": PatchShuffle(4)}
    for name, count, options in (("gmvae", plain, {}), ("split_gmvae", split, local)):
        assert sum(p.numel() for p in model_class(name)(**common, **options).parameters()) == count


@every_model
def test_exact_sum_over_clusters_is_their_average_by_q(name, monkeypatch):
    """Against one pass for each cluster, with z at its mean, so that nothing is drawn."""
    model, batch = rough(build(name, class_sum="exact", dropout=0.0)), images()
    monkeypatch.setattr(type(model.encode(batch)[model.z_name]), "rsample", lambda self, shape=(): self.mu)
    torch.manual_seed(1)  # of the view
    exact = costs(model, batch)
    probs, each = model.class_log_probs(batch["image"]).exp(), []
    model.class_sum = "sampled"
    for k in range(K):
        one_hot = F.one_hot(torch.full((len(probs),), k), K).float()
        monkeypatch.setattr(model, "draw_class", lambda log_c, c=one_hot: c)
        torch.manual_seed(1)
        each.append(costs(model, batch))
    for term in ("rec", f"kl_{model.z_name}"):
        wanted = sum(probs[:, k] * each[k][term] for k in range(K))
        torch.testing.assert_close(exact[term], wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(each[0]["rec"], each[1]["rec"])
