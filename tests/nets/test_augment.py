import pytest
import torch

from vae_zoo.distributions import noise
from vae_zoo.nets import RandomAffine

NONE = {"rotate": 0.0, "scale": 0.0, "shear": 0.0, "shift": 0.0}


def blob(B=400, side=33):
    """A bright square right of the middle of each image."""
    x = torch.zeros(B, 1, side, side)
    x[:, :, 15:18, 23:26] = 1
    return x


def centres(x):
    """(x, y) of the mass of each image, from the middle, in units of its sides: [B, 2]."""
    down, across = ((torch.arange(side) - (side - 1) / 2) / side for side in x.shape[2:])
    mass = x.sum((1, 2, 3))
    return torch.stack([(x.sum((1, 2)) * across).sum(1), (x.sum((1, 3)) * down).sum(1)], 1) / mass[:, None]


def test_without_a_distortion_images_stay():
    x = torch.rand(4, 3, 8, 10)
    torch.testing.assert_close(RandomAffine(**NONE)(x), x, rtol=0, atol=1e-5)


def test_each_distortion_stays_within_its_range():
    torch.manual_seed(0)
    start = centres(blob(1))[0]
    moved = centres(RandomAffine(**NONE | {"shift": 0.1})(blob())) - start
    assert moved.abs().max() < 0.105 and (moved.amax(0) > 0.09).all() and (moved.amin(0) < -0.09).all()
    turned = centres(RandomAffine(**NONE | {"rotate": 20.0})(blob()))
    angle = torch.atan2(turned[:, 1], turned[:, 0]).rad2deg()
    assert 18 < angle.max() < 20.5 and -20.5 < angle.min() < -18
    torch.testing.assert_close(turned.norm(dim=1), start.norm().expand(400), rtol=0.02, atol=0)
    scaled = centres(RandomAffine(**NONE | {"scale": 0.2})(blob()))[:, 0] / start[0]
    assert 1.17 < scaled.max() < 1.22 and 0.78 < scaled.min() < 0.83


@pytest.mark.parametrize("shape", [(33, 65), (65, 33)])
def test_images_that_are_not_square_are_turned_and_not_sheared(shape):
    """A square right of the middle keeps its distance in pixels, whatever the sides of the image."""
    torch.manual_seed(0)
    height, width = shape
    x = torch.zeros(200, 1, height, width)
    x[:, :, height // 2 - 1 : height // 2 + 2, width // 2 + 7 : width // 2 + 10] = 1
    turned = centres(RandomAffine(**NONE | {"rotate": 60.0})(x)) * torch.tensor([width, height])
    torch.testing.assert_close(turned.norm(dim=1), torch.full((200,), 8.0), rtol=0.03, atol=0)
    assert torch.atan2(turned[:, 1], turned[:, 0]).rad2deg().abs().max() > 55


def test_noise_belongs_to_the_image():
    x, distort = torch.rand(6, 1, 8, 8), RandomAffine()
    with noise.per_image(torch.arange(6)):
        together = distort(x)
    with noise.per_image(torch.arange(6)[2:3]):
        assert torch.equal(distort(x[2:3]), together[2:3])
    assert 0 <= together.min() and together.max() <= 1
