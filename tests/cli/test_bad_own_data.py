"""What is wrong with a user's own data, and the sentence they read: exit code 2, no traceback, nothing half-written."""

import os
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.cli.calls import TINY, call, contents

WORDS = f"{TINY} model=vae data.size=16".replace("data=digits ", "")
CSV = "file,label,split\n" + "".join(f"{i}.png,{i % 2},\n" for i in range(6))
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 16, 16), dtype=np.uint8)
# words | parts of the sentence; {a name} is made by the method of that name below
FOLDERS = r"""
nowhere | data.path=/ | /nowhere is not a folder; give a folder of images
{a_file} | a_file is not a folder
{empty} | has 0 images; give at least 3, one per split
{only_hidden} | has 0 images; give at least 3
{only_text} | has 0 images; give at least 3
{two} | has 2 images; give at least 3
{zero_bytes} | 0.png cannot be read as an image | remove it | data.on_error=skip
{text_inside} | 0.png cannot be read as an image | data.on_error=skip
{cut} | 0.jpg cannot be read as an image | data.on_error=skip
{broken_link} | gone.png cannot be read as an image (No such file
{zero_bytes} data.on_error=skip | has 2 images; give at least 3
{twelve_bits} data.range=[0,1000] | 0.png | its values 0 to 4095 are not in data.range=[0, 1000]
{twelve_bits} data.range=[9,3] | data.range=[9, 3] is not allowed; give [black, white], two increasing numbers
{floats} | the range of its values 0 to 0.5 is unknown; set data.range
{mixed} | has both files (0.png) and subfolders (cat) | data.class_depth=0
{empty_class} | dog, a class of data.path, contains no images
{mixed} data.class_depth=1 | data.class_depth must be at most 0, the number of folders above 0.png, got 1
{named lr=0.1 (a)} data.on_error=skip data.range=[1,0] | data.range=[1, 0] is not allowed
{named lr=0.1 (a)/cat} data.class_depth=2 | data.class_depth must be at most 0
{latin} | cannot be read as an image
{pictures} data.background=greyish | data.background=greyish is not a colour | #ffffff
{pictures} data.crop=centre | data.crop=centre is not allowed; give center, pad or none
{pictures} data.frames=every | give first, all or group
{pictures} data.table=nowhere.csv | nowhere.csv cannot be read (No such file
{pictures} data.table={csv } | begins with '' | distinct column names, including file
{pictures} data.table={csv image,label} | begins with 'image,label' | distinct column names, including file
{pictures} data.table={csv file,label\n0.png,1\n9.png,0} | line 3: there is no 9.png in | correct the name or remove the line
{pictures} data.table={csv file,label\n0.png,1,2} | line 2: must have 2 cells (file,label), got 3
{pictures} data.table={csv file,label\n0.png,1\n1.png,0\n0.png,0} | lines 2 and 4 contradict each other on 0.png
{pictures} data.table={csv file,x\n0.png,1\n1.png,\n2.png,3} | column x: image 1 has no value; factors must be known
{pictures} data.table={csv file,label\n0.png,0.5\n1.png,1\n2.png,1} | labels must be whole numbers from 0 | got 0.5
{pictures} data.table={csv file,split\n0.png,train\n1.png,training\n2.png,test} | must be train, val or test | got 'training'
{pictures} data.table={csv file,x\n0.png,1\n1.png,2\n2.png,3} data.kinds={y:ordered} | data.kinds.y is not a factor
{pictures} paths.cache={a_file} | cannot be written | set paths.cache to a folder with 4,608 bytes of free space
"""
ARRAYS = r"""
nowhere.npz | nowhere.npz does not exist; give a file of arrays
{a_file} | has none of the endings .npy, .npz, .h5, .hdf5, .zarr
{damaged .npy} | cannot be read as .npy | write the file again
{damaged .npz} | cannot be read as .npz
{damaged .h5} | cannot be read as .h5
{cut_npz} | cannot be read as .npz
{arrays} data.keys.images=imgs | has no 'imgs', only images; set data.keys.images to one of them
{arrays} data.keys.label=class | has no 'class', only images; set data.keys.label to one of them
{arrays} data.keys.labels=class | data.keys.labels | did you mean data.keys.label
{arrays float} | has float64 images with values from | set data.range
{arrays float} data.range=[0,0.5] | but data.range=[0, 0.5]
{arrays short_label} | label has 11 entries for 12 images
{arrays channels} | has images [12, 2, 16, 16]; they must be
{arrays} data.grid={x:5} | has 5 images, but
{object_array} | images cannot be read
"""
CASES = [("image_folder", *line.split(" | ")) for line in FOLDERS.strip().splitlines()]
CASES += [("arrays", *line.split(" | ")) for line in ARRAYS.strip().splitlines()]


class Makers:
    """Folders and files with something wrong about them."""

    def __init__(self, folder: Path):
        self.folder = folder

    def make(self, text: str) -> Path:
        name, _, argument = text.partition(" ")
        return getattr(self, name)(*([argument] if argument or text.endswith(" ") else []))

    def pictures(self, name="pictures", number=6, size=(16, 16)) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True)
        for i in range(number):
            Image.new("RGB", size, (40 * i, 0, 0)).save(folder / f"{i}.png")
        return folder

    def with_file(self, name: str, data: bytes, number=3) -> Path:
        folder = self.pictures(number=number)
        (folder / name).write_bytes(data)
        return folder

    def named(self, name) -> Path:
        return self.pictures(name)

    def a_file(self) -> Path:
        (self.folder / "a_file").write_text("nothing")
        return self.folder / "a_file"

    def empty(self) -> Path:
        return self.pictures(number=0)

    def only_hidden(self) -> Path:
        return self.with_file(".DS_Store", b"", number=0)

    def only_text(self) -> Path:
        return self.with_file("notes.txt", b"", number=0)

    def two(self) -> Path:
        return self.pictures(number=2)

    def zero_bytes(self) -> Path:
        return self.with_file("0.png", b"")

    def text_inside(self) -> Path:
        return self.with_file("0.png", b"<html>404</html>")

    def cut(self) -> Path:
        folder = self.pictures()
        rng = np.random.default_rng(0)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / "0.jpg")
        (folder / "0.jpg").write_bytes((folder / "0.jpg").read_bytes()[:900])
        return folder

    def broken_link(self) -> Path:
        folder = self.pictures()
        (folder / "gone.png").symlink_to(folder / "nowhere.png")
        return folder

    def twelve_bits(self) -> Path:
        folder = self.pictures()
        Image.fromarray(np.linspace(0, 4095, 256).reshape(16, 16).astype(np.uint16)).save(folder / "0.png")
        return folder

    def floats(self) -> Path:
        folder = self.pictures()
        Image.fromarray(np.linspace(0, 0.5, 256, dtype=np.float32).reshape(16, 16)).save(folder / "a.tiff")
        return folder

    def mixed(self) -> Path:
        folder = self.pictures()
        shutil.copytree(folder, folder / "cat")
        return folder

    def empty_class(self) -> Path:
        folder = self.pictures("pictures/cat").parent
        (folder / "dog").mkdir()
        return folder

    def latin(self) -> Path:
        return self.with_file(os.fsdecode(b"stra\xdfe.png"), b"")

    def csv(self, text) -> Path:
        (self.folder / "a table.csv").write_text(text.replace("\\n", "\n"))
        return self.folder / "a table.csv"

    def damaged(self, ending) -> Path:
        (self.folder / f"a{ending}").write_bytes(b"nothing of the kind")
        return self.folder / f"a{ending}"

    def arrays(self, kind="") -> Path:
        images = {"float": IMAGES / 255, "channels": np.stack([IMAGES] * 2, 1)}.get(kind, IMAGES)
        np.savez(self.folder / "a.npz", images=images, **({"label": np.zeros(11)} if kind == "short_label" else {}))
        return self.folder / "a.npz"

    def cut_npz(self) -> Path:
        path = self.arrays()
        path.write_bytes(path.read_bytes()[:900])
        return path

    def object_array(self) -> Path:
        np.savez(self.folder / "a.npz", images=np.array([[1], [2, 3]], dtype=object))
        return self.folder / "a.npz"


def refused(folder: Path, data: str, typed: str, parts) -> None:
    makers, words = Makers(folder), []
    for word in typed.replace("} ", "}\t").replace(" data.", "\tdata.").replace(" paths.", "\tpaths.").split("\t"):
        before, brace, after = word.partition("{")
        words.append(f"{before}{makers.make(after[:-1])}" if brace and ":" not in word else word)
    words = [f"data.path={words[0]}", *words[1:]]
    quoted = [
        shlex.quote(f'{key}="{value}"' if " " in value else f"{key}={value}")
        for key, _, value in (w.partition("=") for w in words)
    ]
    there = contents(folder)
    answer = call(folder, f"train data={data} {' '.join(quoted)} {WORDS}")
    assert answer.code == 2 and answer.err.count("\n") == 1 and answer.err.startswith("error: "), answer.err
    assert all(part in answer.err for part in parts), answer.err
    assert contents(folder) == there


@pytest.mark.parametrize(("data", "typed", "parts"), [(data, typed, parts) for data, typed, *parts in CASES])
def test_own_data_that_cannot_be_used_are_refused_in_a_sentence(tmp_path, data, typed, parts):
    refused(tmp_path, data, typed, parts)


def test_too_small_a_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000, total=2000, used=1000))
    refused(tmp_path, "image_folder", "{pictures}", ["only 1,000 bytes are free", "4,608 bytes of free space"])


def test_a_folder_of_any_name_is_read_where_it_is_quoted(tmp_path):
    folder = Makers(tmp_path).pictures("lr=0.1 (a), b")
    answer = call(tmp_path, f"""train data=image_folder 'data.path="{folder}"' {WORDS} data.val_size=1 data.test_size=1""")
    assert answer.code == 0, answer.err


def test_a_scene_without_masks_is_refused(tmp_path):
    with h5py.File(tmp_path / "scenes.h5", "w") as file:
        file["image"] = np.zeros((5, 16, 16, 3), np.uint8)
    there = contents(tmp_path)
    answer = call(tmp_path, f"train data=scenes data.path=scenes.h5 {WORDS}")
    assert answer.code == 2 and "has no 'mask', only image; give a file with image" in answer.err
    assert contents(tmp_path) == there
