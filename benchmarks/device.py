"""Tests, speed and memory of a GPU or CPU: python benchmarks/device.py [seconds=480]. Last line: one JSON object.

On a CUDA device, else on the CPU with smaller settings; no network, no download. Parts, in this order, each left out (and
listed under `left_out`) if the remaining time is too short:

tests        outcome of `pytest -m gpu`, which has equality with the CPU to 1e-4, exact resume and a loop without waiting
memory       peak memory of the device in training, MB, of the six models
ddp          images a second of one and of two processes on this machine (two only where there are two devices, or on a CPU)
mfcvae       seconds of the 47,318 updates of 512 images of the paper on digits, from the rate of some hundred
throughput   the six models over a bare loop, in float32; the same with trainer=fast and, on CUDA, with trainer.compile=true;
             last, since it takes most of the time
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
CUDA = torch.cuda.is_available()
MODELS = {  # model and data of each row
    "beta_vae": "data=dsprites",
    "split_vae": "data=street_digits",
    "parted_vae": "data=digits",
    "ml_vae": "data=digits",
    "mfcvae": "data=digits",
    "spair": "data=scenes",
}
ON = f"trainer.accelerator={'gpu' if CUDA else 'cpu'}"
UPDATES = 47_318  # of MFCVAE on MNIST, FabianFalck/mfcvae


def run(words: list[str], left: float, **variables: str) -> str:
    """Output of a command. Raises subprocess.SubprocessError if it fails or takes longer than the remaining time."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")} | variables
    options = {"capture_output": True, "text": True, "check": True, "cwd": ROOT}
    return subprocess.run([sys.executable, *words], env=environment, timeout=max(1, left), **options).stdout


def tests(left: float) -> dict:
    chosen = [] if CUDA else ["-k", "terms_and and (vae or spair)"]  # on a CPU they compare it with itself
    words = ["-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py", "-p", "no:cacheprovider", *chosen]
    try:
        said = run(words, left, VAE_ZOO_TEST_DEVICE="cuda" if CUDA else "cpu")
    except subprocess.CalledProcessError as error:
        said = error.stdout
    return {"outcome": said.strip().splitlines()[-1]}


def throughput(left: float) -> dict:
    found, end = {}, time.monotonic() + left
    for model, data in MODELS.items():
        words = ["benchmarks/throughput.py", f"model={model}", data, ON, "also=trainer=fast"]
        words += ["rounds=3", "steps=200", "also=trainer.compile=true"] if CUDA else ["rounds=1", "steps=8"]
        try:
            found[model] = json.loads(run(words, end - time.monotonic()).splitlines()[-1])
        except subprocess.TimeoutExpired:  # the models before are measured
            found["no time left for"] = [name for name in MODELS if name not in found]
            break
    return found


def memory(left: float) -> dict:
    if not CUDA:
        return {}
    found, end = {}, time.monotonic() + left
    script = (
        "import sys, torch; from vae_zoo.cli.commands import train; sys.argv[0] = 'train.py'; code = train(); "
        "print(torch.cuda.max_memory_allocated() / 1e6)"
    )
    for model, data in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            words = [f"model={model}", data, ON, "trainer.max_steps=50", "callbacks=none", f"hydra.run.dir={folder}/run"]
            found[model] = round(float(run(["-c", script, *words], end - time.monotonic()).splitlines()[-1]), 1)
    return found


def ddp(left: float) -> dict:
    found, end = {}, time.monotonic() + left
    for devices in (1, 2) if not CUDA or torch.cuda.device_count() > 1 else (1,):
        with tempfile.TemporaryDirectory() as folder:
            words = ["model=vae", "data=digits", f"trainer={'ddp' if CUDA else 'ddp_cpu'}", f"trainer.devices={devices}"]
            words += [f"trainer.max_steps={500 if CUDA else 20}", "callbacks=none", f"hydra.run.dir={folder}/run"]
            run(["train.py", *words], end - time.monotonic())
            numbers = json.loads((Path(folder) / "run" / "metrics.json").read_text())
        found[f"{devices}_processes"] = round(numbers["train/images_per_second"], 1)
    return found


def mfcvae(left: float) -> dict:
    steps = 600 if CUDA else 10
    with tempfile.TemporaryDirectory() as folder:
        words = ["experiment=mfcvae/digits", "data.batch_size=512", ON, f"trainer.max_steps={steps}", "callbacks=none"]
        run(["train.py", *words, f"hydra.run.dir={folder}/run"], left)
        rate = json.loads((Path(folder) / "run" / "metrics.json").read_text())["train/images_per_second"]
    return {"images_per_s": round(rate, 1), "seconds_of_the_published_schedule": round(UPDATES * 512 / rate)}


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    end = time.monotonic() + float(given.get("seconds", 480))
    name = torch.cuda.get_device_name() if CUDA else torch.cpu.get_capabilities().get("cpu_name", "CPU")
    result: dict = {"device": name, "torch": torch.__version__, "left_out": {}}
    for part in (tests, memory, ddp, mfcvae, throughput):
        start = time.monotonic()
        try:
            result[part.__name__] = part(end - start)
        except subprocess.TimeoutExpired:
            result["left_out"][part.__name__] = "no time left"
        except subprocess.CalledProcessError as error:
            lines = re.sub(r"\x1b\[[0-9;]*m", "", error.stderr or "").strip().splitlines()
            result["left_out"][part.__name__] = lines[-1] if lines else f"ended with {error.returncode}"
        print(f"{part.__name__}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
