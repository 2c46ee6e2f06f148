"""Curves of long runs: `make curves runs=<folder>`, and `make results`, which draws them again without the runs.

With a folder of run folders, writes results/curves/<experiment>.json: of each seed and each number in CURVES, means over at
most 80 equal stretches of the steps that have it. Then, and without a folder, draws docs/figures/curves_<experiment>.png
from each of these files. --check: ends with an error if a picture is not made from its file.
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from vae_zoo import UserError  # noqa: E402  (the package need not be installed)
from vae_zoo.figures import theme  # noqa: E402
from vae_zoo.runs import folder as run_folders  # noqa: E402
from vae_zoo.utils.files import write_json  # noqa: E402
from vae_zoo.utils.text import without_paths  # noqa: E402

RESULTS, PICTURES = ROOT / "results" / "curves", ROOT / "docs" / "figures"
STRETCHES = 80
CURVES = {  # numbers of each experiment, and what they are
    "paper/parted_vae_mnist10k": {
        "train/rec": "reconstruction error, nats",
        "train/kl_z": "KL of z, nats",
        "train/kl_u": "KL of u, nats",
        "val/accuracy": "accuracy of c, validation images",
    },
    "paper/ml_vae_mnist10k": {
        "train/rec": "reconstruction error, nats",
        "train/kl_content": "KL of content, nats for each group",
        "train/kl_style": "KL of style, nats",
        "val/loss": "loss, validation images",
    },
}


def curve(rows: Iterable[dict[str, str]], name: str) -> list[tuple[int, float]]:
    """(step, mean) of each stretch that has values."""
    points = np.array([(int(row["step"]), float(row[name])) for row in rows if row.get(name)])
    if not len(points):
        raise UserError(f"metrics.csv has no {name}")
    places = (points[:, 0] * STRETCHES / (points[-1, 0] + 1)).astype(int)
    means = (points[places == place].mean(0) for place in np.unique(places))
    return [(round(step), round(value, 5)) for step, value in means]


def collect(folder: Path) -> None:
    """Writes the curves of all runs in the folder whose experiment is in CURVES."""
    found: dict[str, dict] = {}
    for run in sorted(path.parent for path in folder.rglob("run.json")):
        experiment = next((name for name in CURVES if run.parent.name == name.replace("/", "-")), None)
        if experiment is None:
            continue
        info, rows = json.loads((run / "run.json").read_text()), run_folders.read_rows(run / "metrics.csv")
        if info["state"] != "finished":
            raise UserError(f"{run} is {info['state']}, not finished; finish or remove it")
        one = found.setdefault(experiment, {key: [] for key in ("command", "commit", "hardware", "seeds")} | {"curves": {}})
        made = {"command": without_paths(info["command"]), "commit": info["commit"], "hardware": info["hardware"]}
        for key, value in made.items():
            one[key] += [] if value in one[key] else [value]
        if (seed := run_folders.read_config(run)["seed"]) in one["seeds"]:
            raise UserError(f"{folder} has two runs of {experiment} with seed {seed}; leave one")
        one["seeds"].append(seed)
        one["curves"][f"seed {seed}"] = {name: curve(rows, name) for name in CURVES[experiment]}
    if not found:
        raise UserError(f"{folder} has no run of {', '.join(CURVES)}")
    for experiment, values in found.items():
        write_json(RESULTS / f"{experiment.replace('/', '-')}.json", values)


def made_from(file: Path) -> str:
    """Hash of a file and of this script, which its picture stores."""
    return hashlib.sha256(file.read_bytes() + Path(__file__).read_bytes()).hexdigest()


def picture(file: Path) -> Path:
    """Path of the picture of a file."""
    return PICTURES / f"curves_{file.stem}.png"


def draw(file: Path) -> None:
    """Draws a panel for each number, with a line for each seed."""
    curves = json.loads(file.read_text())["curves"]
    titles = next((titles for name, titles in CURVES.items() if name.replace("/", "-") == file.stem), None)
    if titles is None:
        raise UserError(f"{file} is of no experiment in CURVES; remove it, or add what it shows")
    figure = Figure(figsize=(3.2 * len(titles), 2.6), layout="constrained", facecolor=theme.PAPER)
    for axes, (name, title) in zip(figure.subplots(1, len(titles), squeeze=False)[0], titles.items(), strict=True):
        for (seed, one), colour in zip(curves.items(), cycle(theme.SERIES)):
            axes.plot(*zip(*one[name]), color=colour, lw=1.2, label=seed)
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xlabel("step")
        axes.set_facecolor(theme.PAPER)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(picture(file), dpi=110, metadata={"Source": made_from(file)})


def is_current(file: Path) -> bool:
    """Whether the picture was drawn from this file by this script."""
    path = picture(file)
    return path.exists() and Image.open(path).info.get("Source") == made_from(file)


def main(words: list[str]) -> None:
    if words and words != ["--check"]:
        collect(Path(words[0]))
    stale = [file for file in sorted(RESULTS.glob("*.json")) if not is_current(file)]
    if words == ["--check"]:
        names = ", ".join(str(picture(file).relative_to(ROOT)) for file in stale)
        sys.exit(f"{names}: not drawn from results/curves; run make results" if stale else 0)
    for file in stale:
        draw(file)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
