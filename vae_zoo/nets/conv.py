"""The field's standard convolutional network for 64x64 images, for any size.

Four convolutions of kernel 4 and stride 2, one hidden layer, and the same reversed; every layer but the last is
followed by a ReLU. Channels and hidden layer are those of Locatello et al. (2019), whose code has kernels of 2 in the
encoder's last two convolutions. Conv(channels=[32] * 4, hidden=[256, 256]) is Burgess et al. (2018), appendix A.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import nn

from vae_zoo.nets.mlp import dense


@dataclass(frozen=True)
class Conv:
    """channels: of the convolutions, from the image inwards; hidden: units of the layers between them and the code."""

    channels: Sequence[int] = (32, 32, 64, 64)
    hidden: Sequence[int] = (256,)

    def encoder(self, image_shape: Sequence[int], num_outputs: int) -> nn.Module:
        widths = [image_shape[0], *self.channels]
        layers = [m for i, o in zip(widths, widths[1:]) for m in (nn.Conv2d(i, o, 4, 2, 1), nn.ReLU())]
        units = [prod(self._inner_shape(image_shape)), *self.hidden]
        return nn.Sequential(*layers, nn.Flatten(), *dense([*units, num_outputs]))

    def decoder(self, num_inputs: int, image_shape: Sequence[int]) -> nn.Module:
        inner = self._inner_shape(image_shape)
        units = [num_inputs, *reversed(self.hidden), prod(inner)]
        widths = [*reversed(self.channels), image_shape[0]]
        heights, lengths = (self._sizes(side)[::-1] for side in image_shape[1:])
        layers = []
        for i, o, *sizes in zip(widths, widths[1:], zip(heights, heights[1:]), zip(lengths, lengths[1:])):
            odd = tuple(after - 2 * before for before, after in sizes)  # what a convolution of stride 2 rounded away
            layers += [nn.ConvTranspose2d(i, o, 4, 2, 1, output_padding=odd), nn.ReLU()]
        return nn.Sequential(*dense(units), nn.ReLU(), nn.Unflatten(1, inner), *layers[:-1])

    def _sizes(self, side: int) -> list[int]:
        sizes = [side]
        for _ in self.channels:
            sizes.append(sizes[-1] // 2)
        if sizes[-1] < 1:
            least = 2 ** len(self.channels)
            raise ValueError(f"{len(self.channels)} halvings need images of {least} pixels a side or more, got {side}")
        return sizes

    def _inner_shape(self, image_shape: Sequence[int]) -> tuple[int, int, int]:
        return self.channels[-1], *(self._sizes(side)[-1] for side in image_shape[1:])
