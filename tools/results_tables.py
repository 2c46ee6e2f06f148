"""Write the tables of results of README.md and docs/: `make results`. With --check, exit 1 where a page is stale.

A table stands between `<!-- results: <name> -->` and `<!-- end of results -->` and comes from files in results/, which
`python evaluate.py runs=<folder> export=results` makes from finished runs; a file has their commands, commit and hardware.
results/official.json holds the results of the papers' official code on the same images.
"""

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TABLE = re.compile(r"(<!-- results: ([\w/-]+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
READERS = {"z_global": "`z_global`", "z_local": "`z_local`", "untrained": "untrained encoder", "pixels": "pixels"}


class Row(NamedTuple):
    """A number of an experiment and what a trivial model scores on the same images."""

    what: str
    metric: str
    control: str | None = None  # metric of the same file
    control_name: str = ""


CLUSTERS = tuple(
    Row(what, f"test/{metric}", f"test/{metric}_pixels", "k-means on pixels")
    for what, metric in (("Hungarian accuracy", "cluster_accuracy_hungarian"), ("AMI", "ami"))
)
CONTENT = Row(
    "accuracy of a digit probe on `content` of one image",
    "test/probe/content_k1",
    "test/probe/untrained_content_k1",
    "untrained encoder",
)
STYLE = Row(
    "accuracy of a digit probe on samples of `style` (lower is better)",
    "test/probe/style",
    "test/probe/untrained_style",
    "untrained encoder",
)
STYLE_MEAN = Row(
    "accuracy of a digit probe on means of `style` (lower is better)",
    "test/probe/style_mean",
    "test/probe/untrained_style_mean",
    "untrained encoder",
)
ACCURACY = Row(
    "accuracy of the class code `c`",
    "test/accuracy",
    "test/cluster_accuracy_hungarian_pixels",
    "k-means on pixels, Hungarian",
)
VERIFIED = [
    Row(f"same person or not, AUC with {k}", f"test/verification_auc_k{n}", f"test/verification_auc_pixels_k{n}", "pixels")
    for k, n in (("one image", 1), ("five images", 5))
]
COUNTS = [
    Row(
        f"count accuracy, {where}",
        f"{split}/count_accuracy",
        f"{split}/count_accuracy_components",
        "connected components; 0.26 for always predicting the most frequent count",
    )
    for where, split in (("backgrounds seen in training", "test"), ("unseen backgrounds", "test_unseen"))
]
SEPARATED = [
    Row("accuracy of a digit classifier on reconstructions", "test/accuracy_rec", "test/judge_accuracy", "on real images"),
    Row("share of images that keep their digit if `z_local` is from another image", "test/accuracy_swap_local"),
    Row("the same if `z_global` is from another image (chance 0.10)", "test/accuracy_swap_global"),
    Row("colour transfer ratio (below 1: colours are in `z_local`)", "test/colour_transfer_ratio"),
    Row("R² of a probe for the background colour on `z_global` (lower is better)", "test/colour_r2_z_global"),
    Row(
        "score of a probe for the background colour (six classes) on `z_global` (0: constant prediction; lower is better)",
        "test/block/z_global/ground_colour",
        "test/block/untrained/ground_colour",
        "untrained encoder",
    ),
    Row(
        "score of a digit probe on `z_global`",
        "test/block/z_global/digit",
        "test/block/untrained/digit",
        "untrained encoder",
    ),
]
# The tables `<!-- results: <file> -->` of an experiment; its rows on the worth of blocks are added to these.
EXPERIMENTS = {
    "split_vae-first_run": SEPARATED,
    "split_vae/street_digits_annealed": SEPARATED,
    "ml_vae/mnist": [CONTENT, STYLE],
    "ml_vae/faces": VERIFIED,
    "parted_vae/digits": [ACCURACY],
    "parted_vae/mnist10k": [ACCURACY],
    "paper/parted_vae_mnist10k": [ACCURACY],
    "mfcvae/digits": list(CLUSTERS),
    "mfcvae/mnist": [
        *CLUSTERS,
        Row("purity of the clusters", "test/cluster_purity", "test/cluster_purity_pixels", "k-means on pixels"),
    ],
    "mfcvae/beyond": [
        *CLUSTERS,
        Row("purity of the clusters", "test/cluster_purity", "test/cluster_purity_pixels", "k-means on pixels"),
    ],
    "spair/scenes_small": [
        *COUNTS,
        Row("AP at IoU 0.5, backgrounds seen in training", "test/ap50", "test/ap50_components", "connected components"),
    ],
    "spair/scenes_easy": [
        Row(f"{what}, {where}", f"{split}/{metric}", f"{split}/{control}_components", name)
        for where, split in (("colours seen in training", "test"), ("unseen colours", "test_unseen"))
        for what, metric, control, name in (
            ("count accuracy", "count_accuracy", "count_accuracy", "connected components; 0.18 for the most frequent count"),
            ("the same without `max_iou`", "count_accuracy_cells", "count_accuracy", "connected components"),
            ("AP at IoU 0.5", "ap50", "ap50", "connected components"),
        )
    ],
    "spair/scenes_hard": [
        Row(f"{what}, {where}", f"{split}/{metric}", f"{split}/{metric}_{control}", name)
        for what, metric, control, name in (
            ("count accuracy", "count_accuracy", "constant", "always predicting the most frequent count"),
            ("AP at IoU 0.5", "ap50", "components", "connected components"),
            ("ARI of the foreground", "ari_fg", "tiles", "a fixed tiling"),
        )
        for where, split in (("backgrounds seen in training", "test"), ("unseen backgrounds", "test_unseen"))
    ],
}
PURITY = EXPERIMENTS["mfcvae/mnist"][2]
# Comparisons with the official code, that of its method: {table: (method, file, row)}.
PARITY = {
    "parity": (
        ("ML-VAE", "parity/ml_vae", CONTENT),
        ("ML-VAE", "parity/ml_vae", STYLE_MEAN),
        ("PartedVAE", "parity/parted_vae", ACCURACY),
        ("PartedVAE, labelled images distorted", "parity/parted_vae_augmented", ACCURACY),
        ("MFCVAE", "parity/mfcvae", PURITY),
    ),
    "parity_half": (
        ("ML-VAE", "parity/ml_vae_half", CONTENT),
        ("ML-VAE", "parity/ml_vae_half", STYLE_MEAN),
        ("PartedVAE", "parity/parted_vae_half", ACCURACY),
        ("MFCVAE", "parity/mfcvae_half", PURITY),
    ),
}


DETECTION = {
    "test/count_accuracy": "count accuracy, backgrounds seen in training",
    "test_unseen/count_accuracy": "count accuracy, unseen backgrounds",
    "test/count_accuracy_constant": "the same of always predicting the most frequent count, seen",
    "test/count_accuracy_components": "the same of connected components, seen",
    "test/ap50": "AP at IoU 0.5, seen",
    "test_unseen/ap50": "AP at IoU 0.5, unseen",
    "test/ap50_components": "the same of connected components, seen",
    "test/ari_fg": "ARI of the foreground",
    "test/ari_fg_nothing": "the same if nothing is detected",
    "test/ari_fg_tiles": "the same of a fixed tiling",
    "test/worth/background": "worth of `background`",
    "test/worth/z_local": "worth of `z_local`",
}
# Tables `<!-- results: <name> -->` of several experiments side by side: column: file; rows: metric and what it is.
ARMS = {
    "z_switched_off": (
        {"preset": "parted_vae/digits_250", "`z_capacity.end=0 z_gamma=100`": "parted_vae/digits_250_z_off"},
        {
            "test/separation": "separation",
            "test/accuracy": "accuracy of the class code `c`",
            "test/cluster_accuracy_hungarian_pixels": "Hungarian accuracy of k-means on pixels",
            "test/worth/z": "worth of `z`",
            "test/worth/u": "worth of `u`",
            "test/worth/c": "worth of `c`",
        },
    ),
    "style_switched_off": (
        {"preset": "ml_vae/digits_250", "`beta_style=1000`": "ml_vae/digits_250_style_off"},
        {
            "test/separation": "separation",
            "test/probe/style": "accuracy of a digit probe on samples of `style` (lower is better)",
            "test/probe/untrained_style": "the same on samples of the style of an untrained encoder",
            "test/worth/content": "worth of `content`",
            "test/worth/style": "worth of `style`",
        },
    ),
    "split_separation": (
        {"with the reconstruction": "split_vae-first_run", "without, `aux_weight=0`": "split_vae-first_run_no_shuffle"},
        {
            "test/colour_transfer_ratio": "colour transfer ratio (below 1: colours are in `z_local`)",
            "test/colour_r2_z_global": "R² of a probe for the background colour on `z_global`",
            "test/colour_r2_z_local": "R² of a probe for the background colour on `z_local`",
            "test/block/z_global/digit_colour": "score of a probe for the digit colour (six classes) on `z_global`",
            "test/block/z_local/digit_colour": "the same on `z_local`",
            "test/class_z_global": "score of a digit probe trained on 3,000 images, `z_global` (0: constant prediction)",
            "test/class_z_local": "the same, `z_local`",
            "test/accuracy_rec": "accuracy of a digit classifier on reconstructions",
            "test/worth/z_global": "worth of `z_global`",
            "test/worth/z_local": "worth of `z_local`",
        },
    ),
    "split_annealed": (
        {
            "with the reconstruction": "split_vae/street_digits_annealed",
            "without, `aux_weight=0`": "split_vae/street_digits_annealed_no_shuffle",
        },
        {
            "test/colour_transfer_ratio": "colour transfer ratio (below 1: colours are in `z_local`)",
            "test/colour_r2_z_global": "R² of a probe for the background colour on `z_global`",
            "test/block/z_global/ground_colour": "score of a probe for the background colour (six classes) on `z_global`",
            "test/block/z_global/digit_colour": "the same for the digit colour",
            "test/kmeans_z_global/cluster_accuracy_hungarian": "Hungarian accuracy of k-means on `z_global` (chance 0.10)",
            "test/kmeans_pixels/cluster_accuracy_hungarian": "the same on pixels",
            "test/class_z_global": "score of a digit probe trained on 3,000 images, `z_global` (0: constant prediction)",
            "test/accuracy_rec": "accuracy of a digit classifier on reconstructions",
            "test/worth/z_global": "worth of `z_global`",
            "test/worth/z_local": "worth of `z_local`",
        },
    ),
    "split_kmeans": (
        {
            "`street_digits_annealed`": "split_vae/street_digits_annealed",
            "the same, `aux_weight=0`": "split_vae/street_digits_annealed_no_shuffle",
            "first run": "split_vae-first_run",
            "first run, `aux_weight=0`": "split_vae-first_run_no_shuffle",
        },
        {
            f"test/kmeans_{of}/{metric}": f"{what} of k-means on {name}"
            for metric, what in (("cluster_accuracy_hungarian", "Hungarian accuracy"), ("ami", "AMI"))
            for of, name in (("z_global", "`z_global`"), ("z_local", "`z_local`"), ("pixels", "pixels"))
        },
    ),
    "split_clusters": (
        {
            "GMVAE": "gmvae/street_digits_own",
            "GMVAE 2016": "gmvae2016/street_digits_own",
            "SPLIT-GMVAE": "split_gmvae/street_digits_own",
            "SPLIT-VaDE, one code": "split_vade/street_digits_one_code",
            "SPLIT-VaDE": "split_vade/street_digits",
        },
        {
            "test/cluster_accuracy_hungarian": "Hungarian accuracy (chance 0.10)",
            "test/cluster_accuracy_hungarian_pixels": "the same of k-means on pixels",
            "test/kmeans_z_global/cluster_accuracy_hungarian": "the same of k-means on `z_global`",
            "test/ami": "AMI",
            "test/ami_pixels": "the same of k-means on pixels",
            "test/worth/c": "worth of `c`",
        },
    ),
    "split_vade": (
        {
            "SPLIT-VaDE": "split_vade/street_digits",
            "without swapped colours": "split_vade/street_digits_no_swap",
            "without the reconstruction, `aux_weight=0`": "split_vade/street_digits_no_shuffle",
            "one code, `beta_local=1000`": "split_vade/street_digits_one_code",
        },
        {
            "test/cluster_accuracy_hungarian": "Hungarian accuracy (chance 0.10)",
            "test/kmeans_z_global/cluster_accuracy_hungarian": "the same of k-means on `z_global`",
            "test/kmeans_z_local/cluster_accuracy_hungarian": "the same of k-means on `z_local`",
            "test/kmeans_pixels/cluster_accuracy_hungarian": "the same of k-means on pixels",
            "test/ami": "AMI",
            "test/kmeans_pixels/ami": "the same of k-means on pixels",
            "test/colour_transfer_ratio": "colour transfer ratio (below 1: colours are in `z_local`)",
            "test/colour_r2_z_global": "R² of a probe for the background colour on `z_global`",
            "test/block/c/digit_colour": "score of a probe for the digit colour (six classes) on the cluster",
            "test/block/c/ground_colour": "the same for the colour of the background",
            "test/block/c/texture": "the same for the texture of the background",
            "test/accuracy_rec": "accuracy of a digit classifier on reconstructions",
            "test/worth/c": "worth of `c`",
            "test/worth/z_global": "worth of `z_global`",
            "test/worth/z_local": "worth of `z_local`",
        },
    ),
    "split_detection": (
        {
            "`none`": "spair-chequers",
            "`background`": "split_spair-chequers",
            "`background`, `aux_weight=0`": "split_spair-chequers_no_shuffle",
            "`none`, `background_dim=8`": "spair-chequers_wide",
            "`objects`": "split_spair-chequers_objects",
        },
        DETECTION,
    ),
    "split_textures": (
        {
            "`none`": "spair/textures",
            "`background`": "split_spair/textures",
            "`background`, `aux_weight=0`": "split_spair/textures_no_shuffle",
            "`none`, `background_dim=16`": "spair/textures_wide",
            "`objects`": "split_spair/textures_objects",
        },
        DETECTION,
    ),
}
# Numbers of which a table of ARMS also shows the difference of one column from the others, over the same seeds.
PAIRED = {
    "split_detection": ("`background`", ("test/count_accuracy", "test_unseen/count_accuracy", "test/ap50")),
    "split_textures": ("`background`", ("test/count_accuracy", "test_unseen/count_accuracy", "test/ap50")),
    "split_clusters": ("SPLIT-GMVAE", ("test/cluster_accuracy_hungarian", "test/ami")),
    "split_vade": ("SPLIT-VaDE", ("test/cluster_accuracy_hungarian", "test/ami")),
    "split_annealed": (
        "with the reconstruction",
        (
            "test/colour_transfer_ratio",
            "test/colour_r2_z_global",
            "test/kmeans_z_global/cluster_accuracy_hungarian",
            "test/accuracy_rec",
        ),
    ),
}


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def first_run(page: Path) -> list[str]:
    """The block-factor matrix after `python train.py`."""
    results = read("split_vae-first_run")
    numbers = results["numbers"]
    factors = [name.rpartition("/")[2] for name in numbers if name.startswith("test/block/z_global/")]
    titles = (factor.replace("ground_colour", "background colour").replace("_", " ") for factor in factors)
    lines = table(["input of the classifier", *titles])
    for reader, title in READERS.items():
        lines.append(row([title, *(shown(numbers[f"test/block/{reader}/{factor}"]) for factor in factors)]))
    return [
        *lines,
        "",
        f"On test images; 0: constant prediction, 1: perfect. {source(page, 'split_vae-first_run')}",
    ]


def parity(page: Path, name: str) -> list[str]:
    """Our results and those of the official code, on the same images."""
    official = read("official")
    heads = ["ours", "official code", "ours minus official (95\u00a0% t interval)", "control"]
    lines = table(["method", "metric on MNIST-10k", *heads], words=2)
    for method, file, r in PARITY[name]:
        numbers, theirs = read(file)["numbers"], official["numbers"][code(file)][r.metric]
        beside = [shown(numbers[r.metric]), shown(theirs), welch(numbers[r.metric], theirs), control(numbers, r)]
        lines.append(row([method, r.what, *beside]))
    files = dict.fromkeys(file for _, file, _ in PARITY[name])
    codes = "; ".join(dict.fromkeys(official["codes"][code(file)] for file in files))
    notes = [f"{official['note']}: {codes}.", official["earlier"], official["ours"]] if name == "parity" else []
    return [*lines, "", *sources(page, files), *(f"* {note}" for note in notes)]


def code(file: str) -> str:
    """The name in results/official.json of the code that a file of results is compared with."""
    return re.sub("_(half|augmented)$", "", file)


def methods(page: Path) -> list[str]:
    """The numbers of every experiment, those of a trivial model, and the worth of the blocks."""
    lines = table(["experiment", "number", "ours", "control", "worth of each block (below 0.01: unused)"], words=2)
    for name, rows in EXPERIMENTS.items():
        numbers = read(name)["numbers"]
        worth = ", ".join(f"`{block}` {numbers[metric]['mean']:.2f}" for block, metric in worths(numbers).items())
        for r in rows:
            lines.append(row([f"`{name.replace('-', '/')}`", r.what, shown(numbers[r.metric]), control(numbers, r), worth]))
    return [*lines, "", "Commands, commits, seeds and hardware are in the file of each experiment in `results/`."]


def experiment(page: Path, name: str) -> list[str]:
    """The numbers of an experiment with those of a trivial model, and the worth of each block, 0 if it is unused."""
    numbers = read(name)["numbers"]
    lines = table(["", "mean ± deviation", "control"])
    for r in EXPERIMENTS[name]:
        lines.append(row([r.what, shown(numbers[r.metric], seeds=True), control(numbers, r)]))
    word = "[worth](../reference/metrics.md#separation-and-worth)"  # a link in the first row
    for block, metric in worths(numbers).items():
        lines.append(row([f"{word} of `{block}`", shown(numbers[metric]), "0 (an unused block)"]))
        word = "worth"
    return [*lines, "", source(page, name)]


def arms(page: Path, name: str) -> list[str]:
    """The same numbers of several experiments side by side."""
    files, metrics = ARMS[name]
    results = {title: read(file) for title, file in files.items()}
    numbers = {title: part["numbers"] for title, part in results.items()}
    lines = table(["", *files])
    for metric, what in metrics.items():
        lines.append(row([what, *(shown(part[metric]) if metric in part else "–" for part in numbers.values())]))
    reference, paired = PAIRED.get(name, ("", ()))
    for metric in paired:
        first = by_seed(results[reference], metric)
        cells = [difference(first, by_seed(part, metric)) if title != reference else "–" for title, part in results.items()]
        lines.append(row([f"{reference} minus this column, {metrics[metric]} (95\u00a0% t interval)", *cells]))
    return [*lines, "", *sources(page, files.values())]


def scaling(page: Path) -> list[str]:
    """How the cost of a step, of data, of scores and of a leaderboard grows: benchmarks/scaling.py."""
    results = read("scaling")
    lines = table(["size", "values", "cost of each", "exponent"], words=3)
    for name, part in results["rows"].items():
        values = ", ".join(f"{value:,}" for value in part["values"])
        for unit, costs in part["costs"].items():
            lines.append(
                row(
                    [
                        name,
                        values,
                        f"{', '.join(f'{cost:,.0f}' if cost >= 100 else f'{cost:.3g}' for cost in costs)} {unit}",
                        f"{part['exponents'][unit]:.2f}",
                    ]
                )
            )
    return [
        *lines,
        "",
        f"`{results['command']}`, commit {results['commit'][:12]}, {results['hardware']}; file `results/scaling.json`.",
    ]


def worths(numbers: dict[str, Any]) -> dict[str, str]:
    """{block: its metric}."""
    return {metric.rpartition("/")[2]: metric for metric in numbers if metric.startswith("test/worth/")}


def control(numbers: dict[str, Any], r: Row) -> str:
    return f"{shown(numbers[r.control])} ({r.control_name})" if r.control else "–"


def table(heads: list[str], words: int = 1) -> list[str]:
    """The first lines of a table; its first columns, `words` of them, hold words and are aligned to the left."""
    return [row(heads), row([*["---"] * words, *["---:"] * (len(heads) - words)])]


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def shown(number: dict[str, Any], seeds: bool = False) -> str:
    """Mean and sample standard deviation over the seeds; `seeds`: and their values where the deviation exceeds mean / 10."""
    mean, std = number["mean"], number["std"]
    text = f"{mean:.3f}" + (f"\u00a0±\u00a0{std:.3f}" if std is not None else "")  # no line break within a number
    if seeds and std and std > 0.1 * abs(mean):
        text += f" ({', '.join(f'{value:.3f}' for value in number['values'] if value is not None)})"
    return text


def welch(number: dict[str, Any], other: dict[str, Any]) -> str:
    """Difference of two means with the 95 % interval of Welch's t-test, for runs that share no seed."""
    found = stats.ttest_ind(number["values"], other["values"], equal_var=False)
    low, high = found.confidence_interval()
    return f"{number['mean'] - other['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"


def by_seed(results: dict[str, Any], metric: str) -> dict[int, float]:
    """The values of a metric by seed, without the seeds that lack it."""
    values = results["numbers"][metric]["values"]
    return {seed: value for seed, value in zip(results["seeds"], values, strict=True) if value is not None}


def difference(number: dict[int, float], other: dict[int, float]) -> str:
    """Mean difference over the seeds of both, of which there are three or more, with the 95 % interval of Student's t for
    paired values."""
    gaps = [number[seed] - other[seed] for seed in sorted(number.keys() & other.keys())]
    assert len(gaps) >= 3, "a comparison needs three seeds"
    result = stats.ttest_1samp(gaps, 0.0)
    low, high = result.confidence_interval()
    return f"{sum(gaps) / len(gaps):+.3f} [{low:+.3f}, {high:+.3f}]"


def source(page: Path, *names: str) -> str:
    """What made the files, which all have the same commands, seeds, commit and hardware."""
    results = read(names[0])
    files = [f"results/{name}.json" for name in names]
    if page.parent == ROOT:
        links = ", ".join(f"[all numbers]({file})" for file in files)
    else:  # the site has no results/
        links = f"all numbers in {', '.join(f'`{file}`' for file in files)}"
    seeds = ", ".join(map(str, results["seeds"]))
    what = "Mean ± standard deviation over seeds" if len(results["seeds"]) > 1 else "Seed"
    return f"{what} {seeds} of `{results['command'][0]}`, commit {results['commit'][0]}, {results['hardware'][0]}; {links}."


def sources(page: Path, names: Iterable[str]) -> list[str]:
    """One line for all files that were made alike."""
    alike: dict[str, list[str]] = {}
    for name in names:
        made = [read(name)[key] for key in ("seeds", "command", "commit", "hardware")]
        alike.setdefault(json.dumps(made), []).append(name)
    return [f"* {source(page, *files)}" for files in alike.values()]


TABLES = {"first_run": first_run, "methods": methods, "scaling": scaling}


def with_tables(page: Path) -> str:
    """The page with the tables that its files give now."""

    def replaced(found: re.Match[str]) -> str:
        name = found[2]
        named = parity if name in PARITY else arms if name in ARMS else experiment
        lines = TABLES[name](page) if name in TABLES else named(page, name)
        return found[1] + "\n".join(lines) + "\n" + found[3]

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
