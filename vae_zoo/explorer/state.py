"""Computations of the explorer, from images to codes and back to images. Imports no widget.

An image has a name, so that a link can contain it: `test:12` is image 12 of the test split of the first run,
`prior:3` a draw of the first run from its prior with seed 3, `upload:<hash>` a picture of the user.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vae_zoo.contract import Codes, HasClasses
from vae_zoo.data.datamodule import DataModule
from vae_zoo.data.storage.pictures import Decoding
from vae_zoo.evaluation.context import rows
from vae_zoo.evaluation.suites.classes import class_blocks
from vae_zoo.evaluation.suites.worth import swapped
from vae_zoo.metrics.arrays import to_numpy
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.utils.errors import UserError

SAMPLE = 1000  # test images that ranges, clusters and scatter plots are computed from
ACTIVE = 0.01  # variance of the posterior means above which a dimension is used; Burda et al. (2016), section 5
TAIL = 0.005  # share of the aggregate posterior outside the range of a slider, on each side
MOST_BLOCKS = 4  # blocks whose combinations are all shown
MAX_PIXELS, MAX_BYTES = 50_000_000, 20_000_000  # of an upload
UPLOADS = 32  # pictures of users that are kept
SEEDING = threading.Lock()  # torch has one generator for all threads

Values = Mapping[str, Sequence[float]]  # of each Gaussian block its code, of each categorical block its value


@dataclass(frozen=True)
class Dimension:
    """A dimension of a Gaussian block. kl: mean over test images, nats; low, high: range of the aggregate posterior."""

    index: int
    kl: float
    low: float
    high: float
    used: bool


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Makes random draws inside depend only on the seed."""
    with SEEDING, torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        yield


def repeated(codes: Codes, count: int) -> Codes:
    """One image's codes, `count` times."""
    return {name: code.repeat(count, 1) for name, code in codes.items()}


class LoadedRun:
    """A run in memory. numbers: of its metrics.json."""

    def __init__(self, name: str, model: LatentVariableModel, data: DataModule, numbers: dict[str, float]):
        self.name, self.model, self.data, self.numbers = name, model, data, numbers
        self.index = rows(data, "test", SAMPLE, seed=0)

    def of_kind(self, kind: str) -> list[str]:
        """Names of the blocks of a kind."""
        return [name for name, block in self.model.blocks.items() if block.kind == kind]

    @torch.no_grad()
    def encode(self, images: Tensor) -> Codes:
        """The codes [B, D] of images [B, C, H, W]."""
        return {name: code.clone() for name, code in self.model.codes({"image": images.to(self.model.device)}).items()}

    @torch.no_grad()
    def decode(self, codes: Codes) -> np.ndarray:
        """Images [B, C, H, W] in [0, 1]."""
        return to_numpy(self.model.decode(codes)).clip(0, 1)

    @cached_property
    def sample(self) -> dict[str, dict[str, Tensor]]:
        """Of the SAMPLE images: `mean`, `draw` and `kl` of each Gaussian block, {block: [N, D]}."""
        parts = {"mean": [], "draw": [], "kl": []}
        with seeded(0):
            for index in torch.from_numpy(self.index).split(250):
                q = self.model.encode({"image": self.data.single(index, self.model.device)["image"]})
                parts["kl"].append(self.model.kl_per_dim(q))
                parts["mean"].append({name: q[name].mean for name in self.of_kind("gaussian")})
                parts["draw"].append({name: q[name].rsample() for name in self.of_kind("gaussian")})
        return {key: {name: torch.cat([p[name] for p in of]).cpu() for name in of[0]} for key, of in parts.items()}

    @cached_property
    def dimensions(self) -> dict[str, list[Dimension]]:
        """The dimensions of each Gaussian block, those with the largest KL first."""
        found = {}
        for name, draws in self.sample["draw"].items():
            variance = self.sample["mean"][name].var(0, unbiased=False)
            kl = self.sample["kl"][name].mean(0) if name in self.sample["kl"] else variance
            low, high = torch.quantile(draws, torch.tensor([TAIL, 1 - TAIL], dtype=draws.dtype), dim=0)
            found[name] = [
                Dimension(d, float(kl[d]), float(low[d]), float(high[d]), bool(variance[d] > ACTIVE))
                for d in kl.argsort(descending=True).tolist()
            ]
        return found

    def values(self, codes: Codes) -> dict[str, list[float]]:
        """Values of the sliders and choices for the codes of one image."""
        found = {name: codes[name][0].tolist() for name in self.of_kind("gaussian")}
        return found | {name: [float(codes[name][0].argmax())] for name in self.of_kind("categorical")}

    def walked(self, codes: Codes, values: Values) -> Codes:
        """The codes of an image with these values of some blocks.

        Raises: UserError for values that do not fit the blocks; they come from a browser or a link.
        """
        changed = dict(codes)
        for name, numbers in values.items():
            block = self.model.blocks.get(name)
            allowed = {"gaussian": block.size, "categorical": 1}.get(block.kind) if block else None
            if block is None or len(numbers) != allowed or not all(isfinite(v) for v in numbers):
                wanted = f"block {name} needs {allowed} finite numbers" if allowed else f"block {name} cannot be set"
                raise UserError(f"the link does not fit this run: {wanted}, got {len(numbers)}; use a link of this run")
            code = torch.tensor([list(numbers)], dtype=torch.float32, device=self.model.device)
            if block.kind == "categorical":
                if not 0 <= numbers[0] < block.size:
                    raise UserError(f"{name} must be in 0..{block.size - 1}, got {numbers[0]:g}")
                code = torch.nn.functional.one_hot(code.long()[0], block.size).float()
            changed[name] = code
        return changed

    @torch.no_grad()
    def with_classes(self, codes: Codes, classes: Tensor) -> Codes:
        """The codes of images [B] with other values of the categorical blocks, [B, J]; the rest is kept."""
        if isinstance(self.model, HasClasses):
            return self.model.with_class(codes, classes)
        blocks = zip(self.of_kind("categorical"), classes.T)
        return codes | {n: torch.nn.functional.one_hot(k, self.model.blocks[n].size).float() for n, k in blocks}

    def traversal(self, codes: Codes, block: str, index: int, steps: int = 12) -> Codes:
        """One image's codes while a dimension takes `steps` values of its range, the others as they are."""
        dimension = next(d for d in self.dimensions[block] if d.index == index)
        walked = repeated(codes, steps)
        walked[block][:, index] = torch.linspace(dimension.low, dimension.high, steps)
        return walked

    def film(self, codes: Codes, block: str, factor: np.ndarray) -> tuple[str, np.ndarray]:
        """Animates what depends most on a factor [N] of `index`; returns its name and the images.

        It is the dimension of a Gaussian block that follows the factor, or the value of a categorical block.
        """
        if self.model.blocks[block].kind == "categorical":
            classes = self.every_value(codes, block)
            moved = self.with_classes(repeated(codes, len(classes)), classes)
            return f"{block} = 0 to {len(classes) - 1}", self.decode(moved)
        index = follower(self.sample["mean"][block].numpy(), factor)
        return f"{block}[{index}]", self.decode(self.traversal(codes, block, index))

    def every_value(self, codes: Codes, block: str) -> Tensor:
        """Every value of one categorical block, with one image's own values of the others: [K, J]."""
        names, size = self.of_kind("categorical"), self.model.blocks[block].size
        classes = torch.cat([codes[name].argmax(1, keepdim=True) for name in names], dim=1).repeat(size, 1)
        classes[:, names.index(block)] = torch.arange(size, device=classes.device)
        return classes


class Images:
    """The images that the page shows, by name.

    Args:
        run: The first run.
    """

    def __init__(self, run: LoadedRun):
        self.run, self.test = run, run.data.indices["test"]
        self.uploads: OrderedDict[str, Tensor] = OrderedDict()
        self.codes = lru_cache(maxsize=64)(self._codes)  # of a run and the name of an image

    def upload(self, path: str | Path) -> str:
        """Reads a user's picture as data=image_folder does. Returns its name; raises UserError if it cannot be read."""
        path = Path(path)
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"the file has {path.stat().st_size / 1e6:.0f} MB; give one of at most {MAX_BYTES / 1e6:.0f} MB")
        pixels = read_upload(path, self.run.model.image_shape)
        name = f"upload:{hashlib.sha256(pixels.tobytes()).hexdigest()[:12]}"
        self.uploads[name] = torch.from_numpy(pixels.copy())[None].float().div_(255)
        while len(self.uploads) > UPLOADS:
            self.uploads.popitem(last=False)
        return name

    def image(self, name: str) -> Tensor:
        """The image [1, C, H, W] of a name. Raises UserError if there is none."""
        kind, _, value = name.partition(":")
        if kind == "upload" and name in self.uploads:
            return self.uploads[name]
        if kind == "test" and value.isdecimal() and int(value) < len(self.test):
            return self.run.data.single(self.test[int(value)][None])["image"]
        if kind == "prior" and value.isdecimal():
            return torch.from_numpy(self.run.decode(self.codes(self.run, name)))
        what = "an upload that is no longer kept; upload it again, or" if kind == "upload" else "not known;"
        raise UserError(f"the image {name[:40]} is {what} choose test:0..{len(self.test) - 1} or prior:<seed>")

    def _codes(self, run: LoadedRun, name: str) -> Codes:
        """The codes of an image in a run; an image that the first run has drawn has the drawn codes there."""
        kind, _, value = name.partition(":")
        if kind == "prior" and run is self.run and value.isdecimal():
            with seeded(int(value) % 2**63):
                return run.model.sample_prior(1)
        return run.encode(self.image(name))


def read_upload(path: Path, image_shape: Sequence[int]) -> np.ndarray:
    """uint8 [C, H, W] of a picture of at most MAX_PIXELS, any format, grey or with transparency, that Pillow knows."""
    try:
        with Image.open(path) as image:
            too_large = image.width * image.height > MAX_PIXELS
    except Image.DecompressionBombError:  # Pillow's own limit
        too_large = True
    except Exception as error:  # Pillow raises a dozen kinds for a file that is no picture
        raise UserError("the file is not a picture; choose a PNG, JPEG or WebP file") from error
    if too_large:
        raise UserError(f"the picture has more than {MAX_PIXELS:,} pixels; shrink it first")
    return Decoding().read(path, "the upload", image_shape).images[0]


def follower(codes: np.ndarray, factor: np.ndarray, bins: int = 10) -> int:
    """Finds the dimension of codes [N, D] whose variance a factor [N] explains best.

    The explained variance is that between the means of the factor's values, or of bins with equally many images.
    """
    value = np.unique(factor, return_inverse=True)[1]
    if value.max() >= 2 * bins:
        value = (bins * factor.argsort(kind="stable").argsort(kind="stable")) // len(factor)
    groups = [codes[value == v] for v in np.unique(value)]
    between = sum(len(group) * (group.mean(0) - codes.mean(0)) ** 2 for group in groups)
    return int(np.argmax(between / (len(codes) * codes.var(0) + 1e-9)))


# ---- swap -----------------------------------------------------------------------------------------------------------


def combinations(model: LatentVariableModel, one: Codes, other: Codes) -> tuple[Codes, list[str]]:
    """Combines codes with each block from image A (`one`) or image B (`other`); returns them with descriptions.

    Up to MOST_BLOCKS blocks: all combinations. More blocks: A, then A with one block of B each, then B. Codes of A that
    depend on a class move with it, as in the worth of its block.
    """
    names = list(one)
    if len(names) <= MOST_BLOCKS:
        picks = list(product((0, 1), repeat=len(names)))
    else:
        single = [tuple(int(i == j) for i in range(len(names))) for j in range(len(names))]
        picks = [(0,) * len(names), *single, (1,) * len(names)]
    classes_first = sorted(names, key=lambda name: name not in class_blocks(model))
    mixed = []
    for pick in picks:
        of_b = {name for name, chosen in zip(names, pick) if chosen}
        codes = one
        for name in classes_first:
            codes = swapped(model, codes, other, name) if name in of_b else codes
        mixed.append(codes)
    stacked = {name: torch.cat([codes[name] for codes in mixed]) for name in names}
    return stacked, [", ".join(f"{name} {'AB'[of]}" for name, of in zip(names, pick)) for pick in picks]
