from functools import partial
from math import log

import pytest
import torch
import torch.nn.functional as F

from tests.models.builders import MODELS, build, costs, fit, training_data
from vae_zoo.data.sets.digits import Digits
from vae_zoo.distributions import DiscretisedLogistic, Gaussian
from vae_zoo.nets import MLP, Conv

MILD = {  # regularisers that leave room for the images of one batch
    "annealed_vae": {"gamma": 10.0, "capacity": 15.0},
    "beta_tc_vae": {"beta": 1.0},
    "beta_vae": {"beta": 0.5},
}


@pytest.mark.parametrize("name", MODELS)
def test_one_batch_is_learned_by_heart(name):
    data = Digits(size=8, batch_size=16)
    data.setup()
    batch = data.train_batch(0)
    x = batch["image"] = batch["image"].round()
    assert len(x.unique(dim=0)) == 16
    without_code = F.binary_cross_entropy(x.mean(0).expand_as(x), x, reduction="sum") / 16  # 24.2 nats: the mean image
    model = build(name, (1, 8, 8), latent_dim=8, network=MLP(hidden=(64,)), **MILD.get(name, {}))
    model.training_data = training_data(16)
    players = [
        [p for n, p in model.named_parameters() if n.startswith("discriminator.") == other] for other in (False, True)
    ]
    optimizers = [torch.optim.Adam(p, lr=lr, fused=True) for p, lr in zip(players, (8e-3, 1e-4)) if p]
    torch.manual_seed(0)
    for _ in range(250):
        terms = costs(model, batch)
        model.zero_grad()
        (terms["loss"] + terms.get("discriminator", torch.zeros(())).mean()).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert terms["rec"].mean() < without_code / 4  # a decoder that ignores its code cannot fall below `without_code`
    bound = model.log_weights(batch, 200).mean()
    # no distribution gives 16 different images more than 1/16 each: a bound above -log 16 has lost its KL
    assert -without_code < bound < -log(16)


def first_and_last_of_50_steps(model):
    """Loss and reconstruction, averaged over the first and over the last five training steps."""
    model.optimizer, history, objective = partial(torch.optim.Adam, lr=3e-3), [], model.objective

    def watched(batch):
        terms = objective(batch)
        if model.trainer.training:
            history.append([model.total(terms).item(), terms["rec"].value.mean().item()])
        return terms

    model.objective = watched
    fit(model, 50)
    assert len(history) == 50
    history = torch.tensor(history)
    return history[:5].mean(0).tolist(), history[-5:].mean(0).tolist()


CONVOLVED = ("vae", "factor_vae", "split_vae")  # a plain decoder, a second network, a second decoder


@pytest.mark.parametrize("name, kind", [*((name, "mlp") for name in MODELS), *((name, "conv") for name in CONVOLVED)])
def test_loss_decreases_in_50_steps(name, kind):
    network = MLP(hidden=(16,)) if kind == "mlp" else Conv(channels=(16, 16), hidden=(32,))
    (first_loss, first_rec), (last_loss, last_rec) = first_and_last_of_50_steps(build(name, (1, 8, 8), network=network))
    assert last_loss < first_loss
    assert last_rec < 0.8 * first_rec  # noise between batches is 0.02 of it


@pytest.mark.parametrize(
    "likelihood",
    [Gaussian(0.5), Gaussian(0.5, learn=True), DiscretisedLogistic(0.5), DiscretisedLogistic(0.5, learn=False)],
    ids=["gaussian", "gaussian_learned", "logistic", "logistic_fixed"],
)
def test_every_likelihood_can_be_learned(likelihood):
    (_, first_rec), (_, last_rec) = first_and_last_of_50_steps(build("vae", (1, 8, 8), likelihood=likelihood))
    assert last_rec < first_rec - 5


def test_learned_scales_shrink_as_images_are_explained():
    for likelihood, name in ((Gaussian(1.0, learn=True), "logvar"), (DiscretisedLogistic(2.0), "log_scale")):
        before = getattr(likelihood, name).item()
        first_and_last_of_50_steps(build("vae", (1, 8, 8), likelihood=likelihood))
        assert getattr(likelihood, name).item() < before - 0.05
