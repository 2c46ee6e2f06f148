"""Suite `facets`: compares several clusterings of the same images with several labels, for models with `facets`.

Uses the capability HasFacets: `facets`, names of Gaussian blocks; `clusters(q)`, q(c | x) [B, K] of each facet;
`priors[facet]`, a mixture with `log_weights()` [K] and `sample(c, temperature)`. The cluster of an image is the arg max of
q(c | x); facet<j> is the j-th facet. Labels are those of the data set, and each known factor with few values.

facet<j>/<label>/...     agreement of the clusters of facet j with the label: cluster_accuracy_majority, _hungarian and
                         cluster_balanced_accuracy, with clusters assigned to classes on training images; cluster_purity,
                         with clusters assigned on the scored images as in the papers, and cluster_purity_chance; nmi, ami,
                         ari; and for each of them <score>_pixels: baseline, k-means on the pixels of the same images with
                         the same number of clusters as the facet
facet<j>/...             clusters: their number; clusters_used: those with 0.5 % of the images; clusters_present: those with
                         any image; clusters_effective: exp of the entropy of the mean q(c | x); confidence: mean q of an
                         image's cluster; kl: KL of the facet, nats
facet<i>/facet<j>/...    mutual_information (nats, biased upwards) and ami between the clusters of two facets
cluster_accuracy_...     and the other scores, clusters and clusters_used: for the first label and the facet whose clusters
                         have the highest ami with it on VALIDATION images; cluster_facet: the j of this facet

Source of the scores and pictures: Falck et al. (2021), utils.py and train.py of FabianFalck/mfcvae.
"""

from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vae_zoo.contract import Codes, HasFacets
from vae_zoo.data.datamodule import DataModule
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suite import Numbers, Picture, Result, Suite
from vae_zoo.evaluation.suites.clusters import by_pixels, member_images
from vae_zoo.figures import grid, swap_grid
from vae_zoo.figures.charts import cluster_sizes, heat_map
from vae_zoo.metrics import clustering
from vae_zoo.metrics.arrays import to_numpy
from vae_zoo.models.base import LatentVariableModel

FEW = 20  # an ordered factor with at most this many values is used as a label
USED = 0.005  # minimum share of the images for a cluster to count as used
CHUNK = 256  # images per batch
ROWS, MEMBERS = 25, 10  # clusters and members shown
TEMPERATURES = {0.0: 1, 0.3: 4, 1.0: 4}  # {factor on the standard deviations: number of samples per cluster}
DONORS = 8  # images of each facet in a recombination
CLASSES = 30  # largest number of values of a label with a confusion matrix
TABLES = {  # score: name and title of its table
    "cluster_accuracy_hungarian": ("facets", "accuracy of each label from the clusters of each facet, one-to-one"),
    "ami": ("facets_ami", "adjusted mutual information of the clusters of each facet with each label"),
}


class Clustered:
    """Images with the clusters of each facet.

    Args:
        model: With facets, in eval mode.
        data: Set up.
        index: The images.

    Attributes:
        probs: q(c | x) of each facet, [N, K].
        codes: Posterior means of all blocks, [N, D].
    """

    @torch.no_grad()
    def __init__(self, model: LatentVariableModel, data: DataModule, index: Int[np.ndarray, " N"]):
        assert isinstance(model, HasFacets)
        self.index, probs, codes = torch.from_numpy(index), [], []
        for part in self.index.split(CHUNK):
            q = model.encode(data.single(part, model.device))
            probs.append({name: p.float().cpu() for name, p in model.clusters(q).items()})
            codes.append({name: block.mean.float().cpu() for name, block in q.items()})
        self.probs = {name: torch.cat([part[name] for part in probs]).numpy() for name in model.facets}
        self.codes = {name: torch.cat([part[name] for part in codes]) for name in model.blocks}

    def assigned(self, facet: str) -> Int[np.ndarray, " N"]:
        """The cluster of each image in a facet."""
        return self.probs[facet].argmax(1)

    def shares(self, facet: str) -> Float[np.ndarray, " K"]:
        """Share of the images in each cluster of a facet."""
        return np.bincount(self.assigned(facet), minlength=self.probs[facet].shape[1]) / len(self.index)


class Facets(Suite):
    """Metrics of the clusterings of a model with facets; the docstring of the module defines them."""

    name, capability = "facets", HasFacets

    def run(self, e: Context) -> Result:
        """Compares the clusterings with labels and with each other."""
        assert isinstance(e.model, HasFacets)
        scored, known = Clustered(e.model, e.data, e.data.indices[e.split].numpy()), labels(e)
        found = against_labels(e, scored, known) if known else Result()
        found.numbers = dict(alone(e, scored)) | found.numbers
        if e.keeps_pictures:
            found.pictures["cluster_sizes"] = cluster_sizes({name: scored.shares(name) for name in e.model.facets}, USED)
            found.pictures |= pictures(e.model, e.data, scored)
        return found


def alone(e: Context, scored: Clustered) -> Numbers:
    """Numbers that need no labels: for each facet, and for pairs of facets."""
    assert isinstance(e.model, HasFacets)
    names, (bounds, _) = e.model.facets, e.bounds
    for j, name in enumerate(names):
        yield f"facet{j}/clusters", scored.probs[name].shape[1]
        yield f"facet{j}/clusters_used", clustering.used(scored.assigned(name), USED)
        yield f"facet{j}/clusters_present", len(np.unique(scored.assigned(name)))
        yield f"facet{j}/clusters_effective", clustering.effective_number(scored.probs[name])
        yield f"facet{j}/confidence", scored.probs[name].max(1).mean()
        if (kl := bounds.get(f"kl_{name}")) is not None:
            yield f"facet{j}/kl", kl
    for i, j in combinations(range(len(names)), 2):
        pair = scored.assigned(names[i]), scored.assigned(names[j])
        yield f"facet{i}/facet{j}/mutual_information", clustering.mutual_information(*pair)
        yield f"facet{i}/facet{j}/ami", clustering.ami(*pair)


def labels(e: Context) -> dict[str, Int[np.ndarray, " N"]]:
    """Labels of all images to compare clusters with, -1 = unknown, the label of the data set first.

    Labels with fewer than two values in a split, or with values that no training image has, are not used.

    Args:
        e: Context of the evaluation.
    """
    data, found = e.data, {}
    if data.label is not None:
        columns = data.label.numpy().reshape(len(data.label), -1).T
        name = "label" if data.labels_from is not None else data.default_label
        names = data.label_names or [name if len(columns) == 1 else f"{name}{v}" for v in range(len(columns))]
        found = dict(zip(names, columns))
    for column, factor in enumerate(data.factor_info):
        named = factor.kind in ("categorical", "ordered") and 2 <= factor.size <= FEW and factor.name not in found
        if named and data.factors is not None:
            found[factor.name] = data.factors[:, column].numpy().astype(np.int64)

    def known(values: np.ndarray) -> bool:
        parts = e.train, e.val, data.indices[e.split], data.indices["train"]
        seen = [np.setdiff1d(values[index], [-1]) for index in parts]
        return min(map(len, seen)) > 1 and bool(np.isin(seen[2], seen[3]).all())

    return {name: values for name, values in found.items() if known(values)}


def against_labels(e: Context, scored: Clustered, known: dict[str, Int[np.ndarray, " N"]]) -> Result:
    """Compares clusters with labels; maps are fitted on training images, the facet is chosen on validation images.

    Args:
        e: Context of the evaluation.
        scored: Images of the split.
        known: Output of `labels`.
    """
    assert isinstance(e.model, HasFacets)
    names, train, val = list(e.model.facets), Clustered(e.model, e.data, e.train), Clustered(e.model, e.data, e.val)
    found, every = Result(), {}
    for label, values in known.items():
        fits = {name: (train.assigned(name), values[e.train]) for name in names}
        truth, sizes = values[scored.index], {name: scored.probs[name].shape[1] for name in names}
        scores = {name: clustering.scores(scored.assigned(name), truth, fit=fits[name]) for name in names}
        scores = {name: own | by_pixels(e, sizes[name], truth, values[e.train]) for name, own in scores.items()}
        for j, name in enumerate(names):
            found.numbers |= {f"facet{j}/{label}/{key}": value for key, value in scores[name].items()}
        chosen = {name: clustering.ami(val.assigned(name), values[e.val]) for name in names}
        best = max(names, key=chosen.__getitem__)
        if not every:
            used = clustering.used(scored.assigned(best), USED)
            found.numbers |= scores[best]
            found.numbers |= {"clusters": sizes[best], "clusters_used": used, "cluster_facet": names.index(best)}
        every[label] = scores
        if e.keeps_pictures and len(np.unique(values)) <= CLASSES:
            pair = scored.assigned(best), values[scored.index]
            found.pictures[f"confusion_{label}"] = confusion(*pair, fits[best], best, label)
    for key, (table, title) in TABLES.items():
        values = np.array([[every[label][name][key] for label in known] for name in names])
        found.tables[table] = (title, values.clip(0), names, list(known))
    return found


# ---- pictures -------------------------------------------------------------------------------------------------------


def confusion(
    clusters: Int[np.ndarray, " N"], values: Int[np.ndarray, " N"], fit: clustering.Pair, facet: str, label: str
) -> Picture:
    """Draws the share of each class (columns) that is assigned to each class (rows).

    Args:
        clusters: Clusters of the images.
        values: Their labels, -1 = unknown.
        fit: Clusters and labels on which clusters are assigned to classes.
        facet: Name of the facet.
        label: Name of the label.
    """
    table = clustering.confusion(clusters, values, fit=fit)
    classes = [str(c) for c in np.setdiff1d(np.union1d(values, fit[1]), [-1])]
    title = f"{label}: share of each true class (columns) that the clusters of {facet} assign to each class (rows)"
    return heat_map(table / table.sum(0).clip(1), classes, classes, title)


@torch.no_grad()
def pictures(model: LatentVariableModel, data: DataModule, seen: Clustered) -> dict[str, Picture]:
    """Draws the most confident members of the clusters of each facet and samples from them, and recombinations of each pair.

    Args:
        model: With facets, in eval mode.
        data: Set up.
        seen: Images of the split.
    """
    assert isinstance(model, HasFacets)
    found, first = {}, {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for facet in model.facets:
            clusters, members = (part[:ROWS] for part in clustering.most_confident(seen.probs[facet], MEMBERS))
            first[facet] = torch.from_numpy(members[:DONORS, 0])
            rows = [f"{facet} = {c}" for c in clusters.tolist()]
            title = f"most confident members of the {len(rows)} most confident clusters"
            found[f"members_{facet}"] = grid(member_images(data, seen.index, members), rows, title=title)
            shown, columns = torch.from_numpy(clusters).to(model.device), []
            for t, count in TEMPERATURES.items():
                codes = cluster_samples(model, facet, shown.repeat_interleave(count), t)
                columns.append(to_numpy(model.decode(codes)).reshape(len(rows), count, *model.image_shape))
            heads = [f"t = {t:g}" for t, count in TEMPERATURES.items() for _ in range(count)]
            title = "samples from each cluster, other facets from their priors; t: factor on the standard deviations"
            found[f"samples_{facet}"] = grid(np.concatenate(columns, axis=1), rows, heads, title)
    for one, other in combinations(model.facets, 2):
        donors = first[one], first[other]
        codes = [{name: code[index].to(model.device) for name, code in seen.codes.items()} for index in donors]
        images = [data.single(seen.index[index])["image"].numpy() for index in donors]
        mixed = to_numpy(model.decode(recombined(codes[0], codes[1], one))).reshape(*map(len, donors), *model.image_shape)
        rest = other if len(model.blocks) == 2 else f"{other} and all else"
        found[f"recombination_{one}_{other}"] = swap_grid(images[0], images[1], mixed, one, rest)
    return found


def cluster_samples(model: LatentVariableModel, facet: str, c: Int[Tensor, " n"], temperature: float) -> Codes:
    """Draws codes with given clusters of one facet.

    Other facets are drawn from their priors at the same temperature, and other blocks from their prior.

    Args:
        model: With facets.
        facet: Facet of these clusters.
        c: The clusters, 0..K-1.
        temperature: Factor on the standard deviations, >= 0.
    """
    assert isinstance(model, HasFacets)
    codes = model.sample_prior(len(c))
    for name in model.facets:
        prior = model.priors[name]
        own = c if name == facet else torch.multinomial(prior.log_weights().exp(), len(c), replacement=True)
        codes[name] = prior.sample(own, temperature)
    return codes


def recombined(
    rows: dict[str, Float[Tensor, "R _"]], columns: dict[str, Float[Tensor, "C _"]], facet: str
) -> dict[str, Float[Tensor, "RC _"]]:
    """Combines `facet` of each row with all other blocks of each column.

    Args:
        rows: Codes of the rows.
        columns: Codes of the columns.
        facet: Name of the facet.

    Returns:
        Codes of R C images, row by row.
    """
    num_rows, num_columns = len(rows[facet]), len(columns[facet])
    mixed = {name: code.repeat(num_rows, 1) for name, code in columns.items()}
    return mixed | {facet: rows[facet].repeat_interleave(num_columns, 0)}
