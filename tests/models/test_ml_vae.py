"""Groups through the model: what is counted once, what is drawn how often, who sees whom."""

from dataclasses import dataclass
from math import prod

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from tests.models.builders import batch_for, build, costs, images
from vae_zoo.distributions import Gaussian, Normal, kl_standard, noise

GROUPED = ("ml_vae", "group_vae")
RULES = ("product", "product_with_prior", "mean", "mean_precision")
grouped_models = pytest.mark.parametrize("name", GROUPED)


def grouped(group, **options):
    batch = images(len(group), **options)
    return batch | {"group": torch.tensor(group), "num_groups": max(group) + 1}


def rows(batch, index):
    """Some rows of a batch, their groups kept."""
    index = torch.tensor(index)
    return {key: value[index] if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


def objective(model, batch, seed=0):
    """With noise that belongs to the image."""
    with noise.per_image(batch["index"], seed):
        return costs(model, batch)


def sharpened(model):
    """An encoder that says different things of different images."""
    with torch.no_grad():
        model.encoder[-1].weight.mul_(8)
    return model


# ---- what is counted ------------------------------------------------------------------------------------------------


@grouped_models
def test_loss_is_per_group_and_counts_the_content_of_a_group_once(name):
    model, batch = sharpened(build(name, beta_style=3.0, beta_content=0.5)), grouped([0, 0, 0, 1])
    terms = objective(model, batch)
    assert [len(terms[term]) for term in ("rec", "kl_style", "kl_content")] == [4, 4, 2]
    q = model.encode(batch)
    kl = [kl_standard(q["content"])[i] for i in (0, 3)]  # of any image of the group
    torch.testing.assert_close(terms["kl_content"], torch.stack(kl))
    by_hand = (terms["rec"].sum() + 3 * kl_standard(q["style"]).sum() + 0.5 * (kl[0] + kl[1])) / 2
    torch.testing.assert_close(terms["loss"], by_hand)


def test_more_images_of_a_group_sharpen_its_content_and_add_no_term():
    model, batch = sharpened(build("ml_vae")), grouped([0, 0, 0, 1])
    twice = rows(batch, [0, 1, 2, 3, 0, 1, 2])
    once, more = model.encode(batch)["content"], model.encode(twice)["content"]
    torch.testing.assert_close(more.mu[:4], once.mu)
    torch.testing.assert_close(more.logvar[0], once.logvar[0] - torch.tensor(2.0).log())
    torch.testing.assert_close(more.logvar[3], once.logvar[3])
    assert len(objective(model, twice)["kl_content"]) == 2
    assert (objective(model, twice)["kl_content"][0] > objective(model, batch)["kl_content"][0]).all()


@pytest.mark.parametrize("evidence", ["product", "mean", "mean_precision"])
@pytest.mark.parametrize("grouping", ["own", "none"])
def test_groups_of_one_image_are_the_plain_vae(monkeypatch, evidence, grouping):
    ml_vae, vae = build("ml_vae", evidence=evidence), build("vae", latent_dim=6)
    vae.load_state_dict(ml_vae.state_dict())
    batch = images() if grouping == "none" else grouped(list(range(8)))
    monkeypatch.setattr(noise, "normal", lambda like, shape=(): torch.full((*shape, *like.shape), 0.7))
    ours, theirs = costs(ml_vae, batch), costs(vae, batch)
    torch.testing.assert_close(ours["loss"], theirs["loss"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours["kl_style"] + ours["kl_content"], theirs["kl_z"])
    torch.testing.assert_close(ml_vae.log_weights(batch, 3), vae.log_weights(batch, 3))


def test_group_vae_is_ml_vae_with_the_mean_of_the_posteriors():
    batch = grouped([0, 1, 0, 0])
    losses = [objective(sharpened(build(*args)), batch)["loss"] for args in (["group_vae"], ["ml_vae"])]
    assert losses[0] != losses[1]
    assert losses[0] == objective(sharpened(build("ml_vae", evidence="mean")), batch)["loss"]


# ---- encode ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("evidence", RULES)
def test_a_group_has_one_content_which_pooling_its_images_gives(evidence):
    model, batch = sharpened(build("ml_vae", evidence=evidence)), grouped([0, 1, 1, 2, 0, 1])
    alone, together = model.encode_images(batch), model.encode(batch)
    q_content = model.pool(alone["content"], batch["group"], 3)
    assert q_content.mu.shape == (3, 3)
    for name in ("mu", "logvar"):
        assert torch.equal(getattr(together["content"], name), getattr(q_content, name)[batch["group"]])
        assert torch.equal(getattr(together["style"], name), getattr(alone["style"], name))
    without_group = model.encode(batch["image"])["content"]
    prior_adds = evidence == "product_with_prior"
    assert torch.equal(without_group.logvar, alone["content"].logvar) != prior_adds
    torch.testing.assert_close(without_group.mu[3], together["content"].mu[3])  # the group of one image


def test_few_and_many_images_of_an_unseen_group():
    """More evidence, less doubt: the width falls about as 1 / sqrt(k)."""
    model, x = build("ml_vae"), images(16)["image"]
    alone = model.encode_images(x)["content"]
    widths = [(0.5 * model.pool(alone[:k], torch.zeros(k, dtype=torch.long), 1).logvar).exp() for k in (1, 4, 16)]
    torch.testing.assert_close(widths[0] / widths[1], torch.full((1, 3), 2.0), rtol=0.3, atol=0)
    torch.testing.assert_close(widths[0] / widths[2], torch.full((1, 3), 4.0), rtol=0.3, atol=0)


@grouped_models
@pytest.mark.parametrize("sampling", ["per_image", "per_group"])
def test_order_of_images_and_names_of_groups_change_no_term(name, sampling):
    model = build(name, content_sampling=sampling)
    batch, order = grouped([0, 0, 0, 1, 1, 2, 2, 2]), [5, 0, 3, 6, 1, 4, 7, 2]  # the first of a group stays its first
    before, mixed = objective(model, batch), objective(model, rows(batch, order))
    for term in ("rec", "kl_style"):
        torch.testing.assert_close(mixed[term], before[term][order])
    torch.testing.assert_close((mixed["kl_content"], mixed["loss"]), (before["kl_content"], before["loss"]))
    names = torch.tensor([2, 0, 1])
    renamed = objective(model, batch | {"group": names[batch["group"]]})
    torch.testing.assert_close((renamed["rec"], renamed["kl_content"][names]), (before["rec"], before["kl_content"]))


@grouped_models
def test_an_image_is_seen_by_its_group_and_by_nobody_else(name):
    model, batch = sharpened(build(name)), grouped([0, 1, 0, 1, 2])
    before = objective(model, batch)["rec"]
    batch["image"] = batch["image"].clone()
    batch["image"][0] = 1 - batch["image"][0]
    changed = (objective(model, batch)["rec"] - before).abs() > 1e-4
    assert changed.tolist() == [True, False, True, False, False]


@grouped_models
@pytest.mark.parametrize("sampling", ["per_image", "per_group"])
def test_every_weight_learns(name, sampling):
    """A content that is pooled without its gradient is a random projection, and the content code is never trained."""
    model, batch = build(name, content_sampling=sampling), grouped([0, 1, 0, 1, 2, 2, 2, 0])
    costs(model, batch)["loss"].backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())
    heads = model.encoder[-1].weight.grad.abs().amax(1)  # content, style; means, log-variances
    assert (heads > 1e-4).all() and len(heads) == 12
    model.zero_grad()
    costs(model, batch)["rec"][0].backward()  # through the evidence of the other images of its group too
    assert (model.encoder[-1].weight.grad.abs().amax(1) > 0).all()


# ---- draws ----------------------------------------------------------------------------------------------------------


def drawn(model, batch):
    """The content codes that the objective decodes, [B, Dc]."""
    seen = []
    hook = model.decoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    costs(model, batch)
    hook.remove()
    return seen[0][:, : model.blocks["content"].size]


@pytest.mark.parametrize("sampling", ["per_image", "per_group"])
def test_draws_are_of_the_group_posterior_each_images_own_or_one_for_all(sampling):
    model, copies = build("ml_vae", content_sampling=sampling), 5000
    one = grouped([0, 0, 1])
    batch = {"image": one["image"].repeat(copies, 1, 1, 1), "index": torch.arange(3 * copies), "num_groups": 2 * copies}
    batch["group"] = (one["group"] + 2 * torch.arange(copies)[:, None]).flatten()
    torch.manual_seed(0)
    with torch.no_grad():
        z = drawn(model, batch).view(copies, 3, -1)  # of three images, two of them a group
    assert torch.equal(z[:, 0], z[:, 1]) == (sampling == "per_group")
    correlation = torch.stack([z[:, 0, 0], z[:, 1, 0]]).corrcoef()[0, 1]
    assert correlation == pytest.approx(float(sampling == "per_group"), abs=0.05)
    q = model.encode(one)["content"].map(torch.detach)
    torch.testing.assert_close((z.mean(0) - q.mu) / (q.logvar / 2).exp(), torch.zeros(3, 3), rtol=0, atol=0.06)
    torch.testing.assert_close(z.var(0) / q.logvar.exp(), torch.ones(3, 3), rtol=0, atol=0.1)


# ---- bounds ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Affine:
    def encoder(self, image_shape, num_outputs):
        return nn.Sequential(nn.Flatten(), nn.Linear(prod(image_shape), num_outputs))

    def decoder(self, num_inputs, image_shape):
        return nn.Sequential(nn.Linear(num_inputs, prod(image_shape)), nn.Unflatten(1, tuple(image_shape)))


def linear_gaussian(sigma=0.4, **options):
    """A model with x_i = b + C c + S s_i + noise, whose columns are orthogonal, and what each image truly says: of the
    content the factor p(x | c) as a function of c, of its style the posterior."""
    model = build("ml_vae", (1, 2, 3), latent_dim=2, network=Affine(), likelihood=Gaussian(sigma), **options)
    W = torch.linalg.qr(torch.randn(6, 4, generator=torch.Generator().manual_seed(4)))[0] * torch.tensor(
        [0.9, 0.5, 0.8, 0.6]
    )
    b, norm = torch.linspace(0.2, 0.7, 6), W.square().sum(0)
    variance = torch.cat([sigma**2 / norm[:2], 1 / (1 + norm[2:] / sigma**2)])
    to_mean = variance[:, None] * W.T / sigma**2
    with torch.no_grad():
        model.decoder[0].weight.copy_(W), model.decoder[0].bias.copy_(b)
        model.encoder[1].weight.copy_(torch.cat([to_mean, torch.zeros(4, 6)]))
        model.encoder[1].bias.copy_(torch.cat([-to_mean @ b, variance.log()]))
    return model, W, b


def log_likelihoods(x, group, W, b, sigma=0.4):
    """log p(x_G) of each group: all its pixels are one Gaussian."""
    values = []
    for g in range(max(group) + 1):
        mine = x.flatten(1)[torch.tensor(group) == g]
        n = len(mine)
        content, style = W[:, :2] @ W[:, :2].T, W[:, 2:] @ W[:, 2:].T
        covariance = torch.kron(torch.ones(n, n), content) + torch.kron(torch.eye(n), style + sigma**2 * torch.eye(6))
        values.append(MultivariateNormal(b.repeat(n), covariance).log_prob(mine.flatten()))
    return torch.stack(values)


def test_weights_of_exact_posteriors_are_the_likelihood_of_the_group():
    """Bayes' rule, whatever is drawn: for groups of one, two and three images in mixed order."""
    group = [0, 2, 1, 2, 2, 1]
    model, W, b = linear_gaussian(evidence="product_with_prior")
    x = torch.rand(6, 1, 2, 3, generator=torch.Generator().manual_seed(3))
    wanted = log_likelihoods(x, group, W, b)
    batch = {"image": x, "index": torch.arange(6), "group": torch.tensor(group), "num_groups": 3}
    torch.testing.assert_close(model.log_weights(batch, 20), wanted.expand(20, -1), rtol=0, atol=2e-4)
    terms = [objective(model, batch, seed)["loss"].detach() for seed in range(400)]
    assert -torch.stack(terms).mean() == pytest.approx(wanted.mean().item(), abs=0.2)  # the group ELBO, tight here


def test_bound_of_a_group_rises_to_its_likelihood():
    group = [0, 0, 0, 1]
    model, W, b = linear_gaussian(evidence="product")  # too narrow: the prior is missing
    x = torch.rand(4, 1, 2, 3, generator=torch.Generator().manual_seed(3))
    wanted = log_likelihoods(x, group, W, b)
    batch = {"image": x, "group": torch.tensor(group), "num_groups": 2}
    torch.manual_seed(0)
    with torch.no_grad():
        log_w = model.log_weights(batch, 40_000)
    bounds = [(log_w.view(k, -1, 2).logsumexp(0) - torch.tensor(k).log()).mean(0) for k in (1, 10, 1000)]
    assert (bounds[0] < bounds[1]).all() and (bounds[1] < bounds[2]).all()
    torch.testing.assert_close(bounds[2], wanted, rtol=0, atol=0.1)


def test_draws_of_a_group_belong_to_it_whatever_the_batch():
    model, batch = build("ml_vae"), grouped([0, 0, 1, 1, 1, 2])
    with noise.per_image(batch["index"]):
        together = model.log_weights(batch, 3)
    second = rows(batch, [2, 3, 4]) | {"group": torch.zeros(3, dtype=torch.long), "num_groups": 1}
    with noise.per_image(second["index"]):
        torch.testing.assert_close(model.log_weights(second, 3), together[:, [1]])


def test_own_draws_have_the_same_mean_gradient_and_less_variance():
    """A squared error: gradients by what the first of a group's four images says of its content, 3,000 times."""
    copies, gradients = 3000, {}
    for sampling in ("per_image", "per_group"):
        (model, _, _), one = linear_gaussian(content_sampling=sampling), images(4, (1, 2, 3))
        batch = {"image": one["image"].repeat(copies, 1, 1, 1), "num_groups": copies}
        batch["group"] = torch.arange(copies).repeat_interleave(4)
        q = {name: q.map(lambda t: t.detach().requires_grad_()) for name, q in model.encode_images(batch).items()}
        model.encode_images = lambda batch, q=q: q
        torch.manual_seed(0)
        loss = costs(model, batch)["loss"] * copies
        found = torch.autograd.grad(loss, (q["content"].mu, q["content"].logvar))
        gradients[sampling] = torch.cat([g.view(copies, 4, 2)[:, 0] for g in found], 1)  # [copies, 4]
    own, shared = gradients["per_image"], gradients["per_group"]
    error = ((own.var(0) + shared.var(0)) / copies).sqrt()
    assert ((own.mean(0) - shared.mean(0)).abs() < 4 * error).all()
    assert (own.var(0) < 0.7 * shared.var(0)).all()


# ---- precision ------------------------------------------------------------------------------------------------------


@grouped_models
def test_pooling_and_kl_stay_in_float32_under_autocast(name):
    model, batch = build(name), batch_for(name)
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective(model, batch)
        assert all(q.mu.dtype == q.logvar.dtype == torch.float32 for q in model.encode(batch).values())
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in terms.values())


def test_content_far_from_any_prior_stays_finite():
    model, batch = build("ml_vae"), grouped([0, 0, 1])
    with torch.no_grad():
        model.encoder[-1].bias[6:9] = torch.tensor([-80.0, 0.0, 40.0])  # log-variances of the content
    q = model.encode(batch)["content"]
    assert isinstance(q, Normal) and q.mu.isfinite().all() and q.logvar.isfinite().all()
