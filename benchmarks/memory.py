"""Memory of a data set without the imports: python benchmarks/memory.py [data=dsprites]. Last line: one JSON object.

The proportional set size includes the pages of the mapped cache and counts shared pages once; the peak includes drawing and
reading.
"""

import json
import os
import sys
import threading
import time

import psutil
from hydra import compose, initialize_config_dir

from vae_zoo import config_dir
from vae_zoo.cli.compose import register_resolvers
from vae_zoo.config.check import check_train
from vae_zoo.runs.load import build


def megabytes() -> float:
    return psutil.Process(os.getpid()).memory_full_info().pss / 2**20


def main(words: list[str]) -> None:
    register_resolvers()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = check_train(compose("train", overrides=words))
    data = build(cfg["data"])
    before = megabytes()
    peak, done = [before], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], megabytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    data.setup()
    seconds = time.perf_counter() - start
    for step in range(50):
        data.train_batch(step)
    after = megabytes()
    done.set()
    watcher.join()
    result = {
        "over_imports_mb": after - before,
        "peak_over_imports_mb": max(peak[0], after) - before,
        "seconds": seconds,
    }
    print(json.dumps({name: round(value, 2) for name, value in result.items()}))


if __name__ == "__main__":
    main(sys.argv[1:])
