"""What the panels show is what the model says of the same codes; what a browser may send is checked."""

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from tests.config.test_schemas import choices, composed
from vae_zoo import UserError
from vae_zoo.explorer import state
from vae_zoo.explorer.state import Images, LoadedRun, combinations
from vae_zoo.metrics.arrays import to_numpy
from vae_zoo.runs.load import build

SMALL = ["data=digits", "data.size=16", "data.subset=200", "data.test_size=60", "trainer=cpu"]
MLP = ["model/network=mlp", "model.network.hidden=[16]"]
OPTIONS = {
    "beta_tc_vae": MLP,
    "split_vae": MLP,
    "ml_vae": MLP,
    "parted_vae": [*MLP, "model.feature_dim=16"],
    "mfcvae": ["model.facet_dims=[3,3]", "model.num_clusters=[4,5]"],
    "spair": ["model.channels=[8,8,8]", "model.features=8", "model.head_hidden=[8]", "model.what_dim=3", "data.size=24"],
}


@cache
def run_of(name: str) -> LoadedRun:
    """An untrained model and small data; no test may change them."""
    config = composed(f"model={name}", *SMALL, *OPTIONS.get(name, []))
    torch.manual_seed(0)
    model, data = build(config["model"]), build(config["data"])
    data.serve(model)
    return LoadedRun(name, model.eval(), data, {})


@cache
def images_of(name: str) -> Images:
    return Images(run_of(name))


@pytest.mark.parametrize("name", ["beta_tc_vae", "parted_vae", "mfcvae", "ml_vae", "split_vae"])
def test_sliders_are_in_order_of_kl_and_span_the_aggregate_posterior(name):
    run = run_of(name)
    for block, dimensions in run.dimensions.items():
        assert sorted(d.index for d in dimensions) == list(range(run.model.blocks[block].size))
        kl = [d.kl for d in dimensions]
        assert kl == sorted(kl, reverse=True)
        for d in dimensions:
            draws = run.sample["draw"][block][:, d.index]
            outside = ((draws < d.low) | (draws > d.high)).double().mean()
            assert d.low < d.high and outside <= 2 * state.TAIL + 2 / len(draws)
            assert d.used == (run.sample["mean"][block][:, d.index].var(unbiased=False) > 0.01)
    assert set(run.dimensions) == {n for n, b in run.model.blocks.items() if b.kind == "gaussian"}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_values_of_an_image_decode_to_its_reconstruction(name):
    run, images = run_of(name), images_of(name)
    codes = images.codes(run, "test:3")
    x = images.image("test:3")
    expected = to_numpy(run.model.reconstruct({"image": x}))
    again = run.walked(codes, run.values(codes))
    np.testing.assert_allclose(run.decode(again), expected, atol=1e-6)
    assert len(x) == 1 and tuple(x.shape[1:]) == run.model.image_shape


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*choices("model")} - {*OPTIONS}))
def test_every_other_method_is_walked_in_too(name):
    test_the_values_of_an_image_decode_to_its_reconstruction(name)
    if run_of(name).of_kind("gaussian"):
        test_sliders_are_in_order_of_kl_and_span_the_aggregate_posterior(name)


def test_a_slider_changes_its_dimension_and_the_image_alone():
    run, images = run_of("split_vae"), images_of("split_vae")
    codes = images.codes(run, "test:0")
    values = run.values(codes)
    values["z_local"][2] = run.dimensions["z_local"][0].high + 3
    changed = run.walked(codes, values)
    assert (changed["z_local"] != codes["z_local"]).nonzero()[:, 1].tolist() == [2]
    torch.testing.assert_close(changed["z_global"], codes["z_global"])
    assert not np.array_equal(run.decode(changed), run.decode(codes))


def test_a_traversal_takes_one_dimension_through_its_range():
    run, images = run_of("beta_tc_vae"), images_of("beta_tc_vae")
    d = run.dimensions["z"][1]
    codes = images.codes(run, "test:0")
    walked = run.traversal(codes, "z", d.index, steps=5)["z"]
    np.testing.assert_allclose(walked[:, d.index], np.linspace(d.low, d.high, 5), rtol=1e-5)
    others = [i for i in range(walked.shape[1]) if i != d.index]
    torch.testing.assert_close(walked[:, others], codes["z"][:, others].repeat(5, 1))


def test_another_class_keeps_the_code_that_is_independent_of_it():
    run, images = run_of("parted_vae"), images_of("parted_vae")
    codes = images.codes(run, "test:0")
    old = int(codes["c"].argmax())
    changed = run.with_classes(codes, torch.tensor([[(old + 1) % 10]]))
    assert run.values(changed)["c"] == [(old + 1) % 10]
    torch.testing.assert_close(changed["z"], codes["z"])
    assert not torch.equal(changed["u"], codes["u"])


def test_a_drawn_image_is_the_same_for_its_seed_and_has_the_codes_that_were_drawn():
    run, images = run_of("split_vae"), images_of("split_vae")
    before = torch.random.get_rng_state()
    one, again, other = (Images(run).image(name) for name in ("prior:3", "prior:3", "prior:4"))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(run.decode(images.codes(run, "prior:3")), one.numpy())


@pytest.mark.parametrize("name", ["test:60", "test:-1", "test:", "prior:x", "upload:0123", "../secret", ""])
def test_names_that_no_image_has_are_refused(name):
    with pytest.raises(UserError, match="choose test:0..59 or prior:<seed>"):
        images_of("beta_tc_vae").image(name)


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"y": [1.0]}, "does not fit this run: block y cannot be set, got 1"),
        ({"z": [1.0]}, "block z needs 6 finite numbers, got 1"),
        ({"z": [float("nan")] * 6}, "block z needs 6 finite numbers, got 6"),
        ({"c": [10]}, "c must be in 0..9, got 10"),
    ],
)
def test_values_that_do_not_fit_the_blocks_are_refused(values, sentence):
    run, images = run_of("parted_vae"), images_of("parted_vae")
    with pytest.raises(UserError, match=sentence):
        run.walked(images.codes(run, "test:0"), values)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK", "I;16"])
def test_an_upload_of_any_mode_becomes_an_image_of_the_run(mode, tmp_path):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (40, 70), dtype=np.uint8)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    image.save(path)
    images = Images(run_of("split_vae"))
    x = images.image(images.upload(path))
    assert tuple(x.shape) == (1, 1, 16, 16) and 0 <= x.min() and 0.2 < x.max() <= 1


def test_uploads_that_are_no_picture_or_too_large_are_refused_in_a_sentence(tmp_path, monkeypatch):
    images, path = Images(run_of("split_vae")), tmp_path / "upload.png"
    path.write_text("no picture")
    with pytest.raises(UserError, match="the file is not a picture; choose a PNG, JPEG or WebP file"):
        images.upload(path)
    Image.effect_noise((99, 99), 50).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match="the upload cannot be read as an image .*; remove it, save it as PNG or JPEG"):
        images.upload(path)
    Image.new("1", (20_000, 20_000)).save(path)  # 400 million pixels in a few kB
    with pytest.raises(UserError, match="more than 50,000,000 pixels; shrink it first"):
        images.upload(path)
    with path.open("wb") as file:
        file.truncate(10**9)  # a gigabyte, of which none is read
    with pytest.raises(UserError, match="the file has 1000 MB; give one of at most 20 MB"):
        images.upload(path)
    assert not images.uploads


def test_only_the_last_uploads_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "UPLOADS", 2)
    images, names = Images(run_of("split_vae")), []
    for grey in (0, 100, 200):
        Image.new("L", (9, 9), grey).save(tmp_path / "one.png")
        names.append(images.upload(tmp_path / "one.png"))
    assert list(images.uploads) == names[1:]
    with pytest.raises(UserError, match="no longer kept; upload it again"):
        images.image(names[0])


def test_a_swap_has_every_combination_of_blocks():
    run, images = run_of("split_vae"), images_of("split_vae")
    a, b = (images.codes(run, name) for name in ("test:0", "test:1"))
    mixed, labels = combinations(run.model, a, b)
    assert labels == [f"z_global {i}, z_local {j}" for i in "AB" for j in "AB"]
    expected = [(a, a), (a, b), (b, a), (b, b)]
    for i, (one, other) in enumerate(expected):
        torch.testing.assert_close(mixed["z_global"][i], one["z_global"][0])
        torch.testing.assert_close(mixed["z_local"][i], other["z_local"][0])


def test_a_swap_of_many_blocks_takes_them_from_the_other_image_one_by_one():
    a, b = ({f"z{i}": torch.full((1, 2), float(x)) for i in range(5)} for x in (0, 1))
    mixed, labels = combinations(run_of("split_vae").model, a, b)
    assert len(labels) == 7 and labels[2] == "z0 A, z1 B, z2 A, z3 A, z4 A"
    assert torch.stack([mixed[f"z{i}"][:, 0] for i in range(5)])[:, 1:6].equal(torch.eye(5))


@pytest.mark.parametrize("name, dependent", [("parted_vae", "u"), ("gmvae", "z")])
def test_codes_that_depend_on_the_class_are_swapped_with_it(name, dependent):
    """Their decoders do not get the class itself, so a swap of the class alone would change no picture."""
    run, images = run_of(name), images_of(name)
    a, b = (images.codes(run, name) for name in ("test:0", "test:1"))
    (block,) = [block for block in a if block.startswith("c")]
    b = run.model.with_class(b, (a[block].argmax(1, keepdim=True) + 1) % a[block].shape[1])
    mixed, labels = combinations(run.model, a, b)
    only_class = labels.index(", ".join(f"{n} {'B' if n == block else 'A'}" for n in a))
    moved = run.model.with_class(a, b[block].argmax(1, keepdim=True))
    torch.testing.assert_close(mixed[dependent][only_class], moved[dependent][0])
    pictures = run.decode(mixed)
    assert not np.array_equal(pictures[0], pictures[only_class])
    for n in a:
        torch.testing.assert_close(
            mixed[n][-1].argmax() if n == block else mixed[n][-1], b[n][0].argmax() if n == block else b[n][0]
        )
