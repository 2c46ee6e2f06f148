"""Walks through the latent space start at an image and stay where images are."""

import numpy as np
import torch

from tests.models.builders import build, images
from vae_zoo.distributions import Bernoulli
from vae_zoo.evaluation.pictures import SPAN, central, spans_of, stills, swap, traverse
from vae_zoo.models import GMVAE
from vae_zoo.nets import MLP


def test_spans_of_independent_codes_are_their_quantiles():
    rng = np.random.default_rng(0)
    codes = {"z": np.stack([0.2 + 0.5 * rng.standard_normal(100_000), rng.uniform(-1, 1, 100_000)], axis=1)}
    spans = spans_of(codes)["z"]
    np.testing.assert_allclose(spans[0], 0.2 + 0.5 * SPAN, atol=0.06)
    assert -1 <= spans[1].min() < -0.9 and 0.9 < spans[1].max() <= 1 and (np.diff(spans[1]) > 0).all()


def test_spans_stay_among_images_that_are_alike_otherwise():
    """On a line z1 = z0 the walk of z0 may not go far while z1 stays at the middle; and blocks know of each other."""
    line = np.random.default_rng(0).uniform(-2, 2, (5000, 1))
    spans = spans_of({"a": line, "b": line})
    assert spans["a"].shape == spans["b"].shape == (1, len(SPAN))
    assert np.abs(spans["a"]).max() < 0.15, "a twentieth of the line"


def test_central_is_the_image_nearest_to_the_priors_mean_over_all_blocks():
    first, second = torch.tensor([[0.0, 0], [1, 0], [0, 0.5]]), torch.tensor([[3.0], [0.1], [0.1]])
    assert central([first, second]) == 2 and central([first]) == 0


def test_a_row_changes_one_dimension_of_the_central_image_through_its_span():
    model, batch = build("vae").eval(), images()
    decoded = []
    decode = model.decode
    model.decode = lambda codes: decoded.append(codes["z"].clone()) or decode(codes)
    with torch.no_grad():
        spans = {"z": np.arange(3)[:, None] + SPAN}
        pictures, labels = traverse(model, batch, "z", spans)
        mu = model.encode(batch)["z"].mu
    start = mu[central([mu])]
    walked = decoded[0].view(3, len(SPAN), 3)
    assert pictures.shape == (3, len(SPAN), 1, 6, 6)
    for row, label in zip(walked, labels, strict=True):
        d = int(label[2])
        torch.testing.assert_close(row[:, d], torch.as_tensor(spans["z"][d]).float())
        others = [i for i in range(3) if i != d]
        assert (row[:, others] == start[others]).all()


def test_swap_of_a_class_moves_the_codes_that_depend_on_it():
    """The decoder of GMVAE does not get c, so without this every row of the grid would be the same."""
    torch.manual_seed(0)
    sizes = {"z_dim": 3, "num_classes": 4, "network": MLP((16,)), "likelihood": Bernoulli()}
    model, batch, decoded = GMVAE((1, 6, 6), **sizes).eval(), images(8), []
    decode = model.decode
    model.decode = lambda codes: decoded.append(codes) or decode(codes)
    with torch.no_grad():
        model.z_prior.weight.normal_()
        codes = model.codes(batch) | {"c": torch.eye(4).repeat(2, 1)}
        model.codes = lambda batch: codes
        swap(model, batch, "c", count=8)
        columns = {name: code.repeat(8, 1) for name, code in codes.items()}
        expected = model.with_class(columns, torch.arange(4).repeat(2).repeat_interleave(8)[:, None])
    for name, code in expected.items():
        torch.testing.assert_close(decoded[-1][name], code)


def test_stills_are_the_same_every_time_and_touch_no_generator():
    model, batch = build("vae").eval(), images()
    state = torch.get_rng_state()
    first, second = (dict(stills(model, batch)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert list(first) == ["reconstructions", "samples", "traversals_z"]
    assert all((first[name] == second[name]).all() for name in first)
