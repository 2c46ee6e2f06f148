import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vae_zoo.nets import MLP, Conv, ResizeConv
from vae_zoo.nets.resize_conv import UpsamplingConv2d

SHAPES = [(c, h, w) for c in (1, 3) for h, w in ((28, 28), (32, 32), (48, 48), (64, 64), (28, 64), (50, 33), (16, 16))]
FAMILIES = {"conv": Conv(), "mlp": MLP(hidden=(64, 32)), "conv_small": Conv(channels=(8, 16), hidden=(32, 16))}


def num_parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_images_become_codes_and_codes_images_of_the_same_shape(family, shape):
    encoder, decoder = family.encoder(shape, 20), family.decoder(10, shape)
    assert encoder(torch.rand(2, *shape)).shape == (2, 20)
    assert decoder(torch.randn(2, 10)).shape == (2, *shape)
    assert encoder(torch.rand(0, *shape)).shape == (0, 20)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 50, 33)], ids=str)
def test_every_pixel_is_seen_and_painted(family, shape):
    """Sizes that do not halve evenly must not lose a row at the border."""
    torch.manual_seed(0)
    encoder, decoder = family.encoder(shape, 20), family.decoder(10, shape)
    x = torch.rand(4, *shape, requires_grad=True)
    (seen,) = torch.autograd.grad(encoder(x).square().sum(), x)
    assert (seen.abs().sum(0) > 0).all()
    assert (decoder(torch.randn(16, 10)).std(0) > 0).all()


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_layer_but_the_last_is_followed_by_a_relu(family):
    for network in (family.encoder((1, 32, 32), 20), family.decoder(10, (1, 32, 32))):
        steps = [m for m in network if not isinstance(m, (nn.Flatten, nn.Unflatten))]
        assert all(isinstance(m, nn.ReLU) for m in steps[1::2]) and len(steps) % 2 == 1
        assert all(isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)) for m in steps[::2])


def test_mlp_can_have_another_activation():
    for network in (MLP((8, 4), "tanh").encoder((1, 3, 3), 2), MLP((8, 4), "tanh").decoder(2, (1, 3, 3))):
        assert [type(m) for m in network if not hasattr(m, "weight")].count(nn.Tanh) == 2
        assert not any(isinstance(m, nn.ReLU) for m in network)


def test_conv_has_the_parameters_of_the_papers_table():
    # Locatello et al. (2019) with kernels of 4 throughout; 64x64x1, 10 latents; weights + biases of each layer
    convolutions = (4 * 4 * 1 * 32 + 32) + (4 * 4 * 32 * 32 + 32) + (4 * 4 * 32 * 64 + 64) + (4 * 4 * 64 * 64 + 64)
    assert convolutions == 115_392
    assert num_parameters(Conv().encoder((1, 64, 64), 20)) == 115_392 + (4 * 4 * 64 * 256 + 256) + (256 * 20 + 20) == 382_932
    upwards = (4 * 4 * 64 * 64 + 64) + (4 * 4 * 64 * 32 + 32) + (4 * 4 * 32 * 32 + 32) + (4 * 4 * 32 * 1 + 1)
    assert num_parameters(Conv().decoder(10, (1, 64, 64))) == (10 * 256 + 256) + (256 * 1024 + 1024) + upwards == 381_313


def test_conv_with_batch_norm_has_it_before_every_slope_and_no_image_sees_the_others_afterwards():
    network = Conv(channels=[8, 16], hidden=[], batch_norm=True)
    encoder, decoder = network.encoder((3, 16, 16), 10), network.decoder(5, (3, 16, 16))
    for layers in (encoder, decoder):
        normed = [(before, after) for before, after in zip(layers, layers[1:]) if isinstance(after, nn.ReLU)]
        assert len(normed) == 2 and all(isinstance(before, nn.BatchNorm2d) for before, _ in normed)
    x, z = torch.rand(6, 3, 16, 16), torch.randn(6, 5)
    assert decoder(z).shape == x.shape
    for layers, inputs in ((encoder.eval(), x), (decoder.eval(), z)):
        torch.testing.assert_close(layers(inputs)[:2], layers(inputs[:2]))


def test_conv_can_be_the_network_of_burgess():
    burgess = Conv(channels=[32] * 4, hidden=[256, 256])  # 4 x 4 x 32 = 512 inner units
    convolutions = (4 * 4 * 32 + 32) + 3 * (4 * 4 * 32 * 32 + 32)
    hidden = 256 * 256 + 256
    assert num_parameters(burgess.encoder((1, 64, 64), 20)) == convolutions + (512 * 256 + 256) + hidden + (256 * 20 + 20)
    upwards = 3 * (4 * 4 * 32 * 32 + 32) + (4 * 4 * 32 + 1)
    assert num_parameters(burgess.decoder(10, (1, 64, 64))) == (10 * 256 + 256) + hidden + (256 * 512 + 512) + upwards


def test_mlp_has_mirrored_layers():
    pixels = 3 * 28 * 28
    encoder = (pixels * 512 + 512) + (512 * 256 + 256) + (256 * 20 + 20)
    decoder = (10 * 256 + 256) + (256 * 512 + 512) + (512 * pixels + pixels)
    assert num_parameters(MLP().encoder((3, 28, 28), 20)) == encoder
    assert num_parameters(MLP().decoder(10, (3, 28, 28))) == decoder


@pytest.mark.parametrize("hidden, layers", [([], [(5, 64)]), ([16, 32], [(5, 16), (16, 32), (32, 64)])], ids=str)
def test_mlp_may_have_another_decoder(hidden, layers):
    network = MLP(hidden=(48,), decoder_hidden=hidden)
    shapes = [(m.in_features, m.out_features) for m in network.decoder(5, (1, 8, 8)) if isinstance(m, nn.Linear)]
    assert shapes == layers
    assert num_parameters(network.encoder((1, 8, 8), 3)) == (64 * 48 + 48) + (48 * 3 + 3)


@pytest.mark.parametrize("shape", [(1, 15, 15), (3, 8, 64), (1, 64, 1)], ids=str)
def test_images_too_small_for_the_convolutions_are_refused(shape):
    side = min(shape[1:])
    for build in (lambda: Conv().encoder(shape, 20), lambda: Conv().decoder(10, shape)):
        with pytest.raises(ValueError, match=f"4 convolutions of stride 2 need images of 16 pixels or more, got {side}"):
            build()
    assert Conv(channels=(8,)).encoder((1, 15, 15), 20)(torch.rand(2, 1, 15, 15)).shape == (2, 20)


def test_decoder_may_differ_from_the_mirrored_encoder():
    network = Conv(channels=[8, 16, 16], hidden=[], decoder_channels=[16, 8, 4], decoder_hidden=[32], leak=0.1)
    encoder, decoder = network.encoder((1, 32, 32), 20), network.decoder(10, (1, 32, 32))
    assert [m.out_channels for m in decoder if isinstance(m, nn.ConvTranspose2d)] == [8, 4, 1]
    assert [m.out_features for m in decoder if isinstance(m, nn.Linear)] == [32, 16 * 4 * 4]
    assert [m.out_features for m in encoder if isinstance(m, nn.Linear)] == [20]
    assert [m.negative_slope for m in encoder if isinstance(m, nn.LeakyReLU)] == [0.1]
    assert isinstance(encoder[-3], nn.LeakyReLU) and isinstance(encoder[1], nn.ReLU)
    assert not any(isinstance(m, nn.LeakyReLU) for m in decoder)


@pytest.mark.parametrize("shape", [(3, 218, 178), (1, 64, 64), (1, 61, 50)], ids=str)
def test_padding_of_each_convolution_is_undone_by_the_decoder(shape):
    network = Conv(channels=[4] * 4, padding=[(0, 2), (1, 2), (0, 2), (0, 1)])
    assert network.decoder(5, shape)(torch.randn(2, 5)).shape == (2, *shape)
    assert network.encoder(shape, 5)(torch.rand(2, *shape)).shape == (2, 5)


@pytest.mark.parametrize("option", [{"padding": [(1, 1)]}, {"decoder_channels": [8, 8]}], ids=str)
def test_lists_that_do_not_fit_the_convolutions_are_refused(option):
    with pytest.raises(ValueError, match=f"{[*option][0]} needs an entry for each of the 3 channels"):
        Conv(channels=[8, 8, 8], **option)


# ---- SPLIT's ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "side, encoder, decoders", [(32, 733_024, (1_000_422, 738_278)), (64, 2_305_888, (2_579_430, 1_530_854))]
)
def test_resize_conv_has_the_parameters_of_the_official_code(side, encoder, decoders):
    """51616/split-vae, as TensorFlow counts them: two codes of 128, mean and deviation; location and scale of each pixel."""
    family, shape, output = ResizeConv(), (3, side, side), (6, side, side)
    assert num_parameters(family.encoder(shape, 256)) == encoder
    assert tuple(num_parameters(family.decoder(dim, output)) for dim in (256, 128)) == decoders
    assert family.encoder(shape, 256)(torch.rand(2, *shape)).shape == (2, 256)
    assert family.decoder(128, output)(torch.rand(2, 128)).shape == (2, *output)


def upsampled(i, o, kernel):
    """The layers of the official code, one by one."""
    before, after = (kernel - 1) // 2, kernel // 2
    pad = nn.ZeroPad2d((before, after, before, after))
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), pad, nn.Conv2d(i, o, kernel))


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("size", [(4, 4), (1, 3), (5, 2)], ids=str)
def test_upsampling_convolution_is_upsampling_padding_and_convolution(kernel, size):
    layer, apart = UpsamplingConv2d(3, 2, kernel, size).double(), upsampled(3, 2, kernel).double()
    apart[2].load_state_dict(layer.state_dict())
    image, direction = torch.rand(2, 3, *size, dtype=torch.double), torch.rand(2, 2, 2 * size[0], 2 * size[1]).double()
    results = []
    for network, parameters in ((layer, layer), (apart, apart[2])):
        x = image.clone().requires_grad_()
        y = network(x)
        results.append([y, *torch.autograd.grad((y * direction).sum(), [x, parameters.weight, parameters.bias])])
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_decoder_of_resize_conv_gives_what_its_layers_give_one_by_one_from_the_same_weights():
    decoder = ResizeConv().decoder(16, (6, 32, 32))
    first = [
        nn.Linear(16, 2048),
        nn.ReLU(),
        nn.Unflatten(1, (128, 4, 4)),
        nn.ZeroPad2d((1, 2, 1, 2)),
        nn.Conv2d(128, 128, 4),
    ]
    rest = [layer for i, o, k in ((128, 64, 4), (64, 32, 6), (32, 6, 6)) for layer in (nn.ReLU(), *upsampled(i, o, k))]
    apart, z = nn.Sequential(*first, *rest), torch.randn(3, 16)
    apart.load_state_dict(decoder.state_dict())  # the names are those of these layers too
    torch.testing.assert_close(decoder(z), apart(z), rtol=0, atol=1e-5)


def test_upsampling_convolution_multiplies_less_than_half_as_often():
    image = torch.rand(1, 64, 8, 8)
    counts = []
    for network in (UpsamplingConv2d(64, 32, 6, (8, 8)), upsampled(64, 32, 6)):
        with FlopCounterMode(display=False) as counter:
            network(image)
        counts.append(counter.get_total_flops())
    assert counts[0] < 0.4 * counts[1]


def test_resize_conv_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="image sides must be multiples of 8, got 28x32"):
        ResizeConv().encoder((1, 28, 32), 4)
    with pytest.raises(ValueError, match="decoder_kernels needs 3 entries for 2 channels, got 4"):
        ResizeConv((8, 8), (4, 4), "relu", (8, 8))
    with pytest.raises(ValueError, match="must be even"):
        ResizeConv(kernels=(5, 5, 5))
