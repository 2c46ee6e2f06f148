"""Data sets in the forms of the hub, local ones: the batches are those of the same pictures in a folder."""

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_datamodule import same
from vae_zoo.data.sets.huggingface import HuggingFace
from vae_zoo.data.sets.image_folder import ImageFolder
from vae_zoo.utils.errors import UserError

datasets = pytest.importorskip("datasets")
COMMON = {"size": 8, "batch_size": 8, "val_size": 6, "test_size": 6}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """40 pictures of two classes and several sizes in a folder."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(40):
        place = folder / ("ant", "bee")[i // 20]
        place.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8 + i % 3, 10, 3), dtype=np.uint8)).save(place / f"{i:02}.png")
    return folder


def parquet(folder, pictures, names=("train",)):
    """The pictures as parquet files, one for each split; labels are names."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
    files = sorted(pictures.rglob("*.png"))
    folder = folder / "hub"
    folder.mkdir()
    for part, name in enumerate(names):
        chosen = files[part :: len(names)]
        rows = {"image": [{"bytes": f.read_bytes(), "path": None} for f in chosen], "label": [f.parent.name for f in chosen]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{name}-00000-of-00001.parquet")
    return folder


def read(path, tmp_path, **settings):
    data = HuggingFace(str(path), **(COMMON | {"cache": str(tmp_path / "cache")} | settings))
    data.setup()
    return data


@pytest.mark.parametrize("form", ["parquet", "imagefolder", "saved"])
def test_batches_are_those_of_the_folder_of_the_same_pictures(tmp_path, pictures, form, monkeypatch):
    if form == "imagefolder":
        path = pictures
    else:
        path = parquet(tmp_path, pictures)
        if form == "saved":
            table = datasets.Dataset.from_parquet(str(next(path.glob("*.parquet"))), cache_dir=str(tmp_path / "hf"))
            path = tmp_path / "saved"
            table.save_to_disk(path)
    folder = ImageFolder(str(pictures), cache=str(tmp_path / "cache"), **COMMON)
    folder.setup()
    data = read(path, tmp_path)
    monkeypatch.setattr(HuggingFace, "_opened", lambda self: pytest.fail("it is stored"))
    for one in (data, read(path, tmp_path)):
        assert one.num_classes == 2 and torch.equal(one.images, folder.images)
        assert all(same(one.train_batch(step), folder.train_batch(step)) for step in range(8))


def test_official_splits_are_kept(tmp_path, pictures):
    data = read(parquet(tmp_path, pictures, names=("train", "validation", "test")), tmp_path)
    sizes = {split: data.indices[split].tolist() for split in ("train", "val", "test")}
    assert sizes == {"train": [*range(14)], "val": [*range(14, 27)], "test": [*range(27, 40)]}


def test_other_columns_damaged_pictures_and_a_missing_label(tmp_path, pictures):
    files = sorted(pictures.rglob("*.png"))[:12]
    rows = {"pixels": [f.read_bytes() for f in files], "word": ["b", "a", None] * 4}
    rows["pixels"][5] = b"damaged"
    features = datasets.Features({"pixels": datasets.Value("binary"), "word": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    chosen = {"image": "pixels", "label": "word", "val_size": 2, "test_size": 2}
    with pytest.raises(UserError, match=r"row 5 of train, cannot be read as an image .*or set data.on_error=skip"):
        read(tmp_path / "a.parquet", tmp_path, **chosen)
    data = read(tmp_path / "a.parquet", tmp_path, on_error="skip", **chosen)
    assert len(data.images) == 11 and data.label.tolist() == [1, 0, -1, 1, 0, 1, 0, -1, 1, 0, -1]
    assert read(tmp_path / "a.parquet", tmp_path, on_error="skip", **chosen | {"label": None}).label is None


def test_an_interrupted_stream_goes_on(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr("vae_zoo.data.sets.huggingface.PART", 7)
    decode, calls = HuggingFace._read, []

    def until(self, named):
        calls.append(named[0])
        if len(calls) == 20:
            raise KeyboardInterrupt
        return decode(self, named)

    path = parquet(tmp_path, pictures)
    whole = read(path, tmp_path / "whole")
    monkeypatch.setattr(HuggingFace, "_read", until)
    with pytest.raises(KeyboardInterrupt):
        read(path, tmp_path)
    data = read(path, tmp_path)
    assert torch.equal(data.images, whole.images) and torch.equal(data.label, whole.label)
    assert calls.count("row 0 of train") == 1 and calls.count("row 39 of train") == 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"image": "img"}, "has no column img; set data.image to one of image, label"),
        ({"label": "class"}, "has no column class; set data.label to one of label, or data.label=null for no labels"),
        ({"image": "label"}, "cannot be read .*; check its files, data.image and"),
    ],
)
def test_wrong_columns_are_named(tmp_path, pictures, settings, told):
    path = parquet(tmp_path, pictures)
    with pytest.raises(UserError, match=told):
        read(path, tmp_path, **settings)
    assert not (tmp_path / "cache").exists()


def test_a_data_set_that_there_is_not_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    for path in ("nobody/nothing", tmp_path / "empty"):
        with pytest.raises(UserError, match="cannot be opened .*; give a local folder, or the name of a data set"):
            read(path, tmp_path)


def test_without_the_library_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs datasets, which is not installed; run `pip install 'vae_zoo\[hf\]'`"):
        read(os.fspath(tmp_path), tmp_path)


def test_jpeg_bytes_are_those_of_the_file(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 10, 10)).save(file, "JPEG")
    rows = {"image": [{"bytes": file.getvalue(), "path": None}] * 9, "label": [0, 1, 2] * 3}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    data = read(tmp_path / "a.parquet", tmp_path, val_size=2, test_size=2)
    assert np.array_equal(data.images[0], np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1))
