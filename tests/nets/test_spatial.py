"""The spatial transformer against slices and torch's own, and the network of the cells."""

import pytest
import torch
import torch.nn.functional as F

from vae_zoo.nets.spatial import CellBackbone, crop, paste


def boxes(*box):
    return torch.tensor(box, dtype=torch.float32)[None]  # [1, N, 4]


def test_an_aligned_box_is_a_slice_and_goes_back_to_its_place():
    x = torch.rand(1, 3, 48, 40)
    box = boxes([17, 25, 14, 14])
    glimpse = crop(x[:, None], box, 14)
    torch.testing.assert_close(glimpse[0, 0], x[0, :, 18:32, 10:24], atol=1e-5, rtol=0)
    back = paste(glimpse, box, 48, 40)[0, 0]
    torch.testing.assert_close(back[:, 18:32, 10:24], x[0, :, 18:32, 10:24], atol=1e-5, rtol=0)
    assert back.sum() == pytest.approx(float(glimpse.sum()), rel=1e-5)


@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_as_affine_grid_and_grid_sample(padding):
    torch.manual_seed(0)
    x, box = torch.rand(2, 3, 20, 32), torch.rand(2, 5, 4) * torch.tensor([32, 20, 12, 9]) + torch.tensor([0, 0, 3, 3])
    size = torch.tensor([32, 20])
    centre, half = 2 * box[..., :2] / size - 1, box[..., 2:] / size
    theta = torch.zeros(2, 5, 2, 3)
    if padding == "border":  # crop
        theta[..., 0, 0], theta[..., 1, 1], theta[..., 2] = half[..., 0], half[..., 1], centre
        grid = F.affine_grid(theta.flatten(0, 1), (10, 3, 7, 7), align_corners=False)
        expected = F.grid_sample(x.repeat_interleave(5, 0), grid, padding_mode=padding, align_corners=False)
        torch.testing.assert_close(crop(x[:, None], box, 7).flatten(0, 1), expected, atol=1e-5, rtol=0)
    else:
        glimpse = torch.rand(2, 5, 4, 7, 7)
        theta[..., 0, 0], theta[..., 1, 1], theta[..., 2] = 1 / half[..., 0], 1 / half[..., 1], -centre / half
        grid = F.affine_grid(theta.flatten(0, 1), (10, 4, 20, 32), align_corners=False)
        expected = F.grid_sample(glimpse.flatten(0, 1), grid, padding_mode=padding, align_corners=False)
        torch.testing.assert_close(paste(glimpse, box, 20, 32).flatten(0, 1), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("width", [7, 14, 21])
def test_what_is_pasted_keeps_its_mass(width):
    pasted = paste(torch.ones(1, 1, 1, 14, 14), boxes([24.3, 23.1, width, width]), 48, 48)
    assert float(pasted.sum()) == pytest.approx(width**2, rel=1e-3)


def test_gradient_of_the_place():
    """On a ramp that rises by one over the image's half, the mean of a glimpse moves as the box does."""
    ramp = ((torch.arange(48) + 0.5) / 24 - 1).expand(1, 1, 48, 48)
    box = boxes([20.3, 24.3, 14, 14]).requires_grad_()  # at whole pixels the slope is that of a kink
    crop(ramp[:, None], box, 14).mean().backward()
    torch.testing.assert_close(box.grad[0, 0, :2], torch.tensor([1 / 24, 0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("side, cells", [(48, 16), (64, 36), (24, 4)])
def test_backbone_has_a_vector_for_each_cell_of_any_image(side, cells):
    backbone = CellBackbone(3, [8, 8, 8], [2, 2, 3], 10, 1)
    assert backbone(torch.rand(2, 3, side, side)).shape == (2, cells, 10)


@pytest.mark.parametrize("kernel, seen", [(1, (12 - 3, 12 + 19)), (3, None)])
def test_receptive_field(kernel, seen):
    """With 1x1 layers, 22 pixels from 3 before the cell on; with 3x3, the neighbours' too."""
    torch.manual_seed(0)
    x = torch.rand(1, 3, 48, 48, requires_grad=True)
    backbone = CellBackbone(3, [32, 32, 32], [2, 2, 3], 10, kernel)
    backbone.layers[-1] = torch.nn.Identity()  # no ReLU stands in the way
    backbone(x)[0, 5].sum().backward()  # row 1, column 1
    columns = x.grad[0].abs().sum((0, 1)).nonzero()[:, 0]
    low, high = int(columns.min()), int(columns.max()) + 1
    assert (low, high) == seen if seen else (low == 0 and high > 40)
