"""The report of a run: `write_report` writes a run folder as a single HTML file that needs no network and no other file.

jinja2 escapes every string from the folder, except the SVG of `figures.charts.curves`, which escapes its own input. The
content security policy of the page forbids scripts and requests.
"""

import csv
import os
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from PIL import Image

from vae_zoo.figures import theme
from vae_zoo.figures.charts import curves
from vae_zoo.metrics import catalogue
from vae_zoo.reports.settings import as_choice
from vae_zoo.runs import folder as runs
from vae_zoo.utils.files import read_dict, write_atomic
from vae_zoo.utils.text import natural, override

CARDS = 3  # headline numbers on the first screen
# A block is said to hold a factor if its score covers at least this share of the way from the untrained encoder to 1, and is
# at most NEAR below that of the best block
HOLDS, NEAR = 0.3, 0.1
EARLIER = 8  # steps shown of each figure, evenly spaced, to limit the size of the page


class Figure(NamedTuple):
    name: str
    step: int | None
    width: int
    height: int
    source: str  # a data: URI


def write_report(
    run_folder: Path, out: Path | None = None, *, metrics: Path | None = None, figures: Path | None = None
) -> Path:
    """Writes the report of a run and returns its path: `out`, or `report.html` in the run folder.

    Reads `config.yaml`, `run.json`, `metrics.csv`, `metrics.json` and `figures/`; the arguments `metrics` and `figures`
    replace the last two. Missing or unreadable files are skipped, so that a run that failed early has a report too. The
    output is deterministic and written atomically.
    """
    run_folder = Path(run_folder)
    out = Path(out or run_folder / "report.html")
    config_text = _read(run_folder / "config.yaml")
    run = runs.read_status(run_folder)
    numbers = _numbers(read_dict(Path(metrics or run_folder / "metrics.json"))[0])
    steps, columns = _history(run_folder / "metrics.csv")
    place = "/".join(run_folder.resolve().parts[-2:])
    page, probes = template_environment().get_template("report.html.jinja"), runs.block_scores(numbers)
    pictures = _figures(Path(figures or run_folder / "figures"))
    first = _first(pictures)
    text = page.render(
        run=run,
        title=_title(config_text) or place,
        folder=place,
        blocks=_blocks(run.get("blocks"), probes, numbers),
        first=first,
        cards=[
            (key.replace("_", " "), _number(numbers[key]), catalogue.entry(key), _flaw(key, numbers))
            for key in headline(numbers)
        ],
        facts=_facts(run, steps),
        tables=_tables(numbers),
        probes=probes,
        charts=_charts(steps, columns),
        figures=[shown for shown in pictures if shown is not first],
        caption=catalogue.caption,
        holds=HOLDS,
        config=config_text,
        theme=theme,
    )
    return write_atomic(out, text)


def closing_lines(run_folder: Path) -> str:
    """Last lines in the terminal: the path of the report, the headline numbers and the next command."""
    numbers = _numbers(read_dict(run_folder / "metrics.json")[0])
    shown = [f"{key} {_number(numbers[key])} {catalogue.entry(key).unit}".rstrip() for key in headline(numbers)]
    shown += [f"unused: {', '.join(unused)}" for unused in [catalogue.unused(numbers)] if unused]
    place = os.path.relpath(run_folder)
    return "\n".join(
        (
            f"report   {place}/report.html",
            f"numbers  {', '.join(shown) or 'none, see the log'} (all of them: {place}/metrics.json)",
            f"next     python evaluate.py {override('run', place)} evaluation.level=full, or python train.py --help",
        )
    )


def template_environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    return environment


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _numbers(values: dict) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if isinstance(value, int | float)}


def _title(config_text: str) -> str:
    """`<model> on <data>, seed <k>`, named as on the command line; parts that the config lacks are omitted."""
    try:
        config = yaml.safe_load(config_text)
    except (ValueError, yaml.YAMLError):
        return ""
    if not isinstance(config, dict):
        return ""
    title = " on ".join(filter(None, (_part_name(config.get(part)) for part in ("model", "data"))))
    return f"{title}, seed {config['seed']}" if title and config.get("seed") is not None else title


def _part_name(part) -> str:
    """The `name` of a config group, or else its `_target_` as a choice."""
    if isinstance(part, dict):
        return str(part.get("name") or as_choice(str(part.get("_target_", ""))))
    return str(part or "")


def headline(numbers: dict[str, float]) -> list[str]:
    """Names of the headline numbers, at most three."""
    return catalogue.cards(numbers)[:CARDS]


def _flaw(metric: str, numbers: dict[str, float]) -> str:
    """The reason why a headline number is not a success, if any."""
    blocks = catalogue.unused(numbers)
    return f"{', '.join(blocks)} unused" if blocks and metric in catalogue.PAIR else ""


def _blocks(blocks: Any, probes: dict[str, dict[str, float | None]], numbers: dict[str, float]) -> list[dict[str, Any]]:
    """Name, size and purpose of each block; `read`: the factors that it holds; its worth if known; whether it is unused."""
    blocks = [block for block in blocks or () if isinstance(block, dict)]
    rows = [probes[block["name"]] for block in blocks if block.get("name") in probes]  # without pixels and untrained
    untrained = probes.get("untrained", {})
    least = (
        {factor: _least([row[factor] or 0 for row in rows], untrained.get(factor) or 0) for factor in rows[0]}
        if rows
        else {}
    )
    described = []
    for block in blocks:
        row = probes.get(str(block.get("name")), {}).items()
        read = [(factor, score) for factor, score in row if score is not None and score >= least[factor]]
        found = {"read": sorted(read, key=lambda item: -item[1]), "unused": block.get("name") in catalogue.unused(numbers)}
        if (worth := numbers.get(f"test/worth/{block.get('name')}")) is not None:
            found["worth"] = worth
        described.append(block | found)
    return described


def _least(scores: list[float], untrained: float) -> float:
    """The score of a factor from which on a block holds it. scores: of all blocks; untrained: of an untrained encoder."""
    start = max(0.0, untrained)
    return max(start + HOLDS * (1 - start), max(scores) - NEAR)


def _first(pictures: list[tuple[Figure, list[Figure]]]) -> tuple[Figure, list[Figure]] | None:
    """The most informative figure: a swap of blocks, else reconstructions."""
    names = ("swap_", "reconstructions")
    return next((shown for name in names for shown in pictures if shown[0].name.startswith(name)), None)


def _facts(run: dict, steps: np.ndarray) -> list[str]:
    """Number of steps and training time."""
    facts = [f"{int(steps.max()):,} steps"] if len(steps) else []
    if isinstance(run.get("seconds"), int | float):
        facts.append(f"{timedelta(seconds=round(run['seconds']))} h:m:s")
    return facts


def _tables(numbers: dict[str, float]) -> dict[str, dict[str, float]]:
    """{prefix: {name: number}}; the prefix is everything before the last slash."""
    tables = defaultdict(dict)
    for prefix, _, name in sorted((key.rpartition("/") for key in numbers), key=lambda parts: [*map(natural, parts)]):
        tables[prefix][name] = numbers[f"{prefix}/{name}" if prefix else name]
    return tables


def _history(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Steps [N] and columns {key: [N]}, NaN if blank, of a CSV file in Lightning's format; skips an incomplete last line."""
    rows = [
        row for row in csv.DictReader(_read(path).replace("\0", "").splitlines()) if np.isfinite(_float(row.get("step")))
    ]
    keys = [key for key in (rows[0] if rows else ()) if key and key not in ("epoch", "step")]
    steps = np.array([_float(row["step"]) for row in rows])
    return steps, {key: np.array([_float(row[key]) for row in rows]) for key in keys}


def _float(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return np.nan


def _charts(steps: np.ndarray, columns: dict[str, np.ndarray]) -> list[tuple[str, Markup]]:
    """(term, SVG) for each term; `train/<term>` and `val/<term>` share a chart, a key without prefix has its own."""
    terms = defaultdict(dict)
    for key, values in columns.items():
        prefix, _, name = key.partition("/")
        if np.isfinite(values).any() and prefix != "test":
            term, line = (name, prefix) if prefix in ("train", "val") and name else (key, key)
            terms[term][line] = values

    order = sorted(terms, key=catalogue.curve_order)
    return [(term, Markup(curves(steps, dict(sorted(terms[term].items()))))) for term in order]


def _figures(folder: Path) -> list[tuple[Figure, list[Figure]]]:
    """The newest step of each figure and some earlier ones."""
    shown = []
    for (name, _), by_step in runs.pictures(folder).items():
        latest, *earlier = [(name, step, by_step[step]) for step in sorted(by_step, reverse=True)]
        earlier = [earlier[i] for i in np.linspace(0, len(earlier) - 1, min(EARLIER, len(earlier))).astype(int)]
        if pictures := list(embed([latest, *earlier])):
            shown.append((pictures[0], pictures[1:]))
    return shown


def embed(files) -> Iterator[Figure]:
    for name, step, path in files:
        try:
            data = path.read_bytes()
            with Image.open(BytesIO(data)) as image:  # reads only the header
                width, height, mime = *image.size, image.get_format_mimetype()
        except OSError:
            continue
        yield Figure(name, step if step >= 0 else None, width, height, f"data:{mime};base64,{b64encode(data).decode()}")


def _number(value: float) -> str:
    """Four significant digits, thousands with separators."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"
