"""Finds picture files of any format, decodes them to arrays of one shape and counts losses, such as further frames."""

import hashlib
import io
import logging
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageColor, ImageOps, ImageSequence

from vae_zoo.data.storage.cache import Parts, State
from vae_zoo.data.storage.download import blaming
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.files import encoded

PASSED_OVER = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")  # files and folders of operating systems
WITHOUT_PIXELS = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")  # formats that Pillow knows but cannot decode by itself
OF_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"IDAT", b"IEND")  # chunks of a PNG file
PART = 256  # pictures between two states of a build
log = logging.getLogger(__name__)

Crop = Literal["center", "pad", "none"]
Frames = Literal["first", "all", "group"]


class Picture(NamedTuple):
    """A decoded file.

    Attributes:
        images: Its K frames; none if it is left out.
        notes: Kinds of losses, each once.
        highest: The largest value of 16 bits or more; 0: it has 8 bits.
        error: Reason why it is left out; empty: it is used.
    """

    images: UInt8[np.ndarray, "K C H W"]
    notes: Iterable[str] = ()
    highest: float = 0
    error: str = ""


@dataclass(frozen=True)
class Decoding:
    """How files become images of one shape.

    Args:
        crop: `center` fills the shape and crops the rest, `pad` shows the whole picture on `background`, `none` changes the
            aspect ratio.
        background: Colour behind transparent pixels and in padding, a name or #rrggbb.
        range: [black, white] of files of 16 bits or more; None: [0, 65535].
        frames: The first or all frames of files with several.
        on_error: `skip` leaves damaged files out; `refuse` raises UserError; None: as `refuse`, for callers without the
            setting.

    Raises:
        UserError: `background` is not a colour.
    """

    crop: Crop = "center"
    background: str = "white"
    range: Sequence[float] | None = None
    frames: Frames = "first"
    on_error: Literal["refuse", "skip"] | None = None

    def __post_init__(self) -> None:
        with blaming(f"data.background={self.background} is not a colour (...); give a name such as white, or #ffffff"):
            ImageColor.getrgb(self.background)

    def read(self, source: Path | bytes, name: str, image_shape: Sequence[int]) -> Picture:
        """Decodes one file.

        Args:
            source: The file, or its bytes.
            name: Name of the file in errors.
            image_shape: [C, H, W]; C is 1 or 3.

        Raises:
            UserError: It cannot be decoded, and is not to be skipped.
        """
        hint = ", or set data.on_error=skip" if self.on_error else ""
        notes: set[str] = set()
        try:
            with (
                blaming(f"{name} cannot be read as an image (...); remove it, save it as PNG or JPEG{hint}"),
                _opened(source, notes) as image,
            ):
                several = num_frames(image) > 1
                if several and self.frames == "first":
                    notes.add("have several frames, of which the first is used (data.frames)")
                frames = ImageSequence.Iterator(image) if several and self.frames != "first" else [image]
                found = [self._pixels(frame, image_shape, notes) for frame in frames]
                return Picture(np.stack([pixels for pixels, _ in found]), notes, max(highest for _, highest in found))
        except UserError as error:
            if self.on_error != "skip":
                raise
            return Picture(np.empty((0, *image_shape), np.uint8), (), 0, str(error).partition("; ")[0])

    def _pixels(self, image: Image.Image, image_shape: Sequence[int], notes: set[str]) -> tuple[np.ndarray, float]:
        (channels, height, width), form = image_shape, image.format
        try:
            image = ImageOps.exif_transpose(image)
        except Exception:  # of any parser of metadata
            notes.add("have metadata that cannot be read")
        image, highest = self._eight_bits(image, form, notes)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if np.asarray(image.getchannel("A")).min() < 255:
                notes.add(f"are transparent and drawn on data.background={self.background}")
            image = Image.alpha_composite(Image.new("RGBA", image.size, self.background), image)
        image, size = image.convert("L" if channels == 1 else "RGB"), (width, height)
        if self.crop == "center":
            image = ImageOps.fit(image, size, Image.Resampling.BICUBIC)
        elif self.crop == "pad":
            image = ImageOps.pad(image, size, Image.Resampling.BICUBIC, ImageColor.getcolor(self.background, image.mode))
        else:
            image = image.resize(size, Image.Resampling.BICUBIC)
        return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1), highest

    def _eight_bits(self, image: Image.Image, form: str | None, notes: set[str]) -> tuple[Image.Image, float]:
        """The image with 8 bits (Pillow would clip at 255), and the largest value of an image with more bits."""
        if not image.mode.startswith(("I", "F")):
            return image, 0
        values, limits = np.asarray(image), self.range
        if limits is None or form == "PPM":  # whose reader scales to 16 bits
            if not (image.mode.startswith("I;16") or form in ("PPM", "PNG")):
                raise ValueError(f"the range of its values {values.min():g} to {values.max():g} is unknown; set data.range")
            limits = (0, 65535)
        low, high = limits
        if not (low <= values.min() and values.max() <= high):
            raise ValueError(f"its values {values.min():g} to {values.max():g} are not in data.range={list(limits)}")
        notes.add(f"have 16 bits or more; {low:g} to {high:g} become 0 to 255 (data.range)")
        pixels = np.rint((values.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)
        return Image.fromarray(pixels), float(values.max())


def decoded(read: Callable[[Any], Picture], sources: Iterable, state: State, part: int = PART) -> Parts:
    """Decodes many pictures at a time.

    Args:
        read: Decodes one of the sources.
        sources: The remaining sources.
        state: State after the earlier sources: the number `read`, {place: number of images} where this is not 1, {note:
            pictures}, `highest` value, and [error] of those left out. It is changed.
        part: Pictures between two states.

    Yields:
        Images, uint8 [N, C, H, W], and the state.
    """
    state.update({"read": 0, "several": {}, "notes": {}, "highest": 0, "errors": []} | state)
    sources = iter(sources)
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(sources, part)):
            pictures = list(pool.map(read, chunk))
            state["notes"] = Counter(state["notes"]) + Counter(note for picture in pictures for note in picture.notes)
            state["highest"] = max(state["highest"], *(picture.highest for picture in pictures))
            state["errors"] += [picture.error for picture in pictures if picture.error]
            for place, picture in enumerate(pictures, state["read"]):
                if len(picture.images) != 1:
                    state["several"][str(place)] = len(picture.images)
            state["read"] += len(chunk)
            yield np.concatenate([picture.images for picture in pictures]), state


def source_of_rows(state: State) -> Int[np.ndarray, " N"]:
    """The index of the source of each image.

    Args:
        state: Last state from `decoded`.
    """
    counts, several = np.ones(state.get("read", 0), dtype=np.int64), state.get("several", {})
    counts[[int(place) for place in several]] = [*several.values()]
    return np.repeat(np.arange(len(counts)), counts)


def tell_losses(state: State, stem: Path) -> None:
    """Logs the losses of decoding, and writes the list of files that were left out.

    Args:
        state: Last state from `decoded`.
        stem: The list is `<stem>_skipped.txt`.
    """
    for note, count in state["notes"].items():
        highest = f"; the highest is {state['highest']:g}" if "data.range" in note else ""
        log.warning("%s of %s pictures %s%s", f"{count:,}", f"{state['read']:,}", note, highest)
    if state["errors"]:
        file = stem.with_name(f"{stem.name}_skipped.txt")
        file.write_bytes(encoded("\n".join([*state["errors"], ""])))
        log.warning("%d damaged pictures are left out (data.on_error=skip); %s lists them", len(state["errors"]), file)


def num_frames(image: Image.Image) -> int:
    """The number of frames; 1 for the stereo and depth images of cameras (MPO).

    Args:
        image: Opened by Pillow.
    """
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def pictures_below(folder: Path, setting: str) -> list[str]:
    """Finds pictures by their extension, in the folder and all below it.

    Hidden and system files are skipped; other files are counted in one line of the log.

    Args:
        folder: The folder.
        setting: The setting that names it, for error messages.

    Returns:
        Paths relative to the folder, sorted by their parts.

    Raises:
        UserError: It is not a folder, or a part of it cannot be read.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename}, in {setting}, cannot be read ({error.strerror}); correct its permissions")

    if not folder.is_dir():
        raise UserError(f"{setting}={folder} is not a folder; give a folder of images, or one with a subfolder per class")
    found, others = [], []
    for place, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(place)
        below = [name for name in folders if not f"{real}/".startswith(os.path.realpath(f"{place}/{name}") + "/")]
        folders[:] = [name for name in below if not is_passed_over(name)]
        above = "" if place == str(folder) else os.path.relpath(place, folder) + "/"
        for name in files:
            if not is_passed_over(name):
                is_picture = os.path.splitext(name)[1].lower() in extensions()
                (found if is_picture else others).append(above + name)
    if others:
        kinds = Counter(os.path.splitext(name)[1] or "no extension" for name in sorted(others)).most_common(5)
        words = ", ".join(f"{kind}: {count:,}" for kind, count in kinds)
        log.info("%s: %s files are not pictures (%s), such as %s", folder, f"{len(others):,}", words, min(others))
    return sorted(found, key=lambda name: name.split("/"))


def fingerprint(path: Path, names: Iterable[str] | None, *settings: Any) -> str:
    """16 hexadecimal digits of settings and of the names, sizes and times of files.

    Args:
        path: A folder, or a file.
        names: Files in the folder, which need not exist; None: all files, or the file itself.
        settings: Any settings.
    """
    if names is None:
        names = sorted(str(p.relative_to(path)) for p in path.rglob("*")) if path.is_dir() else ["."]
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=8)
    for name in names:
        digest.update(encoded(name))
        with suppress(OSError):
            state = os.stat(path / name)
            digest.update(f"{state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()


@cache
def extensions() -> frozenset[str]:
    """Extensions of the formats that Pillow can decode, such as .png."""
    known = Image.registered_extensions().items()
    return frozenset(end for end, form in known if form in Image.OPEN and form not in WITHOUT_PIXELS)


def is_passed_over(name: str) -> bool:
    """Whether a file or folder is hidden or belongs to an operating system.

    Args:
        name: Without the folders above it.
    """
    return name.startswith(".") or name.lower() in PASSED_OVER


def _opened(source: Path | bytes, notes: set[str]) -> Image.Image:
    """The image; of a PNG file with damaged metadata, the pixels only."""
    data = source if isinstance(source, bytes) else source.read_bytes()
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        return image
    except (SyntaxError, ValueError, OSError):
        if not data.startswith(b"\x89PNG"):
            raise
        image = Image.open(io.BytesIO(b"".join([data[:8], *_chunks_of_pixels(data)])))
        image.load()
        notes.add("have metadata that cannot be read")
        return image


def _chunks_of_pixels(data: bytes) -> Iterator[bytes]:
    place = 8
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind in OF_PIXELS:
            yield data[place : place + 12 + length]
        place += 12 + length
