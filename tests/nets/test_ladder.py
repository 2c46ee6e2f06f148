import pytest
import torch
from torch import nn

from vae_zoo.nets import LadderConv, LadderMLP
from vae_zoo.nets.ladder import calibrate_batch_norm, init_from_batch

PAPER_MLP = LadderMLP(decoder_hidden=[[500, 500], [2000]])
PAPER_CONV = LadderConv(weight_norm="encoder", output="normalised")


def num_parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def small(family, num_facets):
    return LadderMLP(hidden=[[16]] * num_facets) if family == "mlp" else LadderConv(channels=[4] * num_facets)


@pytest.mark.parametrize("num_facets", [1, 2, 3, 6])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 64, 64), (3, 33, 47)], ids=str)
@pytest.mark.parametrize("family", ["mlp", "conv"])
def test_any_number_of_facets_and_any_image(family, shape, num_facets):
    network, dims = small(family, num_facets), [*range(2, 2 + num_facets)]
    encoder, decoder = network.encoder(shape, dims), network.decoder(dims, shape)
    outputs = encoder(torch.rand(3, *shape))
    assert [out.shape for out in outputs] == [(3, dim) for dim in dims] and network.num_facets == num_facets
    image = decoder(outputs, torch.ones(num_facets))
    assert image.shape == (3, *shape)
    image.square().sum().backward()
    weights = {**dict(encoder.named_parameters()), **dict(decoder.named_parameters())}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in weights.values())


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 47)], ids=str)
def test_every_pixel_is_seen_by_every_facet_and_painted(shape):
    torch.manual_seed(0)
    network = LadderConv(channels=[4, 8])
    encoder, decoder = network.encoder(shape, [2, 3]).eval(), network.decoder([2, 3], shape).eval()
    x = torch.rand(4, *shape, requires_grad=True)
    for output in encoder(x):
        (seen,) = torch.autograd.grad(output.square().sum(), x, retain_graph=True)
        assert (seen.abs().sum(0) > 0).all()
    assert (decoder([torch.randn(16, 2), torch.randn(16, 3)], torch.ones(2)).std(0) > 0).all()


@pytest.mark.parametrize("network", [PAPER_MLP, PAPER_CONV], ids=["mlp", "conv"])
def test_facets_that_have_not_entered_are_as_if_their_code_had_no_weight(network):
    torch.manual_seed(0)
    decoder = network.decoder([3, 2], (3, 32, 32)).eval()
    z, other = [torch.randn(4, 3), torch.randn(4, 2)], torch.randn(4, 3)
    without = decoder([None, z[1]], torch.tensor([0.0, 1.0]))
    assert torch.equal(decoder(z, torch.tensor([0.0, 1.0])), without), "alpha 0: the image does not depend on z_0"
    for alpha in (0.3, 1.0):
        image = decoder(z, torch.tensor([alpha, 1.0]))
        assert not torch.allclose(image, without)
        assert not torch.allclose(image, decoder([other, z[1]], torch.tensor([alpha, 1.0])))
    decoder([None, z[1]], torch.tensor([0.0, 1.0])).sum().backward()
    assert all(p.grad is None for p in decoder.rungs[0].parameters()), "and the optimiser hears nothing of it"


@pytest.mark.parametrize("gate", [0.1, 1.0])
def test_gate_weighs_the_facet_against_what_comes_from_below(gate):
    torch.manual_seed(0)
    decoder = LadderMLP(hidden=[[8], [16]], gate=gate).decoder([2, 3], (1, 4, 4))
    z, seen = [torch.randn(5, 2), torch.randn(5, 3)], {}
    decoder.backbones[0].register_forward_hook(lambda module, inputs, output: seen.update(merged=inputs[0]))
    decoder(z, torch.tensor([0.5, 1.0]))
    wanted = gate * 0.5 * decoder.rungs[0](z[0]) + decoder.backbones[1](decoder.rungs[1](z[1]))
    torch.testing.assert_close(seen["merged"], wanted)


def test_mlp_has_the_layers_of_the_paper():
    encoder, decoder = PAPER_MLP.encoder((1, 28, 28), [10, 10]), PAPER_MLP.decoder([5, 5], (1, 28, 28))
    encoding = (784 * 500 + 500) + (500 * 2000 + 2000) + (500 * 10 + 10) + (2000 * 10 + 10)
    deep, shallow = (5 * 2000 + 2000) + (2000 * 500 + 500), 5 * 500 + 500
    assert num_parameters(encoder) == encoding
    assert num_parameters(decoder) == deep + shallow + (500 * 500 + 500) + (500 * 784 + 784)
    kinds = [type(m) for m in decoder.backbones[1]]
    assert kinds == [nn.Linear, nn.ReLU] and isinstance(encoder.rungs[0], nn.Identity)


def test_conv_has_the_layers_of_the_paper():
    encoder, decoder = PAPER_CONV.encoder((3, 32, 32), [44, 14]), PAPER_CONV.decoder([22, 7], (3, 32, 32))
    sizes = []
    for module in [*encoder.backbones, *encoder.rungs, *decoder.rungs, *decoder.backbones]:
        module.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[1:])))
    encoder(torch.rand(2, 3, 32, 32))
    decoder([torch.randn(2, 22), torch.randn(2, 7)], torch.ones(2))
    backbones, rungs = [(64, 16, 16), (128, 8, 8)], [(3136,), (1024,)]
    assert sizes[:4] == [backbones[0], rungs[0], backbones[1], rungs[1]]
    assert sizes[4:] == [(256, 8, 8), (64, 16, 16), (64, 16, 16), (3, 32, 32)]
    for block in (encoder.backbones[0], decoder.backbones[1], decoder.rungs[1]):
        kinds = [type(m).__name__.removeprefix("Parametrized") for m in block][:3]
        assert kinds[1:] in (["ELU", "BatchNorm2d"], ["ELU", "BatchNorm1d"]), "activation before normalisation"
    plain = LadderConv(weight_norm="encoder").decoder([22, 7], (3, 32, 32))
    assert num_parameters(decoder) - num_parameters(plain) == 6, "the image is normalised in the paper's alone"
    without_gains = LadderConv().encoder((3, 32, 32), [44, 14])
    assert num_parameters(encoder) - num_parameters(without_gains) == 3 * 64 + 2 * 128 + 256


@pytest.mark.parametrize("network", [PAPER_MLP, LadderConv(), PAPER_CONV], ids=["mlp", "conv", "weight_norm"])
def test_first_weights_from_a_batch_make_all_channels_alike_on_it(network):
    torch.manual_seed(0)
    x, z = torch.rand(20, 3, 32, 32), [torch.randn(20, 3), torch.randn(20, 2)]
    encoder, decoder = network.encoder((3, 32, 32), [6, 4]), network.decoder([3, 2], (3, 32, 32))

    def run():
        encoder(x)
        decoder(z, torch.ones(2))

    before = [*encoder.parameters(), *decoder.parameters()]
    init_from_batch((encoder, decoder), run)
    after = [*encoder.parameters(), *decoder.parameters()]
    assert all(a is b for a, b in zip(before, after)), "they stay those that the optimiser holds"
    seen = []

    def look(layer, inputs, output):
        seen.append(layer)
        others = [d for d in range(output.ndim) if d != 1]
        assert output.mean(others).abs().max() < 1e-3
        torch.testing.assert_close(output.std(others), torch.full(output.shape[1:2], 0.1), rtol=0, atol=1e-3)

    layers = [
        m for m in (*encoder.modules(), *decoder.modules()) if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    ]
    for layer in layers:
        layer.register_forward_hook(look)
    run()
    assert len(seen) == len(layers)


def test_calibrated_norms_evaluate_as_they_train():
    torch.manual_seed(0)
    encoder = LadderConv(channels=[4, 8]).encoder((1, 28, 28), [6, 4])
    x = torch.rand(64, 1, 28, 28)
    trained = encoder.train()(x)
    stale = encoder.eval()(x)
    calibrate_batch_norm(encoder, [x] * 3)
    calibrated = encoder(x)
    assert not encoder.training
    for t, s, c in zip(trained, stale, calibrated):
        torch.testing.assert_close(c, t, rtol=0.05, atol=0.02)  # but for the unbiased variance
        assert (s - t).abs().max() > 0.1
    assert {m.momentum for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_what_cannot_be_built_is_told():
    with pytest.raises(ValueError, match="images of 28 pixels or more, got 27"):
        LadderConv().encoder((1, 27, 40), [2, 2])
    with pytest.raises(ValueError, match="a list for each of the 2 facets, got 1"):
        LadderMLP(decoder_hidden=[[500]])
