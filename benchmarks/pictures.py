"""Time to open a folder of many pictures: python benchmarks/pictures.py folder=<new folder> [number=20000] [kill=true].

Makes JPEG files of drawn faces, in five sizes and at three depths, if the folder does not exist, then opens it in new
processes: to the end, again, and with another cache killed at a random moment and again. Last line: one JSON object with
seconds, the number of images that were decoded before the kill, and whether the bytes equal those of an uninterrupted start.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from vae_zoo.data.render import cartoon

SIDES = (48, 64, 80, 96, 128)
PLACES = ("{0}", "{0}/{1}", "{0}/{1}/{2}")
OPEN = """
import sys, time
from vae_zoo.data import ImageFolder
start = time.perf_counter()
data = ImageFolder(sys.argv[1], class_depth=1, cache=sys.argv[2])
data.setup()
print(time.perf_counter() - start, len(data.images), data.num_classes)
"""


def make(folder: Path, number: int) -> None:
    """Writes the files, ten of each face."""
    for start in range(0, number, 1000):
        place = np.arange(start, min(start + 1000, number))
        identity, image = place // 10, place % 10
        faces = cartoon.render(cartoon.factors(identity, image), cartoon.noise_key(identity, image))
        for i, face in zip(place.tolist(), faces):
            parent = folder / PLACES[i % 3].format(f"class{i % 7}", f"part{i % 5}", f"day{i % 11}")
            parent.mkdir(parents=True, exist_ok=True)
            side = SIDES[i % 5]
            picture = Image.fromarray(face.transpose(1, 2, 0)).resize((side, side + 8 * (i % 2)))
            picture.save(parent / f"{i:06d}.{('jpg', 'JPG', 'jpeg')[i % 3]}", quality=90)


def start(folder: Path, cache: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", OPEN, str(folder), str(cache)], stdout=subprocess.PIPE, text=True)


def seconds(folder: Path, cache: Path) -> float:
    out, _ = start(folder, cache).communicate()
    return float(out.split()[0])


def killed(folder: Path, cache: Path, after: float) -> int:
    """Kills a start so many seconds after its first part. Returns the number of images that were decoded until then."""
    child, about = start(folder, cache), []
    while not about and child.poll() is None:
        time.sleep(0.01)
        about = [*cache.glob("*.part.json")]
    time.sleep(after)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    return sum(json.loads(path.read_text())["rows"] for path in cache.glob("*.part.json"))


def main(folder: str, number: str = "20000", kill: str = "true") -> None:
    pictures, caches = Path(folder) / "pictures", [Path(folder) / name for name in ("whole", "killed")]
    if not pictures.exists():
        make(pictures, int(number))
    for cache in caches:
        shutil.rmtree(cache, ignore_errors=True)
    found = {"first_s": seconds(pictures, caches[0]), "second_s": seconds(pictures, caches[0])}
    if kill == "true":
        found["images_before_kill"] = killed(pictures, caches[1], random.uniform(0, found["first_s"] / 2))
        found["after_kill_s"] = seconds(pictures, caches[1])
        files = [next(cache.glob("*.npy")).read_bytes() for cache in caches]
        found["bytes_equal"] = files[0] == files[1]
    print(json.dumps({name: round(value, 2) if isinstance(value, float) else value for name, value in found.items()}))


if __name__ == "__main__":
    main(**dict(word.split("=", 1) for word in sys.argv[1:]))  # pyright: ignore[reportArgumentType]
