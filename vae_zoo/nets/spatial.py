"""A spatial transformer for boxes: crops glimpses and pastes them. Bilinear; pixel j has its centre at j + 1/2.

Bilinear sampling of a box is implemented as a product with one matrix for the rows and one for the columns: the values are
those of affine_grid and grid_sample(align_corners=False), without a copy of the image for each box, and with gradients that
are deterministic on a GPU too. Source: Jaderberg et al. (2015), equation 5.

Boxes are [B, O, 4], centre x, centre y, width, height, in pixels.
"""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

LEAST = 0.01  # smallest side of a box, as a share of the image's side; smaller boxes get this size


def crop(x: Float[Tensor, "B C H W"], box: Float[Tensor, "B O 4"], side: int) -> Float[Tensor, "B O C g g"]:
    """Cuts glimpses out of images; outside the image the border pixels are repeated.

    Args:
        x: Images.
        box: Centre x, centre y, width, height, pixels.
        side: Side of the glimpses, g pixels.
    """
    rows, columns = (_into_glimpse(box, axis, side, x.shape[3 - axis]) for axis in (1, 0))  # [B, O, g, H or W]
    return torch.einsum("bnih,bchw,bnjw->bncij", rows, x, columns)


def paste(
    glimpse: Float[Tensor, "B O C h w"], box: Float[Tensor, "B O 4"], height: int, width: int
) -> Float[Tensor, "B O C H W"]:
    """Pastes glimpses at their boxes into images that are 0 elsewhere.

    Args:
        glimpse: Glimpse of each object.
        box: Centre x, centre y, width, height, pixels.
        height: H.
        width: W.
    """
    rows = _onto_canvas(box, 1, glimpse.shape[3], height)  # [B, O, H, h]
    columns = _onto_canvas(box, 0, glimpse.shape[4], width)
    return torch.einsum("bnhi,bncij,bnwj->bnchw", rows, glimpse, columns)


def _into_glimpse(box: Tensor, axis: int, side: int, length: int) -> Tensor:
    centre, size = box[..., axis, None], box[..., axis + 2, None].clamp(min=LEAST * length)
    share = (torch.arange(side, device=box.device) + 0.5) / side - 0.5
    place = (centre + size * share - 0.5).clamp(0, length - 1)  # [B, O, g], in pixels of the image
    return _hat(place, length)


def _onto_canvas(box: Tensor, axis: int, side: int, length: int) -> Tensor:
    centre, size = box[..., axis, None], box[..., axis + 2, None].clamp(min=LEAST * length)
    pixel = torch.arange(length, device=box.device) + 0.5
    place = ((pixel - centre) / size + 0.5) * side - 0.5  # [B, O, length], in pixels of the glimpse
    return _hat(place, side)


def _hat(place: Tensor, length: int) -> Tensor:
    """Bilinear weight of each of `length` pixels at these positions [...]: [..., length], at most two are nonzero."""
    return F.relu(1 - (place[..., None] - torch.arange(length, device=place.device)).abs())


class CellBackbone(nn.Module):
    """Convolutions from an image of any size to a vector for each cell of a grid.

    Args:
        num_channels: C of the images.
        channels: Channels of the convolutions of kernel 4.
        strides: Strides of the same convolutions; their product is the side of a cell, pixels.
        features: E, length of the vector.
        kernel: Kernel size of the three layers on the grid, 1 or 3; with 1 a cell sees little of its neighbours.

    Raises:
        ValueError: There are not as many strides as channels.
    """

    def __init__(self, num_channels: int, channels: Sequence[int], strides: Sequence[int], features: int, kernel: int):
        super().__init__()
        if len(channels) != len(strides):
            raise ValueError(
                f"channels and strides must have one entry per convolution, got {len(channels)} and {len(strides)} entries"
            )
        self.cell = prod(strides)
        layers: list[nn.Module] = []
        for i, o, stride in zip([num_channels, *channels], channels, strides):
            before, after = (4 - stride) // 2, (5 - stride) // 2
            layers += [nn.ZeroPad2d((before, after, before, after)), nn.Conv2d(i, o, 4, stride), nn.ReLU()]
        last = channels[-1]
        for i, o in ((last, last), (last, last), (last, features)):
            layers += [nn.Conv2d(i, o, kernel, padding=kernel // 2), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of cells; those of the last row and column may reach beyond the image.

        Args:
            height: Height of the image, pixels.
            width: Width of the image, pixels.
        """
        return -(-height // self.cell), -(-width // self.cell)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O E"]:
        """Encodes images, the cells row by row."""
        rows, columns = self.grid(*x.shape[2:])
        padded = F.pad(x, (0, columns * self.cell - x.shape[3], 0, rows * self.cell - x.shape[2]))
        return self.layers(padded).flatten(2).transpose(1, 2)


def have_duplicates(box: Float[Tensor, "B O 4"], present: Bool[Tensor, "B O"]) -> Bool[Tensor, " B"]:
    """Returns whether the boxes of two present objects of an image have an IoU above 1/2.

    Args:
        box: Centre x, centre y, width, height, pixels.
        present: Whether each object is present.
    """
    low, high = box[..., :2] - box[..., 2:] / 2, box[..., :2] + box[..., 2:] / 2
    common = (
        (torch.minimum(high[:, :, None], high[:, None]) - torch.maximum(low[:, :, None], low[:, None])).clamp(min=0).prod(-1)
    )
    area = box[..., 2:].prod(-1)
    iou = common / (area[:, :, None] + area[:, None] - common)  # [B, O, O]
    pairs = present[:, :, None] & present[:, None] & ~torch.eye(box.shape[1], dtype=torch.bool, device=box.device)
    return ((iou > 0.5) & pairs).flatten(1).any(1)
