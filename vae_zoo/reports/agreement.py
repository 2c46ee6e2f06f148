"""Agreement between the seeds of a setting: UDR, and for models with facets the ARI between their clusters."""

import logging
from dataclasses import replace

import numpy as np
import torch

from vae_zoo.config.check import check_trust
from vae_zoo.contract import HasFacets
from vae_zoo.evaluation.context import rows
from vae_zoo.metrics.arrays import to_numpy
from vae_zoo.metrics.clustering import pairwise_ari
from vae_zoo.metrics.disentanglement import udr
from vae_zoo.reports.settings import Group, Table
from vae_zoo.runs.folder import read_config
from vae_zoo.runs.load import build, load_model
from vae_zoo.utils.errors import UserError

log = logging.getLogger(__name__)

NUM_IMAGES = 1000  # as in disentanglement_lib
FEW = 5  # number of seeds below which the median over the others is not reliable


def with_agreement(table: Table, trust: tuple[str, ...] = (), device: str = "cpu") -> Table:
    """Adds `test/udr` and `test/seed_ari_facet<j>` to every run of a setting with two or more seeds.

    The scores of a run depend on the other seeds, so they are not in its metrics.json.
    """
    return replace(table, groups=tuple(_with_scores(group, trust, device) for group in table.groups))


def _with_scores(group: Group, trust: tuple[str, ...], device: str) -> Group:
    if len(group.runs) < 2:
        return group
    if len(group.runs) < FEW:
        log.warning("test/udr of %s: %d seeds are few; use at least %d", group.name, len(group.runs), FEW)
    try:
        scores = agreement(group, trust, device)
    except UserError as error:  # data were moved or a checkpoint was deleted; go on with the other settings
        log.warning("test/udr of %s cannot be computed: %s", group.name, error)
        return group
    added = ({name: float(values[i]) for name, values in scores.items()} for i in range(len(group.runs)))
    return replace(group, runs=tuple(replace(run, metrics=run.metrics | more) for run, more in zip(group.runs, added)))


@torch.no_grad()
def agreement(group: Group, trust: tuple[str, ...] = (), device: str = "cpu") -> dict[str, np.ndarray]:
    """Scores of each run, {name: [M]}, on the same test images.

    test/udr: the code is the concatenation of the Gaussian blocks. test/seed_ari_facet<j>: ARI between the clusters of this
    facet in this run and in another run, mean over the other runs.
    """
    config = read_config(group.runs[0].folder)
    check_trust(config, trust)
    models = [load_model(run.folder, device, trust=trust) for run in group.runs]
    data = build(config["data"])
    data.serve(models[0])
    index = torch.from_numpy(rows(data, "test", NUM_IMAGES, seed=0))
    codes, kls, clusters = [], [], []
    for model in models:
        posteriors = [model.encode(data.single(part, model.device)) for part in index.split(256)]
        kl = [model.kl_per_dim(posterior) for posterior in posteriors]
        codes.append(np.hstack([to_numpy(torch.cat([q[name].mean for q in posteriors])) for name in kl[0]]))
        kls.append(np.hstack([to_numpy(torch.cat([part[name] for part in kl])) for name in kl[0]]).mean(0))
        if isinstance(model, HasFacets):
            probs = [model.clusters(q) for q in posteriors]
            clusters.append([to_numpy(torch.cat([part[name] for part in probs])).argmax(1) for name in model.facets])
    scores = {"test/udr": udr(codes, kls)}
    for j, of_runs in enumerate(zip(*clusters)):
        scores[f"test/seed_ari_facet{j}"] = (pairwise_ari(of_runs).sum(1) - 1) / (len(models) - 1)
    return scores
