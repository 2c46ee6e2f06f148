"""Fully connected encoder and decoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from torch import nn

from vae_zoo.config.types import Hidden, Widths


@dataclass(frozen=True)
class MLP:
    """Fully connected layers.

    Args:
        hidden: Units of the encoder's layers, from the image inwards.
        activation: Between the layers.
        decoder_hidden: Units of the decoder's layers, from the code outwards; None: `hidden` reversed.
    """

    hidden: Widths = (512, 256)
    activation: Literal["relu", "tanh"] = "relu"
    decoder_hidden: Hidden | None = None

    def encoder(self, image_shape: Sequence[int], num_outputs: int) -> nn.Module:
        """Makes the encoder of images [B, C, H, W] to [B, num_outputs].

        Args:
            image_shape: [C, H, W].
            num_outputs: Outputs per image.
        """
        return nn.Sequential(nn.Flatten(), *dense([prod(image_shape), *self.hidden, num_outputs], self.activation))

    def decoder(self, num_inputs: int, image_shape: Sequence[int]) -> nn.Module:
        """Makes the decoder of codes [B, num_inputs] to images [B, C, H, W].

        Args:
            num_inputs: Inputs per image.
            image_shape: [C, H, W].
        """
        hidden = [*reversed(self.hidden)] if self.decoder_hidden is None else self.decoder_hidden
        layers = dense([num_inputs, *hidden, prod(image_shape)], self.activation)
        return nn.Sequential(*layers, nn.Unflatten(1, tuple(image_shape)))


def dense(units: Sequence[int], activation: Literal["relu", "tanh"] = "relu") -> list[nn.Module]:
    """Linear layers of these widths with activations between them, and none at the end."""
    kind = {"relu": nn.ReLU, "tanh": nn.Tanh}[activation]
    layers: list[nn.Module] = [m for i, o in zip(units, units[1:]) for m in (nn.Linear(i, o), kind())]
    return layers[:-1]
