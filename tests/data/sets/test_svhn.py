"""SVHN from small files in the real format, complete and damaged."""

import os
from urllib.error import URLError

import h5py
import numpy as np
import pytest
import torchvision
from scipy.io import savemat

from vae_zoo.data.sets import svhn
from vae_zoo.data.sets.digits import resize
from vae_zoo.data.sets.svhn import SVHN
from vae_zoo.utils.errors import UserError

COUNTS = {"train": 60, "test": 20, "extra": 30}


def part(name):
    """What the files hold: images [32, 32, 3, N] and digits [N, 1], of which 0 is called 10."""
    rng = np.random.default_rng(len(name))
    count = COUNTS[name]
    return rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8), np.arange(1, count + 1, dtype=np.uint8)[:, None] % 10


def write(root, *names, **changes):
    for name in names:
        images, digits = part(name)
        file = {"X": images, "y": np.where(digits == 0, 10, digits).astype(np.uint8)} | changes
        savemat(root / f"{name}_32x32.mat", file, do_compression=True)


def read(root, **settings):
    data = SVHN(str(root), **({"download": False, "val_size": 10} | settings))
    data.setup()
    return data


def fail(*args, **kwargs):
    raise URLError("Name or service not known")


def test_images_labels_and_split_are_those_of_the_files(tmp_path):
    write(tmp_path, "train", "test")
    data = read(tmp_path)
    images, digits = (np.concatenate([part(name)[i] for name in ("train", "test")], axis=a) for i, a in ((0, 3), (1, 0)))
    assert np.array_equal(data.images, images.transpose(3, 2, 0, 1)) and data.image_shape == (3, 32, 32)
    assert np.array_equal(data.label, digits[:, 0]) and data.num_classes == 10
    assert data.indices["test"].tolist() == list(range(60, 80)) and len(data.indices["val"]) == 10


def test_torchvision_reads_the_same(tmp_path, monkeypatch):
    write(tmp_path, "train", "test")
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)  # of files of any content
    theirs = [torchvision.datasets.SVHN(str(tmp_path), split=split) for split in ("train", "test")]
    data = read(tmp_path)
    assert np.array_equal(data.images, np.concatenate([one.data for one in theirs]))
    assert np.array_equal(data.label, np.concatenate([one.labels for one in theirs]))


def save_as_hdf5(root, userblock):
    """The training file saved again as HDF5, with MATLAB's own header (format 7.3) or without."""
    file = root / "train_32x32.mat"
    images, digits = part("train")
    with h5py.File(file, "w", userblock_size=512 if userblock else 0) as mat:
        mat["X"], mat["y"] = images.T, np.where(digits == 0, 10, digits).astype(np.float64).T
    if userblock:
        with file.open("r+b") as begin:
            begin.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(128))


@pytest.mark.parametrize("userblock", [True, False], ids=["saved by MATLAB", "saved by h5py"])
def test_files_saved_again_as_hdf5_hold_the_same(tmp_path, userblock):
    write(tmp_path, "train", "test")
    before = read(tmp_path)
    save_as_hdf5(tmp_path, userblock)
    after = read(tmp_path)
    assert np.array_equal(before.images, after.images) and np.array_equal(before.label, after.label)


def test_a_damaged_hdf5_file_is_called_so(tmp_path):
    write(tmp_path, "train", "test")
    save_as_hdf5(tmp_path, userblock=True)
    os.truncate(tmp_path / "train_32x32.mat", 2000)
    with pytest.raises(UserError, match=r"train_32x32.mat is damaged \(.*; delete it and download it again"):
        read(tmp_path)


def test_without_h5py_the_remedies_are_those_that_work(tmp_path, monkeypatch):
    write(tmp_path, "train", "test")
    save_as_hdf5(tmp_path, userblock=True)
    monkeypatch.setattr(svhn, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="is a MATLAB 7.3 file, which needs h5py; run `pip install h5py`, save it with -v7"):
        read(tmp_path)


def test_extra_images_are_for_training_and_stand_before_those_of_the_test(tmp_path):
    write(tmp_path, "train", "test", "extra")
    assert len(read(tmp_path).images) == 80
    data = read(tmp_path, extra=True)
    assert len(data.images) == 110 and data.indices["test"].tolist() == list(range(90, 110))
    assert np.array_equal(data.images[60:90], part("extra")[0].transpose(3, 2, 0, 1))
    assert len(data.indices["train"]) == 80


def test_size_resizes_every_image(tmp_path):
    write(tmp_path, "train", "test")
    data = read(tmp_path, size=16)
    assert data.images.shape == (80, 3, 16, 16)
    assert np.array_equal(data.images[7:8], resize(part("train")[0].transpose(3, 2, 0, 1)[7:8] / 255, (16, 16)))


def test_missing_files_are_named_with_their_place_when_download_is_off(tmp_path):
    write(tmp_path, "test")
    with pytest.raises(UserError) as error:
        read(tmp_path, extra=True)
    assert str(error.value) == (
        f"train_32x32.mat, extra_32x32.mat not found in {tmp_path}; put them there or set data.download=true"
    )


def test_failed_download_names_the_url_the_files_the_folder_and_the_nearest_embedded_set(tmp_path, monkeypatch):
    monkeypatch.setattr(svhn, "download_url", fail)
    with pytest.raises(UserError) as error:
        read(tmp_path / "new", download=True)
    sentence = str(error.value)
    assert "\n" not in sentence and "Name or service not known" in sentence and not (tmp_path / "new").exists()
    put = f"train_32x32.mat, test_32x32.mat into {tmp_path / 'new'}"
    for words in ("http://ufldl.stanford.edu", put, "data=street_digits"):
        assert words in sentence


def test_without_a_network_the_download_fails_at_once(tmp_path):
    """torchvision's own code; the network is shut by conftest.py."""
    with pytest.raises(UserError, match="SVHN could not be downloaded .*ufldl.* by hand, or use data=street_digits"):
        read(tmp_path, download=True)


def test_download_brings_what_is_missing_and_keeps_what_is_there(tmp_path, monkeypatch):
    write(tmp_path, "test")
    before = (tmp_path / "test_32x32.mat").read_bytes()
    asked = []

    def fetch(url, folder, file, md5):
        asked.append((url.rpartition("/")[2], file, md5))
        write(type(tmp_path)(folder), "train")

    monkeypatch.setattr(svhn, "download_url", fetch)
    assert len(read(tmp_path, download=True).images) == 80
    assert asked == [("train_32x32.mat", "train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373")]
    assert (tmp_path / "test_32x32.mat").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test_32x32.mat", "train_32x32.mat"]


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"X": part("train")[0][..., :-1]}, "X is uint8 (32, 32, 3, 59) for 60 labels"),
        ({"X": part("train")[0].astype(np.float64)}, "X is float64"),
        ({"y": np.zeros((60, 1), np.uint8)}, "y must be in 1..10, got 0..0"),
    ],
)
def test_files_of_other_content_are_refused(tmp_path, changes, told):
    write(tmp_path, "test")
    write(tmp_path, "train", **changes)
    with pytest.raises(UserError) as error:
        read(tmp_path)
    assert f"train_32x32.mat is damaged ({told}" in str(error.value)
    assert str(error.value).endswith("; delete it and download it again")


def test_damaged_files_are_named(tmp_path):
    write(tmp_path, "train", "test")
    file = tmp_path / "test_32x32.mat"
    whole = file.read_bytes()
    for part_of_it in (b"", b"<html>not found</html>", whole[:100], whole[: len(whole) // 2], whole[:-1]):
        file.write_bytes(part_of_it)
        with pytest.raises(UserError, match="test_32x32.mat is damaged .*delete it and download it again"):
            read(tmp_path)
