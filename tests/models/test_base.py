"""The contract of models/base.py, held by every model of conf/model."""

import copy
import inspect
from dataclasses import dataclass
from functools import partial
from math import log, prod

import pytest
import torch
from torch import nn

from tests.annotations import unchecked
from tests.models.builders import (
    MODELS,
    batch_for,
    build,
    check_weights_belong_to_their_image_and_draw,
    costs,
    fit,
    images,
    model_class,
    training_data,
    weights_of,
)
from vae_zoo.data.sets.digits import Digits
from vae_zoo.distributions import Bernoulli, DiscretisedLogistic, Gaussian, Normal, kl_standard, noise
from vae_zoo.nets import MLP, Conv
from vae_zoo.schedules import Constant, Cosine, Cyclic, Linear

every_model = pytest.mark.parametrize("name", MODELS)
every_linear_model = pytest.mark.parametrize("name", [m for m in MODELS if m != "split_vae"])  # one encoder of log-variances
SCHEDULES = [2.5, Constant(2.5), Linear(0.0, 4.0, 100), Cosine(4.0, 0.5, 100, begin=10), Cyclic(0.0, 3.0, 40)]
SCHEDULED = [("annealed_vae", "capacity"), ("beta_vae", "beta"), ("ml_vae", "beta_style"), ("ml_vae", "beta_content")]
SCHEDULED += [("split_vae", "beta_global"), ("split_vae", "beta_local")]
WEIGHTS = [  # model, constructor's argument, the term it is the weight of
    ("beta_vae", "beta", "kl_z"),
    ("annealed_vae", "gamma", "capacity_gap"),
    ("beta_tc_vae", "alpha", "mi"),
    ("beta_tc_vae", "beta", "tc"),
    ("beta_tc_vae", "gamma", "kl_dims"),
    ("dip_vae", "lambda_off", "dip_off_diagonal"),
    ("dip_vae", "lambda_diagonal", "dip_diagonal"),
    ("factor_vae", "gamma", "tc"),
    ("split_vae", "beta_global", "kl_z_global"),
    ("split_vae", "beta_local", "kl_z_local"),
    ("split_vae", "aux_weight", "rec_aux"),
    ("ml_vae", "beta_style", "kl_style"),
    ("ml_vae", "beta_content", "kl_content"),
]


def side_by_side(posterior):
    """The posteriors of all blocks as one Gaussian [B, D]."""
    return Normal(*(torch.cat([getattr(q, name) for q in posterior.values()], dim=-1) for name in ("mu", "logvar")))


def log_mean_exp(log_w):
    return log_w.logsumexp(0) - log(len(log_w))


# ---- encode, decode, sample -----------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("network", [MLP(hidden=(16,)), Conv(channels=(8, 8), hidden=(16,))], ids=["mlp", "conv"])
@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 8, 14)], ids=str)
def test_codes_and_images_have_the_shapes_and_ranges_of_the_contract(name, network, shape):
    model = build(name, shape, latent_dim=5, network=network).eval()
    batch = images(4, shape)
    posterior = model.encode(batch)
    assert posterior.keys() == model.blocks.keys() == model.sample_prior(2).keys() == model.kl_per_dim(posterior).keys()
    for block, q in posterior.items():
        size = model.blocks[block].size
        assert q.mean.shape == q.rsample().shape == (4, size) and model.sample_prior(7)[block].shape == (7, size)
    assert {block.size for block in model.blocks.values()} == {5}
    decoded = [
        model.decode({b: 3 * q.rsample() for b, q in posterior.items()}),
        model.reconstruct(batch),
        model.sample(4),
    ]
    for image in decoded:
        assert image.shape == (4, *shape) and image.dtype == torch.float32
        assert 0 <= image.min() < image.max() <= 1
    assert not decoded[1].requires_grad and not decoded[2].requires_grad


@every_model
def test_bare_tensors_and_batches_are_encoded_alike_and_reconstruction_decodes_the_means(name):
    model, batch = build(name), images()
    posterior, bare = model.encode(batch), side_by_side(model.encode(batch["image"]))
    q = side_by_side(posterior)
    assert torch.equal(q.mu, bare.mu) and torch.equal(q.logvar, bare.logvar)
    expected = model.decode({block: q.mean for block, q in posterior.items()})
    assert torch.equal(model.reconstruct(batch), expected) and torch.equal(model.reconstruct(batch["image"]), expected)


@every_model
def test_images_are_encoded_independently_of_their_batch(name):
    model, x = build(name), images()["image"]
    alone = torch.cat([side_by_side(model.encode(image[None])).mu for image in x])
    torch.testing.assert_close(side_by_side(model.encode(x)).mu, alone)


@every_model
def test_prior_is_standard_normal(name):
    torch.manual_seed(0)
    z = torch.cat([*build(name).sample_prior(50_000).values()], dim=1)
    torch.testing.assert_close(z.mean(0), torch.zeros(z.shape[1]), rtol=0, atol=0.02)
    torch.testing.assert_close(z.T.cov(), torch.eye(z.shape[1]), rtol=0, atol=0.03)


# ---- a person's own tensors -----------------------------------------------------------------------------------------


@unchecked()
@every_model
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.rand(6, 6), r"float32 of shape \[B, 1, 6, 6\], got float32 \[6, 6\]"),
        (torch.rand(1, 6, 6), r"got float32 \[1, 6, 6\]"),
        (torch.rand(2, 3, 6, 6), r"got float32 \[2, 3, 6, 6\]"),
        (torch.rand(2, 1, 6, 7), r"got float32 \[2, 1, 6, 7\]"),
        (torch.zeros(2, 1, 6, 6, dtype=torch.uint8), r"got uint8 \[2, 1, 6, 6\]"),
        (torch.rand(2, 1, 6, 6).double(), r"got float64 \[2, 1, 6, 6\]"),
        (torch.full((2, 1, 6, 6), 255.0), r"in \[0, 1\], got \[255, 255\]; divide bytes by 255"),
        (torch.full((2, 1, 6, 6), -0.5), r"in \[0, 1\], got \[-0.5, -0.5\]"),
        (torch.full((2, 1, 6, 6), float("nan")), r"in \[0, 1\], got \[nan, nan\]"),
    ],
    ids=["2d", "3d", "channels", "width", "bytes", "double", "too_large", "negative", "nan"],
)
def test_wrong_images_are_refused_with_what_was_got_and_what_is_allowed(name, wrong, message):
    model = build(name)
    for call in (model.encode, model.reconstruct, lambda x: model.encode({"image": x})):
        with pytest.raises(ValueError, match=message):
            call(wrong)


@unchecked()
@every_model
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, r"got only \["),
        (torch.zeros(2, 4), r"got \[2, 4\]"),
        (torch.zeros(3), r"got \[3\]"),
        (torch.zeros(5, 2, 3), r"got \[5, 2, 3\]"),
    ],
    ids=["none", "size", "1d", "3d"],
)
def test_wrong_codes_are_refused_with_what_was_got_and_what_is_allowed(name, wrong, message):
    model = build(name)
    for block in model.blocks:
        codes = {b: torch.zeros(2, 3) for b in model.blocks} | {block: wrong}
        codes = {b: code for b, code in codes.items() if code is not None} | {"other": torch.zeros(2, 3)}
        with pytest.raises(ValueError, match=rf"a code \[B, 3\] for block '{block}', {message}"):
            model.decode(codes)


# ---- the objective --------------------------------------------------------------------------------------------------


def in_loss(model, terms, term):
    """A term's part of the loss, but for its weight: the mean, or the sum over units such as groups by their number."""
    return terms[term].mean() if model.unit is None else terms[term].sum() / len(terms[model.unit])


def assert_loss_is_the_weighted_sum(model, batch):
    terms = model.objective(batch)
    loss, values = model.total(terms), {name: term.value for name, term in terms.items()}
    weights = {name: term.weight for name, term in terms.items() if term.weight is not None}
    assert loss.shape == () and loss.isfinite()
    assert all(value.shape in ((), (len(batch["image"]),), (batch.get("num_groups"),)) for value in values.values())
    torch.testing.assert_close(loss, sum(weight * in_loss(model, values, term) for term, weight in weights.items()))
    named = model.named_values(terms)
    torch.testing.assert_close(sum(named[f"weighted/{term}"] for term in weights), loss)


@every_model
@pytest.mark.parametrize("batch_size", [1, 2, 9])
@pytest.mark.parametrize(
    "likelihood", [Bernoulli(), Gaussian(0.2, learn=True), DiscretisedLogistic()], ids=lambda v: type(v).__name__
)
def test_loss_is_the_sum_of_the_weighted_terms(name, batch_size, likelihood):
    model = build(name, likelihood=likelihood)
    for num_train in (None, 1, 1000):  # 1: an epoch smaller than the batch must not break the estimates of q(z)
        model.training_data = num_train and training_data(num_train)
        assert_loss_is_the_weighted_sum(model, batch_for(name, batch_size))


@pytest.mark.parametrize(("name", "key"), SCHEDULED)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_loss_is_the_sum_of_the_weighted_terms_at_every_step_of_a_schedule(name, key, schedule):
    model = build(name, **{key: schedule})
    for step in (0, 1, 25, 60, 100, 101, 1000):
        model.trained_steps = step
        assert model.step == step
        assert_loss_is_the_weighted_sum(model, batch_for(name))
        assert getattr(model, key)(step) == (schedule if isinstance(schedule, float) else schedule(step))


def test_every_weight_of_a_constructor_is_in_the_table():
    for name in MODELS:
        own = inspect.signature(model_class(name)).parameters.values()
        numbers = {p.name for p in own if isinstance(p.default, float)} - {"capacity"}  # nats, not a weight
        assert numbers == {argument for model, argument, _ in WEIGHTS if model == name}


@pytest.mark.parametrize(("name", "argument", "term"), WEIGHTS)
def test_a_weight_reaches_its_own_term_and_no_other(name, argument, term):
    def run(value):
        model = build(name, **{argument: value})
        with torch.no_grad():
            model.encoder[-1].weight[:3] *= 8  # means that vary, so that no term is nearly zero
        torch.manual_seed(1)
        terms = costs(model, batch_for(name))
        parameters = list(model.parameters())
        graph = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        parts = {"loss": terms["loss"], term: in_loss(model, terms, term)}
        gradients = {t: torch.autograd.grad(part, parameters, **graph) for t, part in parts.items()}
        return terms, parts, gradients, weights_of(model, batch_for(name))

    (off, _, off_gradients, off_weights), (on, parts, on_gradients, on_weights) = run(0.0), run(2.5)
    assert all(torch.equal(off[t], on[t]) for t in off if t != "loss")
    torch.testing.assert_close(on["loss"] - off["loss"], 2.5 * parts[term], rtol=1e-3, atol=1e-4)
    for with_weight, without, of_term in zip(on_gradients["loss"], off_gradients["loss"], on_gradients[term]):
        torch.testing.assert_close(with_weight - without, 2.5 * of_term, rtol=1e-3, atol=1e-4)
    assert max(g.abs().max() for g in on_gradients[term]) > 0.01  # else the comparison would be of zeros
    assert (off_weights[term], on_weights[term]) == (0, 2.5)
    assert {t: w for t, w in off_weights.items() if t != term} == {t: w for t, w in on_weights.items() if t != term}


@every_model
def test_reconstruction_and_kl_are_those_of_likelihood_and_posterior(name):
    model, batch = build(name).eval(), images()
    torch.manual_seed(1)
    terms = costs(model, batch)
    torch.manual_seed(1)
    posterior = model.encode(batch)
    z = {block: q.mu + torch.randn_like(q.mu) * (q.logvar / 2).exp() for block, q in posterior.items()}
    p = model.decode(z)
    rec = nn.functional.binary_cross_entropy(p, batch["image"], reduction="none").flatten(1).sum(1)
    torch.testing.assert_close(terms["rec"], rec)
    for block, q in posterior.items():
        if name == "beta_tc_vae":  # estimated from the same draw
            standard = Normal(torch.zeros_like(q.mu), torch.zeros_like(q.mu))
            expected, tolerance = q.log_prob(z[block]) - standard.log_prob(z[block]), {"atol": 1e-4, "rtol": 1e-4}
            torch.testing.assert_close(terms[f"kl_{block}"], expected, **tolerance)
        else:
            torch.testing.assert_close(terms[f"kl_{block}"], kl_standard(q))
        torch.testing.assert_close(model.kl_per_dim(posterior)[block].sum(-1), kl_standard(q))


# ---- bounds ---------------------------------------------------------------------------------------------------------


@every_model
def test_mean_of_one_draw_bounds_is_minus_reconstruction_and_kl(name):
    model, draws = build(name), 4000
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.mul_(4)  # a posterior away from the prior: KL of some nats
        one = images(1)
        many = {"image": one["image"].expand(draws // 10, -1, -1, -1)}
        torch.manual_seed(0)
        bound = model.log_weights(one, draws)[:, 0]
        kl = kl_standard(side_by_side(model.encode(one)))
        rec = torch.cat([costs(model, many)["rec"] for _ in range(10)])
    error = ((bound.var() + rec.var()) / draws).sqrt()
    assert abs(bound.mean() + rec.mean() + kl) < 4 * error
    assert 4 * error < 0.2 * kl  # losing the KL, or a fifth of it, would be seen


@every_model
def test_weights_belong_to_their_image_and_draw(name):
    check_weights_belong_to_their_image_and_draw(build(name))


@dataclass(frozen=True)
class Affine:
    """The networks of probabilistic PCA."""

    def encoder(self, image_shape, num_outputs):
        return nn.Sequential(nn.Flatten(), nn.Linear(prod(image_shape), num_outputs))

    def decoder(self, num_inputs, image_shape):
        return nn.Sequential(nn.Linear(num_inputs, prod(image_shape)), nn.Unflatten(1, tuple(image_shape)))


def linear_gaussian(name, exact_posterior, sigma=0.4):
    """A model with p(x) = N(b, W W^T + sigma^2 I), a batch, its log p(x) and its ELBO in closed form, [B] nats.

    Columns of W are orthogonal, so the exact posterior, N(V W^T (x - b) / sigma^2, V), V = (I + W^T W / sigma^2)^-1,
    has a diagonal covariance.
    """
    model = build(name, (1, 2, 3), latent_dim=2, network=Affine(), likelihood=Gaussian(sigma))
    x = torch.rand(4, 1, 2, 3, generator=torch.Generator().manual_seed(3))
    D = 2 * len(model.blocks)
    W = torch.linalg.qr(torch.randn(6, D, generator=torch.Generator().manual_seed(4)))[0] * torch.linspace(0.9, 0.5, D)
    b = torch.linspace(0.2, 0.7, 6)
    variance = 1 / (1 + W.square().sum(0) / sigma**2)
    to_mean = variance[:, None] * W.T / sigma**2
    with torch.no_grad():
        model.decoder[0].weight.copy_(W), model.decoder[0].bias.copy_(b)
        model.encoder[1].weight.copy_(torch.cat([to_mean, torch.zeros(D, 6)]))
        model.encoder[1].bias.copy_(torch.cat([-to_mean @ b, variance.log()]))
        if not exact_posterior:
            model.encoder[1].bias.add_(torch.tensor([0.3, -0.3, 0.5, 0.2]).repeat_interleave(D // 2))
    p_x = torch.distributions.MultivariateNormal(b, W @ W.T + sigma**2 * torch.eye(6))
    q = side_by_side(model.encode(x)).map(torch.detach)
    at_mean = torch.distributions.Normal(q.mu @ W.T + b, sigma).log_prob(x.flatten(1)).sum(1)
    elbo = at_mean - (q.logvar.exp() * W.square().sum(0)).sum(1) / (2 * sigma**2) - kl_standard(q)
    return model, {"image": x}, p_x.log_prob(x.flatten(1)), elbo


@every_linear_model
def test_weights_of_the_exact_posterior_are_the_likelihood_itself(name):
    model, batch, log_px, elbo = linear_gaussian(name, exact_posterior=True)
    torch.testing.assert_close(elbo, log_px, rtol=0, atol=1e-4)
    log_w = model.log_weights(batch, 20)
    torch.testing.assert_close(log_w, log_px.expand(20, -1), rtol=0, atol=1e-4)  # Bayes' rule: whatever is drawn


@every_linear_model
def test_importance_weighted_bound_rises_to_the_likelihood(name):
    model, batch, log_px, elbo = linear_gaussian(name, exact_posterior=False)
    torch.manual_seed(0)
    with torch.no_grad():
        log_w = model.log_weights(batch, 50_000)
    bounds = [log_mean_exp(log_w.view(k, -1, 4)).mean(0) for k in (1, 5, 50)]
    torch.testing.assert_close(bounds[0], elbo, rtol=0, atol=0.03)
    assert (bounds[0] + 0.1 < bounds[1]).all() and (bounds[1] < bounds[2]).all() and (bounds[2] < log_px).all()
    torch.testing.assert_close(log_mean_exp(log_w), log_px, rtol=0, atol=0.02)


# ---- training -------------------------------------------------------------------------------------------------------


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@every_model
def test_trainer_takes_the_steps_of_a_bare_loop(name):
    """Batches and noise by (seed, step), each player's own Adam and clipping, learning rate by step."""
    schedule, clip = Linear(1.0, 0.2, 4), 0.5
    bare = build(name, (1, 8, 8))
    data = Digits(size=8, batch_size=32)
    data.serve(bare)
    players = [[p for n, p in bare.named_parameters() if n.startswith("discriminator.") == other] for other in (False, True)]
    optimizers = [torch.optim.Adam(p, lr=1e-3) for p in players if p]
    for step in range(5):
        bare.trained_steps = step
        noise.seed_step(7, step)
        terms = costs(bare, data.train_batch(step))
        for optimizer, loss in zip(optimizers, (terms["loss"], terms.get("discriminator"))):
            parameters = optimizer.param_groups[0]["params"]
            gradients = torch.autograd.grad(loss.mean(), parameters, retain_graph=True)
            norm = sum(g.square().sum() for g in gradients).sqrt()
            for p, g in zip(parameters, gradients):
                p.grad = g * (clip / (norm + 1e-6)).clamp(max=1)
            optimizer.param_groups[0]["lr"] = 1e-3 * schedule(step)
        for optimizer in optimizers:
            optimizer.step()
    ours = build(name, (1, 8, 8), lr_schedule=schedule)
    trainer = fit(ours, 5, seed=7, gradient_clip_val=clip)
    assert trainer.global_step == ours.step == 5
    for (key, got), wanted in zip(ours.state_dict().items(), bare.state_dict().values()):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6, msg=key)


@every_model
def test_validation_does_not_shift_training(name):
    runs = []
    for interval in (1, 10_000):
        model = build(name, (1, 8, 8))
        fit(model, 3, val_check_interval=interval)
        runs.append(state(model))
    assert_equal(*runs)


def validated(batch_size):
    """What a model that learns nothing logs of the validation images."""
    model, logged = build("vae", (1, 8, 8), optimizer=partial(torch.optim.SGD, lr=0.0)), {}
    model.log_values = logged.update
    fit(model, 1, batch_size=batch_size, val_check_interval=1)
    return {key: value for key, value in logged.items() if key.startswith("val/")}


def test_validation_averages_over_images_whatever_the_batch_size():
    few, many = validated(70), validated(180)  # 180 images
    assert few.keys() == many.keys() >= {"val/loss", "val/rec", "val/kl_z", "val/weighted/kl_z", "val/active_units_z"}
    assert all(few[key] == pytest.approx(many[key], rel=1e-5) for key in few)
    data = Digits(size=8)
    data.setup()
    batch = data.batch(data.indices["val"])
    assert len(batch["image"]) == 180
    with noise.per_image(batch["index"]), torch.no_grad():
        terms = costs(build("vae", (1, 8, 8)), batch)
    for term in ("loss", "rec", "kl_z"):
        assert few[f"val/{term}"] == pytest.approx(terms[term].mean().item(), rel=1e-5)


def test_active_units_are_the_dimensions_whose_mean_moves_by_more_than_a_tenth():
    model, logged = build("vae", (1, 8, 8), network=Affine(), optimizer=partial(torch.optim.SGD, lr=0.0)), {}
    model.log_values = logged.update
    data = Digits(size=8)
    data.setup()
    x = data.batch(data.indices["val"])["image"].flatten(1)
    direction = x.mean(0) / (x @ x.mean(0)).std()  # a code of standard deviation 1
    with torch.no_grad():
        model.encoder[1].weight.zero_()
        model.encoder[1].weight[:3] = torch.tensor([[0.0], [0.09], [0.11]]) * direction
        model.encoder[1].bias[:3] = 5.0
    fit(model, 1, val_check_interval=1)
    assert logged["val/active_units_z"] == 1


def test_a_copy_of_a_model_does_not_copy_its_data_set():
    model, data = build("vae", (1, 8, 8)), Digits(size=8, batch_size=32)
    data.serve(model)
    assert copy.deepcopy(model).training_data is model.training_data
