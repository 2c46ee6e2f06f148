"""Faces of every source: who is who, who is unseen, and what is told when something is missing."""

import joblib
import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.sets.test_celeba import PERSON
from tests.data.sets.test_celeba import write as write_celeba
from vae_zoo.data.render import cartoon
from vae_zoo.data.sets import faces
from vae_zoo.data.sets.faces import Faces
from vae_zoo.utils.errors import UserError

SMALL = {"num_identities": 60, "images_per_identity": 4, "val_size": 10, "test_size": 10}


def read(tmp_path, **settings):
    data = Faces(**{"cache": str(tmp_path / "cache"), "root": str(tmp_path / "data"), "download": False} | settings)
    data.setup()
    return data


def people(data):
    """{split: its identities}."""
    return {name: set(data.label[index].tolist()) for name, index in data.indices.items()}


# ---- cartoon --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return read(tmp_path_factory.mktemp("faces"), **SMALL, group_by="identity")


def test_cartoons_are_the_images_of_their_addresses(drawn):
    identity, image = np.arange(60).repeat(4), np.tile(np.arange(4), 60)
    factors = cartoon.factors(identity, image)
    assert np.array_equal(drawn.images, cartoon.render(factors, cartoon.noise_key(identity, image)))
    assert np.array_equal(drawn.factors, factors) and np.array_equal(drawn.label, identity)
    assert drawn.num_classes == 60 and drawn.image_shape == (3, 64, 64)


def test_nobody_is_in_two_splits_and_the_held_out_pair_is_in_none_but_its_own(drawn):
    parts = people(drawn)
    assert [len(parts[name]) for name in ("val", "test")] == [10, 10]
    assert sum(map(len, parts.values())) == 60 == len(set.union(*parts.values()))
    held_out = cartoon.is_held_out(drawn.factors.numpy())
    assert parts["test_comb"] == set(drawn.label[torch.from_numpy(held_out)].tolist()) and held_out.any()


def test_factors_are_described_and_say_whose_they_are(drawn):
    assert drawn.factor_names == drawn.identity_factors + drawn.style_factors
    assert drawn.factor_kinds[drawn.factor_names.index("id_iris_hue")] == "circular"
    assert drawn.factor_info[drawn.factor_names.index("style_background_hue")].period == 1.0
    columns = [drawn.factor_names.index(name) for name in drawn.identity_factors]
    per_person = drawn.factors[:, columns].view(60, 4, -1)
    assert (per_person == per_person[:, :1]).all()


def test_a_group_is_one_person_in_different_pictures(drawn):
    batch = drawn.train_batch(0)
    for g in range(batch["num_groups"]):
        assert len(batch["label"][batch["group"] == g].unique()) == 1
    assert len(batch["index"].unique()) == len(batch["index"])


def test_settings_reach_the_pictures_and_each_has_a_cache_of_its_own(tmp_path):
    few = {"num_identities": 12, "images_per_identity": 2, "val_size": 2, "test_size": 2}
    plain, again = read(tmp_path, **few), read(tmp_path, **few)
    still, confounded = read(tmp_path, **few, style_strength=0.0), read(tmp_path, **few, confound=1.0)
    assert torch.equal(plain.images, again.images)
    assert not torch.equal(plain.images, still.images) and not torch.equal(plain.images, confounded.images)
    assert len(still.factors[:, -17:].unique(dim=0)) == 1
    hue = confounded.factors[:, confounded.factor_names.index("style_background_hue")].view(12, 2)
    assert torch.equal(hue[:, 0], hue[:, 1])
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 3


@pytest.mark.parametrize(("size", "channels"), [(32, 3), (64, 1), (32, 1)])
def test_cartoons_come_smaller_and_grey(drawn, tmp_path, size, channels):
    data = read(tmp_path, **SMALL, size=size, channels=channels)
    assert data.images.shape == (240, channels, size, size)
    luma = torch.tensor([0.299, 0.587, 0.114]) if channels == 1 else torch.ones(3) / 3
    wanted = (drawn.images * luma.view(1, 3, 1, 1)).sum((1, 2, 3)) / 64**2
    got = data.images.float().sum((1, 2, 3)) / channels / size**2
    assert torch.allclose(got, wanted, atol=1.0)


# ---- photographs ----------------------------------------------------------------------------------------------------


def test_each_folder_is_a_person(tmp_path):
    for person, count in {"ann": 3, "bob": 2, "cid": 4, "dee": 1, "eva": 2}.items():
        (tmp_path / "mine" / person).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (20, 30), 20 * ord(person[0]) % 256).save(tmp_path / "mine" / person / f"{i}.png")
    data = read(tmp_path, source="folder", path=str(tmp_path / "mine"), size=16, val_size=1, test_size=1)
    assert data.images.shape == (11, 3, 16, 16)  # dee has one picture only
    assert len(list((tmp_path / "cache").glob("images_*.npy"))) == 1, "data.cache is where it is kept"
    assert data.label.tolist() == [0] * 3 + [1] * 2 + [2] * 4 + [3] * 2
    assert len({tuple(pixels.flatten().tolist()) for pixels in data.images}) == 4
    assert sorted(len(part) for part in people(data).values()) == [1, 1, 2]
    everybody = {"source": "folder", "path": str(tmp_path / "mine"), "min_images": 1}
    assert len(read(tmp_path, **everybody, size=16, val_size=1, test_size=1).images) == 12


def write_olivetti(root):
    """scikit-learn's own file: 400 rows of 64x64 pixels, columns first, ten of each person."""
    pixels = np.random.default_rng(0).integers(0, 256, (400, 64, 64)).astype(np.float64)
    pixels[0, 0, :2] = 0, 255  # scikit-learn stretches the whole range
    root.mkdir()
    joblib.dump(pixels.transpose(0, 2, 1).reshape(400, -1), root / "olivetti_py3.pkz", compress=1)
    return pixels


@pytest.mark.parametrize("channels", [1, 3])
def test_olivetti_is_read_as_scikit_learn_keeps_it(tmp_path, channels):
    pixels = write_olivetti(tmp_path / "data")
    data = read(tmp_path, source="olivetti", channels=channels, val_size=5, test_size=5)
    assert np.array_equal(data.images, pixels[:, None].repeat(channels, 1))
    assert data.label.tolist() == [i // 10 for i in range(400)]
    assert [len(part) for part in people(data).values()] == [30, 5, 5]


def write_lfw(root):
    """The unpacked archive: a folder of JPEGs of 250x250 for each person, and three lists of pairs."""
    home = root / "lfw_home"
    for person, count in {"Ann_A": 3, "Bob_B": 1, "Cid_C": 2, "Dee_D": 5, "Eva_E": 2}.items():
        (home / "lfw_funneled" / person).mkdir(parents=True)
        for i in range(count):
            pixels = np.zeros((250, 250, 3), np.uint8)
            pixels[61:189, 61:189] = (200, ord(person[0]), 40 * i)  # what is cut out
            Image.fromarray(pixels).save(home / "lfw_funneled" / person / f"{person}_{i:04}.jpg", quality=98)
    for name in ("pairsDevTrain.txt", "pairsDevTest.txt", "pairs.txt"):
        (home / name).write_text("0\n")


def test_lfw_is_read_as_scikit_learn_keeps_it(tmp_path):
    write_lfw(tmp_path / "data")
    data = read(tmp_path, source="lfw", val_size=1, test_size=1)
    assert data.images.shape == (12, 3, 64, 64)  # Bob has one picture only
    middle = data.images[:, :, 16:48, 16:48].float().mean((2, 3))  # away from the edge of the cut
    names = np.array(["A", "C", "D", "E"])[data.label.numpy()]
    assert (abs(middle[:, 0] - 200) < 4).all() and (abs(middle[:, 1] - torch.tensor([ord(n) for n in names])) < 4).all()
    assert data.label.bincount().tolist() == [3, 2, 5, 2]
    assert len(read(tmp_path, source="lfw", val_size=1, test_size=1, min_images=1).images) == 13


def test_reals_up_to_255_are_understood_too():
    assert np.array_equal(faces._bytes(np.array([0.0, 128.0, 255.0])), faces._bytes(np.array([0.0, 128 / 255, 1.0])))


def test_celeba_is_grouped_by_its_identities_and_keeps_its_split(tmp_path):
    write_celeba(tmp_path / "data")
    data = read(tmp_path, source="celeba", size=32, group_by="identity")
    assert data.label.tolist() == np.unique(PERSON, return_inverse=True)[1].tolist()
    assert [len(part) for part in people(data).values()] == [6, 2, 2]
    assert data.images.shape == (30, 3, 32, 32)


# ---- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "file"), [("olivetti", "olivetti_py3.pkz"), ("lfw", "lfw_home/lfw_funneled")])
def test_a_missing_set_is_told_with_its_files_their_place_and_the_nearest_set(tmp_path, source, file):
    """Once without a download, once with one that fails: the network is shut by conftest.py."""
    for download, said in ((False, f" not found in {tmp_path}/data; "), (True, f"{source} could not be downloaded (")):
        with pytest.raises(UserError) as error:
            read(tmp_path, source=source, download=download)
        sentence = str(error.value)
        assert said in sentence and file in sentence and f"into {tmp_path}/data" in sentence
        assert "data.source=cartoon" in sentence and "\n" not in sentence
        assert not list(tmp_path.iterdir())


def test_a_download_by_scikit_learn_arrives_whole(tmp_path, monkeypatch):
    fetch = faces.fetch_olivetti_faces

    def fetched(data_home, download_if_missing=True, **settings):
        if download_if_missing:
            write_olivetti(tmp_path / "source")
            (tmp_path / "source" / "olivetti_py3.pkz").rename(f"{data_home}/olivetti_py3.pkz")
        return fetch(data_home=data_home, download_if_missing=False)

    monkeypatch.setattr(faces, "fetch_olivetti_faces", fetched)
    assert len(read(tmp_path, source="olivetti", download=True).images) == 400
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["olivetti_py3.pkz"]


def test_a_damaged_file_is_named_with_the_remedy(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "olivetti_py3.pkz").write_bytes(b"not a pickle")
    with pytest.raises(UserError, match="olivetti_py3.pkz cannot be read .*; delete it and download it again"):
        read(tmp_path, source="olivetti")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"source": "folder"}, "data.source=folder needs data.path, a folder .*; set it"),
        ({"source": "folder", "path": "{}/flat"}, "has images but no subfolders; make one subfolder of images per person"),
        ({"source": "folder", "path": "{}/two", "min_images": 9}, "data.min_images must be at most 2, .* got 9"),
        (
            {"source": "folder", "path": "{}/two"},
            "a number of identities from 1 to 1, .* got 0.1 .0 of 2 identities.",
        ),
        ({**SMALL, "test_size": 60}, "data.test_size must be .* got 60 .60 of 5. identities."),
    ],
)
def test_a_mistake_is_told_in_one_sentence(tmp_path, settings, sentence):
    for folder in ("flat", "two/ann", "two/bob"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(2 + (folder == "flat")):
            Image.new("L", (9, 9)).save(tmp_path / folder / f"{i}.png")
    if "path" in settings:
        settings = settings | {"path": settings["path"].format(tmp_path)}
    with pytest.raises(UserError, match=sentence) as error:
        read(tmp_path, **settings)
    assert "\n" not in str(error.value)
