"""Benefit of unlabelled images: accuracy of c compared with the same encoder trained on the same labels alone.

    python benchmarks/labels.py experiment=parted_vae/mnist10k data.root=<folder> [seeds=0,1,2] [budgets=256,100] [alone=1]

Both take the same number of updates of 64; accuracy is that of the test split, which has no labelled image. Alone: encoder
and class head are trained with the model's optimiser for them, by the cross-entropy on the labelled images without
augmentation. alone=0: without this training. Last line: one JSON object.
"""

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from vae_zoo import config_dir
from vae_zoo.cli.compose import register_resolvers
from vae_zoo.config.check import check_train
from vae_zoo.distributions import noise
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suites import classes
from vae_zoo.runs.train import prepare, quiet
from vae_zoo.utils.memory import keep_freed_memory


@torch.no_grad()
def accuracy(model, data) -> float:
    model.eval()
    index, right = data.indices["test"], 0
    for part in index.split(500):
        right += int((model.class_log_probs(data.batch(part)["image"]).argmax(1) == data.label[part]).sum())
    return right / len(index)


def alone(cfg: dict, model, data) -> float:
    """Accuracy without unlabelled images, from the same initial weights and on the same labelled batches."""
    optimizer = model.supervised_optimizer(model.class_parameters())
    model.train()
    for step in range(cfg["trainer"]["max_steps"]):
        noise.seed_step(cfg["seed"], step)
        batch = data.train_batch(step)["supervised"]
        loss = model.classes.cross_entropy(model.class_log_probs(batch["image"]), model.labels(batch)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return accuracy(model, data)


def run(words: list[str], only_labels: bool) -> dict[str, float]:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = check_train(compose("train", overrides=words))
    with tempfile.TemporaryDirectory() as folder:
        trainer, model, data = prepare(Path(folder), cfg)
        if only_labels:
            data.setup()
            return {"alone": alone(cfg, model, data)}
        trainer.limit_val_batches = 0
        trainer.fit(model, datamodule=data)
        results = {"accuracy": accuracy(model, data)}
        numbers = dict(classes.separation(Context(model, data, "quick")))
    keys = (
        "swap_follows_u",
        "swap_follows_z",
        "probe/z",
        "probe/u",
        "conditional_accuracy",
        "conditional_accuracy_mean",
    )
    return results | {key: numbers[key] for key in keys}


def main(words: list[str]) -> None:
    own = {"seeds": "0,1,2", "budgets": "256,100", "alone": "1"}
    own |= dict(word.split("=", 1) for word in words if word.split("=")[0] in own)
    words = [word for word in words if word.split("=")[0] not in own]
    register_resolvers()
    quiet()
    keep_freed_memory()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    results = {}
    for budget in own["budgets"].split(","):
        rows = []
        for seed in own["seeds"].split(","):
            these = [*words, "callbacks=none", f"seed={seed}", f"data.labelled={budget}"]
            rows.append(run(these, False) | (run(these, True) if own["alone"] == "1" else {}))
            print(f"{budget} labels, seed {seed}: " + "  ".join(f"{k} {v:.4f}" for k, v in rows[-1].items()), flush=True)
        means = {key: statistics.mean(row[key] for row in rows) for key in rows[0]}
        results[budget] = {"mean": means, "least": min(row["accuracy"] for row in rows)}
        print(f"{budget} labels, mean:   " + "  ".join(f"{k} {v:.4f}" for k, v in means.items()), flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1:])
