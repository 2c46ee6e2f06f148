"""One file of the user's arrays, in each of the forms that are read."""

import json

import h5py
import numpy as np
import pytest
import torch
import zarr

from tests.cli.calls import TINY, call
from vae_zoo.data.sets.arrays import ArrayFile
from vae_zoo.data.storage.array_file import image_shape
from vae_zoo.utils.errors import UserError

N = 60
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (N, 3, 8, 10), dtype=np.uint8)
KNOWN = {
    "label": np.arange(N) % 3,
    "factors": np.stack([np.arange(N) % 4, np.arange(N) // 10, RNG.random(N)], 1),
    "factor_names": np.array(["shape", "x", "angle"]),
    "group": np.arange(N) // 5,
    "split": np.array(["train"] * 40 + ["val"] * 10 + ["test"] * 10),
}


def write(path, images=IMAGES, **known):
    """A file of these arrays."""
    arrays = {"images": images} | known
    if path.suffix == ".npy":
        np.save(path, images)
    elif path.suffix == ".npz":
        np.savez_compressed(path, **arrays)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for key, array in arrays.items():
                options = {"chunks": (7, *array.shape[1:])} if key == "images" else {}
                file.create_dataset(key, data=array.astype("S") if array.dtype.kind == "U" else array, **options)
    else:
        file = zarr.open_group(str(path), mode="w")
        for key, array in arrays.items():
            file.create_array(key, data=array, chunks=(min(7, len(array)), *array.shape[1:]))
    return path


def read(path, **settings):
    data = ArrayFile(str(path), **({"val_size": 5, "test_size": 5, "cache": str(path.parent / "cache")} | settings))
    data.setup()
    return data


def same_pixels(data, images):
    return np.array_equal(data.images.numpy(), images)


@pytest.mark.filterwarnings("ignore:The data type .FixedLengthUTF32")  # zarr, when the test writes strings
@pytest.mark.parametrize("ending", [".npz", ".h5", ".zarr"])
def test_every_form_of_file_gives_the_same_arrays(tmp_path, ending):
    path = write(tmp_path / f"a{ending}", **KNOWN)
    for _ in range(2):
        data = read(path, kinds={"shape": "categorical", "angle": "circular"}, group_by="group")
        assert same_pixels(data, IMAGES) and data.image_shape == (3, 8, 10) == tuple(image_shape(str(path), "images", None))
        assert data.label.tolist() == KNOWN["label"].tolist() and data.num_classes == 3
        info = [(f.name, f.size, f.kind) for f in data.factor_info]
        assert info == [("shape", 4, "categorical"), ("x", 6, "ordered"), ("angle", 0, "circular")]
        np.testing.assert_allclose(data.factors, KNOWN["factors"])
        assert [len(data.indices[split]) for split in ("train", "val", "test")] == [40, 10, 10]
        assert data.group_of(torch.arange(N)).tolist() == KNOWN["group"].tolist()


@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5", ".zarr"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NHW"])
def test_channels_are_found_by_shape(tmp_path, caplog, ending, layout):
    caplog.set_level("INFO")
    images = {"NCHW": IMAGES, "NHWC": IMAGES.transpose(0, 2, 3, 1), "NHW": IMAGES[:, 0]}[layout]
    path = write(tmp_path / f"a{ending}", np.ascontiguousarray(images))
    data = read(path)
    assert same_pixels(data, IMAGES[:, :1] if layout == "NHW" else IMAGES)
    assert f"channels x height x width: {list(data.image_shape)}" in caplog.text
    assert (tmp_path / "cache").exists() != (ending == ".npy" and layout != "NHWC"), "what is ready is mapped where it is"
    assert data.label is None and data.factors is None


@pytest.mark.parametrize(
    ("images", "limits"),
    [
        (IMAGES / np.float32(255), [0, 1]),
        (IMAGES / 127.5 - 1, [-1, 1]),
        (IMAGES.astype(np.uint16) * 16, [0, 4080]),
        (np.where(IMAGES > 127, 255, 0).astype(np.uint8) // 255, [0, 1]),
        (IMAGES > 127, None),
    ],
)
def test_a_stated_range_becomes_bytes(tmp_path, images, limits):
    wanted = IMAGES if images.dtype not in (bool, np.uint8) else np.where(IMAGES > 127, 255, 0)
    assert same_pixels(read(write(tmp_path / "a.npz", images), range=limits), wanted)


def test_images_can_be_resized(tmp_path):
    flat = np.broadcast_to(np.arange(N, dtype=np.uint8)[:, None, None], (N, 9, 12))
    path = write(tmp_path / "a.npy", np.ascontiguousarray(flat))
    data = read(path, size=8)
    assert data.image_shape == (1, 8, 8) == tuple(image_shape(str(path), "images", 8))
    assert same_pixels(data, np.broadcast_to(np.arange(N)[:, None, None, None], (N, 1, 8, 8)))


def test_a_file_that_has_changed_is_read_again(tmp_path):
    path = write(tmp_path / "a.npz")
    read(path)
    write(path, 255 - IMAGES)
    assert same_pixels(read(path), 255 - IMAGES)


# ---- published forms ------------------------------------------------------------------------------------------------


def test_dsprites_are_read_through_the_same_door(tmp_path):
    images = (IMAGES[:, 0] > 127).astype(np.uint8)
    classes = np.stack([np.zeros(N), np.arange(N) % 3, np.arange(N) // 3], 1).astype(np.int64)
    np.savez(tmp_path / "dsprites.npz", imgs=images, latents_classes=classes, metadata=np.array({"a": 1}, dtype=object))
    kinds = {"colour": "ordered", "shape": "categorical", "pos": "ordered"}
    data = read(tmp_path / "dsprites.npz", keys={"images": "imgs", "factors": "latents_classes"}, range=[0, 1], kinds=kinds)
    assert same_pixels(data, images[:, None] * 255) and data.factor_names == ("shape", "pos")
    assert data.label.tolist() == classes[:, 1].tolist(), "the first categorical factor"


def test_3dshapes_are_read_through_the_same_door(tmp_path):
    grid = np.stack(np.meshgrid(np.arange(10) / 10, [0.75, 1.25], [0, 1, 2], indexing="ij"), -1).reshape(-1, 3)
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        file["images"], file["labels"] = IMAGES.transpose(0, 2, 3, 1), grid
    kinds = {"hue": "ordered", "scale": "ordered", "shape": "categorical"}
    data = read(tmp_path / "3dshapes.h5", keys={"factors": "labels"}, kinds=kinds)
    assert data.factor_sizes == (10, 2, 3) and data.is_grid and same_pixels(data, IMAGES)


def test_a_grid_without_factors_as_in_mpi3d_is_stated(tmp_path):
    np.savez(tmp_path / "mpi3d.npz", images=IMAGES.transpose(0, 2, 3, 1))
    data = read(tmp_path / "mpi3d.npz", grid={"object": 4, "horizontal": 5, "vertical": 3}, kinds={"object": "categorical"})
    assert data.is_grid and data.factor_names == ("object", "horizontal", "vertical")
    assert data.label.tolist() == [i // 15 for i in range(N)]


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "arrays", "told"),
    [
        ({"keys": {"images": "imgs"}}, {}, "has no 'imgs', only images; set data.keys.images to one of them"),
        ({"keys": {"label": "classes"}}, {}, "has no 'classes', only images; set data.keys.label to one of them"),
        ({}, {"images": IMAGES / 255}, "has float64 images with values from 0 to 1; set data.range to the values"),
        ({}, {"images": IMAGES.astype(np.int64)}, "has int64 images with values from 0 to 255; set data.range"),
        ({"range": [0, 1]}, {"images": IMAGES / 200}, r"values from 0 to 1.275, but data.range=\[0, 1\]"),
        ({"range": [0, 1]}, {"images": np.full(IMAGES.shape, np.nan)}, "values from nan to nan, but data.range"),
        ({}, {"images": IMAGES[:, :2]}, r"has images \[60, 2, 8, 10\]; they must be \[N, H, W\]"),
        ({}, {"images": IMAGES[0, 0]}, r"has images \[8, 10\]; they must be"),
        ({}, {"images": IMAGES[:2]}, "has 2 images; give at least 3"),
        ({}, {"label": np.zeros(59)}, "label has 59 entries for 60 images"),
        ({}, {"label": np.full(N, 0.5)}, "label: labels must be whole numbers from 0, or -1 if unknown, got 0.5"),
        ({}, {"label": np.full(N, -2)}, "or -1 if unknown, got -2"),
        ({}, {"label": np.full(N, -1)}, "label has no known label"),
        ({}, {"factors": np.zeros((61, 2))}, "factor0 has 61 entries for 60 images"),
        ({}, {"factors": np.full((N, 1), np.nan)}, "factor0: image 0 has no value; factors must be known"),
        ({}, {"factors": np.zeros((N, 2)), "factor_names": np.array(["a", "a"])}, "give each a name of its own"),
        ({}, {"factors": np.zeros((N, 2)), "factor_names": np.array(["a"])}, r"2 factors, but their names are \['a'\]"),
        ({"kinds": {"y": "ordered"}}, {"factors": np.zeros((N, 2))}, "data.kinds.y is not a factor of the data; choose"),
        ({"grid": {"a": 7, "b": 9}}, {}, "has 63 images, but data.path=.* has 60"),
        ({}, {"split": np.full(N, "training")}, "must be train, val or test .0, 1, 2. for every image, got 'training'"),
        ({}, {"split": np.arange(N) % 3, "group": np.zeros(N)}, "the official split has group 0 in both train and val"),
        (
            {"group_by": "x"},
            {"group": np.arange(N) // 2},
            "group_by=x is not a grouping of this data set; choose one of group",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence_and_nothing_is_kept(tmp_path, settings, arrays, told):
    path = write(tmp_path / "a.npz", **({"images": IMAGES} | arrays))
    with pytest.raises(UserError, match=told):
        read(path, **settings)
    assert "group" in arrays or not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5", "a.zarr"])
def test_files_that_are_damaged_or_not_there_are_named(tmp_path, name):
    with pytest.raises(UserError, match="does not exist; give a file of arrays"):
        read(tmp_path / name)
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=rf"a\{(tmp_path / name).suffix} cannot be read as .*; write the file again"):
        read(tmp_path / name)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(UserError, match="has none of the endings .npy, .npz, .h5, .hdf5, .zarr; give a file of arrays"):
        read(tmp_path / "a.csv")


def test_a_reader_that_is_not_installed_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UserError, match=r"needs h5py, which is not installed; run `pip install 'vae_zoo\[data\]'`"):
        read(path)


@pytest.mark.slow
def test_a_file_with_factors_has_the_metrics_of_the_field_in_its_report(tmp_path, small_evaluation):
    rng = np.random.default_rng(0)
    known = {"shape": np.arange(300) % 3, "x": np.arange(300) % 7, "grey": rng.random(300)}
    images = np.zeros((300, 16, 16), np.uint8)
    for image, shape, x, grey in zip(images, *known.values()):
        image[2 : 6 + 3 * shape, x : x + 4] = 80 + 170 * grey
    np.savez(tmp_path / "mine.npz", images=images, factors=np.stack([*known.values()], 1), factor_names=[*known])
    words = TINY.replace("data=digits", "data=arrays data.path=mine.npz")
    assert call(tmp_path, f"train {words} model=vae hydra.run.dir=run").code == 0
    assert call(tmp_path, "evaluate run=run evaluation.level=full").code == 0
    numbers = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
    assert {f"test/block/z/{name}" for name in known} <= numbers.keys()
    assert {"test/mig", "test/dci_disentanglement", "test/sap", "test/modularity"} <= numbers.keys(), "of shape and x"
    report = (tmp_path / "run" / "evaluation" / "report.html").read_text()
    assert all(f">{name}<" in report for name in known), "a column of the block-factor matrix"


def test_columns_of_one_column_are_columns(tmp_path):
    known = {"label": 2 * np.arange(N)[:, None] % 6 + 3, "group": np.arange(N)[:, None] // 5}
    data = read(write(tmp_path / "a.h5", **known))
    assert data.label.shape == (N,) and data.num_classes == 3
    assert data.label.tolist() == (2 * np.arange(N) % 6 // 2).tolist()
