"""Whether objects are found, counted and boxed without labels, on scenes small enough for a core and a few minutes."""

import pytest
import torch

from tests.models.builders import fit
from tests.models.test_spair import spair
from vae_zoo.data.scenes import Scenes
from vae_zoo.distributions import Bernoulli, Gaussian
from vae_zoo.evaluation import protocol
from vae_zoo.evaluation.scenes import numbers
from vae_zoo.nets import MLP
from vae_zoo.schedules import Linear

SMALL = {"size": 24, "sprite_size": 10, "num_objects": (0, 3), "batch_size": 16}
SMALL |= {"train_size": 4000, "val_size": 64, "test_size": 500}
MODEL = {"channels": [64] * 3, "features": 100, "head_hidden": [128, 64], "what_dim": 16, "glimpse_size": 12, "anchor": 12.0}


def trained(tmp_path, steps, ground, seed=0, **options):
    torch.manual_seed(seed)
    data = Scenes(**SMALL, ground=ground, seed=seed, cache=str(tmp_path))
    optimizer = lambda parameters: torch.optim.Adam(parameters, lr=1e-3, fused=True)  # noqa: E731
    model = spair((3, 24, 24), optimizer=optimizer, **MODEL | options)
    fit(model, steps, data=data, gradient_clip_val=1.0)
    return protocol.Evaluation(model.eval(), data)


@pytest.mark.slow
def test_objects_on_black_are_counted_and_boxed(tmp_path):
    """The best constant count is right on a quarter; boxes of other images, or one box for all, have ap50 below 0.05."""
    e = trained(
        tmp_path,
        1500,
        "black",
        background_dim=0,
        likelihood=Bernoulli(),
        object_network=MLP(hidden=(128,)),
        count_prior=Linear(1.0, 0.01, 1000, begin=250),
        scale_prior=Linear(2.0, 1.0, 1000, begin=250),
        beta_where=2.0,
        beta_what=0.5,
        beta_depth=2.0,
        beta_pres=2.0,
    )
    found = numbers(e, "test")
    assert found["count_accuracy"] >= 0.6 and found["count_mae"] <= 0.45 and abs(found["count_bias"]) <= 0.4
    assert found["ap50"] >= 0.6 and found["ap50_shuffled"] <= 0.05


@pytest.mark.slow
def test_objects_on_coloured_grounds_stay_alive(tmp_path):
    """The setting of experiment=spair/scenes_small. Where objects die all counts are 0, right on a quarter, ap50 0."""
    ramp = {"steps": 1500, "begin": 1000}
    e = trained(
        tmp_path,
        4000,
        "solid",
        background_dim=4,
        likelihood=Gaussian(0.15),
        network=MLP(hidden=(256,)),
        object_network=MLP(hidden=(256,)),
        count_prior=Linear(1.0, 0.01, **ramp),
        scale_prior=Linear(2.0, 0.6, 2500, begin=1000),
        beta_where=0.5,
        beta_what=0.05,
        beta_depth=0.5,
        beta_pres=Linear(0.5, 3.0, **ramp),
        presence_bias=2.0,
        alpha_bias=5.0,
        alpha_scale=0.1,
        wheels_steps=750,
    )
    found = numbers(e, "test")
    assert found["count_accuracy"] >= 0.5 and found["count_mae"] <= 0.7 and abs(found["count_bias"]) <= 0.4
    assert found["ap50"] >= 0.5 and found["ap50_shuffled"] <= 0.05
