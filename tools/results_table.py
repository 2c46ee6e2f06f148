"""Writes the table of results of README.md: `make results`. With --check, exits with 1 if it is stale.

It comes from results/split_vae-first_run.json, made by `python evaluate.py runs=<folder> export=results` from the runs of
`python train.py seed=0`, 1 and 2; the file has their commands, commit and hardware.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE, PAGE = ROOT / "results" / "split_vae-first_run.json", ROOT / "README.md"
BEGIN, END = "<!-- results: make results -->", "<!-- end of results -->"
BLOCKS = {"z_global": "`z_global`", "z_local": "`z_local`", "untrained": "untrained encoder", "pixels": "pixels"}


def table() -> str:
    results = json.loads(FILE.read_text())
    numbers = results["numbers"]
    factors = [name.rpartition("/")[2] for name in numbers if name.startswith("test/block/z_global/")]
    heads = " | ".join(factor.replace("_", " ") for factor in factors)
    lines = [f"| input of the classifier | {heads} |", "| --- |" + " ---: |" * len(factors)]
    for block, title in BLOCKS.items():
        cells = [shown(numbers[f"test/block/{block}/{factor}"]) for factor in factors]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    seeds = ", ".join(map(str, results["seeds"]))
    lines.append("")
    lines.append(
        f"Mean ± sample deviation on test images over the seeds {seeds} (`{results['command'][0]}` and so on). 0 is "
        f"chance, the most frequent value; 1 is perfect. Commit {results['commit'][0]}, {results['hardware'][0]}; "
        f"[all numbers]({FILE.relative_to(ROOT)})."
    )
    return "\n".join(lines)


def shown(number: dict) -> str:
    return f"{number['mean']:.2f}" + (f" ± {number['std']:.2f}" if number["std"] is not None else "")


def page() -> str:
    """The page with the table of today."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(page() != PAGE.read_text() and f"the results of {PAGE.name} are stale: make results")
    PAGE.write_text(page())
