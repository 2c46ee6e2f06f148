"""Groups of images that share content, and batches of whole groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vae_zoo.config.types import Count, GroupSize
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.memory import to_device


@dataclass(frozen=True)
class Grouping:
    """group_by: `label`, a factor or a grouping of the set; then a batch is num_groups groups of group_size images, and two
    of its groups may show the same class. group_size: a number, or [least, most], from which each group's is drawn.
    group_pick: `images`, so that each comes at most once an epoch, or `balanced`, so that all groups of the set come equally
    often however many images they have."""

    group_by: str | None = None
    group_size: GroupSize = 2
    group_pick: Literal["images", "balanced"] = "images"
    num_groups: Count | None = None

    def sizes(self) -> tuple[int, int]:
        """The least and the most images of a group."""
        size = self.group_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def batch_of(self, batch_size: int) -> int:
        """How many groups a batch has."""
        return self.num_groups or max(1, 2 * batch_size // sum(self.sizes()))


class GroupSampler:
    """Makes batches of whole groups. group: that of every image of the set, [N] int64; batch_size: images, about."""

    def __init__(self, group: Tensor, grouping: Grouping, batch_size: int):
        self.group, self.pick, self.num_groups = group, grouping.group_pick, grouping.batch_of(batch_size)
        self.least, self.most = grouping.sizes()

    def batches(self, shuffled: Tensor, generator: torch.Generator) -> tuple[Sequence[Tensor], Tensor]:
        """Batches of whole groups, and the sizes of their groups [batches, num_groups]. shuffled: the images, in any order.

        A group of a batch is some images of one group of the set: `size` from `start` on, going round and round.
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
        """Cuts groups of `count` images into runs, in random order: (group, start, size) of each.

        The last run of a group takes what is left, or nothing when that is too little. An epoch has as many runs as if all
        were of the largest size, so that its length does not depend on what is drawn.
        """
        least, most = self.least, self.most
        drawn = (count + least - 1) // least  # enough for every group
        owner = torch.arange(len(count)).repeat_interleave(drawn)
        size = self._draw_sizes(count[owner], generator)
        start = size.cumsum(0) - size
        start -= start[drawn.cumsum(0) - drawn].repeat_interleave(drawn)  # within the group
        size = torch.minimum(size, count[owner] - start)
        runs = (size >= least).nonzero()[:, 0]
        runs = runs[torch.randperm(len(runs), generator=generator)]
        runs = runs[: int((count // most + (count % most >= least)).sum())]
        return owner[runs], start[runs], size[runs]

    def _rounds(self, count: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Rounds in which every group with enough images comes once, in random order: (group, start, size) of each.

        As many rounds as make an epoch about as many images as there are.
        """
        least, most = self.least, self.most
        owner = (count >= least).nonzero()[:, 0]
        round_of_images = (least + count[owner].clamp(max=most)).sum() / 2
        rounds = max(1, round(int(count.sum()) / float(round_of_images)))
        size = self._draw_sizes(count[owner].expand(rounds, -1), generator)
        start = (size.cumsum(0) - size) % count[owner]  # goes on where the round before ended
        turn = torch.rand(size.shape, generator=generator).argsort(1)
        return owner[turn].flatten(), start.gather(1, turn).flatten(), size.gather(1, turn).flatten()

    def _draw_sizes(self, count: Tensor, generator: torch.Generator) -> Tensor:
        """Sizes, uniform from the least to the most of the range, or to the `count` images that there are."""
        least, most = self.least, self.most
        choices = count.clamp(least, most) - least + 1
        return least + (torch.rand(count.shape, generator=generator, dtype=torch.float64) * choices).long()

    def evaluation(self, images: Tensor) -> list[Tensor]:
        """These images, a split, in groups of one size, `group_size` or the most of its range: the images of each, in order.

        A bound on log p of a group depends on its size, so this one is fixed; a smaller group of the set is one group, and
        what is left over of a larger one is left out. Of each group of the set first one, then a second, ...
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


def groups_in_turn(groups: Sequence[Tensor], device) -> dict[str, Any]:
    """What a batch says of groups that follow on each other."""
    group = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(images) for images in groups]))
    return {"num_groups": len(groups), "group": to_device(group, device)}


def alone_where_unknown(group: np.ndarray) -> np.ndarray:
    """Groups [N] in which every -1, what is unknown, has become a group of its own."""
    return np.where(group < 0, -1 - np.arange(len(group)), group)
