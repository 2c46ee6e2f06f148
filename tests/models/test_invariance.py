"""The terms that make clusters invariant: by hand, with schedules, and what is refused."""

from math import log

import pytest
import torch
from torch import nn

from vae_zoo.models.invariance import Invariance, SwapInvariance
from vae_zoo.nets.norm import statistics_kept
from vae_zoo.schedules import Linear

SURE = torch.tensor([[0.98, 0.01, 0.01], [0.01, 0.98, 0.01], [0.01, 0.01, 0.98]]).log()
ALIKE = torch.tensor([[0.5, 0.25, 0.25]]).expand(3, 3).log()


def terms(log_c, copies, step=0, **weights):
    wanted = Invariance(nn.Identity(), **{"consistency_weight": 1.0} | weights)
    return wanted.terms(step, log_c, log_c, lambda: copies)


def test_terms_by_hand():
    """Clusters that are sure, balanced and kept by the copy cost little; all images alike cost log K - H in balance."""
    found = {name: term.value.mean().item() for name, term in terms(SURE, SURE).items()}
    h = -(0.98 * log(0.98) + 0.02 * log(0.01))
    assert found == pytest.approx({"consistency": h, "entropy": h, "balance": 0.0}, abs=1e-5)
    found = {name: term.value.mean().item() for name, term in terms(ALIKE, SURE).items()}
    assert found["entropy"] == pytest.approx(1.5 * log(2)) and found["balance"] == pytest.approx(log(3) - 1.5 * log(2))
    assert found["consistency"] == pytest.approx(-(log(0.98) + 2 * log(0.01)) / 3, rel=1e-4)


def test_consistency_is_computed_only_while_it_has_a_weight():
    def never():
        raise AssertionError("the copies are not needed")

    wanted = Invariance(nn.Identity(), Linear(0.0, 2.0, 10, begin=5), entropy_weight=Linear(1.0, 0.0, 10))
    early = wanted.terms(5, SURE, SURE, never)
    assert {name: term.weight for name, term in early.items()} == {"entropy": 0.5, "balance": None}
    late = wanted.terms(10, SURE, SURE, lambda: SURE)
    assert {name: term.weight for name, term in late.items()} == {"consistency": 1.0, "entropy": None, "balance": None}
    assert Invariance().terms(0, SURE, SURE, never) == {}


@pytest.mark.parametrize(
    "kind, options, sentence",
    [
        (Invariance, {"consistency_weight": 1.0}, "needs augment, such as vae_zoo.nets.RandomAffine; set it"),
        (Invariance, {"augment": nn.Identity()}, "leaves augment unused; give consistency_weight > 0, or augment=null"),
        (SwapInvariance, {"consistency_weight": 1.0}, "needs augment, .* or swap_local=true; set it"),
        (SwapInvariance, {"swap_local": True}, "leaves swap_local unused; .* or swap_local=false"),
    ],
)
def test_settings_without_effect_are_refused(kind, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        kind(**options)


def test_copies_leave_the_averages_of_batch_normalisation_as_they_are():
    layer, x = nn.Sequential(nn.BatchNorm1d(2)), torch.randn(8, 2) + 3
    expected, before = layer(x), {key: value.clone() for key, value in layer.state_dict().items()}
    with statistics_kept(layer):
        torch.testing.assert_close(layer(x), expected)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())
    layer(x)
    assert not torch.equal(before["0.running_mean"], layer[0].running_mean)
    with statistics_kept(layer.eval()):
        normalised = layer(x)
    torch.testing.assert_close(normalised, layer(x))
