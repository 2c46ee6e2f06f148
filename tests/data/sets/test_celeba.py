"""CelebA, on small folders in its own format."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2

from vae_zoo.data.sets.celeba import CelebA
from vae_zoo.utils.errors import UserError

NAMES = [f"{i:06}.jpg" for i in range(1, 31)]
PERSON = np.repeat(np.arange(10), 3) * 7 + 5  # 10 people of 3 pictures
SPLIT = np.repeat([0, 1, 2], [18, 6, 6])
ATTRIBUTES = np.random.default_rng(0).choice([-1, 1], (30, 40))
TITLES = [f"Attribute_{i}" for i in range(40)]
TEXTS = {
    "list_attr_celeba.txt": ATTRIBUTES,
    "identity_CelebA.txt": PERSON[:, None],
    "list_eval_partition.txt": SPLIT[:, None],
    "list_bbox_celeba.txt": np.tile([95, 71, 226, 313], (30, 1)),
    "list_landmarks_align_celeba.txt": np.tile(np.arange(10), (30, 1)),
}
HEADERS = {
    "list_attr_celeba.txt": TITLES,
    "list_bbox_celeba.txt": ["image_id", "x_1", "y_1", "width", "height"],
    "list_landmarks_align_celeba.txt": [f"point_{i}" for i in range(10)],
}


def text(name, rows=None, names=NAMES):
    rows = TEXTS[name] if rows is None else rows
    lines = [f"{image} {' '.join(f'{value:2d}' for value in row)}" for image, row in zip(names, rows)]
    head = [str(len(lines)), " ".join(HEADERS[name]) + " "] if name in HEADERS else []
    return "\n".join([*head, *lines, ""])


def write(root, texts=TEXTS):
    """The folder as CelebA's archives unpack it; every picture is smooth noise of its own. Returns it."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in NAMES:
        picture = Image.fromarray(rng.integers(0, 256, (11, 9, 3), dtype=np.uint8)).resize(
            (178, 218), Image.Resampling.BICUBIC
        )
        picture.save(folder / "img_align_celeba" / name, quality=95)
    for name in texts:
        (folder / name).write_text(text(name))
    return folder


def read(root, **settings):
    data = CelebA(str(root), **{"download": False, "cache": str(root / "cache")} | settings)
    data.setup()
    return data


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("celeba")
    write(root)
    return root


@pytest.fixture
def torchvisions(root, monkeypatch):
    """torchvision's own reader, which would ask for the checksums of the real files."""
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)
    return torchvision.datasets.CelebA(str(root), split="all", target_type=["attr", "identity"], download=False)


@pytest.mark.parametrize(
    ("settings", "transform"),
    [
        ({}, v2.Compose([v2.CenterCrop(148), v2.Resize(64)])),
        ({"crop": 178, "size": 32}, v2.Compose([v2.CenterCrop(178), v2.Resize(32)])),
        ({"crop": None}, v2.Resize((64, 64))),
        ({"crop": None, "image_shape": (3, 218, 178)}, v2.Identity()),
    ],
)
def test_images_attributes_and_identities_are_those_of_torchvision(root, torchvisions, settings, transform):
    data = read(root, **settings)
    assert data.images.shape[1:] == data.image_shape and len(data.images) == 30
    for n, (picture, (attributes, identity)) in enumerate(torchvisions):
        assert np.array_equal(data.images[n].permute(1, 2, 0), np.asarray(transform(picture)))
        assert torch.equal(data.label[n], attributes)
        assert PERSON[n] == identity
    assert data.label_names == tuple(TITLES) == tuple(name for name in torchvisions.attr_names if name)


def test_splits_are_the_official_ones_and_show_different_people(root):
    data = read(root, group_by="identity")
    assert [data.indices[name].tolist() for name in ("train", "val", "test")] == [
        [*range(18)],
        [*range(18, 24)],
        [*range(24, 30)],
    ]
    batch = data.batch(data.indices["test"])
    assert batch["num_groups"] == 2 and batch["group"].tolist() == [0, 0, 0, 1, 1, 1]
    assert batch["label"].shape == (6, 40) and set(batch["label"].unique().tolist()) == {0, 1}
    assert data.num_classes == 2 and data.default_group == "identity"


def test_split_by_identity_is_drawn_from_the_people(root):
    data = read(root, split="identity", val_size=2, test_size=3)
    people = [set(PERSON[data.indices[name]]) for name in ("train", "val", "test")]
    assert [len(part) for part in people] == [5, 2, 3] and len(set.union(*people)) == 10


def test_an_official_split_that_shows_a_person_twice_is_refused(root, tmp_path):
    folder = write(tmp_path)
    (folder / "identity_CelebA.txt").write_text(text("identity_CelebA.txt", np.full((30, 1), 7)))
    with pytest.raises(UserError, match="official split has identity 7 in both train and val; .* data.split=identity"):
        read(tmp_path)


def test_pictures_are_decoded_once_for_each_way_of_cutting(root, tmp_path, monkeypatch):
    first, other = read(root, cache=str(tmp_path)), read(root, cache=str(tmp_path), crop=178)
    assert not torch.equal(first.images, other.images)
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(read(root, cache=str(tmp_path)).images, first.images)
    assert torch.equal(read(root, cache=str(tmp_path), crop=178).images, other.images)


def test_another_folder_has_a_cache_of_its_own(root, tmp_path):
    folder = write(tmp_path)
    for picture in (folder / "img_align_celeba").iterdir():
        Image.new("RGB", (178, 218), (255, 0, 0)).save(picture)
    cache = str(tmp_path / "cache")
    assert not torch.equal(read(root, cache=cache).images, read(tmp_path, cache=cache).images)


def test_only_the_files_that_are_needed_are_asked_for(tmp_path):
    write(tmp_path, texts=["list_attr_celeba.txt", "identity_CelebA.txt", "list_eval_partition.txt"])
    assert len(read(tmp_path, download=True).images) == 30


# ---- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file", ["img_align_celeba", "list_attr_celeba.txt", "identity_CelebA.txt", "list_eval_partition.txt"]
)
def test_a_missing_file_is_named_with_its_place_and_the_nearest_set(tmp_path, file):
    folder = write(tmp_path)
    (folder / file).rename(folder / "elsewhere")
    with pytest.raises(UserError) as error:
        read(tmp_path)
    sentence = str(error.value)
    assert sentence.startswith(file) and f" not found in {folder}; " in sentence and f"into {folder} by hand" in sentence
    assert "data.download=true" in sentence and "data=faces" in sentence and "\n" not in sentence


def test_a_failed_download_says_why_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def cut_short(self):
        folder = Path(self.root) / "celeba"
        folder.mkdir()
        (folder / "list_attr_celeba.txt").write_text("half")
        raise RuntimeError("over quota.\nTry later.")

    monkeypatch.setattr(torchvision.datasets.CelebA, "download", cut_short)
    with pytest.raises(UserError) as error:
        read(tmp_path / "new", download=True)
    sentence = str(error.value)
    assert "could not be downloaded (over quota. Try later); put img_align_celeba/ " in sentence
    assert f"identity_CelebA.txt, list_eval_partition.txt into {tmp_path / 'new' / 'celeba'} by hand" in sentence
    assert not list(tmp_path.iterdir())


def test_a_download_brings_what_is_missing_and_keeps_what_is_there(tmp_path, monkeypatch):
    folder = write(tmp_path)
    whole = (folder / "identity_CelebA.txt").read_text()
    (folder / "identity_CelebA.txt").unlink()
    (folder / "list_eval_partition.txt").write_text(text("list_eval_partition.txt") + "\n")
    mine = (folder / "list_eval_partition.txt").read_text()

    def fetch(self):
        write(Path(self.root))

    monkeypatch.setattr(torchvision.datasets.CelebA, "download", fetch)
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)
    read(tmp_path, download=True)
    assert (folder / "identity_CelebA.txt").read_text() == whole
    assert (folder / "list_eval_partition.txt").read_text() == mine
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "celeba"]


@pytest.mark.parametrize("file", ["list_attr_celeba.txt", "identity_CelebA.txt", "list_eval_partition.txt"])
@pytest.mark.parametrize("damage", [lambda t: t[:-20] + "\nx", lambda t: "", lambda t: "<html>not found</html>\n"])
def test_a_damaged_list_is_named_with_the_remedy(tmp_path, file, damage):
    folder = write(tmp_path)
    (folder / file).write_text(damage(text(file)))
    with pytest.raises(UserError, match=f"{file} (is damaged|and list_eval).*download (it|both) again") as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_lists_of_different_images_are_refused(tmp_path):
    folder = write(tmp_path)
    (folder / "identity_CelebA.txt").write_text(text("identity_CelebA.txt", names=NAMES[::-1]))
    with pytest.raises(UserError, match="identity_CelebA.txt and list_eval_partition.txt do not list the same images"):
        read(tmp_path)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:500])])
def test_a_damaged_picture_is_named_and_nothing_is_cached(tmp_path, damage):
    folder = write(tmp_path)
    damage(folder / "img_align_celeba" / "000007.jpg")
    with pytest.raises(UserError, match="000007.jpg cannot be read .*; unpack img_align_celeba.zip again"):
        read(tmp_path)
    assert not (tmp_path / "cache").exists()


def test_classes_are_made_of_attributes_the_first_that_holds(root):
    classes = {"three": [f"{TITLES[3]} and not {TITLES[5]}", TITLES[5], f"not {TITLES[3]}"], "two": [TITLES[0], TITLES[1]]}
    data = read(root, classes=classes)
    a = np.array(ATTRIBUTES) > 0
    three = np.select([a[:, 3] & ~a[:, 5], a[:, 5], ~a[:, 3]], [0, 1, 2], -1)
    two = np.select([a[:, 0], a[:, 1]], [0, 1], -1)
    assert np.array_equal(data.label, np.stack([three, two], 1)) and (two == -1).any()
    assert data.label_names == ("three", "two") and data.num_classes == 3


def test_a_class_of_an_unknown_attribute_is_refused_with_the_nearest(root):
    with pytest.raises(
        UserError, match=rf"data\.classes\.hat={TITLES[0]}x must consist of attributes.* did you mean {TITLES[0]}\?"
    ):
        read(root, classes={"hat": [f"{TITLES[0]}x", f"not {TITLES[0]}"]})
