"""Write the table of results of README.md from results/*.json: `make results`. `--check` exits 1 where it is stale.

A file of results is made by `python evaluate.py runs=<folder of runs> export=results`, which says with which commands,
commit, seeds and hardware.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE, BEGIN, END = ROOT / "README.md", "<!-- results: make results -->", "<!-- results end -->"


class Row(NamedTuple):
    """trivial: what a useless model scores, a number of the same runs and what it is."""

    method: str
    experiment: str
    number: str
    meaning: str
    trivial: str
    trivial_meaning: str


ROWS = (
    Row("SPLIT-VAE", "split_vae/first_run", "test/block/z_global/digit", "digit read from z_global",
        "test/block/z_local/digit", "from z_local"),
    Row("SPLIT-VAE", "split_vae/first_run", "test/block/z_local/ground_colour", "ground colour read from z_local",
        "test/block/z_global/ground_colour", "from z_global"),
    Row("PartedVAE", "parted_vae/digits", "test/accuracy", "accuracy with 50 labels",
        "test/cluster_purity_chance", "one cluster for all"),
    Row("ML-VAE", "ml_vae/digits", "test/swap_accuracy_k10", "digit after a swap of content, 10 images a group",
        "test/swap_accuracy_chance", "chance"),
    Row("MFCVAE", "mfcvae/digits", "test/facet1/label/cluster_accuracy_hungarian", "clusters of a facet against digits",
        "test/facet1/label/cluster_purity_chance", "one cluster for all"),
    Row("SPAIR", "spair/scenes_small", "test/count_accuracy", "number of objects right",
        "test/count_accuracy_constant", "best constant"),
)  # fmt: skip


def table() -> str:
    lines = ["| method | `experiment=` | what | ours | trivial | seeds |", "| --- | --- | --- | ---: | ---: | ---: |"]
    for row in ROWS:
        path = ROOT / "results" / f"{row.experiment}.json"
        if not path.is_file():
            raise SystemExit(f"{path} is missing; train its seeds and export them, see {__file__}")
        results = json.loads(path.read_text())
        trivial = shown(results["numbers"].get(row.trivial))
        cells = row.method, f"`{row.experiment}`", row.meaning, shown(results["numbers"][row.number])
        lines.append(f"| {' | '.join(cells)} | {trivial} ({row.trivial_meaning}) | {len(results['seeds'])} |")
    return "\n".join(lines)


def shown(number: dict | None) -> str:
    if number is None:
        return "–"
    return f"{number['mean']:.2f}" + (f" ± {number['std']:.2f}" if number["std"] is not None else "")


def main() -> None:
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if "--check" in sys.argv:
        sys.exit(wanted != text and f"the results of {PAGE.name} are stale: make results")
    PAGE.write_text(wanted)


if __name__ == "__main__":
    main()
