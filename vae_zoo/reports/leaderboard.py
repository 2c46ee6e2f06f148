"""`python evaluate.py runs=<folder>`: writes tables of the runs below a folder as HTML, Markdown and CSV.

Imports neither torch nor lightning, unless evaluation.level=full needs the agreement between seeds. The page needs no
network and no other file. Its content security policy allows one script, by its hash, which sorts the columns; without
scripts the tables keep their initial order.
"""

import csv
import hashlib
import math
import os
import re
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from vae_zoo.figures import theme
from vae_zoo.metrics.catalogue import direction, entry, metric_order, under_likelihood
from vae_zoo.reports.report import Figure, embed, template_environment
from vae_zoo.reports.results import export_results
from vae_zoo.reports.settings import ALL_PAIRS, Group, Paired, Run, Table, find_runs, group_runs
from vae_zoo.runs import folder as runs
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.files import write_atomic
from vae_zoo.utils.text import clean, natural

PRINTED = 12  # largest number of pairs of a table that is printed
WIDTH, TEXT = 120, 36  # characters of a line in the terminal, and of a text cell
CLEAR = 5  # smallest number of seeds for which an interval without 0 counts as a difference
PICTURES = 32 << 20  # characters of figures on a page
ARROWS = {1: "↑", -1: "↓"}


def leaderboard_command(cfg: dict[str, Any]) -> None:
    """Writes the tables to the folder of runs, or to `out`, and prints them."""
    folder = Path(cfg["runs"]).expanduser()
    out = Path(cfg["out"]).expanduser() if cfg["out"] else folder
    print(write_leaderboard(folder, out, cfg))
    print(f"written to {out}: leaderboard.html, leaderboard.md, leaderboard.csv, runs.csv")


def write_leaderboard(folder: Path, out: Path | None = None, options: dict[str, Any] | None = None) -> str:
    """Writes leaderboard.csv (one row per setting), runs.csv (one row per run), leaderboard.md and leaderboard.html.

    options: settings of conf/evaluate.yaml; with evaluation.level=full the models are loaded to measure their agreement.
    Returns the text for the terminal: the Markdown with headline columns, or all columns if options ask for them, and with
    only the number of pairs if there are many. Raises UserError if the folder has no runs.
    """
    folder, out = Path(folder), Path(out or folder)
    if not folder.is_dir():
        raise UserError(f"runs={folder} is not a folder; give a folder of runs, such as runs=outputs")
    found = find_runs(folder)
    if not found:
        raise UserError(f"runs={folder} has no runs, which are folders with a config.yaml; give another folder")
    if found[0].folder == folder:
        raise UserError(f"runs={folder} is a single run; use run={folder}, or give its parent folder")
    tables, left = group_runs(found)
    if options is not None and options["evaluation"]["level"] == "full":
        from vae_zoo.reports.agreement import with_agreement  # torch

        tables = [with_agreement(table, options) for table in tables]
    write_atomic(out / "leaderboard.csv", groups_csv(tables))
    write_atomic(out / "runs.csv", runs_csv(folder, tables, left))
    write_atomic(out / "leaderboard.md", markdown(folder, tables, left))
    write_atomic(out / "leaderboard.html", page(folder, out, tables, left))
    if options is not None and options.get("export") is not None:
        export_results(tables, Path(options["export"]).expanduser())
    return markdown(folder, tables, left, most=PRINTED, wide=options is None or options.get("columns") == "all")


# ---- csv ------------------------------------------------------------------------------------------------------------


def groups_csv(tables: Sequence[Table]) -> str:
    """One row per setting: `<metric>_mean`, `_std` (sample standard deviation) and `_n` for each metric."""
    metrics = list(dict.fromkeys(m for table in tables for m in (*table.metrics, *table.probes, *table.facets)))
    lines = []
    for table, group in _groups(tables):
        seeds = ", ".join(run.seed for run in group.runs)
        lines.append([table.data, group.model, group.settings, len(group.runs), seeds, group.runs[0].key])
        for metric in metrics:
            lines[-1] += [group.mean(metric), group.deviation(metric), len(group.values(metric)) or None]
    parts = [f"{metric}_{part}" for metric in metrics for part in ("mean", "std", "n")]
    return _csv(["data", "model", "settings", "n", "seeds", "key", *parts], lines)


def runs_csv(folder: Path, tables: Sequence[Table], left: Sequence[Run]) -> str:
    """One row per run, averaged or not, with all its numbers."""
    listed = [(table.data, group.settings, run) for table, group in _groups(tables) for run in group.runs]
    listed += [(run.data, None, run) for run in left]
    metrics = sorted({metric for *_, run in listed for metric in run.metrics}, key=metric_order)
    lines = []
    for data, settings, run in listed:
        lines.append([_place(run, folder), data, run.model, settings, run.seed, run.key, run.state, run.note])
        lines[-1] += map(run.metrics.get, metrics)
    return _csv(["run", "data", "model", "settings", "seed", "key", "state", "note", *metrics], lines)


def _groups(tables: Sequence[Table]) -> list[tuple[Table, Group]]:
    return [(table, group) for table in tables for group in table.groups]


def _csv(heads: list[str], lines: Iterable[list[Any]]) -> str:
    """CSV text with full precision; text that a spreadsheet would read as a formula gets a leading apostrophe."""

    def tame(value: Any) -> Any:
        text = clean(value) if isinstance(value, str) else value
        return f"'{text}" if isinstance(text, str) and text.startswith(("=", "+", "-", "@")) else text

    file = StringIO()
    csv.writer(file, lineterminator="\n").writerows([tame(value) for value in line] for line in [heads, *lines])
    return file.getvalue()


# ---- cells and notes ------------------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """A formatted mean. count: number of runs with a value, if it is not all runs of the setting."""

    value: float
    mean: str
    deviation: str
    count: int | None
    best: bool


def column(table: Table, metric: str) -> list[Cell | None]:
    """A cell per setting, rounded to two digits of the median deviation, or without deviations to four digits."""
    means = [mean for group in table.groups if (mean := group.mean(metric)) is not None]
    if deviations := [deviation for group in table.groups if (deviation := group.deviation(metric))]:
        decimals = 1 - _exponent(float(np.median(deviations)))
    else:
        decimals = 0 if all(mean.is_integer() for mean in means) else 3 - _exponent(max(map(abs, means)))
    best = table.best(metric)
    top = None if best is None else _fixed(best, decimals)  # equal after rounding means equally good
    return [_cell(group, metric, decimals, top) for group in table.groups]


def _cell(group: Group, metric: str, decimals: int, top: str | None = None) -> Cell | None:
    if (mean := group.mean(metric)) is None:
        return None
    text, deviation, count = _fixed(mean, decimals), group.deviation(metric), len(group.values(metric))
    spread = "" if deviation is None else _fixed(deviation, decimals)
    best = text == top and group.may_be_best(metric)
    return Cell(mean, text, spread, count if count < len(group.runs) else None, best)


def block_rows(table: Table) -> tuple[list[str], list[tuple[Group, str, list[Cell | None]]]]:
    """The factors, and a row per setting and block, from `test/block/<block>/<factor>`."""
    parts = {metric: metric.split("/", 3) for metric in table.probes}
    factors = list(dict.fromkeys(factor for *_, factor in parts.values()))
    rows = []
    for group in table.groups:
        own = (parts[metric] for metric in table.probes if len(group.values(metric)))
        for prefix, block in dict.fromkeys((prefix, block) for prefix, _, block, _ in own):
            cells = [_cell(group, f"{prefix}/block/{block}/{factor}", 2) for factor in factors]
            rows.append((group, block if prefix == "test" else f"{block} (unseen)", cells))
    return factors, rows


def seeds(group: Group) -> str:
    return f"{len(group.runs)}" if group.tried == len(group.runs) else f"{len(group.runs)} of {group.tried}"


def heading(metric: str) -> str:
    """`elbo ↑` of test/elbo: without `test/`; the arrow points to the better direction."""
    name = metric.removeprefix("test/").replace("test_unseen/", "unseen/", 1)
    return clean(f"{name} {ARROWS.get(direction(metric), '')}")


def unused(group: Group) -> str:
    """`z unused` for a setting with an unused block z, else an empty text."""
    return f"{', '.join(group.unused)} unused" if group.unused else ""


def verdict(pair: Paired) -> str:
    if pair.better is None:
        return "equal" if pair.low == pair.high else "no clear difference"
    if not pair.better.may_be_best(pair.metric):
        return f"{pair.better.name} is ahead, but does not use {', '.join(pair.better.unused)}"
    return f"{pair.better.name} {'is better' if pair.seeds >= CLEAR else 'is ahead (too few seeds)'}"


def pair_texts(table: Table, pair: Paired) -> tuple[str, str]:
    """The difference and its interval, rounded to two digits of the metric's median interval width."""
    widths = [other.high - other.low or abs(other.difference) for other in table.pairs if other.metric == pair.metric]
    decimals = 1 - _exponent(float(np.median(widths)))
    difference, low, high = (_fixed(value, decimals, "+") for value in (pair.difference, pair.low, pair.high))
    return difference, f"{low} to {high}"


def summary(tables: Sequence[Table], left: Sequence[Run]) -> list[tuple[int, str]]:
    averaged = Counter(run.state for _, group in _groups(tables) for run in group.runs)
    counts = [*sorted(averaged.items()), *sorted(Counter(run.state for run in left).items())]
    return [(n, state) for state, n in counts]


def notes(table: Table) -> list[str]:
    """Notes below the main table."""
    found = []
    if any(len(group.runs) > 1 for group in table.groups):
        found.append("Mean ± sample standard deviation over seeds; the best mean of a column is bold.")
    if rows := [f"{group.name}: {unused(group)}" for group in table.groups if group.unused]:
        found.append(
            f"These rows have blocks that the decoder ignores ({'; '.join(rows)}), so good scores of their other blocks are "
            f"not evidence of separation: these rows are never marked as best, except for likelihood bounds."
        )
    for group in table.groups:
        if limits := sorted({run.state.partition(": ")[2] for run in group.runs} - {""}):
            early = sum(run.state != "finished" for run in group.runs)
            found.append(f"{group.name}: {early} of {len(group.runs)} runs stopped early ({', '.join(limits)}).")
    names = [metric.removeprefix("test/") for metric in table.metrics if under_likelihood(metric)]
    if len(table.likelihoods) > 1 and names:
        kinds = ", ".join(table.likelihoods)
        listed = ", ".join(names)
        found.append(f"The likelihoods differ ({kinds}), so these metrics are not comparable and never bold: {listed}.")
    return found


def caution(table: Table) -> str:
    """Notes above the table of pairs."""
    text = "A - B is the mean difference over the shared seeds, with a bootstrap interval over seeds."
    if len(table.groups) > ALL_PAIRS:
        text += " With many settings, only the one with the best mean is compared with the others."
    if any(pair.seeds < CLEAR for pair in table.pairs):
        text += " By chance alone all differences have the same sign with probability 1/4 for 3 seeds and 1/8 for 4 seeds."
    if len(table.pairs) > 5:
        missed = max(1, round(len(table.pairs) / 20))
        text += f" Of {len(table.pairs)} intervals, expect {missed} or more to miss the true difference."
    return text


# ---- Markdown -------------------------------------------------------------------------------------------------------


def markdown(folder: Path, tables: Sequence[Table], left: Sequence[Run], most: int | None = None, wide: bool = True) -> str:
    """The tables as Markdown, for GitHub and the terminal. most: of longer lists of pairs and of runs that are not averaged
    only the number is given; wide: all columns, otherwise as many headline columns as fit into the terminal."""
    width = None if wide else WIDTH
    parts = [f"# Leaderboard of {_escape(folder.resolve().name)}"]
    parts += [f"Runs: {', '.join(f'{n} {state}' for n, state in summary(tables, left))}."]
    for table in tables:
        parts += [f"## {_escape(table.data)}", _main_grid(table, width), *map(_escape, notes(table))]
        factors, blocks = block_rows(table)
        if blocks:
            rows = [[_escape(group.name), _escape(block), *map(_bold, cells)] for group, block, cells in blocks]
            parts += ["### Which factor a block holds", grid(["model", "block", *map(_escape, factors)], rows, 2, width)]
        if most is not None and len(table.pairs) > most:
            parts += [f"{len(table.pairs)} differences over the same seeds are in leaderboard.md and leaderboard.html."]
        elif table.pairs:
            parts += ["### Differences over the same seeds", _pair_grid(table), caution(table)]
    if most is not None and len(left) > most:
        parts += ["## Not averaged", f"{len(left)} runs, which are listed in leaderboard.md and leaderboard.html."]
    elif left:
        rows = [[_escape(_place(run, folder)), run.state, _escape(run.note)] for run in left]
        parts += ["## Not averaged", grid(["run", "state", "reason"], rows, 3, width)]
    return "\n\n".join(parts) + "\n"


def _main_grid(table: Table, width: int | None) -> str:
    shown = table.metrics
    if width is not None:  # numbers of the whole model before those of single blocks, which may not fit
        shown = sorted((m for m in shown if entry(m).compared or entry(m).card), key=lambda m: m.count("/") > 1)
    columns = [[_escape(heading(metric)), *map(_bold, column(table, metric))] for metric in shown]
    columns.insert(0, ["seeds", *map(seeds, table.groups)])
    if any(group.settings for group in table.groups):
        columns.insert(0, ["settings", *(_escape(group.settings) for group in table.groups)])
    names = [f"{group.model} ({unused(group)})" if group.unused else group.model for group in table.groups]
    columns.insert(0, ["model", *map(_escape, names)])
    heads, *rows = map(list, zip(*columns))
    text = grid(heads, rows, heads.index("seeds"), width)
    missing = len(table.metrics) - (text.partition("\n")[0].count("|") - 2 - heads.index("seeds"))
    return text + (f"\n\n{missing} more columns in leaderboard.html, or with columns=all" if missing else "")


def _pair_grid(table: Table) -> str:
    heads, rows = ["metric", "A", "B", "verdict", "seeds", "A - B", "95 % interval"], []
    for pair in table.pairs:
        words = heading(pair.metric), pair.a.name, pair.b.name, verdict(pair)
        rows.append([*map(_escape, words), str(pair.seeds), *pair_texts(table, pair)])
    return grid(heads, rows, left=4)


def grid(heads: list[str], rows: list[list[str]], left: int, width: int | None = None) -> str:
    """A Markdown table with aligned columns; the columns after the first `left` are numbers. width: maximum width; longer
    text is cut, and the last number columns are dropped."""
    if width is not None:
        rows = [[_cut(text) if i < left else text for i, text in enumerate(row)] for row in rows]
        needed = [3 + max(3, *(len(row[i]) for row in [heads, *rows])) for i in range(len(heads))]
        fit = max([left, *(n for n in range(left, len(heads) + 1) if sum(needed[:n]) < width)])
        heads, rows = heads[:fit], [row[:fit] for row in rows]
    widths = [max(3, *(len(row[i]) for row in [heads, *rows])) for i in range(len(heads))]

    def line(cells: list[str]) -> str:
        padded = (text.ljust(w) if i < left else text.rjust(w) for i, (text, w) in enumerate(zip(cells, widths)))
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([line(heads), line(rule), *map(line, rows)])


def _cut(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[: TEXT - 1]}…"


def _bold(cell: Cell | None) -> str:
    if cell is None:
        return ""
    mean = f"**{cell.mean}**" if cell.best else cell.mean
    return mean + (f" ± {cell.deviation}" if cell.deviation else "") + (f" ({cell.count})" if cell.count else "")


def _escape(text: str) -> str:
    """Escapes cells, tags, links and bold text; `beta_vae` is unchanged."""
    text = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*|~]|(?<!\w)_|_(?!\w)|(?<=\])\()", r"\\\1", text)


# ---- page -----------------------------------------------------------------------------------------------------------


def page(folder: Path, out: Path, tables: Sequence[Table], left: Sequence[Run]) -> str:
    """The HTML page: sortable tables, and the figures of the settings side by side."""
    environment = template_environment()
    environment.filters |= {"digest": _digest, "heading": heading, "direction": direction}
    shown = (column, block_rows, seeds, notes, caution, verdict, pair_texts, unused)
    environment.globals |= {function.__name__: function for function in shown}
    figures, omitted = _figures(tables)
    return environment.get_template("leaderboard.html.jinja").render(
        title=f"Leaderboard of {folder.resolve().name}",
        folder="/".join(folder.resolve().parts[-2:]),
        summary=summary(tables, left),
        sections=list(zip(tables, figures)),
        omitted=omitted,
        left=left,
        listed=[(table, group, run) for table, group in _groups(tables) for run in group.runs],
        place=lambda run: _place(run, folder),
        link=lambda run: _link(run, out),
        reach=lambda table, metric: max(max(abs(p.low), abs(p.high)) for p in table.pairs if p.metric == metric) or 1,
        CLEAR=CLEAR,
        theme=theme,
    )


def _figures(tables: Sequence[Table]) -> tuple[list[list[tuple[str, list[tuple[Group, Figure]]]]], int]:
    """For each table (name, [(group, newest figure of its lowest seed)]), most frequent figures first; and the number of
    figures that did not fit on the page."""
    sections, size, omitted = [], 0, 0
    for table in tables:
        files = defaultdict(list)
        for group in table.groups:
            for kind, (step, path) in _newest(group.runs[0].folder).items():
                files[kind].append((group, step, path))
        section = []
        for (name, _), row in sorted(files.items(), key=lambda item: (-len(item[1]), natural(item[0][0]))):
            drawn = [(group, figure) for group, step, path in row for figure in embed([(name, step, path)])]
            kept = [pair for pair in drawn if (size := size + len(pair[1].source)) <= PICTURES]
            omitted += len(drawn) - len(kept)
            section += [(name, kept)] if kept else []
        sections.append(section)
    return sections, omitted


def _newest(run: Path) -> dict[tuple[str, str], tuple[int, Path]]:
    """{(name, suffix): (step, path)} of the newest figures, from the evaluation if it has figures, else from training."""
    found = runs.pictures(run / "evaluation" / "figures") or runs.pictures(run / "figures")
    return {kind: max(by_step.items()) for kind, by_step in found.items()}


def _place(run: Run, folder: Path) -> str:
    return clean(os.path.relpath(run.folder, folder))


def _link(run: Run, out: Path) -> str:
    """Relative link from the page to the report of the run; "" if there is none."""
    report = run.folder / "report.html"
    return quote(os.fsencode(os.path.relpath(report.absolute(), out.absolute()))) if report.is_file() else ""


def _digest(script: str) -> str:
    return b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def _fixed(value: float, decimals: int, plus: str = "") -> str:
    if not -7 < -decimals < 9:
        return f"{value:{plus}.3g}"
    return f"{value:{plus}z,.{max(decimals, 0)}f}"
