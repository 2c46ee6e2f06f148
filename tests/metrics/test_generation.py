import logging

import numpy as np
import pytest
import torch

from tests.annotations import unchecked
from vae_zoo.metrics import generation
from vae_zoo.metrics.generation import fid, generation_scores, kid
from vae_zoo.metrics.judge import Judge


def draw(num=500, d=4, mean=0.0, scale=1.0, seed=0):
    return mean + scale * torch.randn(num, d, generator=torch.Generator().manual_seed(seed))


def test_fid_of_a_set_with_itself_is_zero_and_of_gaussians_is_the_closed_form():
    x = draw()
    assert fid(x, x) == pytest.approx(0, abs=1e-3)
    assert fid(x, x + 2) == pytest.approx(4 * 2**2, rel=1e-4)  # only the means differ
    y = draw(20_000, mean=1, scale=3, seed=1)
    assert fid(draw(20_000), y) == pytest.approx(4 * (1**2 + (3 - 1) ** 2), rel=0.05)


def test_fid_grows_with_the_distance_and_falls_with_the_number_of_images():
    x = draw()
    assert fid(x, draw(seed=1)) < fid(x, draw(mean=0.3, seed=1)) < fid(x, draw(mean=1, seed=1))
    assert fid(draw(8000), draw(8000, seed=1)) < fid(x, draw(seed=1))


def test_kid_equals_its_definition_and_is_near_zero_for_equal_distributions():
    x, y = draw(60).double(), draw(60, mean=0.5, seed=1).double()

    def kernel(a, b):
        return (a @ b.T / 4 + 1) ** 3

    own = sum((kernel(a, a).sum() - kernel(a, a).trace()) / (60 * 59) for a in (x, y))
    assert kid(x, y) == pytest.approx(float(own - 2 * kernel(x, y).mean()))
    same = np.array([kid(draw(300, seed=s), draw(300, seed=s + 50)) for s in range(10)])
    assert abs(same.mean()) < 0.05 and (same < 0).any()
    assert kid(draw(300), draw(300, mean=1, seed=1)) > 10 * abs(same).max()


def test_subsets_of_kid_are_seeded_and_touch_no_generator():
    x, y, state = draw(), draw(mean=0.2, seed=1), torch.get_rng_state()
    first = kid(x, y, subsets=5, subset_size=50)
    assert torch.equal(torch.get_rng_state(), state)
    assert kid(x, y, subsets=5, subset_size=50) == first != kid(x, y, subsets=5, subset_size=50, seed=1)


def test_names_carry_the_network_and_fid_needs_ten_images_a_feature(caplog):
    judge = Judge((1, 8, 8), 3, num_features=6).eval()
    real, fake = torch.rand(60, 1, 8, 8), torch.rand(60, 1, 8, 8) ** 2
    scores = generation_scores(real, fake, judge)
    assert set(scores) == {"fid_judge", "kid_judge"} and all(np.isfinite([*scores.values()]))
    assert scores["fid_judge"] == pytest.approx(fid(judge.features(real), judge.features(fake)), rel=1e-4)
    assert generation_scores(real, real, judge)["fid_judge"] == pytest.approx(0, abs=1e-3)
    with caplog.at_level(logging.WARNING):
        assert set(generation_scores(real[:59], fake[:59], judge)) == {"kid_judge"}
    assert "fid_judge is not computed: 6 features need 60 images" in caplog.text


def test_inception_takes_grey_and_coloured_images_of_either_type(monkeypatch):
    class Network(torch.nn.Module):
        def __init__(self, name, features_list, weights):
            super().__init__()
            assert (name, features_list, weights) == ("inception-v3-compat", ["2048"], "weights.pth")

        def forward(self, x):
            assert x.dtype == torch.uint8 and x.shape[1] == 3
            return x.float().flatten(1)[:, :2]

    monkeypatch.setattr(generation, "NoTrainInceptionV3", Network)
    grey = torch.rand(40, 1, 4, 4)
    scores = generation_scores(grey, grey, inception_weights="weights.pth")
    assert set(scores) == {"fid_inception", "kid_inception"}
    coloured = (grey * 255).round().byte().expand(-1, 3, -1, -1)
    assert generation_scores(coloured, coloured, inception_weights="weights.pth") == scores


@unchecked()
def test_refusals():
    with pytest.raises(ValueError, match="equal N"):
        fid(draw(50), draw(60))
    with pytest.raises(ValueError, match="40 images"):
        fid(draw(39), draw(39, seed=1))
    with pytest.raises(ValueError, match="either a judge or"):
        generation_scores(torch.rand(50, 1, 8, 8), torch.rand(50, 1, 8, 8))
