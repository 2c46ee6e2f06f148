"""Make the gallery of README.md and one picture for the page of each method: `make gallery`.

Trains the experiments below unless outputs/gallery/ holds them (about an hour on two cores, no download), with seed 0 where
no other is given, takes a figure of each run and writes docs/figures/gallery.png and docs/figures/<method>.png. The same
run folders give the same files.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from vae_zoo.figures import theme  # noqa: E402  (the package need not be installed)

RUNS, PICTURES = ROOT / "outputs" / "gallery", ROOT / "docs" / "figures"
WIDTH, HEIGHT, GAP, HEAD = 560, 600, 24, 64  # pixels: of a panel, its figure, between panels, of its title
COLUMNS = 3


class Panel(NamedTuple):
    name: str  # of the picture
    words: str  # after `python train.py seed=0`; a seed among them has priority
    figure: str  # as the run folder names it, without the step
    method: str
    caption: str
    height: int = HEIGHT  # at which the figure is cut


PANELS = (
    Panel(
        "split_vae", "experiment=split_vae/first_run", "swap_z_local", "SPLIT-VAE", "colours of the row, digit of the column"
    ),
    Panel(
        "ml_vae",
        "experiment=ml_vae/faces trainer.max_steps=1500",
        "swap_style",
        "ML-VAE",
        "person of the column, scene of the row",
    ),
    Panel("parted_vae", "experiment=parted_vae/digits", "class_swap_c", "PartedVAE", "the class is changed, z is kept"),
    Panel("mfcvae", "experiment=mfcvae/digits", "members_facet1", "MFCVAE", "clusters found without labels"),
    Panel("spair", "experiment=spair/scenes_small", "boxes_test", "SPAIR", "objects found without labels"),
    Panel("blocks", "experiment=split_vae/first_run", "blocks", "Every method", "score of each factor from each block"),
)
ON_PAGES = (  # outside of the gallery
    Panel(
        "split_annealed",
        "experiment=split_vae/street_digits_annealed seed=10",
        "swap_z_global",
        "SPLIT-VAE",
        "digit of the row, colours of the column",
    ),
    Panel(
        "split_vade",
        "experiment=split_vade/street_digits seed=10",
        "members_c",
        "SPLIT-VaDE",
        "most confident images of each cluster",
        2 * HEIGHT,
    ),
    Panel("spair_chequers", "experiment=spair/chequers seed=20", "boxes_test", "SPAIR", "objects on chequers"),
    Panel("split_spair_chequers", "experiment=split_spair/chequers seed=20", "boxes_test", "SPLIT-SPAIR", "the same"),
    Panel(
        "split_spair_swap", "experiment=split_spair/chequers seed=20", "swap_z_local", "SPLIT-SPAIR", "colours of the row"
    ),
    Panel("beta_vae", "model=beta_vae data=digits trainer.max_steps=2000", "traversals_z", "beta-VAE", "traversals"),
)


def folder(words: str) -> Path:
    """The finished run of these words, trained or resumed where needed."""
    run = RUNS / re.sub(r"\W+", "-", words.partition("=")[2])
    seed = [] if "seed=" in words else ["seed=0"]
    if not (run / "metrics.json").exists():
        given = [f"resume={run}"] if (run / "checkpoints").exists() else [*words.split(), *seed, f"hydra.run.dir={run}"]
        subprocess.run([sys.executable, "train.py", *given], cwd=ROOT, check=True)
    return run


def figure(panel: Panel) -> Image.Image:
    """The figure of a panel at its last step, at most WIDTH wide, cut at HEIGHT."""
    found = sorted(folder(panel.words).glob(f"figures/{panel.figure}_[0-9]*.png"), key=lambda p: int(p.stem.split("_")[-1]))
    if not found:
        sys.exit(f"{folder(panel.words)} has no figure {panel.figure}; delete the folder and run `make gallery` again")
    image = Image.open(found[-1]).convert("RGB")
    if image.width > WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    return cut(image, panel.height)


def cut(image: Image.Image, height: int) -> Image.Image:
    """The upper part of a grid, at most `height` pixels, ending between two rows of it."""
    if image.height <= height:
        return image
    plain = np.abs(np.asarray(image, float) - theme.rgb(theme.PAPER)).max((1, 2)) < 40  # [H], True between rows
    return image.crop((0, 0, image.width, max(np.flatnonzero(plain[:height]), default=height)))


def gallery(figures: dict[str, Image.Image]) -> Image.Image:
    """All panels, each under its method and caption."""
    rows = -(-len(PANELS) // COLUMNS)
    width, height = COLUMNS * (WIDTH + GAP) + GAP, rows * (HEAD + HEIGHT + GAP) + GAP
    page = Image.new("RGB", (width, height), theme.PAPER)
    draw = ImageDraw.Draw(page)
    for place, panel in enumerate(PANELS):
        row, column = divmod(place, COLUMNS)
        left, top = GAP + column * (WIDTH + GAP), GAP + row * (HEAD + HEIGHT + GAP)
        draw.text((left + 12, top), panel.method, theme.INK, ImageFont.load_default(28))
        draw.text((left + 12, top + 34), panel.caption, theme.MUTED, ImageFont.load_default(20))
        page.paste(figures[panel.name], (left, top + HEAD))
    return page


def save(image: Image.Image, name: str) -> None:
    image.quantize(256, dither=Image.Dither.NONE).save(PICTURES / f"{name}.png", optimize=True)


def main() -> None:
    figures = {panel.name: figure(panel) for panel in (*PANELS, *ON_PAGES)}
    for name, image in figures.items():
        save(image, name)
    save(gallery(figures), "gallery")


if __name__ == "__main__":
    main()
