"""Time until an error message or --help, relative to `import lightning`: python benchmarks/startup.py

Minima over several interleaved processes. Last line: one JSON object; both ratios should be below 0.25.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
COMMANDS = {
    "import_lightning": ["-c", "import lightning"],
    "help": [str(REPOSITORY / "train.py"), "--help"],
    "mistake": [str(REPOSITORY / "train.py"), "model=vae", "model.latent_dim=-1"],
}


def seconds(words: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    rounds = [{name: seconds(words) for name, words in COMMANDS.items()} for _ in range(5)]
    best = {name: min(r[name] for r in rounds) for name in COMMANDS}
    ratios = {f"{name}_ratio": round(best[name] / best["import_lightning"], 3) for name in ("help", "mistake")}
    print(json.dumps({f"{name}_s": round(value, 3) for name, value in best.items()} | ratios))
