"""Speed of two parallel jobs over one: python benchmarks/parallel.py [model=... data=...] [rounds=3]. Last line: JSON.

one    python train.py -m seed=0, one thread
two    python train.py -m seed=0,1 launcher=joblib sweep.jobs=2, a thread each: needs two idle cores and vae_zoo[sweep]

training: images per second of both jobs together, divided by those of one job. command: twice the seconds of one job,
divided by the seconds of both, including imports, evaluation and report. Medians over alternating rounds.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
DEFAULT = ["model=beta_vae", "data=dsprites", "trainer.max_steps=1000", "trainer.val_check_interval=1000"]


def measure(words: list[str]) -> tuple[float, float]:
    """Images a second of all jobs together, and seconds of the command."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(REPOSITORY / "train.py"), "-m", *words, "trainer=cpu", f"paths.outputs={folder}"]
        path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        start = time.perf_counter()
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}, stdout=sys.stderr)
        seconds = time.perf_counter() - start
        numbers = [json.loads(file.read_text()) for file in Path(folder).glob("*/*/metrics.json")]
        return sum(n["train/images_per_second"] for n in numbers), seconds


def main(words: list[str]) -> None:
    rounds = next((int(word.partition("=")[2]) for word in words if word.startswith("rounds=")), 3)
    settings = [word for word in words if not word.startswith("rounds=")] or DEFAULT
    load = os.getloadavg()[0]
    if load > 0.3:
        print(f"load is {load:.2f}: the other processes are measured too", file=sys.stderr)
    training, command = [], []
    for _ in range(rounds):
        rate, seconds = measure([*settings, "seed=0"])
        both_rate, both_seconds = measure([*settings, "seed=0,1", "launcher=joblib", "sweep.jobs=2"])
        training.append(both_rate / rate)
        command.append(2 * seconds / both_seconds)
    ratios = {"training": statistics.median(training), "command": statistics.median(command)}
    print(json.dumps({name: round(value, 3) for name, value in ratios.items()} | {"load": round(load, 2)}))


if __name__ == "__main__":
    main(sys.argv[1:])
