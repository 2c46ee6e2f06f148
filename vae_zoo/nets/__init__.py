"""Networks: encoders and decoders, which depend on shapes but not on objectives.

Each class is a `Network` of vae_zoo/contract.py, or a `LadderNetwork`, which gives and takes one code for each facet.
"""

from vae_zoo.nets.augment import RandomAffine
from vae_zoo.nets.conv import Conv
from vae_zoo.nets.ladder import LadderConv, LadderMLP
from vae_zoo.nets.mlp import MLP
from vae_zoo.nets.resize_conv import ResizeConv
from vae_zoo.nets.views import GaussianBlur, HighLowPass, Identity, MixedPatchShuffle, PatchShuffle

__all__ = [
    "Conv",
    "GaussianBlur",
    "HighLowPass",
    "Identity",
    "LadderConv",
    "LadderMLP",
    "MLP",
    "MixedPatchShuffle",
    "PatchShuffle",
    "RandomAffine",
    "ResizeConv",
]
