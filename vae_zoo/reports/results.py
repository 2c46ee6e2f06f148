"""Writes results as JSON files, for generated tables: `python evaluate.py runs=<folder of runs> export=<folder>`.

One file per setting, `<experiment>.json` or `<model>-<data>.json`, or for jobs of a sweep whose experiment is not known the
name of their folder: the commands, commits, hardware and seeds of its runs, and for every number the mean, the sample
deviation and the value of each seed, null where a run lacks it.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vae_zoo import config_dir
from vae_zoo.reports.settings import Group, Table
from vae_zoo.runs import folder as runs
from vae_zoo.utils.files import write_json
from vae_zoo.utils.text import without_paths


def export_results(tables: Iterable[Table], out: Path) -> list[Path]:
    """Writes one file per setting and returns their paths. Settings with the same name are numbered in natural order."""
    written: dict[Path, dict[str, Any]] = {}
    for table in tables:
        for group in table.groups:
            statuses = [runs.read_status(run.folder) for run in group.runs]
            name = file = _name(group, statuses, f"{group.model}-{table.data.split()[0]}")
            number = 1
            while out / f"{file}.json" in written:
                number += 1
                file = f"{name}_{number}"
            written[out / f"{file}.json"] = _entry(group, table, statuses)
    for path, entry in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, entry)
    return list(written)


def _name(group: Group, statuses: Sequence[dict[str, Any]], otherwise: str) -> str:
    """The experiment after which a sweep named the folder, or that all commands name; else that folder, or `otherwise`."""
    commands = [str(status.get("command", "")) for status in statuses]
    given = {name for c in commands for names in re.findall(r"\bexperiment=([\w./,-]+)", c) for name in names.split(",")}
    given = {name for name in given if not {"", ".", ".."} & {*name.split("/")}}  # the command of a run is not to be trusted
    folders = {run.folder.resolve().parent.name for run in group.runs}
    shipped = config_dir() / "experiment"
    known = given | {path.relative_to(shipped).with_suffix("").as_posix() for path in shipped.rglob("*.yaml")}
    found = {name for name in known if name.replace("/", "-") in folders} or given
    if not found and all(re.search(r"\bsweep=", command) for command in commands):
        found = folders
    return found.pop() if len(found) == 1 else otherwise


def _entry(group: Group, table: Table, statuses: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = sorted({name for run in group.runs for name in run.metrics})
    return {
        "model": group.model,
        "data": table.data,
        "settings": group.settings,
        "seeds": [run.config["seed"] for run in group.runs],
        "command": list(dict.fromkeys(without_paths(str(status.get("command", ""))) for status in statuses)),
        **{
            key: list(dict.fromkeys(str(status.get(key, "")) for status in statuses))
            for key in ("commit", "hardware", "started")
        },
        "versions": statuses[0].get("versions", {}),
        "numbers": {
            name: {
                "mean": group.mean(name),
                "std": group.deviation(name),
                "values": [run.metrics.get(name) for run in group.runs],
            }
            for name in names
        },
    }
