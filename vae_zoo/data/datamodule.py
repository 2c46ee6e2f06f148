"""The one data module: arrays in memory, a batch by one indexed read, floats made on the device.

A data set is a subclass that writes `load() -> Arrays`. Splits, label budgets, grouping, order, ranks and resume are here.

Order is a function of (seed, epoch) and a batch a function of the step, so a resumed run needs only its step. One step is
one batch over all ranks: each rank reads its share of it.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor

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
    """What a data set is. `packed`: images hold 8 binary pixels a byte, big-endian, [N, H * W / 8]."""

    images: np.ndarray  # uint8 [N, C, H, W], or packed
    label: np.ndarray | None = None  # int64 [N] or [N, V], -1 = unknown
    num_classes: int | None = None
    factors: np.ndarray | None = None  # [N, F]: indices of the values, or reals
    factor_info: Sequence[Factor] = ()
    groups: dict[str, np.ndarray] = field(default_factory=dict)  # other ways to group than by label or factor: int [N]
    split: np.ndarray | None = None  # official split, [N] of 0 train, 1 val, 2 test; without val it is cut from train
    packed: bool = False


class DataModule(L.LightningDataModule):
    """Base of all data sets.

    image_shape: [C, H, W] of the images served. batch_size: images a step, over all ranks. seed: order of the training
    images. val_size, test_size: images, or a share when below 1; split_seed cuts them. subset: only so many training images.
    labelled: how many labels training may see, picked by `label_pick`. group_by: `label`, a factor or a grouping of the set;
    then a batch is num_groups groups of group_size images.
    """

    default_label: str = "label"
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
        group_by: str | None = None,
        group_size: int = 2,
        num_groups: int | None = None,
    ):
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.batch_size, self.seed = batch_size, seed
        self.val_size, self.test_size, self.split_seed = val_size, test_size, split_seed
        self.subset, self.labelled, self.label_pick = subset, labelled, label_pick
        self.group_by, self.group_size = group_by, group_size
        self.num_groups = num_groups or max(1, batch_size // group_size)
        self.needs: frozenset[str] = frozenset()  # what the model needs of a batch, set before `setup`
        self.indices: dict[str, Tensor] = {}
        self._cached_order: dict[str, tuple[int, list[Tensor]]] = {}

    def load(self) -> Arrays:
        """Reads or draws the data. Raises UserError for what the user can mend."""
        raise NotImplementedError  # pragma: contract

    # ---- setup ----------------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        if self.indices:
            return
        arrays = self.load()
        self.num_classes = arrays.num_classes
        self.factor_info = tuple(arrays.factor_info)
        self.packed = arrays.packed
        shape = self.image_shape if arrays.packed else arrays.images.shape[1:]
        if arrays.images.dtype != np.uint8 or tuple(shape) != self.image_shape:
            raise UserError(
                f"data.image_shape={list(self.image_shape)} does not fit these images, which are {arrays.images.dtype} "
                f"{list(shape)}; set data.image_shape (or size) to what the set gives"
            )
        self.images = torch.from_numpy(arrays.images)
        self.label = None if arrays.label is None else torch.from_numpy(np.asarray(arrays.label, dtype=np.int64))
        self.factors = None if arrays.factors is None else torch.from_numpy(arrays.factors)
        self.indices = self._split(arrays)
        self.train_label = self._hide_labels()
        if "supervised" in self.needs and self.labelled is None:
            raise UserError("this model learns from labelled images: set data.labelled to their number")
        self._groups = self._grouping(arrays)

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

    def _split(self, arrays: Arrays) -> dict[str, Tensor]:
        """Disjoint train, val, test, by `split_seed` alone; what the set itself fixes stays as it is."""
        official = np.zeros(len(arrays.images), dtype=np.int64) if arrays.split is None else arrays.split
        rng = np.random.default_rng(self.split_seed)
        parts = {name: np.flatnonzero(official == code) for code, name in enumerate(SPLITS)}
        for name, size in (("test", self.test_size), ("val", self.val_size)):
            if len(parts[name]) == 0:
                total = len(parts["train"])
                count = int(round(size * total)) if size < 1 else int(size)
                if not 1 <= count < total:
                    raise UserError(
                        f"data.{name}_size={size} takes {count} of {total} images; "
                        f"choose a share below 1 or a number that leaves some for training"
                    )
                shuffled = rng.permutation(parts["train"])
                parts[name], parts["train"] = np.sort(shuffled[:count]), np.sort(shuffled[count:])
        if self.subset is not None:
            if self.subset > len(parts["train"]):
                raise UserError(f"data.subset={self.subset} exceeds the {len(parts['train'])} training images")
            parts["train"] = np.sort(rng.permutation(parts["train"])[: self.subset])
        return {name: torch.from_numpy(part) for name, part in parts.items()}

    def _hide_labels(self) -> Tensor | None:
        """Labels as training sees them: -1 wherever `labelled` does not allow one."""
        if self.label is None or self.labelled is None:
            if self.labelled is not None:
                raise UserError(f"data.labelled={self.labelled}, but this set has no labels; drop it")
            return self.label
        train = self.indices["train"]
        known = train[self.first_label[train] >= 0]
        if self.labelled > len(known):
            raise UserError(f"data.labelled={self.labelled} exceeds the {len(known)} labelled training images")
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
        if by is None and "group" in self.needs:
            by = self.default_group
            log.info("the model needs groups: data.group_by=%s, this set's default", by)
        if by is None:
            if "group" in self.needs:
                raise UserError("this model needs groups and this set states none; set data.group_by")
            return None
        choices = {name: arrays.factors[:, i] for i, name in enumerate(self.factor_names)} | dict(arrays.groups)
        if self.label is not None:
            choices["label"] = self.first_label.numpy()
        if by not in choices:
            raise UserError(f"data.group_by={by} is not known to this set; choose one of {', '.join(sorted(choices))}")
        return torch.from_numpy(np.unique(choices[by], return_inverse=True)[1].astype(np.int64))

    # ---- training batches -----------------------------------------------------------------------------------------

    def epoch_order(self, epoch: int, stream: Literal["main", "supervised"] = "main") -> list[Tensor]:
        """The batches of an epoch as indices into the arrays: a function of (seed, epoch)."""
        if self._cached_order.get(stream, (None,))[0] != epoch:
            generator = torch.Generator().manual_seed((2 * self.seed + (stream == "supervised")) * 1_000_003 + epoch)
            images = self.indices["train"] if stream == "main" else self.labelled_indices
            order = images[torch.randperm(len(images), generator=generator)]
            size = self.batch_size
            if stream == "main" and self._groups is not None:
                order, size = self._chunks(order, generator), self.num_groups * self.group_size
            size = min(size, len(order))
            self._cached_order[stream] = (epoch, list(order[: len(order) // size * size].split(size)))
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
            raise UserError(f"data.group_size={self.group_size}: no group has so many training images")
        return chunks[torch.randperm(len(chunks), generator=generator)].flatten()

    @cached_property
    def batches_per_epoch(self) -> int:
        return len(self.epoch_order(0))

    def train_indices(self, step: int, stream: Literal["main", "supervised"] = "main") -> Tensor:
        """The images of a training step over all ranks: a function of (seed, step)."""
        per_epoch = self.batches_per_epoch if stream == "main" else max(1, self.labelled // self.batch_size)
        epoch, position = divmod(step, per_epoch)
        return self.epoch_order(epoch, stream)[position]

    def train_batch(self, step: int, rank: int = 0, world_size: int = 1, device="cpu") -> Batch:
        """This rank's share of a training step; groups stay whole."""
        index = self.train_indices(step)
        unit = self.group_size if self._groups is not None else 1
        batch = self.batch(_share(index, unit, rank, world_size), device, self.train_label)
        if "supervised" in self.needs:
            index = self.train_indices(step, "supervised")
            batch["supervised"] = self.batch(_share(index, 1, rank, world_size), device, self.train_label)
        return batch

    def batch(self, index: Tensor, device="cpu", label: Tensor | None = None) -> Batch:
        """The images at these places [B], with all that is known of them; `label` replaces the full labels."""
        batch: Batch = {"image": self.to_float(self._read(self.images, index, device)), "index": index.to(device)}
        label = self.label if label is None else label
        if label is not None:
            batch["label"] = self._read(label, index, device)
        if self.factors is not None:
            batch["factors"] = self._read(self.factors, index, device).float()
        if self._groups is not None:
            groups, batch["group"] = self._groups[index].unique(return_inverse=True)
            batch["group"] = batch["group"].to(device)
            batch["num_groups"] = len(groups)
        return batch

    def to_float(self, images: Tensor) -> Tensor:
        """uint8, packed or not -> [B, C, H, W] float32 in [0, 1], on the images' device."""
        if self.packed:
            shifts = torch.arange(7, -1, -1, device=images.device, dtype=torch.uint8)
            return (images[..., None] >> shifts).bitwise_and_(1).view(-1, *self.image_shape).float()
        return images.float().div_(255)

    @staticmethod
    def _read(array: Tensor, index: Tensor, device) -> Tensor:
        rows = array[index]
        if torch.device(device).type == "cpu":
            return rows
        return rows.pin_memory().to(device, non_blocking=True)

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
            if state[name] != value:
                raise UserError(f"the checkpoint was made with {name}={state[name]}, these data have {value}; restore them")

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
    """A split in order, once; ranks take every world_size-th batch."""

    def __init__(self, data: DataModule, split: str, placement: dict | None = None, batch_size: int | None = None):
        self.data, self.batch_size = data, batch_size or max(data.batch_size, 64)
        self.placement = {"rank": 0, "world_size": 1, "device": "cpu"} | (placement or {})
        self.batches = self.data.indices[split].split(self.batch_size)
        self.batches = self.batches[self.placement["rank"] :: self.placement["world_size"]]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return (self.data.batch(index, self.placement["device"]) for index in self.batches)


def _share(index: Tensor, unit: int, rank: int, world_size: int) -> Tensor:
    """The rank-th of world_size equal runs of whole units."""
    share = len(index) // unit // world_size * unit
    if share == 0:
        raise UserError(f"{world_size} processes share a batch of {len(index)} images: raise data.batch_size")
    return index[rank * share : (rank + 1) * share]


def check_size(image_shape: Sequence[int], choices: Sequence[int]) -> None:
    """Raises UserError unless the images are square with one of these sides."""
    if image_shape[1] != image_shape[2] or image_shape[1] not in choices:
        raise UserError(f"images of {image_shape[1]}x{image_shape[2]} are not offered here; choose a side of {choices}")

