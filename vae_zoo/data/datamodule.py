"""The one data module: arrays in memory, a batch by one indexed read, floats made on the device.

A data set is a subclass that writes `load() -> Arrays`. Splits, label budgets, grouping, order, ranks and resume are
here.

Order is a function of (seed, epoch) and a batch a function of the step, so a resumed run needs only its step. One step
is one batch over all ranks: each rank reads its share of it.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor

from vae_zoo.data.labels import read_labels
from vae_zoo.errors import UserError
from vae_zoo.models.base import Batch

log = logging.getLogger(__name__)

Kind = Literal["categorical", "ordered", "continuous", "circular"]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Factor:
    """A known ground-truth factor. size: number of values, 0 when continuous."""

    name: str
    size: int
    kind: Kind


@dataclass
class Arrays:
    """What a data set is. `packed`: images hold 8 binary pixels a byte, big-endian, [N, C * H * W / 8]."""

    images: np.ndarray  # uint8 [N, C, H, W], or packed
    label: np.ndarray | None = None  # int64 [N] or [N, V], -1 = unknown
    num_classes: int | None = None
    factors: np.ndarray | None = None  # [N, F]: indices of the values, or reals
    factor_info: Sequence[Factor] = ()
    groups: dict[str, np.ndarray] = field(default_factory=dict)  # groupings beside label and factors: int [N], -1 alone
    split: np.ndarray | None = None  # official split, [N] of 0 train, 1 val, 2 test; without val it is cut from train
    packed: bool = False
    names: Sequence[str] | None = None  # of the images, for files that speak of them


class DataModule(L.LightningDataModule):
    """Base of all data sets.

    image_shape: [C, H, W] of the images served. batch_size: images a step, over all ranks. seed: order of the training
    images. val_size, test_size: images, or when below 1 a share of the images that the set itself puts in no split;
    split_seed cuts them. subset: only so many training images. labelled: how many labels training may see, picked by
    `label_pick`; None: all. labels_from: a CSV file whose labels stand in for the set's own (vae_zoo.data.labels).
    num_classes: of the label, for models that are built before the data are read. group_by: `label`, a factor or a
    grouping of the set; then a batch is num_groups groups of group_size images, and two of its groups may show the same
    class.
    """

    default_label: str = "label"  # what the label of this set is
    default_group: str | None = None  # grouping used when a model needs one and none is chosen

    def __init__(
        self,
        image_shape: Sequence[int],
        batch_size: int = 64,
        seed: int = 0,
        val_size: float = 0.1,
        test_size: float = 0.1,
        split_seed: int = 0,
        subset: int | None = None,
        labelled: int | None = None,
        label_pick: Literal["balanced", "random", "first_n"] = "balanced",
        labels_from: str | None = None,
        num_classes: int | None = None,
        group_by: str | None = None,
        group_size: int = 2,
        num_groups: int | None = None,
    ):
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.batch_size, self.seed = batch_size, seed
        self.val_size, self.test_size, self.split_seed = val_size, test_size, split_seed
        self.subset, self.labelled, self.label_pick = subset, labelled, label_pick
        self.labels_from, self.num_classes = labels_from, num_classes
        self.group_by, self.group_size = group_by, group_size
        self.num_groups = num_groups or max(1, batch_size // group_size)
        self.needs: frozenset[str] = frozenset()  # what the model needs of a batch, set before `setup`
        self.indices: dict[str, Tensor] = {}
        self._cached_order: dict[str, tuple[int, Tensor]] = {}

    def load(self) -> Arrays:
        """Reads or draws the data. Raises UserError for what the user can mend."""
        raise NotImplementedError  # pragma: contract

    # ---- setup ----------------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        if self.indices:
            return
        arrays = self.load()
        if self.labels_from is not None:
            label = read_labels(self.labels_from, len(arrays.images), arrays.names)
            arrays.label, arrays.num_classes = label[:, 0] if label.shape[1] == 1 else label, int(label.max()) + 1
        elif None not in (self.num_classes, arrays.num_classes) and self.num_classes != arrays.num_classes:
            raise UserError(
                f"data.num_classes={self.num_classes}, but these data have {arrays.num_classes} classes; set "
                f"data.num_classes={arrays.num_classes}"
            )
        self.num_classes = arrays.num_classes
        self.factor_info = tuple(arrays.factor_info)
        self.packed = arrays.packed
        images = np.ascontiguousarray(arrays.images)  # each image in one piece, for `_rows`
        wanted = (math.prod(self.image_shape) // 8,) if arrays.packed else self.image_shape
        if images.dtype != np.uint8 or images.shape[1:] != wanted:
            raise UserError(
                f"data.image_shape={list(self.image_shape)} does not fit these images, which are {images.dtype} "
                f"{list(images.shape[1:])}{' of 8 pixels a byte' * arrays.packed}; set data.image_shape (or size) to "
                f"what the set gives"
            )
        self.images = torch.from_numpy(images)
        self.label = None if arrays.label is None else torch.from_numpy(np.asarray(arrays.label, dtype=np.int64))
        self.factors = None if arrays.factors is None else torch.from_numpy(arrays.factors)
        self.indices = self._split(arrays)
        if {"label", "supervised"} & self.needs:
            if self.label is None:
                raise UserError("this model learns from labels and these data have none; choose data with labels")
            budget = "all of them" if self.labelled is None else f"{self.labelled} of them"
            log.info("the model learns from labels: %s, %s (data.labelled)", self.default_label, budget)
        self.train_label = self._hide_labels()
        self.train_factors = self.factors if self.labelled is None else None  # one of them may be the label
        self._groups = self._grouping(arrays)
        self.batches_per_epoch = len(self.epoch_order(0))  # so that impossible groups are told now

    @property
    def num_train(self) -> int:
        return len(self.indices["train"])

    @property
    def factor_names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.factor_info)

    @property
    def factor_sizes(self) -> tuple[int, ...]:
        return tuple(f.size for f in self.factor_info)

    @property
    def factor_kinds(self) -> tuple[Kind, ...]:
        return tuple(f.kind for f in self.factor_info)

    @cached_property
    def is_grid(self) -> bool:
        """Whether the images are the full grid of the factors, the last one fastest."""
        sizes = self.factor_sizes
        if self.factors is None or 0 in sizes or math.prod(sizes) != len(self.images):
            return False
        grid = np.stack(np.unravel_index(np.arange(len(self.images)), sizes), axis=1)
        return bool((self.factors.numpy() == grid).all())

    def _split(self, arrays: Arrays) -> dict[str, Tensor]:
        """Disjoint train, val, test, by `split_seed` alone; what the set itself fixes stays as it is."""
        official = np.zeros(len(arrays.images), dtype=np.int64) if arrays.split is None else arrays.split
        rng = np.random.default_rng(self.split_seed)
        parts = {name: np.flatnonzero(official == code) for code, name in enumerate(SPLITS)}
        total = len(parts["train"])
        for name, size in (("test", self.test_size), ("val", self.val_size)):
            if len(parts[name]) == 0:
                count, left = round(size * total) if size < 1 else int(size), len(parts["train"])
                if not 1 <= count < left:
                    raise UserError(
                        f"data.{name}_size={size} takes {count} of {left} images; "
                        f"give a number of images from 1 to {left - 1}, or a share of them such as 0.1"
                    )
                shuffled = rng.permutation(parts["train"])
                parts[name], parts["train"] = np.sort(shuffled[:count]), np.sort(shuffled[count:])
        if self.subset is not None:
            if self.subset > len(parts["train"]):
                raise UserError(f"data.subset={self.subset} exceeds the {len(parts['train'])} training images; lower it")
            parts["train"] = np.sort(rng.permutation(parts["train"])[: self.subset])
        return {name: torch.from_numpy(part) for name, part in parts.items()}

    def _hide_labels(self) -> Tensor | None:
        """Labels as training sees them: -1 wherever `labelled` does not allow one."""
        if self.label is None:
            if self.labelled is not None:
                raise UserError(f"data.labelled={self.labelled}, but this set has no labels; drop it")
            return None
        train = self.indices["train"]
        known = train[(self.label[train].view(len(train), -1) >= 0).any(1)]
        self.labelled_indices = known
        if self.labelled is None:
            if "supervised" in self.needs and not len(known):
                raise UserError("this model learns from labels and no training image has one; label some")
            return self.label
        if self.labelled > len(known):
            raise UserError(
                f"data.labelled={self.labelled} exceeds the {len(known)} labelled training images; lower it, or drop it "
                f"to use all"
            )
        order = np.random.default_rng(self.split_seed).permutation(len(known))
        if self.label_pick == "first_n":
            order = np.arange(len(known))
        elif self.label_pick == "balanced":  # every class in turn, its images in the random order
            classes = self.first_label[known].numpy()[order]
            turn = np.zeros(len(order), dtype=np.int64)
            for c in np.unique(classes):
                turn[classes == c] = np.arange((classes == c).sum())
            order = order[np.lexsort((classes, turn))]
        self.labelled_indices = known[torch.from_numpy(np.sort(order[: self.labelled]))]
        hidden = torch.full_like(self.label, -1)
        hidden[self.labelled_indices] = self.label[self.labelled_indices]
        return hidden

    @property
    def first_label(self) -> Tensor:
        """The first label variable, [N]."""
        return self.label if self.label.ndim == 1 else self.label[:, 0]

    def _grouping(self, arrays: Arrays) -> Tensor | None:
        """The group of every image [N], or None. Raises UserError for a grouping that the set does not have."""
        by = self.group_by
        choices = {name: arrays.factors[:, i] for i, name in enumerate(self.factor_names)} | arrays.groups
        if self.label is not None:
            choices["label"] = self.first_label.numpy()
        if by is None:
            if "group" not in self.needs:
                return None
            by = self.default_group
            log.info("the model needs groups: data.group_by=%s, this set's default", by)
        if by not in choices:
            known = ", ".join(sorted(choices))
            remedy = f"choose one of {known}" if known else "they have none, choose data with labels or known factors"
            raise UserError(f"data.group_by={by} is not a grouping of these data; {remedy}")
        value = choices[by]
        if by not in self.factor_names:  # what is unknown is a group of its own
            value = np.where(value < 0, -1 - np.arange(len(value)), value)
        return torch.from_numpy(np.unique(value, return_inverse=True)[1].astype(np.int64))

    # ---- training batches -----------------------------------------------------------------------------------------

    def epoch_order(self, epoch: int, stream: Literal["main", "supervised"] = "main") -> Tensor:
        """The batches of an epoch, places in the arrays [batches, B]: a function of (seed, epoch)."""
        if self._cached_order.get(stream, (None,))[0] != epoch:
            generator = torch.Generator().manual_seed((2 * self.seed + (stream == "supervised")) * 1_000_003 + epoch)
            images = self.indices["train"] if stream == "main" else self.labelled_indices
            order, size = images[torch.randperm(len(images), generator=generator)], self.batch_size
            if stream == "main" and self._groups is not None:
                order, size = self._chunks(order, generator), self.num_groups * self.group_size
            size = min(size, len(order))
            self._cached_order[stream] = (epoch, order[: len(order) // size * size].view(-1, size))
        return self._cached_order[stream][1]

    def _chunks(self, shuffled: Tensor, generator: torch.Generator) -> Tensor:
        """`group_size` images of one group, then of another, ...: every image at most once, groups in random order."""
        group = self._groups[shuffled]
        by_group = group.argsort(stable=True)
        sizes = torch.bincount(group)
        start = sizes.cumsum(0) - sizes
        rank = torch.arange(len(group)) - start[group[by_group]]  # place of each image within its group
        whole = rank < (sizes // self.group_size * self.group_size)[group[by_group]]
        chunks = shuffled[by_group][whole].view(-1, self.group_size)
        if len(chunks) == 0:
            raise UserError(
                f"data.group_size={self.group_size}, but the largest group has {sizes.max()} training images; lower it "
                f"or choose another data.group_by"
            )
        return chunks[torch.randperm(len(chunks), generator=generator)].flatten()

    def train_indices(self, step: int, stream: Literal["main", "supervised"] = "main") -> Tensor:
        """The images of a training step over all ranks: a function of (seed, step)."""
        per_epoch = self.batches_per_epoch if stream == "main" else max(1, len(self.labelled_indices) // self.batch_size)
        epoch, position = divmod(step, per_epoch)
        return self.epoch_order(epoch, stream)[position]

    def train_batch(self, step: int, rank: int = 0, world_size: int = 1, device="cpu") -> Batch:
        """This rank's share of a training step, with what training may know of it; groups stay whole."""
        size = 1 if self._groups is None else self.group_size
        index = _share(self.train_indices(step), size, rank, world_size)
        batch = self._gather(index, device, self.train_label, self.train_factors)
        if self._groups is not None:
            batch["num_groups"] = len(index) // size
            batch["group"] = torch.arange(len(index), device=device) // size
        if "supervised" in self.needs:
            index = _share(self.train_indices(step, "supervised"), 1, rank, world_size)
            batch["supervised"] = self._gather(index, device, self.train_label, self.train_factors)
        return batch

    def batch(self, index: Tensor, device="cpu") -> Batch:
        """The images at these places [B], with all that is known of them; whatever shares content is one group."""
        batch = self._gather(index, device, self.label, self.factors)
        if self._groups is not None:
            groups, group = self._groups[index].unique(return_inverse=True)
            batch["num_groups"], batch["group"] = len(groups), group.to(device)
        return batch

    def single(self, index: Tensor, device="cpu") -> Batch:
        """As `batch`, every image a group of its own: what is said of one image must not come from others."""
        return self._gather(index, device, self.label, self.factors)

    def _gather(self, index: Tensor, device, label: Tensor | None, factors: Tensor | None) -> Batch:
        batch: Batch = {"image": self.to_float(_rows(self.images, index, device)), "index": index.to(device)}
        if label is not None:
            batch["label"] = _rows(label, index, device)
        if factors is not None:
            batch["factors"] = _rows(factors, index, device).float()
        return batch

    def to_float(self, images: Tensor) -> Tensor:
        """uint8, packed or not -> [B, C, H, W] float32 in [0, 1], on the images' device."""
        if self.packed:
            return _pixels_of_bytes(images.device).index_select(0, images.flatten().int()).view(-1, *self.image_shape)
        return images.float().div_(255)

    # ---- Lightning ------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> "TrainStream":
        return TrainStream(self, self.trainer.global_step, self._placement())

    def val_dataloader(self) -> "EvalBatches":
        return EvalBatches(self, "val", self._placement())

    def _placement(self) -> dict:
        strategy = self.trainer.strategy
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size, "device": strategy.root_device}

    def transfer_batch_to_device(self, batch: Batch, device, dataloader_idx: int) -> Batch:
        return batch  # made there

    def state_dict(self) -> dict:
        """The position of the next batch, and what it is a position in."""
        return {"step": self.trainer.global_step, **self._fingerprint()}

    def load_state_dict(self, state: dict) -> None:
        for name, value in self._fingerprint().items():
            if state.get(name) != value:
                raise UserError(
                    f"the checkpoint was made with {name}={state.get(name)}, these data have {value}; restore the data "
                    f"or train anew"
                )

    def _fingerprint(self) -> dict:
        return {"num_train": self.num_train, "batches_per_epoch": self.batches_per_epoch, "seed": self.seed}


class TrainStream:
    """Endless: Lightning sees one long epoch, and what an epoch is stays the data module's business."""

    def __init__(self, data: DataModule, start: int, placement: dict):
        self.data, self.start, self.placement = data, start, placement

    def __iter__(self) -> Iterator[Batch]:
        step = self.start
        while True:
            yield self.data.train_batch(step, **self.placement)
            step += 1


class EvalBatches:
    """A split in order, once; ranks take every world_size-th image, so that none is left without a batch.

    most: only so many images, spread over the split.
    """

    def __init__(
        self,
        data: DataModule,
        split: str,
        placement: dict | None = None,
        batch_size: int | None = None,
        most: int | None = None,
    ):
        self.data, self.batch_size = data, batch_size or max(data.batch_size, 64)
        self.placement = {"rank": 0, "world_size": 1, "device": "cpu"} | (placement or {})
        rank, world_size = self.placement["rank"], self.placement["world_size"]
        index = data.indices[split]
        if most is not None and most < len(index):
            index = index[torch.linspace(0, len(index) - 1, most).long()]
        if len(index) < world_size:
            raise UserError(f"{world_size} processes cannot share {len(index)} images; raise data.{split}_size")
        self.batches = index[rank::world_size].split(self.batch_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return (self.data.batch(index, self.placement["device"]) for index in self.batches)


def _share(index: Tensor, unit: int, rank: int, world_size: int) -> Tensor:
    """The rank-th of world_size equal runs of whole units."""
    share, rest = divmod(len(index), unit * world_size)
    if rest:
        number = len(index) // unit
        what, setting = ("groups", "data.num_groups") if unit > 1 else ("images", "data.batch_size (labelled, subset)")
        raise UserError(
            f"{world_size} processes cannot share the {number} {what} of a step; set {setting} to a multiple of {world_size}"
        )
    return index[rank * share * unit : (rank + 1) * share * unit]


def _rows(array: Tensor, index: Tensor, device) -> Tensor:
    rows = array.index_select(0, index)  # copies whole rows: 10 times as fast as array[index]
    if torch.device(device).type == "cpu":
        return rows
    return rows.pin_memory().to(device, non_blocking=True)


@cache
def _pixels_of_bytes(device: torch.device) -> Tensor:
    """The 8 pixels of each byte, highest bit first: [256, 8] float32. Looking up is 3 times as fast as shifting."""
    return (torch.arange(256)[:, None] >> torch.arange(7, -1, -1)).bitwise_and(1).float().to(device)


def check_size(image_shape: Sequence[int], choices: Sequence[int]) -> None:
    """Raises UserError unless the images are square with one of these sides."""
    if image_shape[1] != image_shape[2] or image_shape[1] not in choices:
        sides = " or ".join(map(str, choices))
        raise UserError(f"images of {image_shape[1]}x{image_shape[2]} are not offered here; choose a side of {sides}")
