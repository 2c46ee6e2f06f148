"""The data module: reads a batch by one indexed read from arrays in memory or mapped files, makes floats on the device.

A data set is a subclass that writes `load() -> Arrays`. Splits, label budgets, grouping, order, ranks and resume are
here.

Order is a function of (seed, epoch) and a batch a function of the step, so a resumed run needs only its step. One step
is one batch over all ranks: each rank reads its share of it.
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property, partial
from itertools import count
from typing import Any, Literal, cast

import lightning as L
import numpy as np
import torch
from torch import Tensor

from vae_zoo.config.types import Count, Folds, Index, Shape, Size
from vae_zoo.contract import Batch, Model, TrainingData
from vae_zoo.data.arrays import Arrays, Factor
from vae_zoo.data.grouping import Grouping, GroupSampler, alone_where_unknown, groups_in_turn
from vae_zoo.data.splits import cut
from vae_zoo.data.storage.labels import read_labels
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.memory import to_device

BLOCK, WINDOW = 256, 32  # data.shuffle=blocks: neighbouring images, and blocks that are shuffled together
log = logging.getLogger(__name__)


class DataModule(L.LightningDataModule):
    """Base of all data sets.

    image_shape: [C, H, W] of the images served. batch_size: images a step, over all ranks. seed: order of the training
    images. val_size, test_size: images, or when below 1 a share of the images that the set itself puts in no split;
    split_seed cuts them. subset: only so many training images. labelled: how many labels training may see, groups by label
    included; None: all. label_pick: which, as many of each class, random ones, the first of the set's own training images,
    which then stay in training whatever is cut from them, or one of each of the factors' `cells` in turn. labels_from: a
    CSV file whose labels stand in for the set's own (vae_zoo.data.storage.labels). num_classes: of the label, for models
    that are built before the data are read. shuffle: `full`, or `blocks` for files larger than the memory on slow disks: an
    epoch takes blocks of neighbouring images in random order and shuffles within some of them at a time. The rest: of
    Grouping.

    folds, fold: cross-validation; test is part `fold` of `folds` equal ones, whatever test_size says.

    Where a set has the grouping `identity`, or `group`, whole identities go to train, val or test, so that those of val and
    test are unseen in training: val_size and test_size then count identities, or are shares of them.
    """

    parts = (Grouping,)
    groupings: tuple[str, ...] = ("label",)  # what group_by may name
    default_label: str = "label"  # what the label of this set is
    default_group: str | None = "label"  # grouping used when a model needs one and none is chosen
    identity_factors: tuple[str, ...] = ()  # names of the factors that all images of an identity share,
    style_factors: tuple[str, ...] = ()  # and of those that differ between them
    # the hub's name of the licence of weights trained on these images, and the terms of the images, for the model card
    licence: tuple[str, str] = ("other", "images of the author of the run, who states their terms here")

    def __init__(
        self,
        image_shape: Shape,
        batch_size: Count = 64,
        seed: Index = 0,
        val_size: Size = 0.1,
        test_size: Size = 0.1,
        split_seed: Index = 0,
        folds: Folds | None = None,
        fold: Index = 0,
        subset: Count | None = None,
        labelled: Count | None = None,
        label_pick: Literal["balanced", "random", "first_n", "cells"] = "balanced",
        labels_from: str | None = None,
        num_classes: Count | None = None,
        shuffle: Literal["full", "blocks"] = "full",
        **groups,
    ):
        grouping = Grouping(**groups)
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.batch_size, self.seed = batch_size, seed
        self.val_size, self.test_size, self.split_seed, self.folds, self.fold = val_size, test_size, split_seed, folds, fold
        self.subset, self.labelled, self.label_pick = subset, labelled, label_pick
        self.labels_from, self.num_classes, self.shuffle = labels_from, num_classes, shuffle
        self.grouping, self.group_by = grouping, grouping.group_by
        self.group_size, self.num_groups = grouping.sizes(), grouping.batch_of(batch_size)  # least, most
        self.needs: frozenset[str] = frozenset()  # what the model needs of a batch; it is asked by `serve`
        self.indices: dict[str, Tensor] = {}

    def load(self) -> Arrays:
        """Reads or draws the data. Raises UserError for errors that the user can fix."""
        raise NotImplementedError  # pragma: contract

    # ---- setup ----------------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Reads the data. If a trainer calls it, the batches have what the model of the trainer needs."""
        model = None if self.trainer is None else self.trainer.lightning_module
        if model is not None:
            self.serve(cast(Model, model))
        elif not self.indices:
            self._fill()

    def serve(self, model: Model) -> None:
        """Makes the batches that this model needs, and passes it the training data. Raises UserError if they do not fit."""
        if not self.indices or self.needs != model.needs:
            self.needs = frozenset(model.needs)
            self._fill()
        model.learn_from(
            TrainingData(self.num_train, len(self.labelled_indices), self.label, self._training_images, self._training_batch)
        )

    def _training_images(self, places: Tensor, device: torch.device) -> Batch:
        return self.single(self.indices["train"][places], device)

    def _training_batch(self, step: int, device: torch.device) -> Batch:
        return self.train_batch(step, device=device)

    def _fill(self) -> None:
        arrays = self.load()
        if self.labels_from is not None:
            label, names = read_labels(self.labels_from, len(arrays.images), arrays.names)
            arrays.label, arrays.num_classes = label[:, 0] if label.shape[1] == 1 else label, int(label.max()) + 1
            arrays.label_names = names if len(names) > 1 else ()
        elif None not in (self.num_classes, arrays.num_classes) and self.num_classes != arrays.num_classes:
            number = arrays.num_classes
            raise UserError(
                f"data.num_classes={self.num_classes}, but the data set has {number} classes; set data.num_classes={number}"
            )
        self.num_classes, self.label_names, self.packed = arrays.num_classes, tuple(arrays.label_names), arrays.packed
        self.factor_info: tuple[Factor, ...] = tuple(arrays.factor_info)
        self.factor_names = tuple(f.name for f in self.factor_info)
        self.factor_sizes = tuple(f.size for f in self.factor_info)
        self.factor_kinds = tuple(f.kind for f in self.factor_info)
        images = np.ascontiguousarray(arrays.images)  # each image in one piece, for `_rows`
        wanted = arrays.kept_as or ((math.prod(self.image_shape) // 8,) if arrays.packed else self.image_shape)
        if images.dtype != np.uint8 or images.shape[1:] != wanted:
            raise UserError(
                f"data.image_shape={list(self.image_shape)} does not fit the images of this data set, which are "
                f"{images.dtype} {list(images.shape[1:])}{', 8 pixels per byte' * arrays.packed}; set data.image_shape "
                f"(or data.size) to match them"
            )
        with warnings.catch_warnings(action="ignore"):  # a mapped file cannot be written to, and nobody does
            self.images = torch.from_numpy(images)
        self.label = None if arrays.label is None else torch.from_numpy(np.asarray(arrays.label, dtype=np.int64))
        self.factors = None if arrays.factors is None else torch.from_numpy(arrays.factors)
        self.indices = self._split(arrays)
        self.num_train = len(self.indices["train"])
        if {"label", "supervised"} & self.needs:
            if self.label is None:
                raise UserError("this model needs labels, but the data set has none; choose a data set with labels")
            budget = "all labels" if self.labelled is None else f"{self.labelled} labels"
            log.info("training uses the label %s: %s (data.labelled)", self.default_label, budget)
        self.train_label = self._hide_labels()
        self.train_factors = self.factors if self.labelled is None else None  # one of them may be the label
        group = self._grouping(arrays)
        self.is_grouped = group is not None  # batches have `group`
        self._groups = None if group is None else GroupSampler(group, self.grouping, self.batch_size)
        self._orders: dict[tuple[str, int], tuple[Sequence[Tensor], Tensor | None]] = {}
        self.batches_per_epoch = len(self.epoch_order(0))  # so that impossible groups are reported now

    @cached_property
    def is_grid(self) -> bool:
        """Whether the images are the full grid of the factors, the last one fastest."""
        sizes = self.factor_sizes
        if self.factors is None or 0 in sizes or math.prod(sizes) != len(self.images):
            return False
        return bool((self.factors.numpy().T == np.indices(sizes).reshape(len(sizes), -1)).all())

    def _split(self, arrays: Arrays) -> dict[str, Tensor]:
        sizes = {"test": self.test_size, "val": self.val_size}
        parts = cut(arrays, sizes, self.split_seed, self.folds, self.fold, self.subset, self._first_labelled(arrays))
        return {name: torch.from_numpy(part) for name, part in parts.items()}

    def _first_labelled(self, arrays: Arrays) -> np.ndarray:
        """Places of the labelled images that label_pick=first_n chooses."""
        if self.label_pick != "first_n" or self.labelled is None or arrays.label is None:
            return np.empty(0, dtype=np.int64)
        known = (arrays.label.reshape(len(arrays.label), -1) >= 0).any(1)
        return np.flatnonzero(known & (True if arrays.split is None else arrays.split == 0))[: self.labelled]

    def _hide_labels(self) -> Tensor | None:
        """Labels as training sees them: -1 wherever `labelled` does not allow one."""
        if self.label is None:
            self.labelled_indices = self.indices["train"][:0]
            if self.labelled is not None:
                raise UserError(f"data.labelled={self.labelled}, but the data set has no labels; remove data.labelled")
            return None
        train = self.indices["train"]
        known = train[(self.label[train].view(len(train), -1) >= 0).any(1)]
        self.labelled_indices = known
        if self.labelled is None:
            if "supervised" in self.needs and not len(known):
                raise UserError("this model needs labels, but no training image has a label; label some training images")
            return self.label
        if self.labelled > len(known):
            raise UserError(
                f"data.labelled must be at most {len(known)}, the number of labelled training images, got {self.labelled}; "
                f"use data.labelled=null for all labels"
            )
        order = np.random.default_rng(self.split_seed).permutation(len(known))
        if self.label_pick == "first_n":
            order = np.arange(len(known))
        elif self.label_pick == "balanced":
            order = in_turn(order, self.first_label[known].numpy())
        elif self.label_pick == "cells":
            if self.factors is None or not all(self.factor_sizes):
                raise UserError("data.label_pick=cells needs discrete factors; choose balanced or random")
            order = in_turn(order, cells(self.factors[known].numpy(), self.factor_sizes))
        self.labelled_indices = known[torch.from_numpy(np.sort(order[: self.labelled]))]
        assert self.label is not None
        hidden = torch.full_like(self.label, -1)
        hidden[self.labelled_indices] = self.label[self.labelled_indices]
        return hidden

    @property
    def first_label(self) -> Tensor:
        """The first label variable, [N]."""
        assert self.label is not None
        return self.label if self.label.ndim == 1 else self.label[:, 0]

    def _grouping(self, arrays: Arrays) -> Tensor | None:
        """The group of every image [N], or None. Raises UserError for a grouping that the set does not have."""
        by = self.group_by
        factors = arrays.factors
        choices = {} if factors is None else {name: factors[:, i] for i, name in enumerate(self.factor_names)}
        choices |= arrays.groups
        if self.label is not None:
            choices["label"] = self._label_of_groups().numpy()
        if by is None:
            if "group" not in self.needs:
                return None
            by = "group" if "group" in choices else self.default_group
            log.info("the model needs groups: data.group_by=%s, the default of the data set", by)
        if by == "label" and self.labelled is not None:
            log.info("groups by label: each training image beyond data.labelled=%d is its own group", self.labelled)
        if by not in choices:
            known = ", ".join(sorted(choices))
            remedy = f"choose one of {known}" if known else "it has none, choose a data set with labels or known factors"
            raise UserError(f"data.group_by={by} is not a grouping of this data set; {remedy}")
        value = choices[by] if by in self.factor_names else alone_where_unknown(choices[by])
        return torch.from_numpy(np.unique(value, return_inverse=True)[1].astype(np.int64))

    def _label_of_groups(self) -> Tensor:
        """The first label of each image [N], of training images only where training may see it."""
        label, train = self.first_label.clone(), self.indices["train"]
        if self.labelled is not None and self.train_label is not None:
            label[train] = self.train_label[train].view(len(train), -1)[:, 0]
        return label

    # ---- training batches -----------------------------------------------------------------------------------------

    def epoch_order(self, epoch: int, stream: Literal["main", "supervised"] = "main") -> Sequence[Tensor]:
        """The batches of an epoch, places in the arrays [batches, B]: a function of (seed, epoch).

        Grouped: one tensor for each batch, its groups one after the other, of the sizes that `group_sizes` gives.
        """
        return self._order(epoch, stream)[0]

    def _order(self, epoch: int, stream: Literal["main", "supervised"]) -> tuple[Sequence[Tensor], Tensor | None]:
        """The batches of an epoch, and the sizes of their groups. Threads may ask for different epochs at a time."""
        if (known := self._orders.get((stream, epoch))) is not None:
            return known
        generator = torch.Generator().manual_seed((2 * self.seed + (stream == "supervised")) * 1_000_003 + epoch)
        images = self.indices["train"] if stream == "main" else self.labelled_indices
        order = images[(torch.randperm if self.shuffle == "full" else by_blocks)(len(images), generator=generator)]
        if stream == "main" and self._groups is not None:
            found = self._groups.batches(order, generator)
        else:
            size = min(self.batch_size, len(order))
            found = cast(Sequence[Tensor], order[: len(order) // size * size].view(-1, size)), None
        recent = {key: value for key, value in self._orders.items() if key[0] != stream or key[1] == epoch - 1}
        self._orders = recent | {(stream, epoch): found}
        return found

    def group_sizes(self, step: int) -> Tensor:
        """Images of each group of a training step, [num_groups]: a function of (seed, step)."""
        epoch, position = divmod(step, self.batches_per_epoch)
        sizes = self._order(epoch, "main")[1]
        assert sizes is not None
        return sizes[position]

    def train_indices(self, step: int, stream: Literal["main", "supervised"] = "main") -> Tensor:
        """The images of a training step over all ranks: a function of (seed, step)."""
        per_epoch = self.batches_per_epoch if stream == "main" else max(1, len(self.labelled_indices) // self.batch_size)
        epoch, position = divmod(step, per_epoch)
        return self.epoch_order(epoch, stream)[position]

    def train_batch(self, step: int, rank: int = 0, world_size: int = 1, device: torch.device | str = "cpu") -> Batch:
        """This rank's share of a training step, with what training may know of it: equally many images, or whole groups."""
        index, groups = self.train_indices(step), dict[str, Any]()
        if self._groups is None:
            index = share(index, rank, world_size)
        else:
            mine = share(index.split(self.group_sizes(step).tolist()), rank, world_size, "groups", "data.num_groups")
            index, groups = torch.cat(mine), groups_in_turn(mine, device)
        batch = cast(Batch, self._gather(index, device, self.train_label, self.train_factors) | groups)
        if "supervised" in self.needs:
            index = share(self.train_indices(step, "supervised"), rank, world_size)
            batch["supervised"] = self._gather(index, device, self.train_label, self.train_factors)
        return batch

    def batch(self, index: Tensor, device: torch.device | str = "cpu") -> Batch:
        """The images at these places [B], with their labels, factors and groups, as far as the data set has them."""
        batch = self.single(index, device)
        if self._groups is not None:
            groups, group = self.group_of(index).unique(return_inverse=True)
            batch["num_groups"], batch["group"] = len(groups), to_device(group, device)
        return batch

    def single(self, index: Tensor, device: torch.device | str = "cpu") -> Batch:
        """As `batch`, every image is its own group, so that no other image influences its code."""
        return self._gather(index, device, self.label, self.factors)

    def group_of(self, index: Tensor) -> Tensor:
        """The group, numbered over the whole set, of each of these images of grouped data, [B]."""
        assert self._groups is not None
        return self._groups.group[index]

    def _gather(self, index: Tensor, device, label: Tensor | None, factors: Tensor | None) -> Batch:
        batch: Batch = {"image": self.to_float(_rows(self.images, index, device)), "index": to_device(index, device)}
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

    def train_dataloader(self) -> Iterator[Batch]:
        """An endless loader: Lightning sees one long epoch; this module counts the epochs."""
        placement = self._placement()
        return read_ahead(partial(self.train_batch, **placement), count(self._attached().global_step), placement["device"])

    def val_dataloader(self) -> "EvalBatches":
        return EvalBatches(self, "val", self._placement())

    def _attached(self) -> L.Trainer:
        assert self.trainer is not None
        return self.trainer

    def _placement(self) -> dict:
        trainer = self._attached()
        return {"rank": trainer.global_rank, "world_size": trainer.world_size, "device": trainer.strategy.root_device}

    def transfer_batch_to_device(self, batch: Batch, device, dataloader_idx: int) -> Batch:
        return batch  # made there

    def state_dict(self) -> dict:
        """The position of the next batch, and the properties of the data to which it refers."""
        return {"step": self._attached().global_step, **self._fingerprint()}

    def load_state_dict(self, state: dict) -> None:
        for name, value in self._fingerprint().items():
            if (was := state.get(name)) != value:
                raise UserError(
                    f"the checkpoint has {name}={was}, but the data set has {value}; restore the data or train again"
                )

    def _fingerprint(self) -> dict:
        return {"num_train": self.num_train, "batches_per_epoch": self.batches_per_epoch, "seed": self.seed}


class EvalBatches:
    """A split in order, once; ranks take every world_size-th image, so that none is left without a batch.

    Of grouped data the same with whole groups, those of GroupSampler.evaluation. most: only about so many images, spread
    over the split.
    """

    def __init__(
        self,
        data: DataModule,
        split: str,
        placement: dict | None = None,
        batch_size: int | None = None,
        most: int | None = None,
    ):
        placement = {"rank": 0, "world_size": 1, "device": "cpu"} | (placement or {})
        rank, world_size, batch_size = placement["rank"], placement["world_size"], batch_size or max(data.batch_size, 64)
        self.data, self.device = data, placement["device"]
        grouped = data.is_grouped
        units: Any = data.indices[split] if data._groups is None else data._groups.evaluation(data.indices[split])
        size = data.group_size[1] if grouped else 1
        number = len(units) if most is None else max(1, most // size)
        if number < len(units):
            spread = torch.linspace(0, len(units) - 1, number).long()
            units = [units[i] for i in spread.tolist()] if grouped else units[spread]
        if len(units) < world_size:
            what, setting = ("groups", "lower data.group_size") if grouped else ("images", f"raise data.{split}_size")
            raise UserError(f"{len(units)} {what} of split {split} are too few for {world_size} processes; {setting}")
        units, number = units[rank::world_size], max(1, batch_size // size)  # of units in a batch
        self.batches = [units[i : i + number] for i in range(0, len(units), number)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for units in self.batches:
            if self.data.is_grouped:
                batch = self.data.single(torch.cat(units), self.device) | groups_in_turn(units, self.device)
                yield cast(Batch, batch)
            else:
                yield self.data.single(units, self.device)


def in_turn(order: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """One image of every kind, then a second, ..., the kinds by their numbers, the images of one in the given order [N]."""
    order = order[kind[order].argsort(kind="stable")]
    turn = np.arange(len(order)) - np.searchsorted(kind[order], kind[order])  # place within the kind
    return order[turn.argsort(kind="stable")]


def cells(factors: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """The cell of each image [N] of a coarse grid: of factors of more than 8 values their halves, of the others the values;
    the first factor is the fastest. factors: [N, F]."""
    coarse = [f >= -(-n // 2) if n > 8 else f for f, n in zip(factors.T, sizes)]
    shape = [2 if n > 8 else n for n in sizes]
    return np.asarray(np.ravel_multi_index(tuple(part.astype(np.int64) for part in coarse[::-1]), tuple(shape[::-1])))


def by_blocks(number: int, generator: torch.Generator) -> Tensor:
    """A permutation of 0..number-1 that needs few reads: runs of BLOCK in random order, shuffled within WINDOW of them."""
    first = torch.randperm(-(-number // BLOCK), generator=generator)[:, None] * BLOCK
    order = (first + torch.arange(BLOCK)).flatten()
    order = order[order < number]
    window = torch.arange(number) // (BLOCK * WINDOW)
    return order[(window + torch.rand(number, generator=generator, dtype=torch.float64)).argsort()]


def read_ahead(make: Callable[[int], Batch], steps: Iterable[int], device: torch.device | None = None) -> Iterator[Batch]:
    """Yields the batch of each step while a thread makes the next one. device: of the batches."""
    on_gpu = torch.device(device or "cpu").type == "cuda"
    with ThreadPoolExecutor(1, initializer=partial(torch.cuda.set_device, device) if on_gpu else None) as thread:
        steps = iter(steps)
        batch = thread.submit(make, next(steps))
        for step in steps:
            following = thread.submit(make, step)
            yield batch.result()
            batch = following
        yield batch.result()


def share(
    units: Any, rank: int, world_size: int, what: str = "images", setting: str = "data.batch_size (labelled, subset)"
) -> Any:
    """The rank-th of world_size equal runs of images, or of groups."""
    share, rest = divmod(len(units), world_size)
    if rest:
        raise UserError(
            f"{world_size} processes cannot share {len(units)} {what} per step evenly; set {setting} to a multiple of "
            f"{world_size}"
        )
    return units[rank * share : (rank + 1) * share]


def _rows(array: Tensor, index: Tensor, device) -> Tensor:
    return to_device(array.index_select(0, index), device)  # copies whole rows: 10 times as fast as array[index]


@cache
def _pixels_of_bytes(device: torch.device) -> Tensor:
    """The 8 pixels of each byte, highest bit first: [256, 8] float32. Looking up is 3 times as fast as shifting."""
    return (torch.arange(256)[:, None] >> torch.arange(7, -1, -1)).bitwise_and(1).float().to(device)


def check_size(image_shape: Sequence[int], choices: Sequence[int]) -> None:
    """Raises UserError unless the images are square with one of these sides."""
    if image_shape[1] != image_shape[2] or image_shape[1] not in choices:
        sides = " or ".join(map(str, choices))
        raise UserError(f"image sides must be {sides}, got {image_shape[1]}x{image_shape[2]}")
