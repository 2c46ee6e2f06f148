"""Draw docs/figures/gallery.png, the picture of README.md, from finished runs: `make gallery`.

It takes the newest pictures of these experiments' runs below outputs/ (or the folder given), seed 0 where there are several:
split_vae/first_run, ml_vae/faces, mfcvae/digits, spair/scenes_small, parted_vae/digits.
"""

import sys
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from vae_zoo.figures import theme
from vae_zoo.runs import folder as runs

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "figures" / "gallery.png"
HEIGHT, GAP, MARGIN, TITLE = 380, 28, 24, 54  # pixels


class Panel(NamedTuple):
    experiment: str
    figure: str
    title: str
    text: str
    crop: float = 1.0  # of the height that is shown, from the top


ROWS = (
    (
        Panel("split_vae/first_run", "swap_z_local", "SPLIT-VAE", "rows give colours, columns give the digit"),
        Panel("ml_vae/faces", "swap_content", "ML-VAE", "rows give the person, columns the view"),
        Panel("parted_vae/digits", "class_samples", "PartedVAE", "samples of each class, 50 labels"),
    ),
    (
        Panel("mfcvae/digits", "facet1_members", "MFCVAE", "clusters found without labels"),
        Panel("spair/scenes_small", "scenes", "SPAIR", "objects found without labels"),
    ),
)


def newest(outputs: Path, panel: Panel) -> Image.Image:
    """The panel's picture at the last step of a run."""
    found = sorted((outputs / panel.experiment.replace("/", "-")).glob("seed*/figures"))
    if not found:
        raise SystemExit(f"no run below {outputs}; train it: python train.py experiment={panel.experiment}")
    pictures = runs.pictures(found[0])
    by_step = pictures.get((panel.figure, ".png"))
    if by_step is None:
        raise SystemExit(f"{found[0]} has no picture {panel.figure}, only {sorted({name for name, _ in pictures})}")
    image = Image.open(by_step[max(by_step)]).convert("RGB")
    return image.crop((0, 0, image.width, round(panel.crop * image.height)))


def band(outputs: Path, panels: tuple[Panel, ...]) -> Image.Image:
    images = [newest(outputs, panel) for panel in panels]
    images = [
        image.resize((round(image.width * HEIGHT / image.height), HEIGHT), Image.Resampling.LANCZOS) for image in images
    ]
    page = Image.new("RGB", (sum(i.width for i in images) + GAP * (len(images) - 1), HEIGHT + TITLE), theme.PAPER)
    draw, left = ImageDraw.Draw(page), 0
    for panel, image in zip(panels, images):
        draw.text((left, 0), panel.title, theme.INK, ImageFont.load_default(22))
        draw.text((left, 28), panel.text, theme.MUTED, ImageFont.load_default(15))
        page.paste(image, (left, TITLE))
        left += image.width + GAP
    return page


def main() -> None:
    outputs = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs")
    bands = [band(outputs, panels) for panels in ROWS]
    width = max(b.width for b in bands)
    page = Image.new("RGB", (width + 2 * MARGIN, sum(b.height for b in bands) + GAP + 2 * MARGIN), theme.PAPER)
    top = MARGIN
    for b in bands:
        page.paste(b, (MARGIN + (width - b.width) // 2, top))
        top += b.height + GAP
    page.save(OUT, optimize=True)
    print(f"written to {OUT}: {page.width} x {page.height}")


if __name__ == "__main__":
    main()
