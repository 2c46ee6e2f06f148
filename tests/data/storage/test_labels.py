"""Label tables as spreadsheets and pandas write them, and what contradicts itself."""

import re

import pytest

from vae_zoo import UserError
from vae_zoo.data.storage.labels import read_labels

ROWS = "image,hair,hat\n0,1,\n2,0,1\n"
WANTED = [[1, -1], [-1, -1], [0, 1]]


@pytest.mark.parametrize(
    "content",
    [
        ROWS.encode(),
        ROWS.encode("utf-8-sig"),
        ROWS.encode("utf-16"),
        ROWS.replace("\n", "\r\n").encode("utf-8-sig"),
        ROWS.replace(",", ";").encode(),
        ROWS.replace(",", "\t").encode("utf-16"),
        b"image,hair,hat\n0,1.0,\n2,0.0,1.\n",
        b"image,hair,hat\n0.0,1.0,\n2.0,0.0,1.0\n",
        b"image,hair,hat\n0,1,\n2,0,1\n0,1,\n",  # twice the same
    ],
    ids="plain BOM UTF-16 CRLF semicolons tabs floats float-indices repeated".split(),
)
def test_tables_as_programs_write_them(tmp_path, content):
    (tmp_path / "labels.csv").write_bytes(content)
    label, names = read_labels(tmp_path / "labels.csv", 3, names=None)
    assert label.tolist() == WANTED and names == ["hair", "hat"]


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("", "labels.csv is empty; its first line must be image,<label>,<label>,..."),
        ("\ufeff", "labels.csv is empty; its first line must be"),
        ("\n\n", "labels.csv is empty; its first line must be"),
        ("image;hair\n0;1\n0;2\n", "lines 2 and 3: image '0' has two different labels; remove one of them"),
        ("image,hair,hat\n1,1,\n\n0,1,1\n1,1,0\n", "lines 2 and 5: image '1' has two different labels"),
        ("image,hair\nb.png,0\n1,1\n", "lines 2 and 3: image '1' has two different labels"),  # by name and by number
        ("image,hair\n0,0.5\n", "line 2: must be the image and 1 labels (0, 1, ..., or empty if unknown), got ['0', '0.5']"),
        ("image,hair\n1.5,0\n", "line 2: there is no image '1.5'"),
        ("image,hair\n0,nan\n", "line 2: must be the image and 1 labels"),
    ],
)
def test_a_mistake_is_told_with_its_lines(tmp_path, content, sentence):
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(UserError, match=re.escape(sentence)) as error:
        read_labels(tmp_path / "labels.csv", 3, names=["a.png", "b.png", "c.png"])
    assert "\n" not in str(error.value) and "unpack" not in str(error.value)


def test_a_name_that_several_images_have_labels_all_of_them(tmp_path):
    (tmp_path / "labels.csv").write_text("image,hair\na.tif,2\nb.tif,0\n")
    label, _ = read_labels(tmp_path / "labels.csv", 3, names=["a.tif", "b.tif", "a.tif"])
    assert label[:, 0].tolist() == [2, 0, 2]


def test_a_number_is_a_name_where_names_are_numbers(tmp_path):
    (tmp_path / "labels.csv").write_text("image,hair\n3,1\n")
    label, _ = read_labels(tmp_path / "labels.csv", 3, names=["0", "1", "3"])
    assert label[:, 0].tolist() == [-1, -1, 1]
    (tmp_path / "labels.csv").write_text("image,hair\n2,1\n")
    with pytest.raises(UserError, match="there is no image '2'"):
        read_labels(tmp_path / "labels.csv", 3, names=["0", "1", "3"])
