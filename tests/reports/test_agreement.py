"""UDR of a sweep and the agreement of its facets: from the trained models, in the leaderboard and nowhere else."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.annotations import unchecked
from tests.cli.calls import TINY, call
from tests.reports.test_leaderboard import read_csv
from vae_zoo import load_model
from vae_zoo.data.sets.digits import Digits
from vae_zoo.distributions import Normal
from vae_zoo.evaluation.context import rows
from vae_zoo.metrics import udr
from vae_zoo.reports import agreement
from vae_zoo.reports.settings import Group, Run


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    for seed in range(3):  # as -m seed=0,1,2 would, which starts a process for each
        assert call(folder, f"train {TINY} model=vae seed={seed}").code == 0
    return folder


def test_udr_of_a_sweep_is_that_of_its_models(sweep):
    assert "test/udr" not in call(sweep, "evaluate runs=outputs").out
    assert call(sweep, "evaluate runs=outputs evaluation.level=full").code == 0
    told = {run["seed"]: float(run["test/udr"]) for run in read_csv(sweep / "outputs" / "runs.csv")}
    data = Digits(size=32, test_size=0.2)
    data.setup()
    images = data.batch(torch.from_numpy(rows(data, "test", 1000, 0)))["image"]
    codes, kls = [], []
    for seed in range(3):
        (folder,) = (sweep / "outputs" / "vae-digits").glob(f"seed{seed}_*")
        q = load_model(folder).encode(images)["z"]
        codes.append(q.mean.detach().numpy())
        kls.append(0.5 * (q.mu**2 + q.logvar.exp() - 1 - q.logvar).mean(0).detach().numpy())
        assert "test/udr" not in json.loads((folder / "metrics.json").read_text())
    np.testing.assert_allclose([told["0"], told["1"], told["2"]], udr(codes, kls), atol=1e-4)


def test_runs_that_cannot_be_loaded_leave_the_table_as_it_is(sweep, caplog):
    (folder,) = (sweep / "outputs" / "vae-digits").glob("seed2_*")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.rename(checkpoint.with_suffix(".away"))
    try:
        assert call(sweep, "evaluate runs=outputs evaluation.level=full").code == 0
        assert "test/udr of vae cannot be computed" in caplog.text and "last.ckpt" in caplog.text
        assert "test/udr" not in read_csv(sweep / "outputs" / "leaderboard.csv")[0]
    finally:
        checkpoint.with_suffix(".away").rename(checkpoint)


@unchecked()  # the models have no more than is called
def test_facets_agree_as_far_as_their_clusters_do(monkeypatch):
    """Three runs: the same clusters under other names, and of the last one none that the others know."""

    class Facets(torch.nn.Module):
        facets, needs, device, priors = ("near", "far"), frozenset(), torch.device("cpu"), {}

        def learn_from(self, data): ...

        def __init__(self, names, seed):
            super().__init__()
            self.names, self.seed = torch.tensor(names), seed

        def encode(self, batch):
            return {"z": Normal(batch["index"][:, None].float(), torch.zeros(len(batch["index"]), 1))}

        def kl_per_dim(self, q):
            return {"z": q["z"].mu.square()}

        def clusters(self, q):
            index = q["z"].mu[:, 0].long()
            noise = torch.randint(3, (10_000,), generator=torch.Generator().manual_seed(self.seed))[index]
            found = {"near": self.names[index % 3] if self.seed < 2 else noise, "far": noise}
            return {name: torch.nn.functional.one_hot(c, 3).float() for name, c in found.items()}

    data = Digits(size=8)
    models = {"a": Facets([0, 1, 2], 0), "b": Facets([2, 0, 1], 1), "c": Facets([0, 1, 2], 2)}
    data.serve(models["a"])
    monkeypatch.setattr(agreement, "load_run", lambda folder, options: ({}, models[str(folder)], data))
    monkeypatch.setattr(agreement, "load_model", lambda folder, device, trust: models[str(folder)])
    runs = tuple(Run(Path(name), "finished") for name in models)
    scores = agreement.agreement(Group("facets", runs, 3), {"device": "cpu", "trust": [], "data": {}})
    assert scores["test/seed_ari_facet0"] == pytest.approx([0.5, 0.5, 0], abs=0.08)
    assert scores["test/seed_ari_facet1"] == pytest.approx([0, 0, 0], abs=0.08)
    assert (scores["test/udr"] > 0.85).all(), "one code for all, as far as the lasso lets it through"
