"""Metrics of detected boxes, counts and masks of objects. Boxes are x0, y0, x1, y1 in pixels, one tensor for each image."""

import logging
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import box_iou

from vae_zoo.contract import Detections

Boxes = Sequence[Shaped[Tensor, "_ 4"]]  # of each image
MOST = 100  # detections of an image that count

logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)  # else it writes a table for each average precision


def average_precision(found: Sequence[Detections], boxes: Boxes) -> dict[str, float]:
    """Average precision at IoU 0.5, and its mean over IoU 0.5, 0.55, ..., 0.95, as computed by torchmetrics (COCO's).

    COCO takes 101 recalls and IoU >= threshold, SPAIR and SPACE 11 and IoU > threshold.

    Args:
        found: For each image `boxes` [n, 4], `scores` [n], `labels` [n].
        boxes: True boxes of each image.

    Returns:
        {"ap50", "map"}, in [0, 1], NaN if no image has an object.
    """
    metric = MeanAveragePrecision(box_format="xyxy", backend="faster_coco_eval", max_detection_thresholds=[1, 10, MOST])
    metric.update([*found], [{"boxes": b, "labels": torch.zeros(len(b), dtype=torch.long, device=b.device)} for b in boxes])
    values = metric.compute()
    return {name: float(values[key]) if values[key] >= 0 else np.nan for name, key in (("ap50", "map_50"), ("map", "map"))}


def recall(found: Boxes, boxes: Boxes, least: Sequence[float]) -> list[float]:
    """Share of the true boxes that are matched one-to-one to found boxes with at least a certain IoU.

    Args:
        found: Detections of each image.
        boxes: True boxes of each image.
        least: IoUs, in [0, 1].

    Returns:
        For each of `least`, in [0, 1], NaN if there is no true box.
    """
    met, total = np.zeros(len(least)), sum(map(len, boxes))
    for one, truth in zip(found, boxes):
        iou = box_iou(one, truth).cpu().numpy()
        for i, value in enumerate(least):  # matched separately: the pairs with the largest sum may miss one above it
            enough = iou >= value
            met[i] += enough[linear_sum_assignment(enough, maximize=True)].sum()
    return [float(n / total) if total else np.nan for n in met]


def adjusted_rand(
    found: Int[Tensor, "N H W"], truth: Int[Tensor, "N H W"], foreground: bool = True
) -> Float[np.ndarray, " N"]:
    """Adjusted Rand index of integer maps: 1 for equal segments, 0 by chance.

    Args:
        found: Number of the segment of each pixel, >= 0.
        truth: The true object of each pixel, 0 = the background.
        foreground: Uses only pixels whose true number is not 0.

    Returns:
        For each image, at most 1; NaN if no pixel is used, 1 if all pixels are in one segment in both maps.

    Source: Hubert and Arabie (1985), as in Greff et al. (2019).
    """
    N, rows, columns = len(truth), int(found.max()) + 1, int(truth.max()) + 1
    cell = (torch.arange(N)[:, None] * rows + found.cpu().flatten(1)) * columns + truth.cpu().flatten(1)
    kept = cell[truth.cpu().flatten(1) > 0] if foreground else cell.flatten()
    table = torch.bincount(kept, minlength=N * rows * columns).view(N, rows, columns).double().numpy()

    def pairs(n):
        return n * (n - 1) / 2

    both, one, two = pairs(table).sum((1, 2)), pairs(table.sum(2)).sum(1), pairs(table.sum(1)).sum(1)
    total = table.sum((1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = one * two / pairs(total)
        value = np.where((one == pairs(total)) & (two == pairs(total)), 1.0, (both - chance) / ((one + two) / 2 - chance))
    return np.where(total > 0, value, np.nan)


def commonest_colour(image: Float[np.ndarray, "C H W"]) -> Float[np.ndarray, " C"]:
    """The colour of the most pixels; of several, the darkest, compared channel by channel."""
    channels = image.reshape(len(image), -1)
    codes = np.zeros(channels.shape[1], dtype=np.int64)  # one number for each colour, in the order of the colours
    for channel in channels:
        values, place = np.unique(channel, return_inverse=True)
        codes = codes * len(values) + place
    first, number = np.unique(codes, return_index=True, return_counts=True)[1:]
    return channels[:, first[number.argmax()]]


def connected_components(
    images: Float[np.ndarray, "N C H W"], least: float = 0.1, pixels: int = 4
) -> list[Float[np.ndarray, "_ 4"]]:
    """Finds boxes without learning: connected pixels that differ from the commonest colour.

    Args:
        images: In [0, 1].
        least: Smallest difference in any channel at which a pixel belongs to an object.
        pixels: Smallest number of pixels of an object.

    Returns:
        Boxes of each image, pixels.

    Source: the baseline ConnComp of Crawford and Pineau (2019).
    """
    found = []
    for image in images:
        other = np.abs(image - commonest_colour(image)[:, None, None]).max(0) > least
        parts, count = cast(tuple[np.ndarray, int], ndimage.label(other))
        size = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        slices = [place for place, n in zip(ndimage.find_objects(parts), size) if n >= pixels]
        found.append(np.array([[x.start, y.start, x.stop, y.stop] for y, x in slices], np.float32).reshape(-1, 4))
    return found
