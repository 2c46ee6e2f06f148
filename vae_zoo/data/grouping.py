"""Groups of images that share content, and batches of whole groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int, Integer
from torch import Tensor

from vae_zoo.config.types import Count, GroupSize
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.memory import to_device

Places = Int[Tensor, " _"]  # of some images


@dataclass(frozen=True)
class Grouping:
    """Settings of batches of groups; the images of a group share their content.

    A batch has `num_groups` groups, two of which may be of the same class.

    Args:
        group_by: `label`, or a factor or grouping of the data set; None: no groups, or, if the model needs groups, `group`
            or else the default of the data set.
        group_size: Number of images per group, >= 1, or [min, max], from which the size of each group is drawn.
        group_pick: `images`: each image is used at most once per epoch. `balanced`: all groups are used equally often,
            whatever their number of images.
        num_groups: Number of groups per batch, >= 1; None: as many as give about batch_size images.
    """

    group_by: str | None = None
    group_size: GroupSize = 2
    group_pick: Literal["images", "balanced"] = "images"
    num_groups: Count | None = None

    def sizes(self) -> tuple[int, int]:
        """The smallest and the largest number of images of a group."""
        size = self.group_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def batch_of(self, batch_size: int) -> int:
        """The number of groups of a batch.

        Args:
            batch_size: Approximate number of images per batch.
        """
        return self.num_groups or max(1, 2 * batch_size // sum(self.sizes()))


class GroupSampler:
    """Makes batches of whole groups.

    Args:
        group: The group of each image of the set, >= 0.
        grouping: The settings.
        batch_size: Approximate number of images per batch.
    """

    def __init__(self, group: Int[Tensor, " N"], grouping: Grouping, batch_size: int):
        self.group, self.pick, self.num_groups = group, grouping.group_pick, grouping.batch_of(batch_size)
        self.least, self.most = grouping.sizes()

    def batches(self, shuffled: Places, generator: torch.Generator) -> tuple[Sequence[Places], Int[Tensor, "M G"]]:
        """Makes the batches of an epoch.

        A group of a batch has `size` images of one group of the data set, from `start` on, cyclically.

        Args:
            shuffled: Places of the images, in random order.
            generator: Source of the sizes and of the order of the groups.

        Returns:
            Places of the images of each batch, group after group, and the sizes of its groups; M batches.

        Raises:
            UserError: No group has as many images as the smallest size.
        """
        group = self.group[shuffled]
        by_group, count = shuffled[group.argsort(stable=True)], torch.bincount(group)
        if count.max() < self.least:
            raise UserError(
                f"data.group_size={self.least}, but the largest group has {count.max()} training images; lower "
                f"data.group_size or choose another data.group_by"
            )
        pick = self._all_images if self.pick == "images" else self._rounds
        owner, start, size = pick(count, generator)  # [chunks] each
        num_groups = min(self.num_groups, len(owner))
        kept = len(owner) // num_groups * num_groups
        owner, start, size = owner[:kept], start[:kept], size[:kept]
        within = torch.arange(int(size.sum())) - (size.cumsum(0) - size).repeat_interleave(size)
        within = (within + start.repeat_interleave(size)) % count[owner].repeat_interleave(size)
        order = by_group[(count.cumsum(0) - count)[owner].repeat_interleave(size) + within]
        sizes = size.view(-1, num_groups)
        return order.split(sizes.sum(1).tolist()), sizes

    def _all_images(self, count: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Cuts groups of `count` images into chunks, in random order: (group, start, size) of each.

        The last chunk of a group has the remaining images, or is dropped if these are too few. An epoch has as many chunks
        as if all had the largest size, so that its length does not depend on the random sizes.
        """
        drawn = (count + self.least - 1) // self.least  # enough for every group
        owner = torch.arange(len(count)).repeat_interleave(drawn)
        size = self._draw_sizes(count[owner], generator)
        start = size.cumsum(0) - size
        start -= start[drawn.cumsum(0) - drawn].repeat_interleave(drawn)  # within the group
        size = torch.minimum(size, count[owner] - start)
        runs = (size >= self.least).nonzero()[:, 0]
        runs = runs[torch.randperm(len(runs), generator=generator)]
        runs = runs[: int((count // self.most + (count % self.most >= self.least)).sum())]
        return owner[runs], start[runs], size[runs]

    def _rounds(self, count: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Rounds in which every group with enough images occurs once, in random order: (group, start, size) of each.

        The number of rounds is chosen so that an epoch has about as many images as the data.
        """
        owner = (count >= self.least).nonzero()[:, 0]
        round_of_images = (self.least + count[owner].clamp(max=self.most)).sum() / 2
        rounds = max(1, round(int(count.sum()) / float(round_of_images)))
        size = self._draw_sizes(count[owner].expand(rounds, -1), generator)
        start = (size.cumsum(0) - size) % count[owner]  # continues where the previous round ended
        turn = torch.rand(size.shape, generator=generator).argsort(1)
        return owner[turn].flatten(), start.gather(1, turn).flatten(), size.gather(1, turn).flatten()

    def _draw_sizes(self, count: Tensor, generator: torch.Generator) -> Tensor:
        """Sizes, uniform from the smallest to the largest of the range, or to `count` if a group has fewer images."""
        choices = count.clamp(self.least, self.most) - self.least + 1
        return self.least + (torch.rand(count.shape, generator=generator, dtype=torch.float64) * choices).long()

    def evaluation(self, images: Places) -> list[Places]:
        """Cuts a split into fixed groups of one size, group_size or the largest of its range.

        A bound on log p of a group depends on its size, so the size is fixed; a smaller group of the data set is one group,
        and the remainder of a larger one is dropped.

        Args:
            images: Places of the images of the split.

        Returns:
            Places of the images of each group: one group of each of the set's groups, then a second of each, ...
        """
        group = self.group[images]
        by_group, count = images[group.argsort(stable=True)], torch.bincount(group)
        size = count.clamp(max=self.most)  # [groups of the set]
        owner = torch.arange(len(count)).repeat_interleave(count)
        rank = torch.arange(len(group)) - (count.cumsum(0) - count)[owner]  # place of each image within its group
        turn = rank // size[owner]
        whole = turn < (count // size.clamp(min=1))[owner]
        key, order = (turn * len(count) + owner)[whole].sort(stable=True)
        sizes = key.unique_consecutive(return_counts=True)[1]
        return list(by_group[whole][order].split(sizes.tolist()))


def groups_in_turn(groups: Sequence[Places], device: torch.device | str) -> dict[str, Any]:
    """Makes `group` and `num_groups` of a batch whose groups are consecutive.

    Args:
        groups: The images of each group.
        device: Device of the result.
    """
    group = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(images) for images in groups]))
    return {"num_groups": len(groups), "group": to_device(group, device)}


def alone_where_unknown(group: Integer[np.ndarray, " N"]) -> Integer[np.ndarray, " N"]:
    """Replaces each -1, an unknown group, by a group of its own, < 0."""
    return np.where(group < 0, -1 - np.arange(len(group)), group)
