"""Ladders: encoder and decoder of J facets, one rung of the same network for each, the shallowest first.

    encoder   h_j = backbone_j(h_{j-1}),  h_{-1} = x         parameters of q(z_j | x) = head_j(rung_j(h_j))
    decoder   b_j = backbone_j(merge(alpha_j rung_j(z_j), b_{j+1})),  j = J-1 .. 0         image = output(b_0)

A ladder family is any object with `num_facets`, `encoder(image_shape, num_outputs)` and `decoder(num_inputs, image_shape)`,
whose sizes are lists, one for each facet. Every layer except heads and output is followed by an activation and, if there
is one, batch normalisation, in this order. Sources: Zhao et al. (2017); Li et al. (2020); FabianFalck/mfcvae.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized

from vae_zoo.config.types import FacetWidths, NonNegative, Widths

Activation = Literal["relu", "elu"]
Layer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d
ACTIVATIONS = {"relu": nn.ReLU, "elu": nn.ELU}


class LadderEncoder(nn.Module):
    """Encoder of images to one vector for each facet.

    Args:
        backbones: J networks, from the image inwards.
        rungs: J networks from a backbone's output to a head.
        heads: J layers.
    """

    def __init__(self, backbones: Iterable[nn.Module], rungs: Iterable[nn.Module], heads: Iterable[nn.Module]):
        super().__init__()
        self.backbones, self.rungs, self.heads = nn.ModuleList(backbones), nn.ModuleList(rungs), nn.ModuleList(heads)

    def forward(self, x: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B _"]]:
        """Encodes images to [B, num_outputs[j]] for each facet."""
        outputs = []
        for backbone, rung, head in zip(self.backbones, self.rungs, self.heads):
            x = backbone(x)
            outputs.append(head(rung(x)))
        return outputs


class LadderDecoder(nn.Module):
    """Decoder of one code for each facet to images.

    Args:
        rungs: J networks from a code into the decoder.
        backbones: J networks, from the image inwards.
        output: Last layers.
        merge: Joins (rung, backbone).
    """

    def __init__(
        self,
        rungs: Iterable[nn.Module],
        backbones: Iterable[nn.Module],
        output: nn.Module,
        merge: Callable[[Tensor | None, Tensor], Tensor],
    ):
        super().__init__()
        self.rungs, self.backbones, self.output, self.merge = nn.ModuleList(rungs), nn.ModuleList(backbones), output, merge

    def forward(self, z: Sequence[Float[Tensor, "B _"] | None], alpha: Float[Tensor, " J"]) -> Float[Tensor, "B P H W"]:
        """Decodes codes.

        Args:
            z: Codes of each facet [B, num_inputs[j]]; None where alpha is 0: the facet has not entered, so its rung is
                skipped and gets no gradient. The deepest is never None.
            alpha: Weights of the facets, in [0, 1].
        """
        b = None
        for j in reversed(range(len(self.rungs))):
            r = None if z[j] is None else alpha[j] * self.rungs[j](z[j])
            b = self.backbones[j](r if b is None else self.merge(r, b))
        return self.output(b)


@dataclass(frozen=True)
class GatedAdd:
    """Adds rung and backbone.

    Args:
        gate: Weight of the rung, >= 0.
    """

    gate: float

    def __call__(self, r: Float[Tensor, "*batch"] | None, b: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Adds rung r and backbone b; r is None if the facet has not entered."""
        return b if r is None else self.gate * r + b


def concatenate(r: Float[Tensor, "B C H W"] | None, b: Float[Tensor, "B C H W"]) -> Float[Tensor, "B _ H W"]:
    """Puts the channels of rung and backbone side by side; a rung that has not entered is 0."""
    return torch.cat([torch.zeros_like(b) if r is None else r, b], dim=1)


@dataclass(frozen=True)
class LadderMLP:
    """A fully connected ladder.

    A facet enters the decoder at the last of its widths, where `gate` weights it relative to the output of the deeper
    facets. The rungs of the encoder are identities.

    Args:
        hidden: Units of each facet's layers, the shallowest facet first, from the image inwards.
        decoder_hidden: Units of the decoder, in the same order; None: as `hidden`. The decoder has them reversed.
        activation: After each layer except heads and output.
        batch_norm: After each activation.
        gate: Weight of a facet when it enters the decoder, >= 0.

    Raises:
        ValueError: decoder_hidden is for another number of facets.
    """

    hidden: FacetWidths = ((500,), (2000,))
    decoder_hidden: FacetWidths | None = None
    activation: Activation = "relu"
    batch_norm: bool = False
    gate: NonNegative = 0.1

    def __post_init__(self):
        if self.decoder_hidden is not None and len(self.decoder_hidden) != len(self.hidden):
            raise ValueError(
                f"decoder_hidden needs a list for each of the {len(self.hidden)} facets, got {len(self.decoder_hidden)}"
            )

    @property
    def num_facets(self) -> int:
        """J."""
        return len(self.hidden)

    def encoder(self, image_shape: Sequence[int], num_outputs: Sequence[int] | int) -> LadderEncoder:
        """Makes the encoder of images [B, C, H, W] to [B, num_outputs[j]] of each facet.

        Args:
            image_shape: [C, H, W].
            num_outputs: Outputs per image and facet.

        Raises:
            ValueError: num_outputs is one number, as for a plain network.
        """
        num_outputs = _per_facet(num_outputs)
        inputs = [prod(image_shape), *(widths[-1] for widths in self.hidden)]
        backbones = [self._dense([width, *widths]) for width, widths in zip(inputs, self.hidden)]
        backbones[0].insert(0, nn.Flatten())
        heads = [nn.Linear(widths[-1], n) for widths, n in zip(self.hidden, num_outputs)]
        return LadderEncoder(backbones, [nn.Identity() for _ in heads], heads)

    def decoder(self, num_inputs: Sequence[int], image_shape: Sequence[int]) -> LadderDecoder:
        """Makes the decoder of codes [B, num_inputs[j]] to images [B, C, H, W].

        Args:
            num_inputs: Inputs per image and facet.
            image_shape: [C, H, W].
        """
        widths = [[*reversed(w)] for w in self.decoder_hidden or self.hidden]  # of each facet, from its code outwards
        rungs = [self._dense([n, w[0]]) for n, w in zip(num_inputs, widths)]
        to = [[], *([w[0]] for w in widths)]  # where the next facet enters
        backbones = [self._dense([*w, *next_width]) for w, next_width in zip(widths, to)]
        output = nn.Sequential(nn.Linear(widths[0][-1], prod(image_shape)), nn.Unflatten(1, tuple(image_shape)))
        return LadderDecoder(rungs, backbones, output, GatedAdd(self.gate))

    def _dense(self, units: Sequence[int]) -> nn.Sequential:
        return nn.Sequential(
            *(m for i, o in zip(units, units[1:]) for m in dense_block(i, o, self.activation, self.batch_norm))
        )


@dataclass(frozen=True)
class LadderConv:
    """The convolutional ladder of MFCVAE, after proVLAE's, for images of 28 pixels or more and any number of facets.

    Args:
        channels: Channels of each facet's backbone, the shallowest first, which halves the image; kernels of 3
            keep an image of one pixel.
        activation: After each layer except heads and output.
        weight_norm: Weight normalisation of the `encoder`'s convolutions, as in the official code, or `none`.
        output: `plain`, or `normalised` by an ELU and batch normalisation of the image, as in the official code.
    """

    channels: Widths = (64, 128)
    activation: Activation = "elu"
    weight_norm: Literal["encoder", "none"] = "none"
    output: Literal["plain", "normalised"] = "plain"

    @property
    def num_facets(self) -> int:
        """J."""
        return len(self.channels)

    def encoder(self, image_shape: Sequence[int], num_outputs: Sequence[int] | int) -> LadderEncoder:
        """Makes the encoder of images [B, C, H, W] to [B, num_outputs[j]] of each facet.

        Args:
            image_shape: [C, H, W].
            num_outputs: Outputs per image and facet.

        Raises:
            ValueError: num_outputs is one number, as for a plain network, or the images are too small.
        """
        num_outputs = _per_facet(num_outputs)
        sizes, widths = self._sizes(image_shape), [image_shape[0], *self.channels]
        backbones, rungs, heads = [], [], []
        for j, n in enumerate(num_outputs):
            c, size = self.channels[j], sizes[j + 1]
            backbones.append(nn.Sequential(*self._conv(widths[j], c, sizes[j])))
            half = _halved(size)
            if j == 0:
                last, stride, final = c, 1, tuple(side - 1 for side in half)
            else:
                last, stride, final = 2 * c, 2, _halved(half)
            rungs.append(nn.Sequential(*self._conv(c, c, size), *self._conv(c, last, half, stride), nn.Flatten()))
            heads.append(nn.Linear(last * prod(final), n))
        return LadderEncoder(backbones, rungs, heads)

    def decoder(self, num_inputs: Sequence[int], image_shape: Sequence[int]) -> LadderDecoder:
        """Makes the decoder of codes [B, num_inputs[j]] to images [B, C, H, W].

        Args:
            num_inputs: Inputs per image and facet.
            image_shape: [C, H, W].

        Raises:
            ValueError: The images are too small.
        """
        sizes, J = self._sizes(image_shape), self.num_facets
        entry = [self.channels[0], *(2 * c for c in self.channels[1:])]  # channels of each facet where it enters
        rungs, backbones = [], []
        for j, n in enumerate(num_inputs):
            inner = (entry[j], *sizes[j + 1])
            rungs.append(nn.Sequential(*dense_block(n, prod(inner), self.activation, True), nn.Unflatten(1, inner)))
            inputs = entry[j] * (1 if j == J - 1 else 2)  # those of the facet and of the deeper facets
            if j == 0:
                up = _transposed(inputs, image_shape[0], sizes[1], sizes[0])
                layers = [up] if self.output == "plain" else self._block(up, image_shape[0])
            else:
                layers = self._block(_transposed(inputs, 2 * entry[j - 1], sizes[j + 1], sizes[j]), 2 * entry[j - 1])
                layers += self._block(nn.ConvTranspose2d(2 * entry[j - 1], entry[j - 1], 3, 1, 1), entry[j - 1])
            backbones.append(nn.Sequential(*layers))
        return LadderDecoder(rungs, backbones, nn.Identity(), concatenate)

    def _conv(self, inputs: int, outputs: int, size: tuple[int, int], stride: int = 2) -> list[nn.Module]:
        kernel, stride = (4, stride) if min(size) > 1 else (3, 1)
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=1)
        return self._block(weight_norm(conv) if self.weight_norm == "encoder" else conv, outputs)

    def _block(self, layer: nn.Module, channels: int) -> list[nn.Module]:
        return [layer, ACTIVATIONS[self.activation](), nn.BatchNorm2d(channels)]

    def _sizes(self, image_shape: Sequence[int]) -> list[tuple[int, int]]:
        """(height, width) of the image and after each backbone."""
        height, width = image_shape[1:]
        sizes = [(height, width)]
        if min(sizes[0]) < 28:
            raise ValueError(
                f"the convolutional ladder needs images of 28 pixels or more, got {min(sizes[0])}; use larger images or "
                f"model/network=fc_vlae"
            )
        for _ in self.channels:
            sizes.append(_halved(sizes[-1]))
        return sizes


def _per_facet(sizes: Sequence[int] | int) -> Sequence[int]:
    """The sizes of all facets; a single number comes from a model that needs a plain network."""
    if isinstance(sizes, int):
        raise ValueError("this model needs a plain network, got a ladder network; choose model/network=conv or mlp")
    return sizes


def dense_block(inputs: int, outputs: int, activation: Activation, batch_norm: bool) -> list[nn.Module]:
    """Linear layer, activation and optional batch normalisation."""
    norm = [nn.BatchNorm1d(outputs)] if batch_norm else []
    return [nn.Linear(inputs, outputs), ACTIVATIONS[activation](), *norm]


def _halved(size: tuple[int, int]) -> tuple[int, int]:
    """Size after a convolution of kernel 4, stride 2 and padding 1; a side of one pixel is kept."""
    return (size[0] // 2, size[1] // 2) if min(size) > 1 else size


def _transposed(inputs: int, outputs: int, before: tuple[int, int], after: tuple[int, int]) -> nn.ConvTranspose2d:
    if before == after:
        return nn.ConvTranspose2d(inputs, outputs, 3, 1, 1)
    odd = (after[0] - 2 * before[0], after[1] - 2 * before[1])  # rows and columns that halving drops
    return nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, output_padding=odd)


@torch.no_grad()
def calibrate_batch_norm(network: nn.Module, inputs: Iterable[Float[Tensor, "B C H W"]]) -> None:
    """Sets running means and variances of batch normalisation to the averages over some batches.

    They then match the current weights. During training they lag behind: after one batch the initial
    values 0 and 1 still have a weight of 0.9.

    Args:
        network: Changed in place.
        inputs: Batches of images.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    if not norms:
        return
    was_training, momenta = network.training, [norm.momentum for norm in norms]
    network.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative
    for x in inputs:
        network(x)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    network.train(was_training)


@torch.no_grad()
def init_from_batch(networks: Iterable[nn.Module], run: Callable[[], object], std: float = 0.1) -> None:
    """Draws new weights for the linear and convolutional layers of networks, scaled with their inputs on a batch.

    Each channel of a layer's output then has mean 0 and standard deviation `std`. Layers are initialised in the order in
    which `run()` calls them; the directions of the weights are random (Kaiming, normal).

    Args:
        networks: Changed in place.
        run: Calls the networks on a batch.
        std: > 0.

    Source: Salimans and Kingma (2016), section 3; addtt/boilr.
    """

    def rescale(layer: Layer, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        assert layer.bias is not None
        weight = nn.init.kaiming_normal_(torch.empty_like(layer.weight))
        layer.bias.zero_()
        _set_weight(layer, weight)
        output = layer.forward(*inputs)  # without this hook
        others = [d for d in range(output.ndim) if d != 1]
        scale = std / output.std(others)  # [channels]
        of_channels = (1, -1) if isinstance(layer, nn.ConvTranspose2d) else (-1,)
        _set_weight(layer, weight * scale.view(*of_channels, *[1] * (weight.ndim - len(of_channels))))
        layer.bias.copy_(-output.mean(others) * scale)
        return layer.forward(*inputs)

    layers = [m for network in networks for m in network.modules() if isinstance(m, Layer)]
    hooks = [layer.register_forward_hook(rescale) for layer in layers]
    run()
    for hook in hooks:
        hook.remove()


def _set_weight(layer: Layer, weight: Tensor) -> None:
    if is_parametrized(layer, "weight"):
        layer.weight = weight  # gain and direction of weight normalisation
    else:
        layer.weight.copy_(weight)
