"""SPLIT's network: convolutions of stride 2 towards the code, bilinear enlargement and convolutions away from it.

Source: 51616/split-vae, vae/model.py. Weights start Glorot-uniform, biases at 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from torch import nn

from vae_zoo.config.types import Widths


@dataclass(frozen=True)
class ResizeConv:
    """Convolutions of stride 2 towards the code, bilinear enlargement and convolutions with ReLU away from it.

    Args:
        channels: Of the encoder's convolutions, from the image inwards.
        kernels: Of the same, even.
        activation: After each convolution of the encoder.
        decoder_channels: From the code outwards, as many as `channels`. Images are enlarged twice after each convolution but
            the last.
        decoder_kernels: From the code outwards, one more than channels: the last is that of the output.

    Raises:
        ValueError: The lists do not fit each other, or a kernel of the encoder is odd.
    """

    channels: Widths = (32, 64, 128)
    kernels: Widths = (6, 6, 4)
    activation: Literal["relu", "elu"] = "relu"
    decoder_channels: Widths = (128, 64, 32)
    decoder_kernels: Widths = (4, 4, 6, 6)

    def __post_init__(self):
        n = len(self.channels)
        for name, value, count in (
            ("kernels", self.kernels, n),
            ("decoder_channels", self.decoder_channels, n),
            ("decoder_kernels", self.decoder_kernels, n + 1),
        ):
            if len(value) != count:
                raise ValueError(f"{name} needs {count} entries for {n} channels, got {len(value)}")
        if any(k % 2 for k in self.kernels):
            raise ValueError(f"kernels of stride 2 must be even to halve the image, got {[*self.kernels]}")

    def encoder(self, image_shape: Sequence[int], num_outputs: int) -> nn.Module:
        """Makes the encoder of images [B, C, H, W] to [B, num_outputs].

        Args:
            image_shape: [C, H, W].
            num_outputs: Numbers for each image.

        Raises:
            ValueError: A side of the images is no multiple of 2 ** len(channels).
        """
        kind = {"relu": nn.ReLU, "elu": nn.ELU}[self.activation]
        widths, layers = [image_shape[0], *self.channels], []
        for i, o, kernel in zip(widths, widths[1:], self.kernels):
            layers += [nn.Conv2d(i, o, kernel, 2, kernel // 2 - 1), kind()]
        features = self.channels[-1] * prod(self._innermost(image_shape))
        return _initialised(nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, num_outputs)))

    def decoder(self, num_inputs: int, image_shape: Sequence[int]) -> nn.Module:
        """Makes the decoder of codes [B, num_inputs] to images [B, C, H, W].

        Args:
            num_inputs: Numbers for each image.
            image_shape: [C, H, W].

        Raises:
            ValueError: A side of the images is no multiple of 2 ** len(channels).
        """
        inner = (self.decoder_channels[0], *self._innermost(image_shape))
        layers = [nn.Linear(num_inputs, prod(inner)), nn.ReLU(), nn.Unflatten(1, inner)]
        widths = [inner[0], *self.decoder_channels, image_shape[0]]
        for i, o, kernel in zip(widths, widths[1:], self.decoder_kernels):
            before, after = (kernel - 1) // 2, kernel // 2  # what TensorFlow adds to keep the size, uneven for even kernels
            layers += [nn.ZeroPad2d((before, after, before, after)), nn.Conv2d(i, o, kernel)]
            layers += [nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear")]
        return _initialised(nn.Sequential(*layers[:-2]))

    def _innermost(self, image_shape: Sequence[int]) -> tuple[int, int]:
        """(height, width) next to the code."""
        factor = 2 ** len(self.channels)
        if any(side % factor for side in image_shape[1:]):
            height, width = image_shape[1:]
            raise ValueError(f"image sides must be multiples of {factor}, got {height}x{width}")
        return image_shape[1] // factor, image_shape[2] // factor


def _initialised(network: nn.Sequential) -> nn.Module:
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network
