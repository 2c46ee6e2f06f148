"""SPLIT's network: an encoder of convolutions of stride 2, a decoder of bilinear upsampling and convolutions.

Source: 51616/split-vae, vae/model.py. Initial weights are Glorot-uniform, biases 0.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vae_zoo.config.types import Widths


@dataclass(frozen=True)
class ResizeConv:
    """An encoder of convolutions of stride 2, a decoder of bilinear upsampling and convolutions with ReLU.

    Args:
        channels: Channels of the encoder's convolutions, from the image inwards.
        kernels: Kernel sizes of the same convolutions, even.
        activation: After each convolution of the encoder.
        decoder_channels: From the code outwards, as many as `channels`. Images are upsampled by 2 before each convolution
            except the first.
        decoder_kernels: From the code outwards, one more than `channels`; the last is that of the output.

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
            num_outputs: Outputs per image.

        Raises:
            ValueError: A side of the images is not a multiple of 2 ** len(channels).
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
            num_inputs: Inputs per image.
            image_shape: [C, H, W].

        Raises:
            ValueError: A side of the images is not a multiple of 2 ** len(channels).
        """
        inner = (channels, *size) = (self.decoder_channels[0], *self._innermost(image_shape))
        first, *kernels = self.decoder_kernels
        before, after = _same(first)
        convs = [nn.ZeroPad2d((before, after, before, after)), nn.Conv2d(channels, channels, first)]
        layers = [nn.Linear(num_inputs, prod(inner)), nn.ReLU(), nn.Unflatten(1, inner), *convs]
        network = {str(i): layer for i, layer in enumerate(layers)}
        widths = [*self.decoder_channels, image_shape[0]]
        for stage, (i, o, kernel) in enumerate(zip(widths, widths[1:], kernels), start=1):
            conv = UpsamplingConv2d(i, o, kernel, (size[0] << stage - 1, size[1] << stage - 1))
            network |= {f"{4 * stage + 1}": nn.ReLU(), f"{4 * stage + 4}": conv}  # names of the weights as in version 0.1
        return _initialised(nn.Sequential(OrderedDict(network)))

    def _innermost(self, image_shape: Sequence[int]) -> tuple[int, int]:
        """(height, width) next to the code."""
        factor = 2 ** len(self.channels)
        if any(side % factor for side in image_shape[1:]):
            height, width = image_shape[1:]
            raise ValueError(f"image sides must be multiples of {factor}, got {height}x{width}")
        return image_shape[1] // factor, image_shape[2] // factor


class UpsamplingConv2d(nn.Conv2d):
    """Bilinear upsampling by 2 and a convolution that keeps the size, merged to save three quarters of the multiplications.

    Upsampling and zero padding act on rows and columns only, and a kernel position mixes the channels in the same way at
    every pixel. So the channels are mixed first, at low resolution, once for each position of the kernel; one matrix for the
    columns and one for the rows then upsample, shift and sum the results. Up to rounding the output is that of
    nn.Upsample(scale_factor=2, mode="bilinear"), zero padding and nn.Conv2d, also at the borders.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Side of the kernel.
        size: (height, width) of the input.
    """

    bias: nn.Parameter
    rows: Float[Tensor, "H2 HK"]
    columns: Float[Tensor, "W2 WK"]

    def __init__(self, in_channels: int, out_channels: int, kernel: int, size: tuple[int, int]):
        super().__init__(in_channels, out_channels, kernel)
        for name, side in zip(("rows", "columns"), size):
            self.register_buffer(name, _upsampling(side, kernel), persistent=False)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O H2 W2"]:
        """Upsamples and convolves images.

        Args:
            image: Images of the `size` of the constructor.

        Returns:
            Images of twice their sides.
        """
        height, width = image.shape[2:]
        kernel, out = self.kernel_size[0], self.out_channels
        mixing = self.weight.permute(1, 3, 2, 0).flatten(1)  # [C, (kx ky O)]
        mixed = image.permute(0, 2, 3, 1) @ mixing  # [B, H, W, (kx ky O)]
        wide = self.columns @ mixed.reshape(-1, width * kernel, kernel * out)  # [(B H), 2W, (ky O)]
        wide = wide.view(-1, height, 2 * width, kernel, out).transpose(2, 3)  # [B, H, ky, 2W, O]
        large = self.rows @ wide.reshape(-1, height * kernel, 2 * width * out)  # [B, 2H, (2W O)]
        return (large.view(-1, 2 * height, 2 * width, out) + self.bias).permute(0, 3, 1, 2)


def _same(kernel: int) -> tuple[int, int]:
    """Padding before and after with which TensorFlow keeps the size; asymmetric for even kernels."""
    return (kernel - 1) // 2, kernel // 2


def _upsampling(side: int, kernel: int) -> Float[Tensor, "large small"]:
    """The matrix from [side * kernel] to [2 * side]: row y sums pixels y + k - before of the upsampled image over k."""
    upsampled = F.interpolate(torch.eye(side)[None], scale_factor=2, mode="linear")[0]  # [side, 2 * side]
    return F.pad(upsampled, _same(kernel)).unfold(1, kernel, 1).permute(1, 0, 2).flatten(1)


def _initialised(network: nn.Sequential) -> nn.Module:
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network
