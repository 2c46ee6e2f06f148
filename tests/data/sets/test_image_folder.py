"""The user's own pictures: what is read, and what is refused by name."""

import numpy as np
import pytest
import torch
from PIL import Image

from vae_zoo.data.sets.image_folder import ImageFolder, read_image
from vae_zoo.utils.errors import UserError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def save(path, pixels, **options):
    """pixels: an array, an image, or a colour of 10x10."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(pixels, tuple):
        pixels = Image.new("RGB", (10, 10), pixels)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)


def read(path, **settings):
    data = ImageFolder(str(path), **({"size": 8, "test_size": 1, "val_size": 1} | settings))
    data.setup()
    return data


def one(tmp_path, name, pixels, size=8, channels=3, **options):
    """The picture as the data set gives it, uint8 [C, H, W]."""
    save(tmp_path / name, pixels, **options)
    return read_image(tmp_path / name, (channels, size, size))


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


@pytest.mark.parametrize(("wide", "high"), [(60, 20), (20, 60), (47, 16), (16, 16), (4, 10)])
def test_pictures_are_cut_to_the_centre_square(tmp_path, wide, high):
    """Green square in the middle of red: nothing of the margins is left, nothing of the square is lost."""
    side = min(wide, high)
    pixels = np.full((high, wide, 3), RED, np.uint8)
    top, left = (high - side) // 2, (wide - side) // 2
    pixels[top : top + side, left : left + side] = GREEN
    pixels[top : top + side // 2, left : left + side // 2] = BLUE
    image = one(tmp_path, "a.png", pixels).astype(int)
    assert image.shape == (3, 8, 8)
    assert (image[0, 1:-1, 1:-1] <= 30).all()  # at an odd margin half a pixel of it is cut through
    assert image[2, 1, 1] > 220 and image[1, 6, 6] > 220 and image[1, 1, 6] > 220


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_says(tmp_path, orientation):
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8, :8], upright[:8, 8:], upright[8:, :8] = RED, GREEN, BLUE
    undo = {1: (0, 0), 2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (3, 1), 6: (1, 0), 7: (1, 1), 8: (3, 0)}  # turns, mirrored
    turns, mirrored = undo[orientation]
    stored = np.rot90(upright, turns)
    stored = stored[:, ::-1] if mirrored else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = one(tmp_path, "a.png", np.ascontiguousarray(stored), exif=exif)
    assert np.array_equal(image[:, [1, 1, 6], [1, 6, 1]].T, [RED, GREEN, BLUE])


@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_of_colour_is_read(tmp_path, channels):
    red = Image.new("RGB", (10, 10), RED)
    transparent = Image.new("RGBA", (10, 10), (*RED, 40))
    wanted = np.array(RED if channels == 3 else [76])  # luma of red, 0.299
    for name, image in {
        "rgb.png": red,
        "rgba.png": transparent,
        "palette.png": red.convert("P", palette=Image.Palette.ADAPTIVE),
        "gif.gif": red,
        "bmp.bmp": red,
        "webp.webp": red,
    }.items():
        pixels = one(tmp_path, name, image, channels=channels, **({"lossless": True} if "webp" in name else {}))
        assert pixels.dtype == np.uint8 and (abs(pixels.reshape(channels, -1).T.astype(int) - wanted) <= 1).all(), name
    cmyk = one(tmp_path, "cmyk.jpg", red.convert("CMYK"), channels=channels)
    assert abs(cmyk.reshape(channels, -1).T.astype(int) - wanted).max() < 8


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_pictures_of_one_eight_and_sixteen_bits_keep_their_range(tmp_path, channels):
    ramp = np.repeat(np.array([0, 64, 128, 255], np.uint8), 4)[None].repeat(16, 0)
    eight = one(tmp_path, "8.png", ramp, size=16, channels=channels)
    sixteen = one(tmp_path, "16.png", ramp.astype(np.uint16) * 257, size=16, channels=channels)
    assert np.array_equal(eight, ramp[None].repeat(channels, 0)) and np.array_equal(sixteen, eight)
    bits = one(tmp_path, "1.png", Image.fromarray(ramp > 100), size=16, channels=channels)
    assert set(np.unique(bits)) == {0, 255}


def test_pictures_of_odd_sizes_stand_side_by_side(tmp_path):
    for i, (wide, high) in enumerate([(5, 9), (100, 30), (8, 8), (1, 1)]):
        save(tmp_path / f"{i}.png", np.full((high, wide), 50 * i, np.uint8))
    data = read(tmp_path, channels=1)
    assert data.images.shape == (4, 1, 8, 8)
    assert torch.equal(data.images, torch.tensor([0, 50, 100, 150]).view(4, 1, 1, 1).expand(4, 1, 8, 8))


def truncated(tmp_path):
    save(tmp_path / "ok.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    return (tmp_path / "ok.png").read_bytes()[:2000]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", lambda _: b"these are my pictures"),
        ("Thumbs.db", lambda _: bytes(range(256))),
        ("empty.png", lambda _: b""),
        ("cut.png", truncated),
        ("page.svg", lambda _: b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ],
)
@pytest.mark.parametrize("inside", ["", "cat"])
def test_a_file_that_is_no_picture_is_named(tmp_path, name, content, inside):
    content = content(tmp_path / "elsewhere") if name == "cut.png" else content(tmp_path)
    folder = tmp_path / "mine" / inside
    for i in range(4):
        save(folder / f"{i}.png", RED)
    (folder / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read(tmp_path / "mine")
    assert str(error.value).startswith(f"{folder / name} cannot be read as an image") and "remove it" in str(error.value)


def test_a_picture_of_unknown_range_is_named(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.tiff", np.full((9, 9), 0.5, np.float32))
    with pytest.raises(UserError, match="0.tiff cannot be read as an image of 8 or 16 bits"):
        read(tmp_path)


def test_a_broken_link_is_named(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", RED)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match="gone.png cannot be read"):
        read(tmp_path)


def test_too_large_a_picture_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    for i in range(3):
        save(tmp_path / f"{i}.png", RED)
    with pytest.raises(UserError, match="0.png cannot be read"):
        read(tmp_path)


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


def test_folders_inside_a_class_are_refused(tmp_path):
    save(tmp_path / "cat" / "0.png", RED)
    save(tmp_path / "cat" / "black" / "0.png", RED)
    with pytest.raises(UserError, match=r"cat, a class of data.path, contains a folder \(black\)"):
        read(tmp_path)


def test_an_empty_class_is_refused(tmp_path):
    save(tmp_path / "cat" / "0.png", RED)
    (tmp_path / "dog").mkdir()
    with pytest.raises(UserError, match="dog, a class of data.path, contains no images"):
        read(tmp_path)
