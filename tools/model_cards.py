"""Write docs/models: the model card of the best run of each method, and their index. `make cards runs=<folder>`.

The folder has a folder for each entry of CARDS, with the runs of several seeds. The best one has the lowest loss on the
validation images at its last validation; test numbers do not choose. Its card is that of export.py format=safetensors,
without the weights. An entry whose runs are missing keeps its page.
"""

import re
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from vae_zoo import UserError, export  # noqa: E402  (the package need not be installed)
from vae_zoo.runs import folder as run_folders  # noqa: E402

OUT = ROOT / "docs" / "models"


class Card(NamedTuple):
    """A page: its experiment, and what a reader must know that the run folder does not say."""

    experiment: str
    note: str


MNIST_10K = "Trained on MNIST-10k, the first 10,000 training digits, and scored on the first 5,000 test digits."
CARDS = {  # name of the folder and of the page
    "split_vae": Card("split_vae/first_run", "The default run of `make train`."),
    "split_gmvae": Card("split_gmvae/street_digits", "Its clusters are above those of GMVAE, but far below SPLIT-VaDE's."),
    "gmvae": Card("gmvae/street_digits_own", "A baseline of SPLIT-GMVAE: its clusters are near chance."),
    "gmvae2016": Card("gmvae2016/street_digits", "A baseline of SPLIT-GMVAE: its clusters are near chance."),
    "split_vade": Card(
        "split_vade/street_digits",
        "An extension of the paper: SPLIT-VAE whose global code has clusters. The Hungarian accuracy of three seeds of an "
        "earlier commit is 0.53 ± 0.05.",
    ),
    "spair": Card("spair/scenes_hard", "48 x 48 pixels, chequered backgrounds."),
    "split_spair": Card(
        "split_spair/textures",
        "24 x 24 pixels, textured backgrounds; the decoder of the background gets the local code. On chequered backgrounds "
        "a wider background code without a local code is as good.",
    ),
    "parted_vae": Card("parity/parted_vae_augmented", f"256 labels; labelled images are distorted. {MNIST_10K}"),
    "parted_vae_paper": Card("paper/parted_vae_mnist10k", f"256 labels, 80 epochs as published. {MNIST_10K}"),
    "ml_vae": Card("ml_vae/mnist", MNIST_10K),
    "mfcvae": Card("mfcvae/beyond", f"An extension of the paper. {MNIST_10K}"),
}


def validation_loss(run: Path) -> float:
    """The last `val/loss` of a run."""
    values = [row["val/loss"] for row in run_folders.read_rows(run / "metrics.csv") if row.get("val/loss")]
    if not values:
        raise UserError(f"{run} has no val/loss")
    return float(values[-1])


def page(name: str, runs: list[Path]) -> None:
    """Writes the page of one card and its pictures."""
    card, best = CARDS[name], min(runs, key=validation_loss)
    for old in (OUT / "figures").glob(f"{name}-*.webp"):
        old.unlink()
    with tempfile.TemporaryDirectory() as place:
        folder = export(best, format="safetensors", out=Path(place) / "card")
        text = (folder / "README.md").read_text().split("---\n", 2)[2].strip()
        size = (folder / "model.safetensors").stat().st_size / 1e6
        for picture in (folder / "figures").glob("*.png"):
            Image.open(picture).convert("RGB").save(OUT / "figures" / f"{name}-{picture.stem}.webp", quality=85)
    text = re.sub(r"\(figures/(\w+)\.png\)", rf"(figures/{name}-\1.webp)", text)
    title, _, rest = text.partition("\n")
    one = "the only run" if len(runs) == 1 else f"that of {len(runs)} seeds with the lowest loss on validation images"
    about = (
        f"`experiment={card.experiment}`: {one}. {card.note} The weights ({size:.1f} MB) are not in the repository: train "
        f"the command below, then `python export.py run=<folder> format=safetensors`."
    )
    (OUT / f"{name}.md").write_text(f"{title}\n\n{about}\n{rest}\n")


def write_index() -> None:
    """Writes the table of all pages that exist."""
    rows = []
    for name, card in CARDS.items():
        if (path := OUT / f"{name}.md").is_file():
            title = path.read_text().partition("\n")[0].removeprefix("# ")
            rows.append(f"| [{title}]({path.name}) | `{card.experiment}` | {card.note} |")
    head = (
        "# Model cards\n\nOne run of each method: what its blocks hold, the command that trained it, its numbers beside "
        "controls, and figures. Of several seeds the one with the lowest loss on validation images is shown; the means "
        "over all seeds are in the [results](../results.md). `make cards runs=<folder>` writes these pages, "
        "[`export.py`](../how_to/export.md) the card of any run.\n\n| model | experiment | |\n| --- | --- | --- |\n"
    )
    (OUT / "index.md").write_text(head + "\n".join(rows) + "\n")


def main(folder: Path) -> int:
    """Writes all pages whose runs are there. Returns the exit code: 2 if there are none."""
    (OUT / "figures").mkdir(parents=True, exist_ok=True)
    found = {name: sorted(path.parent for path in (folder / name).rglob("metrics.json")) for name in CARDS}
    for name, runs in found.items():
        if runs:
            page(name, runs)
        print(
            f"{name}: {len(runs)} runs"
            + ("" if runs else f"; train them: python train.py experiment={CARDS[name].experiment}")
        )
    write_index()
    return 0 if any(found.values()) else 2


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(f"give a folder with one folder of runs for each of {', '.join(CARDS)}: make cards runs=<folder>")
    try:
        sys.exit(main(Path(sys.argv[1])))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
