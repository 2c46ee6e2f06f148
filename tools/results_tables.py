"""Write the tables of results of README.md and docs/: `make results`. With --check, exit 1 where a page is stale.

A table stands between `<!-- results: <name> -->` and `<!-- end of results -->` and comes from files in results/, which
`python evaluate.py runs=<folder> export=results` makes from finished runs; a file has their commands, commit and hardware.
results/official.json holds what the official codes of the papers gave on the same images.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TABLE = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
READERS = {"z_global": "`z_global`", "z_local": "`z_local`", "untrained": "untrained encoder", "pixels": "pixels"}


class Row(NamedTuple):
    """One number of a method beside the official code's and a baseline."""

    method: str
    what: str
    file: str  # in results/, without .json
    metric: str
    baseline: str | None = None  # metric of the same file
    baseline_name: str = ""


PARITY = (
    Row(
        "ML-VAE",
        "digit read from `content` of one image",
        "ml_vae/mnist",
        "test/probe/content_k1",
        "test/probe/untrained_content_k1",
        "untrained encoder",
    ),
    Row(
        "ML-VAE",
        "digit read from `style` (lower is better)",
        "ml_vae/mnist",
        "test/probe/style",
        "test/probe/untrained_style",
        "untrained encoder",
    ),
)


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def first_run(page: Path) -> list[str]:
    """What is read of each factor from each block after `python train.py`."""
    results = read("split_vae-first_run")
    numbers = results["numbers"]
    factors = [name.rpartition("/")[2] for name in numbers if name.startswith("test/block/z_global/")]
    lines = table(["input of the classifier", *(factor.replace("_", " ") for factor in factors)])
    for reader, title in READERS.items():
        lines.append(row([title, *(shown(numbers[f"test/block/{reader}/{factor}"]) for factor in factors)]))
    return [
        *lines,
        "",
        f"On test images; 0 is chance, the most frequent value; 1 is perfect. {source(page, 'split_vae-first_run')}",
    ]


def parity(page: Path) -> list[str]:
    """Ours beside the official codes on the same images at equal updates."""
    official = read("official")
    lines = table(["method", "on MNIST-10k", "ours", "official code", "baseline"])
    for r in PARITY:
        numbers = read(r.file)["numbers"]
        theirs = official["numbers"][r.file].get(r.metric)
        beside = f"{shown(numbers[r.baseline])} ({r.baseline_name})" if r.baseline else "–"
        lines.append(row([r.method, r.what, shown(numbers[r.metric]), shown(theirs) if theirs else "–", beside]))
    files = dict.fromkeys(r.file for r in PARITY)
    codes = "; ".join(official["codes"][file] for file in files)
    return [*lines, "", *(source(page, file) for file in files), f"{official['note']}: {codes}."]


def table(heads: list[str]) -> list[str]:
    return [row(heads), row(["---", *["---:"] * (len(heads) - 1)])]


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def shown(number: dict[str, Any]) -> str:
    """Mean and sample standard deviation over the seeds."""
    return f"{number['mean']:.3f}" + (f" ± {number['std']:.3f}" if number["std"] is not None else "")


def source(page: Path, name: str) -> str:
    results, file = read(name), f"results/{name}.json"
    link = f"[all numbers]({file})" if page.parent == ROOT else f"all numbers in `{file}`"  # which is outside the site
    seeds = ", ".join(map(str, results["seeds"]))
    return (
        f"Mean ± standard deviation over seeds {seeds} of `{results['command'][0]}`, commit {results['commit'][0]}, "
        f"{results['hardware'][0]}; {link}."
    )


TABLES = {"first_run": first_run, "parity": parity}


def with_tables(page: Path) -> str:
    """The page with the tables that its files give now."""

    def replaced(found: re.Match[str]) -> str:
        return found[1] + "\n".join(TABLES[found[2]](page)) + "\n" + found[3]

    return TABLE.sub(replaced, page.read_text())


def main() -> None:
    stale = {page: text for page in PAGES if (text := with_tables(page)) != page.read_text()}
    if "--check" in sys.argv:
        sys.exit(
            f"{', '.join(str(p.relative_to(ROOT)) for p in stale)}: results are stale; run make results" if stale else 0
        )
    for page, text in stale.items():
        page.write_text(text)


if __name__ == "__main__":
    main()
