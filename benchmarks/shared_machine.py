"""Training on a busy machine: python benchmarks/shared_machine.py [model=... data=...] [seconds=4] [rounds=3]. Last: JSON.

The bare loop of throughput.py while 0, 1 and 3 other processes keep one core busy each:
ours     number and waiting of threads as under every command of vae_zoo (vae_zoo/utils/threads.py), chosen at each start
default  one thread per core; threads wait as OpenMP does by itself, in a loop
single   one thread

Rates are fractions of the fair share: the rate of the loop on the idle machine with `default`, divided by the number of
cores, times the cores that are left; a core with k busy processes counts as 1 / (k + 1). Medians over rounds in which the
three alternate; each is a process of its own, since OpenMP reads its settings once.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from vae_zoo.utils.threads import WAITING, num_cores, set_threads  # noqa: E402  (the package need not be installed)

DEFAULT = ["model=beta_vae", "data=dsprites"]
BUSY = (0, 1, 3)
OWN = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", *WAITING)


def work(words: list[str], seconds: float) -> None:
    """Trains for `seconds` whenever a line comes in, and answers with images a second."""
    import torch
    from throughput import bare_loss, compose_config, prepare, quiet

    from vae_zoo.utils.memory import keep_freed_memory

    quiet()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        trainer, model, data = prepare(Path(folder), compose_config(words))
    if trainer.channels_last:
        model.to(memory_format=torch.channels_last)
    size = len(data.train_indices(0))
    images = (data.batch(data.indices["train"][: 20 * size])["image"] * 255).byte()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, fused=True)

    def step(i: int) -> None:
        first = i * size % (len(images) - size + 1)
        loss = bare_loss(model, images[first : first + size].float().div_(255), {})
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "ours":
            set_threads()
        for i in range(3):
            step(i)
        start, steps = time.perf_counter(), 0
        while time.perf_counter() < start + seconds:
            step(steps)
            steps += 1
        print(steps * size / (time.perf_counter() - start), flush=True)


def cores_left(busy: int, cores: int) -> float:
    """The number of cores that a fair scheduler leaves to one thread per core."""
    return sum(1 / (1 + busy // cores + (core < busy % cores)) for core in range(cores))


@contextlib.contextmanager
def busy_processes(number: int):
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main(words: list[str]) -> None:
    own = dict(word.split("=", 1) for word in words if word.split("=")[0] in ("rounds", "seconds", "work"))
    settings = [word for word in words if word.split("=")[0] not in own] or DEFAULT
    seconds = float(own.get("seconds", 4))
    if "work" in own:
        return work(settings, seconds)
    if (load := os.getloadavg()[0]) > 0.3:
        print(f"load is {load:.2f}: the other processes are measured too", file=sys.stderr)
    clean = {name: value for name, value in os.environ.items() if name not in OWN}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    kinds = {"ours": WAITING, "default": {}, "single": {"OMP_NUM_THREADS": "1"}}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, __file__, "work=1", f"seconds={seconds}", *settings]
    workers = {k: subprocess.Popen(command, env=clean | more | {"PYTHONPATH": path}, **pipes) for k, more in kinds.items()}
    for worker in workers.values():
        while (line := worker.stdout.readline()) and line.strip() != "ready":
            pass
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(int(own.get("rounds", 3))):
        for busy in BUSY:
            for kind, worker in workers.items():
                with busy_processes(busy):
                    print(kind, file=worker.stdin, flush=True)
                    rates.setdefault((kind, busy), []).append(float(worker.stdout.readline()))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    cores = num_cores()
    rate = {key: statistics.median(values) for key, values in rates.items()}
    idle = rate["default", 0]
    result = {"idle_images_per_s": round(idle, 1), "cores": cores, "load": round(load, 2)}
    for (kind, busy), value in rate.items():
        share = value / (idle * cores_left(busy, cores) / cores)
        print(f"{kind:8s} beside {busy}: {value:8.1f} images/s, {share:.3f} of the fair share")
        result[f"{kind}_beside_{busy}"] = round(share, 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
