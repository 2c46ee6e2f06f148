"""A spatial transformer for boxes: crops glimpses and pastes them. Bilinear; pixel j has its centre at j + 1/2.

Bilinear sampling of a box is implemented as a product with one matrix for the rows and one for the columns: the values are
those of affine_grid and grid_sample(align_corners=False), without a copy of the image for each box, and with gradients that
are deterministic on a GPU too. Source: Jaderberg et al. (2015), equation 5.

Boxes are [B, O, 4], centre x, centre y, width, height, in pixels.

An object stays near its cell, so it is cut out of and drawn into a window around the cell: the work for an object does not
grow with the image.
"""

from collections.abc import Sequence
from math import ceil, prod

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

LEAST = 0.25  # smallest side of a box, pixels; smaller boxes get this size


class Windows(nn.Module):
    """Square windows around the cells of a grid, which may reach beyond the image.

    Args:
        rows: Rows of cells.
        columns: Columns of cells.
        cell: Side of a cell, pixels.
        reach: Largest distance of what is drawn from the centre of its cell along x and y, pixels; windows cover it.
        height: H of the images.
        width: W of the images.
    """

    corner: Float[Tensor, "O 2"]

    def __init__(self, rows: int, columns: int, cell: int, reach: float, height: int, width: int):
        super().__init__()
        self.margin = max(0, ceil(reach - cell / 2))
        self.cell, self.side = cell, cell + 2 * self.margin
        self.shape, self.image = (rows, columns), (height, width)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        self.corner = nn.Buffer(cell * torch.stack([x, y], -1).view(-1, 2).float() - self.margin, persistent=False)

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the area that all windows cover."""
        rows, columns = self.shape
        return rows * self.cell + 2 * self.margin, columns * self.cell + 2 * self.margin

    def local(self, box: Float[Tensor, "B O 4"]) -> Float[Tensor, "B O 4"]:
        """Boxes of the image in the pixels of their windows."""
        return torch.cat([box[..., :2] - self.corner, box[..., 2:]], dim=-1)

    def cut(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O C k k"]:
        """Cuts the windows out of images; outside the image the border pixels are repeated."""
        below, right = (size - self.margin - inside for size, inside in zip(self.padded, self.image))
        padded = F.pad(x, (self.margin, right, self.margin, below), mode="replicate")
        windows = padded.unfold(2, self.side, self.cell).unfold(3, self.side, self.cell)  # [B, C, rows, columns, k, k]
        return windows.flatten(2, 3).transpose(1, 2)

    def add_up(self, parts: Float[Tensor, "B O C k k"]) -> Float[Tensor, "B C H W"]:
        """Sums windows at each pixel of the image."""
        columns = parts.permute(0, 2, 3, 4, 1).flatten(1, 3)  # [B, C k k, O]
        return self._inside(F.fold(columns, self.padded, self.side, stride=self.cell))

    def place(self, parts: Float[Tensor, "B O k k"]) -> Float[Tensor, "B O H W"]:
        """Puts each window into an image that is 0 elsewhere."""
        cells, inside = torch.arange(len(self.corner), device=parts.device), torch.arange(self.side, device=parts.device)
        x, y = (self.corner.long() + self.margin).T[..., None] + inside  # [O, k] each
        canvas = parts.new_zeros(len(parts), len(cells), *self.padded)
        canvas[:, cells[:, None, None], y[:, :, None], x[:, None]] = parts
        return self._inside(canvas)

    def _inside(self, x: Tensor) -> Tensor:
        height, width = self.image
        return x[..., self.margin : self.margin + height, self.margin : self.margin + width]


def crop(x: Float[Tensor, "B N C H W"], box: Float[Tensor, "B O 4"], side: int) -> Float[Tensor, "B O C g g"]:
    """Cuts glimpses out of images; outside the image the border pixels are repeated.

    Args:
        x: An image for each of N = O objects, or one for all, N = 1.
        box: Centre x, centre y, width, height, pixels.
        side: Side of the glimpses, g pixels.
    """
    with torch.autocast(x.device.type, enabled=False):  # bfloat16 has fewer grey levels than the images
        rows, columns = (_into_glimpse(box, axis, side, x.shape[4 - axis]) for axis in (1, 0))  # [B, O, g, H or W]
        return rows[:, :, None] @ x @ columns[:, :, None].transpose(3, 4)


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
    with torch.autocast(glimpse.device.type, enabled=False):
        rows = _onto_canvas(box, 1, glimpse.shape[3], height)  # [B, O, H, h]
        columns = _onto_canvas(box, 0, glimpse.shape[4], width)
        return torch.einsum("bnhi,bncij,bnwj->bnchw", rows, glimpse, columns)


def _into_glimpse(box: Tensor, axis: int, side: int, length: int) -> Tensor:
    centre, size = box[..., axis, None], box[..., axis + 2, None].clamp(min=LEAST)
    share = (torch.arange(side, device=box.device) + 0.5) / side - 0.5
    place = (centre + size * share - 0.5).clamp(0, length - 1)  # [B, O, g], in pixels of the image
    return _hat(place, length)


def _onto_canvas(box: Tensor, axis: int, side: int, length: int) -> Tensor:
    centre, size = box[..., axis, None], box[..., axis + 2, None].clamp(min=LEAST)
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
