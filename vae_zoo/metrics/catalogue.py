"""Catalogue of metrics and figures by name. Imports only the standard library, since Hydra's plugins use it.

Only the last part of a metric's name is looked up here, such as nmi of `test/facet0/shape/nmi`. Two endings are removed:
`<name>/gaussian` is the score without the categorical blocks, `<name>_pixels` that of the images without any model. For
`worth/<block>` the part before the block is looked up.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from vae_zoo.utils.text import natural


class Entry(NamedTuple):
    """Properties of the metrics whose last part fully matches `pattern`.

    Attributes:
        pattern: Regular expression.
        direction: 1: higher is better, -1: lower is better, 0: neither.
        unit: Such as nats.
        density: Whether it is not comparable between models with different likelihoods.
        compared: Whether settings of a leaderboard are compared in pairs.
        card: Prefix of the metric that is shown at the top of the report.
        meaning: Phrase on that card.
    """

    pattern: str
    direction: int
    unit: str = ""
    density: bool = False
    compared: bool = False
    card: str = ""
    meaning: str = ""


# The first match applies. Columns have this order; metrics of the first entry and unknown names come last.
METRICS = (
    Entry(
        r".*_(chance|floor|ceiling|baseline|constant|components|shuffled|nothing|tiles|std|used)|active_units.*|judge_accuracy"
        r"|accuracy_(resample|swap)_global(_official)?",  # at chance if the local code holds no label
        0,
    ),
    Entry("separation", 1, compared=True, card="test", meaning="0 to 1; 1: one block alone determines the class"),
    Entry("worth", 1, compared=True, card="test", meaning="effect of the least used block on the image; 0: unused"),
    Entry("worth_rec", 1),
    Entry("elbo", 1, "nats", density=True, compared=True, card="test", meaning="lower bound on log p(x), per image"),
    Entry(
        r"nll_iw\d+", -1, "nats", density=True, compared=True, card="test", meaning="-log p(x), importance-weighted bound"
    ),
    Entry("nll.*", -1, unit="nats", density=True, compared=True),
    Entry("bits_per_dim.*|loss", -1, density=True),
    Entry("distortion", -1, unit="nats", density=True, compared=True),
    Entry("rec", -1, "nats", density=True, compared=True, card="test", meaning="reconstruction error, -log p(x | z)"),
    Entry("(rec|distortion)(_.*)?", -1, unit="nats", density=True),
    Entry("(kl|rate)(_.*)?", 0, unit="nats"),  # lowest for a collapsed posterior, so neither good nor bad
    Entry("dci_disentanglement|factor_vae", 1, compared=True),
    Entry("mig", 1, compared=True, card="test", meaning="0 to 1; 1: each factor in one dimension"),
    Entry("conditional_entropy_.*", -1, unit="nats"),
    Entry("dci_.*|factor_votes|sap(_.*)?|beta_(vae|pairs.*)|modularity|explicitness(_.*)?|irs|udr(_.*)?", 1),
    Entry("accuracy", 1, compared=True, card="test", meaning="share of images whose label is predicted"),
    Entry(
        "cluster_accuracy_hungarian",
        1,
        compared=True,
        card="test",
        meaning="accuracy of clusters matched one-to-one to classes",
    ),
    Entry("ami", 1, compared=True, card="test", meaning="adjusted mutual information of clusters and labels; 0: chance"),
    Entry("count_accuracy_cells", 1, meaning="count_accuracy before overlapping detections are left out"),
    Entry("count_accuracy", 1, compared=True, card="test", meaning="share of scenes with the right number of objects"),
    # grows with the number of clusters, which is shown next to it
    Entry("cluster_accuracy_majority", 1, meaning="accuracy if each cluster has the label of most of its training images"),
    Entry("clusters", 0),
    Entry(r"swap_accuracy(_k\d+)?", 1, compared=True),
    Entry("cluster_balanced_accuracy", 1, meaning="mean over the classes of the majority accuracy"),
    Entry("cluster_purity", 1, meaning="accuracy if each cluster has the label of most of its test images"),
    Entry("nmi", 1, meaning="normalised mutual information of clusters and labels; grows with the number of clusters"),
    Entry("ari", 1, meaning="adjusted Rand index of clusters and labels; 0: chance"),
    Entry(r"(.*_)?(accuracy|purity)(_.*)?|seed_ari_.*|(.*_)?(auc|iou|f1)(_k\d+)?|identification_k\d+", 1),
    Entry(r"held_out_error_k\d+", -1),
    Entry("ap50", 1, compared=True, meaning="average precision of the boxes at IoU 0.5"),
    Entry("ari_fg", 1, compared=True, meaning="adjusted Rand index of the pixels of objects"),
    Entry("map", 1, compared=True, card="test", meaning="average precision, mean over IoU 0.5 to 0.95"),
    Entry(r"ap\d*|precision|recall\d*|psnr|ssim", 1),
    Entry("(.*_)?(mae|mape|mse|rmse|l1|ece|fid|kid)(_.*)?", -1),
    Entry("images_per_second", 0, card="train"),
)
GAUSSIAN, PIXELS, WORTH = "/gaussian", "_pixels", ("worth", "worth_rec")
PAIR = "test/separation", "test/worth"  # headline of models with several blocks; one alone can be high for a useless model
UNUSED = 0.01  # a block with a worth below this share of the reconstruction error is unused
CURVES = ("loss", "elbo", "rec", "kl")  # curves with these prefixes come first in the report
FIGURES = {  # captions; a name that ends in _ is the beginning of others
    "reconstructions": "images, each above its reconstruction",
    "samples": "samples from the prior, decoded",
    "samples_": "samples from each cluster of {rest}, decoded",
    "traversals_": "block {rest}: each row changes one dimension, all others are fixed",
    "swap_": "block {rest} from the image of the row, all other blocks from the image of the column",
    "kl_per_dimension": "KL of each dimension to the prior, nats per image",
    "blocks": "score of a probe for each factor from each block",
}


def split(metric: str) -> tuple[str, str]:
    """The prefix of a name, and the part that is looked up."""
    prefix, _, name = metric.removesuffix(GAUSSIAN).removesuffix(PIXELS).rpartition("/")
    before, _, last = prefix.rpartition("/")
    return (before, last) if last in WORTH else (prefix, name)


def unused(numbers: Mapping[str, float]) -> list[str]:
    """The blocks that the decoder ignores, by their worth."""
    found = {
        metric.removeprefix("test/worth/"): value for metric, value in numbers.items() if metric.startswith("test/worth/")
    }
    return [block for block, value in found.items() if value < UNUSED]


def rank(metric: str) -> int:
    """The position in METRICS; its length for an unknown name."""
    name = split(metric)[1]
    return next((i for i, known in enumerate(METRICS) if re.fullmatch(known.pattern, name)), len(METRICS))


def entry(metric: str) -> Entry:
    """The entry of a metric; the first entry, without properties, for an unknown name.

    A baseline has no better direction, and neither baselines nor scores of a part of the code are headline numbers.
    """
    found = (*METRICS, METRICS[0])[rank(metric)]
    if metric.endswith(PIXELS) or "/kmeans_" in metric:
        return found._replace(direction=0, compared=False, card="")
    return found._replace(compared=False, card="") if metric.endswith(GAUSSIAN) else found


def direction(metric: str) -> int:
    """1: higher is better, -1: lower is better, 0: neither or unknown."""
    return entry(metric).direction


def under_likelihood(metric: str) -> bool:
    """Whether the metric is not comparable between models with different likelihoods."""
    return any(known.density and re.fullmatch(known.pattern, split(metric)[1]) for known in METRICS)


def metric_order(metric: str) -> tuple:
    """Sorting key: test, test_unseen, the rest; within each the order of METRICS, names with a further prefix last."""
    prefix, name = split(metric)
    place = {"test": 0, "test_unseen": 1}.get(prefix.partition("/")[0], 2)
    return place, natural(prefix) if "/" in prefix else [], rank(metric) or len(METRICS), natural(name), natural(metric)


def cards(metrics: Iterable[str]) -> list[str]:
    """The metrics for the cards of the report: the PAIR if both exist, those with a unit, then the others."""
    shown = [metric for metric in metrics if metric.rpartition("/")[0] == entry(metric).card != ""]
    pair = PAIR if {*PAIR} <= {*shown} else ()
    others = (metric for metric in shown if metric not in pair)
    return [*pair, *sorted(others, key=lambda metric: (rank(metric) if entry(metric).unit else len(METRICS), metric))]


def curve_order(term: str) -> tuple:
    """Sorting key of the curves in the report."""
    return next((i for i, start in enumerate(CURVES) if term.startswith(start)), len(CURVES)), natural(term)


def caption(figure: str) -> str:
    """The caption of a figure."""
    for name, text in FIGURES.items():
        if figure == name or name.endswith("_") and figure.startswith(name):
            return text.format(rest=figure.removeprefix(name))
    return figure.replace("_", " ")
