from math import factorial

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from vae_zoo.distributions import noise
from vae_zoo.nets import GaussianBlur, HighLowPass, Identity, MixedPatchShuffle, PatchShuffle
from vae_zoo.nets.views import blur

VIEWS = {
    "identity": Identity(),
    "shuffle": PatchShuffle(2),
    "mixed": MixedPatchShuffle((1, 2, 4)),
    "blur": GaussianBlur(),
    "high_low": HighLowPass(),
}
every_view = pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)


def patches(x, p):
    """[B, C, H, W] -> [B, N, C p p], row-major, by a loop over the grid."""
    H, W = x.shape[2:]
    cut = [x[:, :, i : i + p, j : j + p].flatten(1) for i in range(0, H, p) for j in range(0, W, p)]
    return torch.stack(cut, 1)


def numbered(B, C, H, W):
    """Images in which every pixel of every channel has a value of its own."""
    return torch.arange(C * H * W).view(1, C, H, W).float().expand(B, -1, -1, -1)


@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 12), (3, 16, 4)], ids=str)
def test_patches_are_permuted_and_nothing_else(p, shape):
    torch.manual_seed(0)
    x = numbered(5, *shape)
    before, after = patches(x, p), patches(PatchShuffle(p)(x), p)
    place = (after[:, :, None] == before[:, None]).all(-1)  # [B, N, N]: which patch each cell shows, bit for bit
    assert (place.sum(1) == 1).all() and (place.sum(2) == 1).all()


@every_view
def test_views_keep_the_multiset_of_pixels_only_if_they_shuffle(view):
    x = torch.rand(4, 3, 8, 8)
    kept = torch.equal(view(x)[:, :3].flatten(2).sort(2).values, x.flatten(2).sort(2).values)
    assert kept == isinstance(view, PatchShuffle | MixedPatchShuffle | Identity)


def test_a_patch_as_large_as_the_image_changes_nothing():
    x = torch.rand(4, 3, 8, 8)
    assert torch.equal(PatchShuffle(8)(x), x) and torch.equal(Identity()(x), x)


def test_every_layout_is_equally_likely():
    torch.manual_seed(0)
    x = torch.tensor([[0.0, 1], [2, 3]])[None, None].expand(24_000, -1, -1, -1)
    layouts = PatchShuffle(1)(x).flatten(1).long() @ torch.tensor([64, 16, 4, 1])
    counts = layouts.unique(return_counts=True)[1].numpy()
    assert len(counts) == factorial(4) and stats.chisquare(counts).pvalue > 1e-3
    # of many patches: every patch comes to every cell equally often
    cells = PatchShuffle(4)(numbered(12_000, 1, 16, 16))[:, 0, ::4, ::4].flatten(1)  # [B, 16] first pixels of the patches
    table = np.array([np.unique(cells[:, k], return_counts=True)[1] for k in range(16)])
    assert table.shape == (16, 16) and stats.chisquare(table.flatten()).pvalue > 1e-3


def test_images_of_a_batch_have_layouts_of_their_own():
    torch.manual_seed(0)
    shuffled = PatchShuffle(1)(numbered(16, 1, 8, 8)).flatten(1)
    assert len(shuffled.unique(dim=0)) == 16


def test_mixed_sizes_are_drawn_for_each_image():
    torch.manual_seed(0)
    x = numbered(6000, 1, 8, 8)
    shuffled = MixedPatchShuffle((1, 4, 8))(x)
    # columns within a patch of 4 stay neighbours; a patch of 8 is the whole image
    whole = (shuffled == x).flatten(1).all(1)
    fours = (patches(shuffled, 4).diff(dim=2)[:, :, :3] == 1).flatten(1).all(1)
    counts = [int(whole.sum()), int((fours & ~whole).sum()), int((~fours).sum())]
    # one layout of the four patches in 24 is the image itself
    expected = [2000 * (1 + 1 / 24), 2000 * 23 / 24, 2000]
    assert stats.chisquare(counts, expected).pvalue > 1e-3


@pytest.mark.parametrize("shape, p", [((1, 8, 8), 3), ((1, 8, 12), 8), ((1, 4, 4), 8)])
def test_patches_that_do_not_tile_the_image_are_refused(shape, p):
    for view in (PatchShuffle(p), MixedPatchShuffle((1, p))):
        with pytest.raises(ValueError, match=f"patches of {p} pixels do not tile images of {shape[1]}x{shape[2]}"):
            view(torch.rand(2, *shape))


@every_view
def test_noise_is_seeded_and_belongs_to_the_image(view):
    x = torch.rand(6, 3, 16, 16)
    again = []
    for _ in range(2):
        noise.seed_step(3, 17)
        again.append(view(x))
    assert torch.equal(*again)
    if not isinstance(view, Identity | HighLowPass):
        noise.seed_step(3, 18)
        assert not torch.equal(view(x), again[0])
    with noise.per_image(torch.arange(6)):
        together = view(x)
    with noise.per_image(torch.arange(6)[2:4]):
        torch.testing.assert_close(view(x[2:4]), together[2:4])


@pytest.mark.parametrize("shape", [(1, 9, 12), (3, 16, 16)], ids=str)
def test_blur_is_that_of_scipy(shape):
    x = torch.rand(3, *shape, dtype=torch.float64)
    sigma, radius = torch.tensor([0.8, 3.0, 7.0], dtype=torch.float64), torch.tensor([2, 4, 6])
    got = blur(x, sigma, radius, 6)
    for image, s, r, blurred in zip(x, sigma.tolist(), radius.tolist(), got):
        for channel, wanted in zip(image, blurred):
            np.testing.assert_allclose(ndimage.gaussian_filter(channel, s, radius=r, mode="reflect"), wanted, atol=1e-12)


def test_blurs_lie_within_their_ranges_and_keep_a_flat_image():
    torch.manual_seed(0)
    x = torch.zeros(4000, 1, 31, 31)
    x[:, :, 15, 15] = 1
    seen = GaussianBlur((5, 10), (3, 6))(x)
    reach = (seen[:, 0, 15] > 0).sum(1)
    counts = reach.unique(return_counts=True)
    assert counts[0].tolist() == [7, 9, 11, 13] and stats.chisquare(counts[1].numpy()).pvalue > 1e-3
    sigma = (0.5 / (seen[:, 0, 15, 15] / seen[:, 0, 15, 16]).log()).sqrt()  # the kernel falls by exp(-1/2 sigma^2)
    assert 5 <= sigma.min() < 5.05 and 9.95 < sigma.max() <= 10.01
    torch.testing.assert_close(GaussianBlur()(torch.full((2, 3, 8, 8), 0.3)), torch.full((2, 3, 8, 8), 0.3))


def test_high_and_low_frequencies_add_up_to_the_image():
    x = torch.rand(2, 3, 16, 16)
    high, low = HighLowPass()(x).chunk(2, dim=1)
    torch.testing.assert_close(2 * high - 1 + low, x)
    assert 0 <= high.min() and high.max() <= 1 and low.var() < 0.2 * x.var()
