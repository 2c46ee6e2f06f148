"""The judge: a small classifier that is trained on real images and applied to images that a model decoded.

It is trained on training images and labels, with early stopping on the validation images. Its accuracy on real test images
is an upper reference for its accuracy on decoded images. Its last hidden layer also provides the features of
vae_zoo.metrics.generation.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor, nn

from vae_zoo.contract import Batch, Model
from vae_zoo.distributions import noise

SPLITS = ("train", "val", "test")
REDUCED = 32  # smallest side, pixels, to which images are reduced
CHUNK = 512  # images at a time, outside training
SCORED = 5_000  # images of val and test, at most, that the accuracy of a judge is measured on
Pair = tuple[Tensor, Tensor]  # images and labels


class Judge(nn.Module):
    """Three convolutions of kernel 5 and stride 2 and one hidden layer, for images of any shape.

    Images of 64 pixels or more are first reduced by averages over squares, so that the smaller side has 32 to 63 pixels,
    which takes a quarter of the time at 64. Rows and columns that fill no square are left out.

    Args:
        image_shape: [C, H, W].
        num_classes: K.
        width: Channels of the first convolution.
        num_features: Units of the hidden layer.
        column: Column of the batch's factors that it predicts; None: the label, the first one if there are several.

    Attributes:
        accuracy: On the test images.
        chance: Share of the largest class there.
    """

    accuracy = chance = float("nan")

    def __init__(
        self, image_shape: Sequence[int], num_classes: int, width: int = 8, num_features: int = 64, column: int | None = None
    ):
        super().__init__()
        self.num_features, self.column = num_features, column
        channels = [image_shape[0], width, 4 * width, 8 * width]
        layers = [m for i, o in zip(channels, channels[1:]) for m in _convolution(i, o)]
        factor = max(1, min(image_shape[1:]) // REDUCED)
        has_size_4 = all(ceil(size // factor / 8) == 4 for size in image_shape[1:])
        pool = nn.Identity() if has_size_4 else nn.AdaptiveAvgPool2d(4)  # slower
        hidden = [pool, nn.Flatten(), nn.Linear(16 * channels[-1], num_features), nn.ReLU()]
        self.trunk = nn.Sequential(nn.AvgPool2d(factor) if factor > 1 else nn.Identity(), *layers, *hidden)
        self.head = nn.Linear(num_features, num_classes)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Computes the logits of images in [0, 1]."""
        return self.head(self.trunk(x))

    @torch.no_grad()
    def features(self, images: Shaped[Tensor, "N C H W"]) -> Float[Tensor, "N E"]:
        """Computes the features of images, float in [0, 1] or uint8."""
        device = self.head.weight.device
        return torch.cat([self.trunk(_to_float(chunk.to(device))) for chunk in images.split(CHUNK)])

    @torch.no_grad()
    def predict(self, images: Shaped[Tensor, "N C H W"]) -> Int[Tensor, " N"]:
        """Classifies images, float in [0, 1] or uint8."""
        return self.head(self.features(images)).argmax(1)


def train_judge(
    data: Any,
    *,
    target: str = "label",
    max_images: int = 20_000,
    steps: int = 2400,
    checks: int = 8,
    patience: int = 3,
    batch_size: int = 50,
    lr: float = 2e-3,
    width: int = 8,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Judge:
    """Trains a judge.

    All training labels are used, regardless of data.labelled. Adam on the cross-entropy, with a learning rate that falls to
    0 over `steps` batches; the best on val of `checks` intermediate states is kept.

    Args:
        data: A DataModule that is set up, or {"train": (images [N, C, H, W], labels [N]), "val": ..., "test": ...}. Images
            are float in [0, 1] or uint8; labels are 0, 1, ..., and -1 (unknown) is left out.
        target: `label`, or one of the factors.
        max_images: Largest number of training images of a DataModule, evenly spaced; val and test have at most 5,000.
        steps: Batches.
        checks: Number of evaluations on val.
        patience: Evaluations without improvement after which training stops.
        batch_size: Images.
        lr: First learning rate.
        width: As in Judge.
        seed: Seed of weights and order.
        device: Where it is trained.

    Returns:
        The judge in eval mode, with its `accuracy` and `chance`.

    Raises:
        ValueError: A split has no known label.
    """
    column = None
    if not isinstance(data, Mapping):
        column = None if target == "label" else data.factor_names.index(target)
        sizes = {split: max_images if split == "train" else min(SCORED, max_images) for split in SPLITS}
        data = {split: images_and_labels(data, split, column, most) for split, most in sizes.items()}
    (x, y), val, test = (_known(split, *data[split]) for split in SPLITS)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        judge = Judge(x.shape[1:], int(y.max()) + 1, width, column=column).to(device)
    generator = torch.Generator().manual_seed(seed)
    epochs = ceil(steps * batch_size / len(x))
    order = torch.cat([torch.randperm(len(x), generator=generator) for _ in range(epochs)])
    stretches = order[: steps * batch_size].split(batch_size * ceil(steps / checks))
    _fit(judge, (x, y), val, stretches, batch_size, lr, patience)
    judge.accuracy = accuracy(judge, *test)
    judge.chance = test[1].bincount().max().item() / len(test[1])
    return judge.requires_grad_(False)


def _fit(
    judge: Judge, train: Pair, val: Pair, stretches: Sequence[Tensor], batch_size: int, lr: float, patience: int
) -> None:
    """Trains on the rows of each stretch in turn, and keeps the best of the states after them, measured on val."""
    (x, y), device = train, judge.head.weight.device
    optimizer = torch.optim.Adam(judge.parameters(), lr, foreach=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, sum(ceil(len(s) / batch_size) for s in stretches))
    best, kept, waited = -1.0, {}, 0
    for stretch in stretches:
        judge.train()
        for rows in stretch.split(batch_size):
            with torch.enable_grad():  # evaluations run without gradients
                loss = F.cross_entropy(judge(_to_float(x[rows].to(device))), y[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        judge.eval()
        if (score := accuracy(judge, *val)) > best:
            best, kept, waited = score, {name: value.clone() for name, value in judge.state_dict().items()}, 0
        elif (waited := waited + 1) == patience:
            break
    judge.load_state_dict(kept)


def accuracy(judge: Judge, images: Shaped[Tensor, "N C H W"], labels: Int[Tensor, " N"]) -> float:
    """Share of images whose label the judge predicts, 0..1."""
    return (judge.predict(images).cpu() == labels.cpu()).double().mean().item()


@torch.no_grad()
def reconstruction_accuracy(model: Model, batches: Iterable[Batch], judge: Judge) -> float:
    """Share of labelled images, 0..1, whose label the judge predicts from their reconstruction by posterior means."""
    right = count = 0
    for batch in batches:
        labels = _labels(batch, judge.column)
        known = labels >= 0
        right += int((judge.predict(model.reconstruct(batch)).to(labels.device) == labels)[known].sum())
        count += int(known.sum())
    return right / count


def images_and_labels(
    data: Any, split: str, column: int | None, max_images: int
) -> tuple[UInt8[Tensor, "N C H W"], Int[Tensor, " N"]]:
    """Images and labels of a split of a DataModule.

    Args:
        data: Set up.
        split: Name of the split.
        column: Column of the factors; None: the label.
        max_images: Largest number of images, evenly spaced among those with a known label.
    """
    index = data.indices[split]
    if column is None and (known := data.first_label[index] >= 0).any():
        index = index[known]
    index = index[torch.linspace(0, len(index) - 1, min(max_images, len(index))).long()]
    batches = [data.batch(part) for part in index.split(CHUNK)]
    images = torch.cat([(batch["image"] * 255).round().byte() for batch in batches])
    return images, torch.cat([_labels(batch, column) for batch in batches])


@torch.no_grad()
def swap_consistency(model: Model, batches: Iterable[Batch], judge: Judge, *, seed: int = 0) -> dict[str, float]:
    """Share of swaps in which the judge predicts the label of the image that a block comes from, for each block.

    A swap decodes this block of one image with all other blocks of an image with another label (`model.codes`), and counts
    if the judge predicts the label of the first image. Every image of `batches` is once the donor of the block; its partner
    is drawn from all images with `seed`, so the shares do not depend on the batch size. A block that alone holds the label
    has nearly the judge's accuracy on reconstructions, and the other blocks nearly 0. With two blocks, 1 minus their
    sum is about the share of swaps in which the judge predicts neither label. Images with unknown labels are left out.

    Args:
        model: In eval mode.
        batches: Batches of the images.
        judge: Judge of the label.
        seed: Seed of the partners.

    Returns:
        {"follows_<block>": 0..1}.

    Raises:
        ValueError: The model has one block, or all images have one label.
    """
    if len(model.blocks) < 2:
        raise ValueError(f"a swap needs two blocks or more, this model has {[*model.blocks]}")
    parts: list[tuple[dict[str, Tensor], Tensor]] = []
    for batch in batches:
        with noise.per_image(batch["index"]):
            parts.append((model.codes(batch), _labels(batch, judge.column)))
    codes = {name: torch.cat([part[name] for part, _ in parts]) for name in model.blocks}
    labels = torch.cat([label for _, label in parts])
    known = (labels >= 0).nonzero()[:, 0]
    partner = partners(labels[known].cpu(), seed).to(known.device)
    giver, other = known, known[partner]
    shares = {}
    for block in model.blocks:
        named = []
        for own, rest in zip(giver.split(CHUNK), other.split(CHUNK), strict=True):
            mixed = {name: code[own if name == block else rest] for name, code in codes.items()}
            named.append(judge.predict(model.decode(mixed)).to(labels.device))
        shares[f"follows_{block}"] = (torch.cat(named) == labels[giver]).cpu().double().mean().item()
    return shares


def partners(labels: Int[Tensor, " N"], seed: int) -> Int[Tensor, " N"]:
    """Draws for each row a row of another label, uniform over them all.

    Args:
        labels: Labels of the rows.
        seed: Seed of the draw.

    Raises:
        ValueError: All labels are the same.
    """
    classes, label, counts = labels.unique(return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise ValueError("a swap needs images of two labels or more")
    order, start = label.argsort(stable=True), counts.cumsum(0) - counts  # rows by label, and where each label begins
    others = len(labels) - counts[label]
    place = (torch.rand(len(labels), generator=torch.Generator().manual_seed(seed)) * others).long()
    return order[place + counts[label] * (place >= start[label])]  # the run of the own label is skipped


def _labels(batch: Batch, column: int | None) -> Tensor:
    """[B] int64: a column of the factors, or the first label."""
    if column is not None:
        return batch["factors"][:, column].long()
    return batch["label"] if batch["label"].ndim == 1 else batch["label"][:, 0]


def _known(split: str, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    known = labels >= 0
    if not known.any():
        raise ValueError(f"the classifier needs labels, but no {split} image has one")
    return images[known], labels[known].long()


def _to_float(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.float() / 255


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 5, 2, 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
