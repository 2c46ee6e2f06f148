"""The usual convolutional network for 64x64 images, generalised to any size.

Four convolutions of kernel 4 and stride 2, one hidden layer, and the same reversed; every layer except the last is
followed by a ReLU. Channels and hidden layer are those of Locatello et al. (2019), whose code has kernels of 2 in the
encoder's last two convolutions. Conv(channels=[32] * 4, hidden=[256, 256]) is Burgess et al. (2018), appendix A. The
networks of JointVAE and PartedVAE are in conf/model/network/parted*.yaml.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import nn

from vae_zoo.config.types import Hidden, NonNegative, Paddings, Widths
from vae_zoo.nets.mlp import dense


@dataclass(frozen=True)
class Conv:
    """Convolutions of kernel 4 and stride 2, and hidden layers between them and the code.

    Args:
        channels: Channels of the convolutions, from the image inwards.
        hidden: Units of the layers between convolutions and code.
        decoder_channels: Channels of the decoder, in its own order, from its innermost images outwards; None: `channels`
            reversed.
        decoder_hidden: Units of the decoder, in its own order; None: `hidden` reversed.
        padding: [height, width] of each convolution, pixels; None: 1.
        leak: Slope below 0 after the encoder's last convolution, >= 0; elsewhere it is 0.
        batch_norm: Batch normalisation before each activation except those of the hidden layers; coloured images with many
            parts are then learned in a fraction of the steps.

    Raises:
        ValueError: decoder_channels or padding do not have one entry for each of the channels.
    """

    channels: Widths = (32, 32, 64, 64)
    hidden: Hidden = (256,)
    decoder_channels: Widths | None = None
    decoder_hidden: Hidden | None = None
    padding: Paddings | None = None
    leak: NonNegative = 0.0
    batch_norm: bool = False

    def __post_init__(self):
        for name, value in (("decoder_channels", self.decoder_channels), ("padding", self.padding)):
            if value is not None and len(value) != len(self.channels):
                raise ValueError(f"{name} needs an entry for each of the {len(self.channels)} channels, got {len(value)}")

    def encoder(self, image_shape: Sequence[int], num_outputs: int) -> nn.Module:
        """Makes the encoder of images [B, C, H, W] to [B, num_outputs].

        Args:
            image_shape: [C, H, W].
            num_outputs: Outputs per image.

        Raises:
            ValueError: The images are too small for this number of convolutions.
        """
        widths = [image_shape[0], *self.channels]
        layers = []
        for i, o, padding in zip(widths, widths[1:], self._padding()):
            layers += [nn.Conv2d(i, o, 4, 2, padding), *self._norm(o), nn.ReLU()]
        if self.leak:
            layers[-1] = nn.LeakyReLU(self.leak)
        units = [self.channels[-1] * prod(self._sizes(image_shape)[-1]), *self.hidden]
        return nn.Sequential(*layers, nn.Flatten(), *dense([*units, num_outputs]))

    def decoder(self, num_inputs: int, image_shape: Sequence[int]) -> nn.Module:
        """Makes the decoder of codes [B, num_inputs] to images [B, C, H, W].

        Args:
            num_inputs: Inputs per image.
            image_shape: [C, H, W].

        Raises:
            ValueError: The images are too small for this number of convolutions.
        """
        sizes, paddings = self._sizes(image_shape)[::-1], self._padding()[::-1]
        channels = self.decoder_channels or [*reversed(self.channels)]
        hidden = [*reversed(self.hidden)] if self.decoder_hidden is None else self.decoder_hidden
        inner = (channels[0], *sizes[0])
        widths = [*channels, image_shape[0]]
        layers = []
        for i, o, before, after, padding in zip(widths, widths[1:], sizes, sizes[1:], paddings):
            # rows and columns that a convolution of stride 2 drops
            height, width = (a + 2 * p - 2 - 2 * b for b, a, p in zip(before, after, padding))
            layers += [*self._norm(i), nn.ReLU(), nn.ConvTranspose2d(i, o, 4, 2, padding, output_padding=(height, width))]
        return nn.Sequential(*dense([num_inputs, *hidden, prod(inner)]), nn.Unflatten(1, inner), *layers)

    def _norm(self, channels: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(channels)] if self.batch_norm else []

    def _padding(self) -> list[tuple[int, int]]:
        return [(1, 1)] * len(self.channels) if self.padding is None else [(pair[0], pair[1]) for pair in self.padding]

    def _sizes(self, image_shape: Sequence[int]) -> list[tuple[int, int]]:
        """(height, width) of the images and after each convolution."""
        height, width = image_shape[1:]
        sizes = [(height, width)]
        for padding in self._padding():
            height, width = ((side + 2 * p) // 2 - 1 for side, p in zip(sizes[-1], padding))
            sizes.append((height, width))
        if min(sizes[-1]) < 1:
            least, side = 2 ** len(self.channels), min(image_shape[1:])
            number = len(self.channels)
            raise ValueError(f"{number} convolutions of stride 2 need images of {least} pixels or more, got {side}")
        return sizes
