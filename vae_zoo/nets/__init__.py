"""Encoders and decoders: they know shapes, not objectives.

A network family is any object with `encoder(image_shape, num_outputs)` and `decoder(num_inputs, image_shape)`, both
giving an `nn.Module`: images [B, C, H, W] -> [B, num_outputs] and codes [B, num_inputs] -> [B, C, H, W]. Ladders, which
give and take one code for each facet, are described in vae_zoo/nets/ladder.py.
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
