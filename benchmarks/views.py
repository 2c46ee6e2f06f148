"""Speed of a view (SPLIT's shuffle) as a multiple of the training rate: python benchmarks/views.py [model=split_vae ...]

Arguments are those of train.py. view: the transform alone, on prepared batches of the same size; training: the bare loop of
benchmarks/throughput.py, including its view. One thread unless OMP_NUM_THREADS is set. Last line: JSON.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from throughput import bare, compose_config  # noqa: E402

from vae_zoo.runs.train import prepare, quiet  # noqa: E402
from vae_zoo.utils.memory import keep_freed_memory  # noqa: E402

STEPS, ROUNDS = 30, 3


def main(words):
    cfg = compose_config(["model=split_vae", "data=digits", *words])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    quiet()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        _, model, data = prepare(Path(folder), cfg)
    index = data.indices["train"][:5000]
    images = (torch.cat([data.batch(part)["image"] for part in index.split(1000)]) * 255).byte()
    x, seconds = images[: data.batch_size].float().div(255), {"view": [], "training": []}
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(STEPS):
            model.local.view(x)
        seconds["view"].append(time.perf_counter() - start)
        seconds["training"].append(bare(model, images, len(x), STEPS, {}))
    rate = {name: STEPS * len(x) / statistics.median(values) for name, values in seconds.items()}
    result = {f"{name}_images_per_s": round(value, 1) for name, value in rate.items()}
    print(json.dumps(result | {"ratio": round(rate["view"] / rate["training"], 1)}))


if __name__ == "__main__":
    main(sys.argv[1:])
