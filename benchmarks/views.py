"""Speed of a view (SPLIT's shuffle) as a multiple of the training rate: python benchmarks/views.py [model=split_vae ...]

Arguments are those of train.py. view: the transform alone, on prepared batches of the same size; training: the bare loop of
benchmarks/throughput.py, including its view. One thread unless OMP_NUM_THREADS is set. Last line: JSON.
"""

import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from throughput import bare, prepared  # noqa: E402

STEPS, ROUNDS = 30, 3


def main(words):
    model, data, images = prepared(["model=split_vae", "data=digits", *words], 5000)
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
