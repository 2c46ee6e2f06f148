"""Memory of a data set: python benchmarks/memory.py [data=dsprites] [sparse_gb=100]. Last line: one JSON object.

The proportional set size, without the imports, includes the pages of the mapped cache and counts shared pages once; the
peak includes drawing and reading. The anonymous memory is all that the process holds without the page cache, imports
included.

sparse_gb=<n> adds data=arrays with a generated .npy file of so many GB whose pixels take no disk. Then steps of model=
are timed on 4,000 images of it, mapped and from a copy in memory in turn; the ratio of the two is the cost of mapping on a
warm page cache. The anonymous memory includes these steps.
"""

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from hydra import compose, initialize_config_dir
from numpy.lib import format as npy

from vae_zoo import config_dir
from vae_zoo.cli.compose import register_resolvers
from vae_zoo.config.check import check_train
from vae_zoo.data.datamodule import read_ahead
from vae_zoo.runs.load import build

WARM, SUBSET, STEPS, ROUNDS = 5, 4000, 40, 5


def megabytes() -> float:
    return psutil.Process(os.getpid()).memory_full_info().pss / 2**20


def anonymous() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))) / 2**10


def sparse(path: Path, gigabytes: float) -> Path:
    """uint8 [N, 3, 64, 64] of zeros that take no disk."""
    shape = (int(gigabytes * 1e9 / 12288), 3, 64, 64)
    with path.open("wb") as file:
        npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape)))
    return path


def images_per_second(data: Any, model: Any) -> float:
    """Speed of training steps, with batches read ahead, after the pages have been read once."""
    optimizer, start = torch.optim.Adam(model.parameters()), 0.0
    for step, batch in enumerate(read_ahead(data.train_batch, range(WARM + STEPS))):
        if step == WARM:
            start = time.perf_counter()
        loss = sum(term.weight * term.value.mean() for term in model.objective(batch).values() if term.weight is not None)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return STEPS * data.batch_size / (time.perf_counter() - start)


def throughput(cfg: dict[str, Any]) -> dict[str, float]:
    """Medians over alternating rounds, since the speed of a machine drifts."""
    mapped, in_memory = (build(cfg["data"] | {"subset": SUBSET}) for _ in range(2))
    for data in (mapped, in_memory):
        data.setup()
    for step in range(mapped.batches_per_epoch):  # the pages come into the cache
        mapped.train_batch(step)
    order = in_memory.indices["train"]
    in_memory.images = in_memory.images[order].clone()
    in_memory.indices["train"], in_memory._orders = torch.arange(len(order)), {}
    rates = [[images_per_second(data, build(cfg["model"])) for data in (mapped, in_memory)] for _ in range(ROUNDS)]
    found = dict(zip(("mapped_per_second", "in_memory_per_second"), np.median(rates, axis=0)))
    return found | {"ratio": float(np.median([one / other for one, other in rates]))}


def main(words: list[str], folder: Path) -> None:
    size = next((float(word.partition("=")[2]) for word in words if word.startswith("sparse_gb=")), None)
    words = [word for word in words if not word.startswith("sparse_gb=")]
    if size is not None:
        words += ["data=arrays", f"data.path={sparse(folder / 'images.npy', size)}"]
    register_resolvers()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = check_train(compose("train", overrides=words))
    data = build(cfg["data"])
    before = megabytes()
    peak, held, done = [before], [anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            held[0] = max(held[0], anonymous())
            if size is None:  # takes long for a large mapping
                peak[0] = max(peak[0], megabytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    data.setup()
    seconds = time.perf_counter() - start
    for step in range(50 if size is None else 1000):
        data.train_batch(step)
    after = megabytes()
    trained = {"images": len(data.images)} | throughput(cfg) if size is not None else {}
    done.set()
    watcher.join()
    result = {
        "over_imports_mb": after - before,
        **({} if size else {"peak_over_imports_mb": max(peak[0], after) - before}),
        "peak_anonymous_mb": held[0],
        "seconds": seconds,
        **trained,
    }
    print(json.dumps({name: round(value, 2) for name, value in result.items()}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(sys.argv[1:], Path(folder))
