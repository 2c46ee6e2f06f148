"""Agreement between the seeds of a setting: UDR, and for models with facets the ARI between their clusters."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from vae_zoo.contract import HasFacets
from vae_zoo.evaluation.context import rows
from vae_zoo.metrics.arrays import to_numpy
from vae_zoo.metrics.clustering import pairwise_ari
from vae_zoo.metrics.disentanglement import udr
from vae_zoo.reports.settings import Group, Table
from vae_zoo.runs.load import load_model, load_run
from vae_zoo.utils.errors import UserError

log = logging.getLogger(__name__)

NUM_IMAGES = 1000  # as in disentanglement_lib
FEW = 5  # number of seeds below which the median over the others is not reliable


def with_agreement(table: Table, options: dict[str, Any]) -> Table:
    """Adds `test/udr` and `test/seed_ari_facet<j>` to every run of a setting with two or more seeds.

    The scores of a run depend on the other seeds, so they are not in its metrics.json.

    Args:
        table: Of runs.
        options: `device`, `trust`, and `data` with present paths of the data, of the command's config.
    """
    return replace(table, groups=tuple(_with_scores(group, options) for group in table.groups))


def _with_scores(group: Group, options: dict[str, Any]) -> Group:
    if len(group.runs) < 2:
        return group
    if len(group.runs) < FEW:
        log.warning("test/udr of %s: %d seeds are few; use at least %d", group.name, len(group.runs), FEW)
    try:
        scores = agreement(group, options)
    except UserError as error:  # data were moved or a checkpoint was deleted; go on with the other settings
        log.warning("test/udr of %s cannot be computed: %s", group.name, error)
        return group
    added = ({name: float(values[i]) for name, values in scores.items()} for i in range(len(group.runs)))
    return replace(group, runs=tuple(replace(run, metrics=run.metrics | more) for run, more in zip(group.runs, added)))


@torch.no_grad()
def agreement(group: Group, options: dict[str, Any]) -> dict[str, np.ndarray]:
    """Scores of each run, {name: [M]}, on the same test images.

    test/udr: the code is the concatenation of the Gaussian blocks. test/seed_ari_facet<j>: ARI between the clusters of this
    facet in this run and in another run, mean over the other runs.
    """
    _, first, data = load_run(group.runs[0].folder, options)
    others = [load_model(run.folder, options["device"], trust=options["trust"]) for run in group.runs[1:]]
    models = [first, *others]
    index = torch.from_numpy(rows(data, "test", NUM_IMAGES, seed=0))
    codes, kls, clusters = [], [], []
    for model in models:
        posteriors = [model.encode(data.single(part, model.device)) for part in index.split(256)]
        kl = [model.kl_per_dim(posterior) for posterior in posteriors]
        if kl[0]:
            codes.append(np.hstack([to_numpy(torch.cat([q[name].mean for q in posteriors])) for name in kl[0]]))
            kls.append(np.hstack([to_numpy(torch.cat([part[name] for part in kl])) for name in kl[0]]).mean(0))
        if isinstance(model, HasFacets):
            probs = [model.clusters(q) for q in posteriors]
            clusters.append([to_numpy(torch.cat([part[name] for part in probs])).argmax(1) for name in model.facets])
    scores = {"test/udr": udr(codes, kls)} if codes else {}
    for j, of_runs in enumerate(zip(*clusters)):
        scores[f"test/seed_ari_facet{j}"] = (pairwise_ari(of_runs).sum(1) - 1) / (len(models) - 1)
    return scores
