"""Pictures of every kind decoded to one shape, and what is lost on the way."""

import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from vae_zoo.data.storage.pictures import Decoding, decoded, fingerprint, pictures_below, source_of_rows, tell_losses
from vae_zoo.utils.errors import UserError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def save(path, pixels, **options):
    """pixels: an array, an image, or a colour of 10x10."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(pixels, tuple):
        pixels = Image.new("RGB", (10, 10), pixels)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)


def decode(path, size=8, channels=3, **options):
    """The picture as Decoding gives it."""
    return Decoding(**options).read(path, str(path), (channels, size, size))


def one(tmp_path, name, pixels, size=8, channels=3, **options):
    """Its first image, uint8 [C, H, W]."""
    save(tmp_path / name, pixels, **options)
    return decode(tmp_path / name, size, channels).images[0]


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
    wanted = np.array(RED if channels == 3 else [76])  # luma of red, 0.299
    for name, image in {
        "rgb.png": red,
        "rgba.png": Image.new("RGBA", (10, 10), (*RED, 255)),
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


def truncated(tmp_path):
    save(tmp_path / "ok.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    return (tmp_path / "ok.png").read_bytes()[:2000]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.png", lambda _: b"these are my pictures"),
        ("empty.PNG", lambda _: b""),
        ("cut.png", truncated),
        ("bytes.jpg", lambda _: bytes(range(256))),
    ],
)
def test_a_damaged_picture_is_named_or_left_out(tmp_path, name, content):
    (tmp_path / name).write_bytes(content(tmp_path))
    with pytest.raises(UserError) as error:
        decode(tmp_path / name, on_error="refuse")
    assert str(error.value).startswith(f"{tmp_path / name} cannot be read as an image (")
    assert str(error.value).endswith("remove it, save it as PNG or JPEG, or set data.on_error=skip")
    picture = decode(tmp_path / name, on_error="skip")
    assert picture.images.shape == (0, 3, 8, 8) and picture.error.startswith(f"{tmp_path / name} cannot be read")


def test_a_broken_link_is_named(tmp_path):
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert pictures_below(tmp_path, "data.path") == ["gone.png"]
    with pytest.raises(UserError, match="gone.png cannot be read"):
        decode(tmp_path / "gone.png")


def test_too_large_a_picture_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    save(tmp_path / "0.png", RED)
    with pytest.raises(UserError, match="0.png cannot be read"):
        decode(tmp_path / "0.png")


# ---- what is lost ---------------------------------------------------------------------------------------------------


def test_transparent_pixels_show_the_background_and_not_their_hidden_colour(tmp_path):
    pixels = np.full((8, 8, 4), (255, 0, 0, 0), np.uint8)
    pixels[:4] = (0, 0, 255, 255)
    save(tmp_path / "a.png", pixels)
    for background, colour in {"white": (255, 255, 255), "#00ff00": GREEN}.items():
        picture = decode(tmp_path / "a.png", background=background)
        assert np.array_equal(picture.images[0, :, [0, 7], 0], [BLUE, colour])
        assert [*picture.notes] == [f"are transparent and drawn on data.background={background}"]
    half = Image.new("LA", (8, 8), (0, 128))
    save(tmp_path / "b.png", half)
    assert abs(int(decode(tmp_path / "b.png", channels=1).images[0, 0, 0, 0]) - 127) <= 1
    save(tmp_path / "c.png", Image.new("RGBA", (8, 8), (1, 2, 3, 255)))
    assert not decode(tmp_path / "c.png").notes, "nothing is transparent"


@pytest.mark.parametrize(("name", "dtype"), [("a.png", np.uint16), ("a.tiff", np.uint16), ("a.tif", np.float32)])
def test_twelve_bits_fill_the_range_that_is_stated(tmp_path, name, dtype):
    values = np.repeat(np.linspace(0, 4095, 16)[None], 16, 0).astype(dtype)
    save(tmp_path / name, values)
    picture = decode(tmp_path / name, size=16, channels=1, range=[0, 4095])
    assert np.array_equal(picture.images[0, 0], np.rint(values / 4095 * 255)) and picture.highest == 4095
    with pytest.raises(UserError, match=r"its values 0 to 4095 are not in data.range=\[0, 4000\]"):
        decode(tmp_path / name, range=[0, 4000])
    if dtype == np.uint16:
        picture = decode(tmp_path / name, size=16, channels=1)
        assert picture.images.max() == 16 and [*picture.notes] == [
            "have 16 bits or more; 0 to 65535 become 0 to 255 (data.range)"
        ]
    else:
        with pytest.raises(UserError, match="the range of its values 0 to 4095 is unknown; set data.range"):
            decode(tmp_path / name)


def test_a_pgm_of_sixteen_bits_keeps_its_range(tmp_path):
    values = (np.arange(64) * 65).reshape(8, 8).astype(">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 8 8 4095\n" + values.tobytes())
    picture = decode(tmp_path / "a.pgm", channels=1)
    assert abs(picture.images[0, 0].astype(int) - np.rint(values / 4095 * 255)).max() <= 1


@pytest.mark.parametrize("form", ["gif", "tiff", "webp", "png"])
def test_further_frames_are_told_or_used(tmp_path, form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    frames[0].save(
        tmp_path / f"a.{form}", save_all=True, append_images=frames[1:], **({"lossless": True} if form == "webp" else {})
    )
    first, every = (decode(tmp_path / f"a.{form}", frames=frames) for frames in ("first", "all"))
    assert [*first.notes] == ["have several frames, of which the first is used (data.frames)"] and not every.notes
    assert len(first.images) == 1 and len(every.images) == 3
    assert (abs(every.images[:, :, 0, 0].astype(int) - [RED, GREEN, BLUE]) <= 1).all()


def test_a_png_with_damaged_metadata_is_read_and_told(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a picture")
    save(tmp_path / "a.png", pixels, pnginfo=info)
    data = (tmp_path / "a.png").read_bytes()
    place = data.index(b"tEXt")
    crc = zlib.crc32(data[place : place + 4 + len("comment\0a picture")])
    assert data.count(crc.to_bytes(4)) == 1
    (tmp_path / "a.png").write_bytes(data.replace(crc.to_bytes(4), b"\0\0\0\0"))
    picture = decode(tmp_path / "a.png")
    assert np.array_equal(picture.images[0], pixels.transpose(2, 0, 1))
    assert [*picture.notes] == ["have metadata that cannot be read"]


@pytest.mark.parametrize(
    ("crop", "corner", "middle"), [("center", GREEN, GREEN), ("pad", BLUE, GREEN), ("none", RED, GREEN)]
)
def test_crop_pad_and_stretch(tmp_path, crop, corner, middle):
    """A green square in the middle of a red band."""
    pixels = np.full((16, 64, 3), RED, np.uint8)
    pixels[:, 24:40] = GREEN
    save(tmp_path / "a.png", pixels)
    image = decode(tmp_path / "a.png", size=16, crop=crop, background="blue").images[0]
    assert np.array_equal(image[:, 0, 0], corner) and np.array_equal(image[:, 8, 8], GREEN)


def test_what_is_lost_is_logged_once_with_counts_and_damaged_files_are_listed(tmp_path, caplog):
    for i in range(5):
        save(tmp_path / f"{i}.png", Image.new("RGBA", (8, 8), (255, 0, 0, 255 * (i > 2))))
    save(tmp_path / "5.png", np.full((8, 8), 4095, np.uint16))
    (tmp_path / "6.png").write_bytes(b"")
    names = pictures_below(tmp_path, "data.path")
    state = {}
    decoding = Decoding(on_error="skip")
    parts = [part for part, state in decoded(lambda name: decoding.read(tmp_path / name, name, (1, 8, 8)), names, state)]
    assert len(np.concatenate(parts)) == 6 and source_of_rows(state).tolist() == [*range(6)]
    tell_losses(state, tmp_path / "stem")
    assert caplog.messages[:2] == [
        "3 of 7 pictures are transparent and drawn on data.background=white",
        "1 of 7 pictures have 16 bits or more; 0 to 65535 become 0 to 255 (data.range); the highest is 4095",
    ]
    assert "1 damaged pictures are left out" in caplog.messages[2] and len(caplog.messages) == 3
    assert (tmp_path / "stem_skipped.txt").read_text().startswith("6.png cannot be read as an image (")


def test_a_background_that_is_no_colour_is_refused():
    with pytest.raises(UserError, match="data.background=greyish is not a colour"):
        Decoding(background="greyish")


# ---- what is found --------------------------------------------------------------------------------------------------


def test_pictures_are_found_at_any_depth_and_others_counted_in_one_line(tmp_path, caplog):
    caplog.set_level("INFO")
    wanted = ["B/1.PNG", "a/0.jpg", "a/b/c/2.JPEG", "z.tif"]
    others = ["notes.txt", "a/list.csv", "a/README.txt", "noextension"]
    system = [".DS_Store", "a/Thumbs.db", "__MACOSX/a/0.jpg", ".git/0.png", "a/._0.jpg", "desktop.ini"]
    for name in wanted + others + system:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "again").symlink_to(tmp_path)  # a circle
    assert pictures_below(tmp_path, "data.path") == wanted
    assert caplog.messages == [
        f"{tmp_path}: 4 files are not pictures (.txt: 2, .csv: 1, no extension: 1), such as a/README.txt"
    ]


def test_a_fingerprint_knows_names_sizes_times_and_settings(tmp_path):
    save(tmp_path / "a.png", RED)
    prints = [fingerprint(tmp_path, names) for names in ([], ["a.png"], ["b.png"], ["a.png"], ["a.png", "b.png"])]
    assert prints[1] == prints[3] and len({*prints}) == 4
    assert fingerprint(tmp_path, ["a.png"], 1) != fingerprint(tmp_path, ["a.png"], 2)
    (tmp_path / "a.png").write_bytes(b"another")
    assert fingerprint(tmp_path, ["a.png"]) != prints[1]
