"""ML-VAE compared with a plain VAE of the same size on people not seen in training: six folds of the ORL faces.

    python benchmarks/orl_faces.py <folder with one folder of images per person> [seeds=3] [folds=6] [jobs=2]

Both models train the same network on the same grouped batches (experiment=ml_vae/orl); the VAE ignores the groups.
Verification: do two disjoint sets of k images show one unseen person or two? (vae_zoo.evaluation.suites.grouped). Every
person is tested in one fold. Output: AUC of both models, mean over folds, mean and deviation over seeds; the paired
difference with its 95 % bootstrap interval over the seed means; and the number of folds x seeds in which ML-VAE is better.
Last line: one JSON object.
"""

import json
import logging
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from joblib import Parallel, delayed

from vae_zoo import config_dir
from vae_zoo.cli.compose import register_resolvers
from vae_zoo.config.check import check_train
from vae_zoo.evaluation.suites.grouped import Evidence, verification
from vae_zoo.reports.settings import interval
from vae_zoo.runs.train import prepare, quiet

PLAIN = ["~model.content_dim", "~model.style_dim", "~model.beta_style", "~model.beta_content", "~model.evidence"]
PLAIN += ["~model.content_sampling", "model._target_=vae_zoo.models.VAE", "+model.latent_dim=48"]


def scores(folder: str, model: str, fold: int, folds: int, seed: int) -> dict[str, float]:
    """Verification AUC of one trained model on the people of one fold."""
    torch.set_num_threads(1)
    quiet()
    logging.disable(logging.INFO)
    register_resolvers()
    words = ["experiment=ml_vae/orl", f"data.path={folder}", f"data.folds={folds}", f"data.fold={fold}", f"seed={seed}"]
    words += ["data.group_by=identity", "callbacks=none", "callbacks.progress=null", "trainer.accelerator=cpu"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = check_train(compose("train", words + (PLAIN if model == "vae" else [])))
    cfg["trainer"]["limit_val_batches"] = 0
    with tempfile.TemporaryDirectory() as place:
        trainer, module, data = prepare(Path(place), cfg)
        trainer.fit(module, datamodule=data)
    module.eval()
    return dict(verification(Evidence(module, data, data.indices["test"].numpy())))


def main(folder: str, seeds: int, folds: int, jobs: int) -> None:
    tasks = [(m, f, s) for f in range(folds) for s in range(seeds) for m in ("ml_vae", "vae")]
    found = Parallel(n_jobs=jobs)(delayed(scores)(folder, m, f, folds, s) for m, f, s in tasks)
    names = [name for name in found[0] if name.startswith("verification_auc")]
    table = {
        (m, name): np.array([[found[tasks.index((m, f, s))][name] for f in range(folds)] for s in range(seeds)])
        for m in ("ml_vae", "vae")
        for name in names
    }  # [seeds, folds] each
    result = {}
    print(f"{'AUC on unseen people':34s}{'ml_vae':>16s}{'vae':>16s}{'difference':>13s}{'95 %':>18s}{'ahead':>8s}")
    for name in names:
        ours, plain = table["ml_vae", name], table["vae", name]
        gap = (ours - plain).mean(1)
        low, high = interval(gap) if seeds > 1 else (np.nan, np.nan)
        cells = [f"{x.mean():.3f} +- {x.mean(1).std(ddof=min(1, seeds - 1)):.3f}" for x in (ours, plain)]
        ahead = f"{(ours > plain).sum()}/{ours.size}"
        print(f"{name:34s}{cells[0]:>16s}{cells[1]:>16s}{gap.mean():+13.3f}{f'{low:+.3f} to {high:+.3f}':>18s}{ahead:>8s}")
        result[name] = {"ml_vae": ours.mean(), "vae": plain.mean(), "difference": gap.mean()}
    print(json.dumps({name: {k: round(float(v), 4) for k, v in row.items()} for name, row in result.items()}))


if __name__ == "__main__":
    folder, *options = sys.argv[1:]
    own = {key: int(value) for key, value in (word.split("=") for word in options)}
    main(str(Path(folder).expanduser().resolve()), own.get("seeds", 3), own.get("folds", 6), own.get("jobs", 2))
