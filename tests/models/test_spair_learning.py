"""Whether objects are found, counted and boxed without labels, on scenes small enough for a core and a few minutes. Source
of the set-ups: checks (b) and (c) of the reference, section 13.2."""

import pytest

from tests.models.builders import train_as_the_command
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suites.objects import numbers


def found(folder, *words):
    """The numbers of the test scenes after experiment=spair/scenes_small with these words."""
    words = ["experiment=spair/scenes_small", "data.test_size=500", f"paths.cache={folder}/cache", *words]
    return numbers(Context(*train_as_the_command(folder, *words)), "test")


@pytest.mark.slow
def test_objects_on_black_are_counted_and_boxed(tmp_path):
    """The best constant count is right on a quarter; boxes of other images, or one box for all, have ap50 below 0.05."""
    black = ["data.ground=black", "model.background_dim=0", "model/likelihood=bernoulli"]
    as_published = [
        "model.presence_bias=0",
        "model.alpha_bias=0",
        "model.alpha_scale=1",
        "model.presence_warmup_steps=0",
        "model.reach=1",
    ]
    ramps = [f"model.{name}_prior.{key}" for name in ("count", "scale") for key in ("begin=250", "steps=1000")]
    weights = ["model.beta_where=2", "model.beta_what=0.5", "model.beta_depth=2", "model.beta_pres=2"]
    n = found(tmp_path, "trainer.max_steps=1500", *black, *as_published, *ramps, *weights)
    assert n["count_accuracy"] >= 0.6 and n["count_mae"] <= 0.45 and abs(n["count_bias"]) <= 0.4
    assert n["ap50"] >= 0.6 and n["ap50_shuffled"] <= 0.05


@pytest.mark.slow
def test_objects_on_coloured_grounds_stay_alive(tmp_path):
    """As the experiment is. Where objects die all counts are 0, right on a quarter, mean error 1.5, ap50 0; where two boxes
    share what one could have, both numbers are near 0.6."""
    n = found(tmp_path)
    assert n["count_accuracy"] >= 0.7 and n["count_mae"] <= 0.4 and abs(n["count_bias"]) <= 0.3
    assert n["ap50"] >= 0.7 and n["ap50_shuffled"] <= 0.05
