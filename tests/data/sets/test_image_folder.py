"""The user's own pictures: what is read, and what is refused by name."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import pictures as bench
from tests.data.storage.test_pictures import BLUE, GREEN, RED, save
from vae_zoo.data.sets.image_folder import ImageFolder, read_images
from vae_zoo.data.storage.pictures import Decoding
from vae_zoo.utils.errors import UserError


def read(path, **settings):
    data = ImageFolder(str(path), **({"size": 8, "test_size": 1, "val_size": 1, "cache": f"{path}/.cache"} | settings))
    data.setup()
    return data


def test_folders_are_classes_in_the_order_of_their_names(tmp_path):
    colours = {"cat": RED, "ant": GREEN, "Bee": BLUE}
    for name, colour in colours.items():
        for i in range(4):
            save(tmp_path / name / f"{i}.png", colour)
    data = read(tmp_path)
    assert data.num_classes == 3 and data.images.shape == (12, 3, 8, 8)
    assert data.label.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for label, name in enumerate(["Bee", "ant", "cat"]):
        x = data.batch(torch.arange(4) + 4 * label)["image"]
        assert torch.equal(x, (torch.tensor(colours[name]) / 255).view(1, 3, 1, 1).expand(4, 3, 8, 8))


def test_a_folder_of_images_has_no_labels(tmp_path):
    for i, colour in enumerate([RED, GREEN, BLUE, RED]):
        save(tmp_path / f"{i}.png", colour)
    data = read(tmp_path)
    assert data.label is None and data.num_classes is None
    assert data.train_batch(0).keys() == {"image", "index"}
    assert data.images[:, 0, 0, 0].tolist() == [255, 0, 0, 255]


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", RED)
    (tmp_path / ".DS_Store").write_bytes(b"junk")
    (tmp_path / ".cache").mkdir()
    assert len(read(tmp_path).images) == 3


def test_pictures_of_odd_sizes_stand_side_by_side(tmp_path):
    for i, (wide, high) in enumerate([(5, 9), (100, 30), (8, 8), (1, 1)]):
        save(tmp_path / f"{i}.png", np.full((high, wide), 50 * i, np.uint8))
    data = read(tmp_path, channels=1)
    assert data.images.shape == (4, 1, 8, 8)
    assert torch.equal(data.images, torch.tensor([0, 50, 100, 150]).view(4, 1, 1, 1).expand(4, 1, 8, 8))


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="none is not a folder; give a folder of images"):
        read(tmp_path / "none")
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(UserError, match="file.png is not a folder"):
        read(tmp_path / "file.png")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_folder_with_too_few_images_is_refused(tmp_path, number):
    for i in range(number):
        save(tmp_path / f"{i}.png", RED)
    with pytest.raises(UserError, match=f"has {number} images; give at least 3"):
        read(tmp_path)


def test_files_beside_folders_are_refused(tmp_path):
    save(tmp_path / "cat" / "0.png", RED)
    save(tmp_path / "1.png", RED)
    with pytest.raises(UserError, match=r"has both files \(1.png\) and subfolders \(cat\)"):
        read(tmp_path)


def nested(folder):
    """Two pictures in each of x/cat, x/dog, y/cat and y/dog/deep."""
    for place, colour in {"x/cat": RED, "x/dog": GREEN, "y/cat": RED, "y/dog/deep": GREEN}.items():
        for i in range(2):
            save(folder / place / f"{i}.PNG", colour)
    return folder


def test_classes_are_the_folders_of_any_level(tmp_path):
    nested(tmp_path)
    assert read(tmp_path).label.tolist() == read(tmp_path, class_depth=1).label.tolist() == [0] * 4 + [1] * 4
    data = read(tmp_path, class_depth=2)
    assert data.label.tolist() == [0, 0, 1, 1] * 2 and data.num_classes == 2
    assert [(255 * (1 - c), 255 * c) for c in data.label.tolist()] == [tuple(x[:2, 0, 0].tolist()) for x in data.images]
    assert read(tmp_path, class_depth=0).label is None
    with pytest.raises(UserError, match="must be at most 2, the number of folders above x/cat/0.PNG, got 3"):
        read(tmp_path, class_depth=3)


def test_an_unchanged_folder_is_decoded_once_and_a_changed_one_anew(tmp_path, monkeypatch):
    nested(tmp_path)
    decoded = []
    decode = Decoding.read
    monkeypatch.setattr(Decoding, "read", lambda self, source, *rest: decoded.append(source) or decode(self, source, *rest))
    first = read(tmp_path)
    again = read(tmp_path, seed=3)
    assert len(decoded) == 8 and torch.equal(again.images, first.images)
    save(tmp_path / "x" / "cat" / "0.PNG", np.full((30, 30, 3), 7, np.uint8))
    changed = read(tmp_path)
    assert len(decoded) == 16 and (changed.images[0] == 7).all() and torch.equal(changed.images[1:], first.images[1:])
    kept = [file.suffix for file in (tmp_path / ".cache").iterdir()]
    assert sorted(kept) == [".json", ".npy"], "what was stored of the earlier content is deleted"
    assert len(read(tmp_path, size=16).images[0, 0]) == 16 and len(read(tmp_path).images[0, 0]) == 8 and len(decoded) == 24


def test_damaged_pictures_are_refused_or_left_out_and_listed(tmp_path, caplog):
    nested(tmp_path)
    (tmp_path / "x" / "dog" / "1.PNG").write_bytes(b"")
    with pytest.raises(UserError, match=r"x/dog/1.PNG cannot be read as an image .*or set data.on_error=skip"):
        read(tmp_path)
    assert not (tmp_path / ".cache").exists()
    data = read(tmp_path, on_error="skip", class_depth=2)
    assert data.label.tolist() == [0, 0, 1, 0, 0, 1, 1] and len(data.images) == 7
    (file,) = (tmp_path / ".cache").glob("*_skipped.txt")
    assert "x/dog/1.PNG" in file.read_text() and str(file) in caplog.text
    caplog.clear()
    assert len(read(tmp_path, on_error="skip").images) == 7 and not caplog.records and file.exists()


@pytest.mark.parametrize("frames", ["first", "all", "group"])
def test_frames_of_a_file_are_dropped_used_or_a_group(tmp_path, frames):
    for name, count in {"cat/a": 3, "cat/b": 1, "dog/c": 2, "dog/d": 4}.items():
        pictures = [Image.new("RGB", (8, 8), (80 * i, 0, 0)) for i in range(count)]
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pictures[0].save(tmp_path / f"{name}.tiff", save_all=True, append_images=pictures[1:])
    needs_groups = {"group_by": "group"} if frames == "group" else {}
    for _ in range(2):
        data = read(tmp_path, frames=frames, **needs_groups)
        assert data.label.tolist() == ([0, 0, 1, 1] if frames == "first" else [0] * 4 + [1] * 6)
        assert frames == "first" or data.images[:, 0, 0, 0].tolist() == [0, 80, 160, 0, 0, 80, 0, 80, 160, 240]
    if frames == "group":
        assert data.group_of(torch.arange(10)).tolist() == [0, 0, 0, 1, 2, 2, 3, 3, 3, 3]
        files = [set(data.group_of(data.indices[split]).tolist()) for split in ("train", "val", "test")]
        assert not files[0] & files[1] and not files[0] & files[2], "a file is in one split"


TABLE = """\ufefffile,label,angle,shape,size,group,split
x/cat/0.PNG,cat,0.5,round,1,a,train
x/dog/0.PNG,dog,0.25,round,2,b,train
y/cat/0.PNG,cat,0.125,square,1,a,train
y/dog/deep/0.PNG,,1.5,round,3,,test

x/dog/1.PNG,dog,7.0,square,3,c,val
x/dog/0.PNG,dog,0.25,round,2,b,train
"""


def test_a_table_has_labels_factors_groups_and_splits(tmp_path, caplog):
    caplog.set_level("INFO")
    nested(tmp_path)
    (tmp_path / "table.csv").write_text(TABLE)
    data = read(tmp_path, table=str(tmp_path / "table.csv"), kinds={"size": "ordered"}, group_by="group")
    assert data.label.tolist() == [0, 1, 0, -1, 1] and data.num_classes == 2
    assert [(f.name, f.size, f.kind) for f in data.factor_info] == [
        ("angle", 0, "continuous"),
        ("shape", 2, "categorical"),
        ("size", 3, "ordered"),
    ]
    assert data.factors[:, 0].tolist() == [0.5, 0.25, 0.125, 1.5, 7] and data.factors[:, 2].tolist() == [0, 1, 0, 2, 2]
    assert [data.indices[split].tolist() for split in ("train", "val", "test")] == [[0, 1, 2], [4], [3]]
    assert "3 pictures are not listed" in caplog.text and "angle (continuous), shape (categorical, 2 values)" in caplog.text
    assert [image[:, 0, 0].tolist() for image in data.images[:2]] == [[*RED], [*GREEN]]


def test_few_pictures_of_another_setting_are_read_into_memory(tmp_path):
    nested(tmp_path)
    arrays = read_images(tmp_path, (3, 8, 8), "predict")
    assert (
        arrays.images.shape == (8, 3, 8, 8)
        and arrays.names[0] == "x/cat/0.PNG"
        and arrays.label.tolist() == [0] * 4 + [1] * 4
    )
    (tmp_path / "none").mkdir()
    assert len(read_images(tmp_path / "none", (3, 8, 8), "predict").images) == 0


@pytest.mark.parametrize("name", ["lr=0.1 (a)", "b\udcff", "grün"])
def test_folders_of_any_name_are_read(tmp_path, name):
    nested(tmp_path / name)
    data = read(tmp_path / name)
    assert len(data.images) == 8


def test_an_empty_class_is_refused(tmp_path):
    save(tmp_path / "cat" / "0.png", RED)
    (tmp_path / "dog").mkdir()
    with pytest.raises(UserError, match="dog, a class of data.path, contains no images"):
        read(tmp_path)


@pytest.mark.slow
def test_killed_while_decoding_the_next_start_goes_on_and_the_bytes_are_those_of_an_uninterrupted_one(tmp_path):
    for number in range(2):
        bench.make(tmp_path / "pictures", 2000)
        whole, cache = tmp_path / f"whole{number}", tmp_path / f"killed{number}"
        bench.seconds(tmp_path / "pictures", whole)
        assert 0 < bench.killed(tmp_path / "pictures", cache, 0.2 * number) < 2000
        bench.seconds(tmp_path / "pictures", cache)
        kept, wanted = (next(folder.glob("*.npy")) for folder in (cache, whole))
        assert kept.name == wanted.name and kept.read_bytes() == wanted.read_bytes()
        assert sorted(file.suffix for file in cache.iterdir()) == [".json", ".npy"]
        shutil.rmtree(tmp_path / "pictures")


def test_folders_that_share_a_cache_do_not_share_or_delete_images(tmp_path):
    """Archives that are unpacked with fixed times have files of equal names, sizes and times."""
    for folder, grey in (("a", 10), ("b", 200)):
        for i in range(8):
            path = tmp_path / folder / f"{i}.bmp"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), (grey + i, 0, 0)).save(path)
            os.utime(path, (1_000_000_000, 1_000_000_000))
    for _ in range(2):
        for folder, grey in (("a", 10), ("b", 200)):
            data = read(tmp_path / folder, cache=str(tmp_path / "cache"))
            assert data.images[:, 0, 0, 0].tolist() == [grey + i for i in range(8)]
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2
    (part,) = [(tmp_path / "cache" / f"{file.stem}x.npy.part") for file in list((tmp_path / "cache").glob("*.npy"))[:1]]
    part.touch()
    Image.new("RGB", (8, 8), (1, 0, 0)).save(tmp_path / "a" / "0.bmp")
    assert read(tmp_path / "a", cache=str(tmp_path / "cache")).images[0, 0, 0, 0] == 1
    assert part.exists(), "another process may be writing it"


def test_frames_stay_in_the_group_that_the_table_gives_their_file(tmp_path):
    lines = ["file,group"]
    for i in range(12):
        pictures = [Image.new("RGB", (8, 8), (20 * i + k, 0, 0)) for k in range(2)]
        pictures[0].save(tmp_path / f"{i}.tiff", save_all=True, append_images=pictures[1:])
        lines.append(f"{i}.tiff,{f's{i % 4}' if i < 8 else ''}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    data = read(tmp_path, table=str(tmp_path / "table.csv"), frames="group", group_by="group", val_size=1, test_size=1)
    group = data.group_of(torch.arange(24)).tolist()
    assert group[0::2] == group[1::2], "the frames of a file"
    assert group[:8] == group[8:16] and len({*group[:8]}) == 4, "the files of a group of the table"
    assert len({*group[16:]}) == 4 and not {*group[16:]} & {*group[:16]}, "a file without a group"


def test_an_index_of_pandas_is_no_factor(tmp_path):
    nested(tmp_path)
    (tmp_path / "table.csv").write_text(",file,label\n0,x/cat/0.PNG,cat\n")
    with pytest.raises(UserError, match="no column without a name"):
        read(tmp_path, table=str(tmp_path / "table.csv"))


def test_classes_below_a_folder_of_the_system_are_passed_over(tmp_path):
    nested(tmp_path)
    (tmp_path / "__MACOSX" / "x").mkdir(parents=True)
    assert read(tmp_path, class_depth=2).num_classes == 2
