"""MNIST and Fashion-MNIST from small files in the real format, complete and damaged."""

import gzip
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from vae_zoo.data.sets.mnist import MNIST, FashionMNIST
from vae_zoo.utils.errors import UserError

TRAIN, TEST = 60, 20
FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def arrays():
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, 28, 28)) for n in (TRAIN, TEST))
    return dict(zip(FILES, (train, np.arange(TRAIN) % 10, test, np.arange(TEST) % 10)))


def write(root, name="MNIST", gz=()):
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for file, array in arrays().items():
        if file in gz:
            (raw / f"{file}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (raw / file).write_bytes(idx(array))
    return raw


def read(root, kind=MNIST, **settings):
    data = kind(str(root), **({"download": False, "val_size": 10} | settings))
    data.setup()
    return data


def refuse_to_download(monkeypatch):
    def fail(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fail)


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
@pytest.mark.parametrize("gz", [(), FILES, FILES[1:3]])
def test_images_labels_and_split_are_those_of_the_files(tmp_path, kind, gz):
    write(tmp_path, kind.__name__, gz)
    data, truth = read(tmp_path, kind), arrays()
    images = np.concatenate([truth[FILES[0]], truth[FILES[2]]])[:, None]
    assert np.array_equal(data.images, images) and data.num_classes == 10
    assert np.array_equal(data.label, np.concatenate([truth[FILES[1]], truth[FILES[3]]]))
    assert data.indices["test"].tolist() == list(range(TRAIN, TRAIN + TEST))
    assert (len(data.indices["train"]), len(data.indices["val"])) == (50, 10)


def test_torchvision_reads_the_same_from_files_of_any_content(tmp_path):
    """It asks for no checksum of files that are already unpacked, so a part of MNIST can stand in for it."""
    write(tmp_path)
    data = read(tmp_path)
    theirs = [torchvision.datasets.MNIST(str(tmp_path), train=train, download=False) for train in (True, False)]
    assert torch.equal(data.images[:, 0], torch.cat([part.data for part in theirs]))
    assert torch.equal(data.label, torch.cat([part.targets for part in theirs]))


def test_complete_files_are_read_without_a_download_even_where_one_is_allowed(tmp_path, monkeypatch):
    refuse_to_download(monkeypatch)
    raw = write(tmp_path, gz=FILES[:2])
    before = sorted(raw.iterdir())
    assert len(read(tmp_path, download=True).images) == TRAIN + TEST
    assert sorted(raw.iterdir()) == before


@pytest.mark.parametrize("size", [32, 64])
def test_size_resizes_every_image(tmp_path, size):
    write(tmp_path)
    data, plain = read(tmp_path, size=size), read(tmp_path)
    assert data.images.shape == (TRAIN + TEST, 1, size, size)
    means = [d.batch(torch.arange(TRAIN + TEST))["image"].mean((1, 2, 3)) for d in (data, plain)]
    assert torch.allclose(*means, atol=0.02)


def test_root_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "pictures")
    assert len(read("~/pictures").images) == TRAIN + TEST


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_missing_files_are_named_with_their_place_when_download_is_off(tmp_path, kind):
    raw = write(tmp_path, kind.__name__)
    (raw / FILES[1]).unlink()
    with pytest.raises(UserError) as error:
        read(tmp_path, kind)
    assert str(error.value) == (
        f"train-labels-idx1-ubyte.gz (gzipped or unpacked) not found in {raw}; put them there or set data.download=true"
    )


def test_failed_download_names_the_url_the_files_the_folder_and_the_nearest_embedded_set(tmp_path, monkeypatch):
    refuse_to_download(monkeypatch)
    with pytest.raises(UserError) as error:
        read(tmp_path / "new", FashionMNIST, download=True)
    sentence = str(error.value)
    assert "\n" not in sentence and "Name or service not known" in sentence
    for part in (
        "http",
        str(tmp_path / "new" / "FashionMNIST" / "raw"),
        "data=digits",
        *(f"{file}.gz" for file in FILES),
    ):
        assert part in sentence


def test_without_a_network_the_download_fails_at_once(tmp_path):
    """torchvision's own code; the network is shut by conftest.py."""
    with pytest.raises(UserError, match="could not be downloaded .*ossci-datasets.* by hand, or use data=digits"):
        read(tmp_path, download=True)


def test_failed_download_leaves_no_part_behind(tmp_path, monkeypatch):
    def cut_short(url, download_root, filename, md5):
        with open(f"{download_root}/{filename}", "wb") as out:
            out.write(b"half")
        raise URLError("connection lost")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", cut_short)
    with pytest.raises(UserError, match="connection lost"):
        read(tmp_path, download=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_download_brings_what_is_missing_and_keeps_what_is_there(tmp_path, monkeypatch):
    raw = write(tmp_path)
    (raw / FILES[0]).unlink()
    mine = idx(arrays()[FILES[2]][::-1])
    (raw / FILES[2]).write_bytes(mine)

    def fetch(url, download_root, filename, md5):
        file = filename.removesuffix(".gz")
        with open(f"{download_root}/{file}", "wb") as out:
            out.write(idx(arrays()[file]))

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fetch)
    data = read(tmp_path, download=True)
    assert np.array_equal(data.images[:TRAIN, 0], arrays()[FILES[0]])
    assert (raw / FILES[2]).read_bytes() == mine
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MNIST"]


def test_unwritable_root_is_told_as_a_failed_download(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be downloaded .*; put"):
        read(tmp_path / "file", download=True)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-1], "its header says"),
        (lambda data: data + b"\0", "its header says"),
        (lambda data: data[:10], "begins with|header says"),
        (lambda data: b"", "begins with nothing"),
        (lambda data: b"<html>not found</html>", "begins with 3c68746d"),
        (lambda data: b"\0\0\x0d" + data[3:], "begins with 00000d"),
        (lambda data: data[:3] + bytes([data[3] ^ 2]) + data[4:], "begins with 0000080"),
    ],
)
def test_damaged_files_are_named_with_the_remedy(tmp_path, file, damage, reason):
    raw = write(tmp_path)
    (raw / file).write_bytes(damage(idx(arrays()[file])))
    with pytest.raises(UserError, match=f"{file} is damaged \\(.*({reason}).*\\); delete it and download it again"):
        read(tmp_path)


def test_damaged_gzip_is_named(tmp_path):
    raw = write(tmp_path, gz=FILES)
    whole = (raw / f"{FILES[0]}.gz").read_bytes()
    for part in (whole[: len(whole) // 2], b"not gzip", whole[:100] + b"\0\0\0\0" + whole[104:]):
        (raw / f"{FILES[0]}.gz").write_bytes(part)
        with pytest.raises(UserError, match=f"{FILES[0]}.gz is damaged .* delete it"):
            read(tmp_path)


def test_images_and_labels_of_different_number_are_refused(tmp_path):
    raw = write(tmp_path)
    (raw / FILES[1]).write_bytes(idx(np.arange(TRAIN - 1) % 10))
    with pytest.raises(UserError, match="80 images but 79 labels"):
        read(tmp_path)
