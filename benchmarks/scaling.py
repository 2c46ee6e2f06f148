"""How costs grow: python benchmarks/scaling.py [only=<part of a name>] [plot=<file>] [out=<file>]

Each row varies one size and fits cost ~ size^exponent to the upper half of its values, where fixed costs matter least.
step: milliseconds of a training step (forward, backward, Adam), the median of some steps after two warm-up steps, and
megabytes that its graph holds for the backward pass. data: seconds to set up a mapped file and to read 200 batches of
it. scores: seconds of MIG, modularity, IRS and SAP together, of linear probes, of k-means. runs: seconds of a leaderboard.
An exponent above 1.1 in data, images, clusters, cells, groups or runs is named at the end. One thread. plot: writes the
curves. out: writes the numbers, for the table in docs/results.md. Last line: one JSON object.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from throughput import compose_config

from vae_zoo.data.arrays import Arrays
from vae_zoo.data.datamodule import DataModule
from vae_zoo.metrics import clustering, disentanglement, probes
from vae_zoo.reports.leaderboard import write_leaderboard
from vae_zoo.runs.folder import environment
from vae_zoo.runs.load import build
from vae_zoo.utils.files import write_json
from vae_zoo.utils.memory import keep_freed_memory

STEPS = 5
LINEAR = 1.1  # largest exponent that counts as linear, with tolerance for timing and caches


class Axis(NamedTuple):
    """A size that is varied over `values`: the setting `word` with {} for the value, or batch, side or group."""

    words: str
    values: tuple[int, ...]
    word: str = ""
    batch: int = 64
    shape: tuple[int, ...] = (1, 32, 32)
    group: int = 8
    varies: str = ""


LADDER = "model=mfcvae data=digits"
AXES = {
    "batch": Axis("model=beta_vae data=digits", (16, 32, 64, 128, 256), varies="batch"),
    "image side": Axis("model=beta_vae data=digits", (32, 64, 128, 256), varies="side"),
    "latent dimensions": Axis("model=beta_tc_vae data=digits", (10, 40, 160, 640), "model.latent_dim={}"),
    "clusters of gmvae": Axis("model=gmvae data=digits", (10, 100, 300, 1000), "model.num_classes={}"),
    "clusters of gmvae2016": Axis("model=gmvae2016 data=digits", (10, 100, 300, 1000), "model.num_classes={}"),
    "clusters of mfcvae": Axis(LADDER, (10, 100, 300, 1000), "model.num_clusters=[{0},{0}]"),
    "classes of parted_vae": Axis("model=parted_vae data=digits", (10, 100, 300, 1000), "model.num_classes={}"),
    "images of a group": Axis("model=ml_vae data=digits", (1, 4, 16, 64), varies="group"),
    "cells of spair": Axis("model=spair data=scenes", (9, 36, 144, 256), varies="cells", batch=8, shape=(3, 24, 24)),
}
MUST_BE_LINEAR = ("clusters", "classes", "cells", "group", "data", "runs", "images")


def step_cost(axis: Axis, value: int) -> dict[str, float]:
    """Cost of one training step at this value."""
    batch = value if axis.varies == "batch" else axis.batch
    shape = axis.shape
    if axis.varies == "side":
        shape = (axis.shape[0], value, value)
    elif axis.varies == "cells":
        shape = (axis.shape[0], *[8 * round(value**0.5)] * 2)
    words = [*axis.words.split(), *([axis.word.format(value)] if axis.word else [])]
    model = build(compose_config([*words, f"data.image_shape=[{','.join(map(str, shape))}]"])["model"])
    size = value if axis.varies == "group" else axis.group
    group = torch.arange(batch) // size
    inputs = {"image": torch.rand(batch, *shape), "index": torch.arange(batch)}
    inputs |= {"group": group, "num_groups": int(group[-1]) + 1}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    held: list[int] = []
    times = []
    for step in range(STEPS + 2):
        start = time.perf_counter()
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: (held.append(x.nbytes), x)[1], lambda x: x)
        with hooks:
            loss = model.total(model.objective(inputs))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step >= 2:
            times.append(1000 * (time.perf_counter() - start))
    return {"ms": statistics.median(times), "MB": sum(held) / (STEPS + 2) / 1e6}


class Mapped(DataModule):
    """Images of a sparse file."""

    def __init__(self, path: Path, N: int):
        super().__init__((1, 8, 8), batch_size=64, val_size=1000, test_size=1000)
        self.path, self.N = path, N

    def load(self) -> Arrays:
        """Maps the file."""
        return Arrays(np.lib.format.open_memmap(self.path, "r"))


def data_cost(N: int) -> dict[str, float]:
    """Cost of a mapped file of N images of 8x8."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.lib.format.open_memmap(path, "w+", np.uint8, (N, 1, 8, 8)).flush()
        start = time.perf_counter()
        data = Mapped(path, N)
        data.setup("fit")
        ready = time.perf_counter()
        for step in range(200):
            data.train_batch(step)
        return {"setup s": ready - start, "200 batches s": time.perf_counter() - ready}


def score_cost(images: int, factors: int) -> dict[str, float]:
    """Cost of the scores of codes that have two more dimensions than there are factors."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 6, (images, factors))
    codes = np.hstack([values + 0.3 * rng.normal(size=values.shape), rng.normal(size=(images, 2))]).astype(np.float32)
    start = time.perf_counter()
    for score in (disentanglement.mig, disentanglement.modularity, disentanglement.irs):
        score(codes, values)
    disentanglement.sap(codes, values, test=(codes, values), seed=0)
    middle = time.perf_counter()
    for column in values.T:
        probes.probe((codes, column), (codes, column), kind="categorical", hidden=None)
    probed = time.perf_counter()
    clustering.k_means(codes, 10, seed=0)
    return {"scores s": middle - start, "linear probes s": probed - middle, "k-means s": time.perf_counter() - probed}


def runs_cost(count: int) -> dict[str, float]:
    """Cost of a leaderboard of `count` runs, five seeds for each setting."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = (
            "seed: {seed}\nmodel:\n  _target_: vae_zoo.models.BetaVAE\n  beta: {beta}\n  latent_dim: 10\n"
            "data:\n  _target_: vae_zoo.data.DSprites\n  seed: 0\ntrainer:\n  max_steps: 100\n"
        )
        rng = np.random.default_rng(0)
        for i in range(count):
            run = folder / "beta_vae-dsprites" / f"seed{i % 5}_{i:08x}"
            run.mkdir(parents=True)
            (run / "config.yaml").write_text(config.format(seed=i % 5, beta=i // 5 + 1))
            numbers = {f"test/{name}": float(value) for name, value in zip(("elbo", "mig", "worth/z"), rng.normal(size=3))}
            (run / "metrics.json").write_text(json.dumps(numbers))
            (run / "run.json").write_text(
                json.dumps({"state": "done", "command": f"python train.py model.beta={i // 5 + 1}"})
            )
        start = time.perf_counter()
        write_leaderboard(folder)
        return {"s": time.perf_counter() - start}


def exponent(values: Iterable[int], costs: Iterable[float]) -> float:
    """Slope of log cost over log size on the upper half of the values."""
    x, y = np.log(np.array([*values], float)), np.log(np.array([*costs]))
    half = len(x) // 2 if len(x) > 3 else 0
    return float(np.polyfit(x[half:], y[half:], 1)[0])


def rows() -> dict[str, tuple[tuple[int, ...], Callable[[int], dict[str, float]]]]:
    """{name: (values, cost of one)}."""
    found: dict[str, tuple[tuple[int, ...], Callable[[int], dict[str, float]]]] = {
        name: (axis.values, lambda value, axis=axis: step_cost(axis, value)) for name, axis in AXES.items()
    }
    found["data of a mapped file"] = (10_000, 100_000, 1_000_000, 10_000_000), data_cost
    found["images that are scored"] = (1000, 2000, 4000, 8000, 16_000), lambda value: score_cost(value, 5)
    found["factors that are scored"] = (2, 4, 8, 16), lambda value: score_cost(4000, value)
    found["runs of a leaderboard"] = (100, 300, 1000, 3000), runs_cost
    return found


def draw(path: Path, found: dict[str, dict]) -> None:
    """Draws a panel for each row: cost over size, both logarithmic, with the exponent."""
    from matplotlib.figure import Figure

    columns = 4
    figure = Figure(figsize=(4 * columns, 3.2 * -(-len(found) // columns)), layout="constrained")
    axes = list(figure.subplots(-(-len(found) // columns), columns, squeeze=False).flat)
    for axis in axes[len(found) :]:
        axis.set_visible(False)
    for axis, (name, row) in zip(axes, found.items()):
        for unit, costs in row["costs"].items():
            axis.loglog(row["values"], costs, marker="o", label=f"{unit}, exponent {row['exponents'][unit]:.2f}")
        axis.minorticks_off()
        axis.set_xticks(row["values"], [f"{value:,}" for value in row["values"]], fontsize=7)
        axis.set_title(name)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    torch.set_num_threads(1)
    keep_freed_memory()
    found: dict[str, dict] = {}
    for name, (values, cost) in rows().items():
        if given.get("only", "") not in name:
            continue
        costs = [cost(value) for value in values]
        table = {unit: [round(one[unit], 4) for one in costs] for unit in costs[0]}
        slopes = {unit: round(exponent(values, column), 2) for unit, column in table.items()}
        found[name] = {"values": values, "costs": table, "exponents": slopes}
        print(f"| {name} | {', '.join(map(str, values))} | {table} | {slopes} |", flush=True)
    if "out" in given:  # for the table in docs/results.md
        made = {key: value for key, value in environment().items() if key in ("commit", "hardware")}
        write_json(Path(given["out"]), {"command": f"python benchmarks/scaling.py {' '.join(words)}", **made, "rows": found})
    if "plot" in given:
        draw(Path(given["plot"]), found)
    above = [
        f"{name}: {unit} {slope}"
        for name, row in found.items()
        for unit, slope in row["exponents"].items()
        if slope > LINEAR and name.startswith(MUST_BE_LINEAR)
    ]
    print("grows faster than linearly:", "; ".join(above) or "nothing")
    print(json.dumps({"rows": found, "faster_than_linear": above}))


if __name__ == "__main__":
    main(sys.argv[1:])
