"""Shapes in annotations are checked while tests run: who calls with a wrong one is told so."""

import pytest
import torch
from jaxtyping import TypeCheckError

from vae_zoo.distributions import Bernoulli, Normal, pool
from vae_zoo.nets import PatchShuffle


@pytest.mark.parametrize(
    "call",
    [
        lambda: Normal(torch.zeros(4, 3), torch.zeros(4, 2)),
        lambda: pool(Normal(torch.zeros(4, 3), torch.zeros(4, 3)), torch.zeros(4, 1, dtype=torch.long), 1),
        lambda: Bernoulli().log_prob(torch.zeros(4, 1, 8, 8), torch.zeros(4, 1, 8, 4)),
        lambda: PatchShuffle(4)(torch.zeros(4, 8, 8)),
    ],
    ids=["fields", "group", "images", "view"],
)
def test_a_wrong_shape_is_caught(call):
    with pytest.raises(TypeCheckError):
        call()
