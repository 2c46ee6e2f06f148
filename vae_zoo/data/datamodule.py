"""The data module: reads batches from arrays in memory or mapped files, and converts them to floats on the device.

A data set is a subclass that implements `load() -> Arrays`. The base class implements splits, label budgets, grouping,
order, ranks and resume.

The order is a function of (seed, epoch) and a batch a function of the step, so a resumed run needs only its step. A step is
one batch over all ranks: each rank reads its share of it.
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
from jaxtyping import Float, Int, Real, UInt8
from torch import Tensor

from vae_zoo.config.types import Count, Folds, Index, Shape, Size
from vae_zoo.contract import Batch, Model, TrainingData
from vae_zoo.data.arrays import Arrays, Factor
from vae_zoo.data.grouping import Grouping, GroupSampler, Places, alone_where_unknown, groups_in_turn
from vae_zoo.data.splits import cut
from vae_zoo.data.storage.labels import read_labels
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.memory import to_device

BLOCK, WINDOW = 256, 32  # data.shuffle=blocks: neighbouring images, and blocks that are shuffled together
Order = Int[Tensor, "M B"] | Sequence[Places]  # the batches of an epoch; grouped ones differ in size
log = logging.getLogger(__name__)


class DataModule(L.LightningDataModule):
    """Base of all data sets.

    A data set implements `load`. If it has the grouping `identity` or `group`, whole identities are assigned to train, val
    or test, and val_size and test_size count identities.

    Args:
        image_shape: [C, H, W] of the images served.
        batch_size: Number of images per step, over all processes, >= 1.
        seed: Seed of the order of the training images, >= 0.
        val_size: Number of validation images, >= 1, or a share below 1 of the images without an official split; not used if
            the set has an official validation split.
        test_size: Number or share of test images, in the same way.
        split_seed: Seed of the splits and of the choice of labels, >= 0; independent of `seed`.
        folds: Number of equal folds for cross-validation, >= 2, one of which is the test split; None: test_size.
        fold: Fold that is the test split, 0..folds-1.
        subset: Number of training images to use, >= 1; None: all.
        labelled: Number of training images whose label training may see, also for groups by label, >= 1; None: all.
        label_pick: Choice of these images. `balanced`: equally many of each class; `random`; `first_n`: the first ones of
            the training file, which stay in training; `cells`: one of each cell of a coarse grid of the factors in turn.
        labels_from: CSV file whose labels replace those of the data set (vae_zoo.data.storage.labels.read_labels); None: no.
        num_classes: Number of classes, >= 1, for models that are built before the data are read; None: read from the data.
        shuffle: `full`: an epoch is a random order. `blocks`, for files larger than the memory on slow disks: blocks of
            neighbouring images in random order, shuffled within a window of some blocks.
        **groups: As in vae_zoo.data.grouping.Grouping.

    Attributes:
        groupings: Allowed values of group_by.
        default_label: Meaning of the label of this data set.
        default_group: The grouping used when a model needs one and group_by is None; None: there is none.
        identity_factors: Names of the factors that all images of an identity share.
        style_factors: Names of the factors that differ between them.
        licence: For model cards: licence of weights trained on these images, in the hub's spelling, and terms of use of
            the images.
        needs: Keys of the batch that the model needs.
        indices: {split: indices of its images}; this and the following after `setup`.
        images: The stored images, uint8 [N, ...].
        label: Labels, int64 [N] or [N, V], -1 = unknown; None: there are none.
        train_label: The labels available to training; hidden ones are -1.
        factors: Ground-truth factors, [N, F]; None: unknown.
        factor_info: Describes the columns of `factors`; so do `factor_names`, `factor_sizes` and `factor_kinds`.
        num_train: Number of training images.
        labelled_indices: Indices of the training images whose label training may see.
        is_grouped: Whether batches have `group`.
        batches_per_epoch: Number of steps of an epoch.
    """

    parts = (Grouping,)
    groupings: tuple[str, ...] = ("label",)
    default_label: str = "label"
    default_group: str | None = "label"
    identity_factors: tuple[str, ...] = ()
    style_factors: tuple[str, ...] = ()
    licence: tuple[str, str] = ("other", "images of the author of the run, who must state their terms of use here")

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
        self.needs: frozenset[str] = frozenset()  # keys of the batch that the model needs, set by `serve`
        self.indices: dict[str, Tensor] = {}

    def load(self) -> Arrays:
        """Reads or draws the data; a data set implements this method.

        Returns:
            All images, those of every split.

        Raises:
            UserError: The user can fix it: a file is missing or damaged, settings do not fit.
        """
        raise NotImplementedError  # pragma: contract

    # ---- setup ----------------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Reads the data; if a trainer calls it, makes the batches that its model needs.

        Args:
            stage: Stage of Lightning; all splits are made in each.

        Raises:
            UserError: As in `load` and `serve`.
        """
        model = None if self.trainer is None else self.trainer.lightning_module
        if model is not None:
            self.serve(cast(Model, model))
        elif not self.indices:
            self._fill()

    def serve(self, model: Model) -> None:
        """Makes the batches that a model needs, and passes it the training data.

        Args:
            model: The model.

        Raises:
            UserError: The data lack something that the model or a setting needs.
        """
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
            self._read_labels(arrays)
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
        with warnings.catch_warnings(action="ignore"):  # a mapped file is read-only, and nothing writes to it
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
        self._orders: dict[tuple[str, int], tuple[Order, Tensor | None]] = {}
        self.batches_per_epoch = len(self.epoch_order(0))  # so that impossible groups are reported now

    def _read_labels(self, arrays: Arrays) -> None:
        """Replaces the labels of the data set by those of the file `labels_from`."""
        assert self.labels_from is not None
        label, names = read_labels(self.labels_from, len(arrays.images), arrays.names)
        arrays.label, least = label[:, 0] if label.shape[1] == 1 else label, int(label.max()) + 1
        if self.num_classes is not None and self.num_classes < least:
            raise UserError(
                f"data.num_classes={self.num_classes}, but {self.labels_from} has the label {least - 1}; set "
                f"data.num_classes={least} or more"
            )
        arrays.num_classes = self.num_classes or least  # a file of few labels may lack a class
        arrays.label_names = names if len(names) > 1 else ()

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
        """Labels available to training: -1 where `labelled` hides them."""
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
    def first_label(self) -> Int[Tensor, " N"]:
        """The first label variable of all images, -1 = unknown."""
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
        if by in choices and self.labelled is not None and (by == "label" or self._is_label(choices[by])):
            log.info("groups by label: each training image beyond data.labelled=%d is its own group", self.labelled)
            by = "label"
        if by not in choices:
            known = ", ".join(sorted(choices))
            remedy = f"choose one of {known}" if known else "it has none, choose a data set with labels or known factors"
            raise UserError(f"data.group_by={by} is not a grouping of this data set; {remedy}")
        value = choices[by] if by in self.factor_names else alone_where_unknown(choices[by])
        return torch.from_numpy(np.unique(value, return_inverse=True)[1].astype(np.int64))

    def _is_label(self, column: np.ndarray) -> bool:
        """Whether groups of this column are those of the first label, which `labelled` hides."""
        train = self.indices["train"].numpy()
        values = [np.unique(part[train], return_inverse=True)[1] for part in (column, self.first_label.numpy())]
        pairs = np.unique(np.stack(values), axis=1)
        return all(pairs.shape[1] == value.max() + 1 for value in values)

    def _label_of_groups(self) -> Tensor:
        """The first label of each image [N], of training images only where training may see it."""
        label, train = self.first_label.clone(), self.indices["train"]
        if self.labelled is not None and self.train_label is not None:
            label[train] = self.train_label[train].view(len(train), -1)[:, 0]
        return label

    # ---- training batches -----------------------------------------------------------------------------------------

    def epoch_order(self, epoch: int, stream: Literal["main", "supervised"] = "main") -> Order:
        """The batches of an epoch, a function of (seed, epoch).

        Args:
            epoch: Number of the epoch, >= 0.
            stream: `main`, or `supervised` for the second, labelled batches.

        Returns:
            Indices of the images of each batch; for grouped data group by group, with the sizes of `group_sizes`.
        """
        return self._order(epoch, stream)[0]

    def _order(self, epoch: int, stream: Literal["main", "supervised"]) -> tuple[Order, Tensor | None]:
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
            found = order[: len(order) // size * size].view(-1, size), None
        recent = {key: value for key, value in self._orders.items() if key[0] != stream or key[1] == epoch - 1}
        self._orders = recent | {(stream, epoch): found}
        return found

    def group_sizes(self, step: int) -> Int[Tensor, " G"]:
        """Counts the images of each group of a training step of grouped data, a function of (seed, step).

        Args:
            step: Number of the step, >= 0.
        """
        epoch, position = divmod(step, self.batches_per_epoch)
        sizes = self._order(epoch, "main")[1]
        assert sizes is not None
        return sizes[position]

    def train_indices(self, step: int, stream: Literal["main", "supervised"] = "main") -> Int[Tensor, " B"]:
        """Indices of the images of a training step over all processes, a function of (seed, step).

        Args:
            step: Number of the step, >= 0.
            stream: `main`, or `supervised` for the second, labelled batch.
        """
        per_epoch = self.batches_per_epoch if stream == "main" else max(1, len(self.labelled_indices) // self.batch_size)
        epoch, position = divmod(step, per_epoch)
        return self.epoch_order(epoch, stream)[position]

    def train_batch(self, step: int, rank: int = 0, world_size: int = 1, device: torch.device | str = "cpu") -> Batch:
        """Makes the share of a process of a training batch, with the labels and factors that training may see.

        Args:
            step: Number of the step, >= 0.
            rank: Number of the process, 0..world_size-1.
            world_size: Number of processes; all get equally many images, or equally many whole groups.
            device: Device of the batch.

        Raises:
            UserError: The processes cannot share the step evenly.
        """
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

    def batch(self, index: Int[Tensor, " B"], device: torch.device | str = "cpu") -> Batch:
        """Makes a batch for evaluation, with labels, factors and groups, as far as the data set has them.

        Args:
            index: Indices of the images, 0..N-1.
            device: Device of the batch.
        """
        batch = self.single(index, device)
        if self._groups is not None:
            groups, group = self.group_of(index).unique(return_inverse=True)
            batch["num_groups"], batch["group"] = len(groups), to_device(group, device)
        return batch

    def single(self, index: Int[Tensor, " B"], device: torch.device | str = "cpu") -> Batch:
        """Makes a batch as `batch` does, but without groups, so that no other image influences the code of an image.

        Args:
            index: Indices of the images, 0..N-1.
            device: Device of the batch.
        """
        return self._gather(index, device, self.label, self.factors)

    def group_of(self, index: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The groups of images of grouped data, numbered over the whole set.

        Args:
            index: Indices of the images, 0..N-1.
        """
        assert self._groups is not None
        return self._groups.group[index]

    def _gather(self, index: Tensor, device, label: Tensor | None, factors: Tensor | None) -> Batch:
        batch: Batch = {"image": self.to_float(_rows(self.images, index, device)), "index": to_device(index, device)}
        if label is not None:
            batch["label"] = _rows(label, index, device)
        if factors is not None:
            batch["factors"] = _rows(factors, index, device).float()
        return batch

    def to_float(self, images: UInt8[Tensor, "B ..."]) -> Float[Tensor, "B C H W"]:
        """Converts images to floats in [0, 1], on their device.

        Args:
            images: Stored images: bytes, or 8 binary pixels per byte.
        """
        if self.packed:
            return _pixels_of_bytes(images.device).index_select(0, images.flatten().int()).view(-1, *self.image_shape)
        return images.float().div_(255)

    # ---- Lightning ------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> Iterator[Batch]:
        """Yields the batches of this process without end, from the step of the trainer on."""
        # Lightning sees one long epoch; this module counts the epochs
        placement = self._placement()
        return read_ahead(partial(self.train_batch, **placement), count(self._attached().global_step), placement["device"])

    def val_dataloader(self) -> "EvalBatches":
        """The share of this process of the validation split."""
        return EvalBatches(self, "val", self._placement())

    def _attached(self) -> L.Trainer:
        assert self.trainer is not None
        return self.trainer

    def _placement(self) -> dict:
        trainer = self._attached()
        return {"rank": trainer.global_rank, "world_size": trainer.world_size, "device": trainer.strategy.root_device}

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """The batch itself, which is made on the device.

        Args:
            batch: Batch of a loader of this module.
            device: Device of the process.
            dataloader_idx: Number of the loader, unused.
        """
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The position of the next batch, and the properties of the data to which it refers."""
        return {"step": self._attached().global_step, **self._fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Checks that a checkpoint is of these data; the position itself is the trainer's step.

        Args:
            state: Result of `state_dict`.

        Raises:
            UserError: It is of other data, another batch size or seed.
        """
        for name, value in self._fingerprint().items():
            if (was := state.get(name)) != value:
                raise UserError(
                    f"the checkpoint has {name}={was}, but the data set has {value}; restore the data or train again"
                )

    def _fingerprint(self) -> dict:
        return {"num_train": self.num_train, "batches_per_epoch": self.batches_per_epoch, "seed": self.seed}


class EvalBatches:
    """The batches of a split in order, once; a process takes every world_size-th image, so that none is without a batch.

    Grouped data are in whole groups, those of `GroupSampler.evaluation`.

    Args:
        data: Set up.
        split: Its name.
        placement: `rank`, `world_size` and `device`; None: one process, on the CPU.
        batch_size: Number of images per batch, >= 1; None: that of the data, but at least 64.
        most: Approximate number of images, spread over the split, >= 1; None: all.

    Raises:
        UserError: There are more processes than images or groups.
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


def in_turn(order: Int[np.ndarray, " N"], kind: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Orders images so that one of each kind comes first, then a second of each, ...

    Args:
        order: A permutation of the images, kept within a kind.
        kind: Kind of each image; kinds come in the order of their numbers.
    """
    order = order[kind[order].argsort(kind="stable")]
    turn = np.arange(len(order)) - np.searchsorted(kind[order], kind[order])  # place within the kind
    return order[turn.argsort(kind="stable")]


def cells(factors: Real[np.ndarray, "N F"], sizes: Sequence[int]) -> Int[np.ndarray, " N"]:
    """The cell of each image in a coarse grid of factors, the first of which varies fastest.

    Args:
        factors: Indices of values.
        sizes: Number of values of each factor; the grid has the two halves of a factor with more than 8 values, and the
            values of any other.
    """
    coarse = [f >= -(-n // 2) if n > 8 else f for f, n in zip(factors.T, sizes)]
    shape = [2 if n > 8 else n for n in sizes]
    return np.asarray(np.ravel_multi_index(tuple(part.astype(np.int64) for part in coarse[::-1]), tuple(shape[::-1])))


def by_blocks(number: int, generator: torch.Generator) -> Int[Tensor, " N"]:
    """Draws a permutation that needs few reads: runs of BLOCK in random order, shuffled within WINDOW of them.

    Args:
        number: Length N.
        generator: Source of the random numbers.
    """
    first = torch.randperm(-(-number // BLOCK), generator=generator)[:, None] * BLOCK
    order = (first + torch.arange(BLOCK)).flatten()
    order = order[order < number]
    window = torch.arange(number) // (BLOCK * WINDOW)
    return order[(window + torch.rand(number, generator=generator, dtype=torch.float64)).argsort()]


def read_ahead(make: Callable[[int], Batch], steps: Iterable[int], device: torch.device | None = None) -> Iterator[Batch]:
    """Yields the batch of each step while a thread makes the next one.

    Args:
        make: Makes the batch of a step.
        steps: At least one.
        device: Device of the batches; None: the CPU.

    Yields:
        Batches in the order of `steps`.
    """
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
    """Returns the rank-th of world_size equal, contiguous parts.

    Args:
        units: Images or groups, a tensor or a sequence.
        rank: Number of the process, 0..world_size-1.
        world_size: Number of processes.
        what: Name of the units, for the error.
        setting: Setting that determines their number, for the error.

    Raises:
        UserError: The parts would not be equal.
    """
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
    """Refuses images that are not square or have a side that is not allowed.

    Args:
        image_shape: [C, H, W].
        choices: The sides, pixels.

    Raises:
        UserError: The images have other sides.
    """
    if image_shape[1] != image_shape[2] or image_shape[1] not in choices:
        sides = " or ".join(map(str, choices))
        raise UserError(f"image sides must be {sides}, got {image_shape[1]}x{image_shape[2]}")
