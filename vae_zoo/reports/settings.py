"""Finds the runs below a folder, groups them over seeds and compares settings in pairs. No torch, no lightning.

A setting (class `Group`) is a set of runs with equal model, data and trainer up to the seed. Settings tested on the same
images share a table and are compared. Unfinished runs are never averaged, and a damaged file does not affect other runs.
"""

import hashlib
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from statistics import mode
from typing import Any, NamedTuple, TypeVar

import numpy as np
import yaml

from vae_zoo.data import FILES as DATA_FILES
from vae_zoo.metrics import catalogue
from vae_zoo.models import FILES as MODEL_FILES
from vae_zoo.runs import folder as runs
from vae_zoo.runs.record import read_record
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.files import read_dict
from vae_zoo.utils.text import clean, natural

T = TypeVar("T")

# Keys of the data config that do not affect the test images:
TRAINING_ONLY = "batch_size val_size subset labelled label_pick group_pick num_groups".split()
PAIRS = 3  # number of shared seeds that a comparison of two settings needs
ALL_PAIRS = 10  # largest number of settings for which all pairs are compared; with more, only the best with each other


# ---- runs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """The readable content of a run folder.

    state: finished, or `stopped: <limit>` where a limit such as patience ended it early, both averaged; or why the
    run is not averaged: failed, interrupted, pruned, running, died, unfinished, damaged, repeated.
    config: seed, model, data and trainer as JSON would hold them; {} when it cannot be read.
    digests: of the data at its paths.
    """

    folder: Path
    state: str
    note: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    model: str = ""
    data: str = ""
    started: str = ""
    digests: dict[str, str] = field(default_factory=dict)

    @cached_property
    def setup(self) -> dict[str, dict[str, Any]]:
        """Model, data, trainer and callbacks of one's own without seeds and paths; equal for the runs of a setting."""
        if not self.config:
            return {}
        data = runs.placeless(self.config["data"])
        data |= {key: f"{data[key]} ({digest})" for key, digest in self.digests.items() if key in data}
        parts = {part: self.config[part] for part in ("model", "trainer")} | {"data": data}
        parts = {part: {k: v for k, v in parts[part].items() if k != "seed"} for part in ("model", "data", "trainer")}
        return parts | runs.own_callbacks(self.config)

    @cached_property
    def key(self) -> str:
        """Hash that is equal for runs that differ only in the seed."""
        return _hash(self.setup) if self.config else ""

    @cached_property
    def images(self) -> dict[str, Any]:
        """The keys that determine the test images."""
        return {k: v for k, v in self.setup["data"].items() if k not in TRAINING_ONLY}

    @cached_property
    def seed(self) -> str:
        """The seed, and those of data and trainer if they differ from it."""
        if not self.config:
            return ""
        seed = self.config.get("seed")
        own = {part: self.config[part].get("seed", seed) for part in ("data", "trainer")}
        return " ".join([shown(seed), *(f"{part}.seed={shown(value)}" for part, value in own.items() if value != seed)])


def find_runs(folder: Path) -> list[Run]:
    """All runs below the folder, in natural order. The folder of a sweep refers to runs outside of it."""
    jobs = read_record(Path(folder))
    found = (read_run(job.folder) for job in jobs if job.folder.is_dir()) if jobs else _walk(folder)
    return sorted(filter(None, found), key=_place)


def _walk(folder: Path) -> Iterator[Run]:
    """Follows links, and does not descend into run folders."""
    seen = set()
    for place, inner, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        run = read_run(Path(place)) if real not in seen and {"config.yaml", "error.txt"} & {*files} else None
        inner[:] = [] if run or real in seen else sorted(name for name in inner if not name.startswith("."))
        seen.add(real)
        if run:
            yield run


def _place(run: Run) -> list[str | int]:
    return natural(str(run.folder))


def read_run(folder: Path) -> Run | None:
    """Reads a run; None if the folder is not a run, since its config.yaml is of something else."""
    status, status_flaw = read_dict(folder / "run.json")
    try:
        config = _plain(runs.read_config(folder))
    except (UserError, OSError, ValueError, RecursionError) as error:
        if not (folder / "config.yaml").exists():  # a job that was refused before its config was written
            return Run(folder, "failed", _last_line(folder / "error.txt")) if _is_run_name(folder.name) else None
        ours = any((folder / name).exists() for name in ("run.json", "metrics.json", "checkpoints", ".lock"))
        note = clean(error) if isinstance(error, UserError) else "config.yaml is damaged"
        return Run(folder, "damaged", note) if ours else None
    metrics, flaw = read_dict(folder / "metrics.json")
    later, later_flaw = runs.read_evaluation(folder, metrics)
    state, note = _state(folder, config, status, metrics, status_flaw or flaw)
    if runs.is_over(state) and later_flaw:
        note = f"evaluation/{later_flaw} and is ignored"
    model, data = _names(folder, config, str(status.get("command")))
    digests = found if isinstance(found := status.get("digests"), dict) else {}
    numbers, started = _finite(metrics) | _finite(later), str(status.get("started"))
    return Run(folder, state, note, config, numbers, model, data, started, {k: str(v) for k, v in digests.items()})


def _state(
    folder: Path, config: dict[str, Any], status: dict[str, Any], metrics: dict[str, Any], flaw: str
) -> tuple[str, str]:
    """State and note. A run whose lock is held is being trained, unless it is finished and being evaluated."""
    state = status.get("state") or ""
    if not runs.is_over(state) and runs.is_held(folder / ".lock"):
        return "running", "still being trained"
    if flaw:
        return "damaged", flaw
    if runs.is_over(state):
        if not _finite(metrics):
            return "unfinished", "metrics.json has no numbers"
        limit = status.get("limit")
        return state, clean(runs.stop_sentence(folder, limit, config)) if isinstance(limit, dict) else ""
    if state == "running":
        return "died", f"its process has died; {runs.how_to_go_on(folder)}"
    if state in ("interrupted", "pruned"):
        return state, runs.how_to_go_on(folder)
    if state == "failed" or (folder / "error.txt").exists():
        return "failed", clean(status.get("error") or _last_line(folder / "error.txt"))
    return "unfinished", "not started" if not state else f"its state is {clean(state)}"


def _last_line(path: Path) -> str:
    """The error at the end of a traceback."""
    try:
        return clean(path.read_text(errors="replace").strip().rpartition("\n")[2])
    except OSError:
        return ""


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """The config as JSON values, without nulls, with 4.0 as 4, so that equal settings compare equal."""
    kept = {key: config.get(key) for key in ("seed", "model", "data", "trainer", "callbacks")}
    text = json.dumps(kept, default=str, skipkeys=True)
    return runs.as_equal(json.loads(text, object_hook=lambda node: {k: v for k, v in node.items() if v is not None}))


def _finite(values: dict[str, Any]) -> dict[str, float]:
    numbers = {k: v for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {k: float(v) for k, v in numbers.items() if abs(v) < 1e150}  # no NaN, and squares stay finite


def _names(folder: Path, config: dict[str, Any], command: str) -> tuple[str, str]:
    """Model and data as chosen, if the folder's name has them, else derived from their classes."""
    model, data = (as_choice(str(config[part].get("_target_", part))) for part in ("model", "data"))
    if _is_run_name(folder.name) and "experiment=" not in command:  # then the parent is <model>-<data>
        parent = folder.resolve().parent.name
        if parent.startswith(f"{model}-"):
            data = parent.removeprefix(f"{model}-")
        elif parent.endswith(f"-{data}"):
            model = parent.removesuffix(f"-{data}")
    return clean(model), clean(data)


def _is_run_name(name: str) -> bool:
    """Whether the name has the form of `runs.run_name`."""
    return re.fullmatch(r"seed\d+_[0-9a-f]{8}", name) is not None


def as_choice(target: str) -> str:
    """The class as model= or data= names it: `vae_zoo.models.BetaTCVAE` -> beta_tc_vae, `my.FashionNet` -> fashion_net."""
    *_, module, name = ["", *target.split(".")]
    files = MODEL_FILES | DATA_FILES
    if target.startswith("vae_zoo.") and [*files.values()].count(file := files.get(name, "")) == 1:
        return file.rpartition(".")[2]
    if module.replace("_", "").lower() == name.lower():
        return module
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


# ---- groups ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """A setting: finished runs that differ only in the seed, each seed once.

    tried: number of seeds of this config, finished or not. settings: differences to the other settings of its model in the
    table.
    """

    model: str
    runs: tuple[Run, ...]
    tried: int
    settings: str = ""

    @property
    def name(self) -> str:
        return f"{self.model} {self.settings}".strip()

    @property
    def likelihood(self) -> str:
        node = self.runs[0].setup["model"].get("likelihood")
        return str(node.get("_target_")).rpartition(".")[2] if isinstance(node, dict) else "unstated"

    def values(self, metric: str) -> np.ndarray:
        return np.array([run.metrics[metric] for run in self.runs if metric in run.metrics])

    def mean(self, metric: str) -> float | None:
        values = self.values(metric)
        return float(values.mean()) if len(values) else None

    @cached_property
    def unused(self) -> list[str]:
        """The blocks that the decoder ignores, by the means over seeds."""
        metrics = dict.fromkeys(metric for run in self.runs for metric in run.metrics)
        means = ((metric, self.mean(metric)) for metric in metrics)
        return catalogue.unused({metric: mean for metric, mean in means if mean is not None})

    def may_be_best(self, metric: str) -> bool:
        """Whether it may be marked as best. An unused block makes other scores easy to win, except likelihood bounds."""
        return not self.unused or catalogue.under_likelihood(metric)

    def deviation(self, metric: str) -> float | None:
        """The sample deviation; None for a single run."""
        values = self.values(metric)
        return float(values.std(ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class Table:
    """The settings that were tested on the same images."""

    data: str
    groups: tuple[Group, ...]

    @cached_property
    def metrics(self) -> list[str]:
        """`test/...` and `test_unseen/...`, without probes, single facets and auxiliary numbers."""
        explains = r"(block|linear|judge|judge_rec|aggregate|facet\d+)/"
        return sorted(self._names(rf"test(_unseen)?/(?!{explains})"), key=catalogue.metric_order)

    @cached_property
    def probes(self) -> list[str]:
        """`test/block/<block>/<factor>`, in the order of the runs."""
        return self._names(r"test(_unseen)?/block/[^/]+/.")

    @cached_property
    def facets(self) -> list[str]:
        """`test/facet<j>/...`, in the order of the runs."""
        return self._names(r"test(_unseen)?/facet\d+/")

    @cached_property
    def likelihoods(self) -> list[str]:
        return sorted({group.likelihood for group in self.groups})

    @cached_property
    def pairs(self) -> list["Paired"]:
        """Pairs of settings, for every headline metric that both have for at least `PAIRS` shared seeds."""
        headlines = (metric for metric in self.metrics if metric.count("/") == 1 and catalogue.entry(metric).compared)
        pairs = (compare(a, b, metric) for metric in headlines for a, b in self._rivals(metric))
        return [pair for pair in pairs if pair is not None]

    def _rivals(self, metric: str) -> list[tuple[Group, Group]]:
        if len(self.groups) <= ALL_PAIRS:
            return list(combinations(self.groups, 2))
        if (top := self.best(metric)) is None:
            return []
        best = next(group for group in self.groups if group.mean(metric) == top and group.may_be_best(metric))
        return [(best, group) for group in self.groups if group is not best]

    def best(self, metric: str) -> float | None:
        """The best mean; None if there is no direction, all means are equal, the likelihoods differ, or no setting uses all
        of its blocks."""
        sign = catalogue.direction(metric)
        means = {mean for group in self.groups if (mean := group.mean(metric)) is not None}
        if not sign or len(means) < 2 or (catalogue.under_likelihood(metric) and len(self.likelihoods) > 1):
            return None
        allowed = (group.mean(metric) for group in self.groups if group.may_be_best(metric))
        return max((mean for mean in allowed if mean is not None), key=lambda mean: sign * mean, default=None)

    def _names(self, pattern: str) -> list[str]:
        names = dict.fromkeys(name for group in self.groups for run in group.runs for name in run.metrics)
        return [name for name in names if re.match(pattern, name)]


def group_runs(found: Iterable[Run]) -> tuple[list[Table], list[Run]]:
    """The tables in natural order, and the runs that are in no table."""
    found = list(found)
    left = [run for run in found if not runs.is_over(run.state)]
    groups, tables = [], []
    finished = [run for run in found if runs.is_over(run.state)]
    for key, members in _by(finished, lambda run: run.key).items():
        newest: dict[str, Run] = {}
        for run in sorted(members, key=lambda run: run.started, reverse=True):
            if (kept := newest.setdefault(run.seed, run)) is not run:
                left.append(replace(run, state="repeated", note=f"repeats the config and seed of {kept.folder}"))
        members = tuple(sorted(newest.values(), key=lambda run: natural(run.seed)))
        tried = {run.seed for run in found if run.key == key}
        groups.append(Group(mode(run.model for run in members), members, len(tried)))
    for rows in _by(groups, lambda group: _hash(group.runs[0].images)).values():
        apart = _told_apart(rows, lambda group: group.model, lambda group: group.runs[0].setup)
        named = sorted((replace(group, settings=text) for group, text in apart), key=lambda group: natural(group.name))
        tables.append(Table(mode(run.data for group in named for run in group.runs), tuple(named)))
    apart = _told_apart(tables, lambda table: table.data, lambda table: {"data": table.groups[0].runs[0].images})
    labelled = [replace(table, data=f"{table.data} {text}".strip()) for table, text in apart]
    return sorted(labelled, key=lambda table: natural(table.data)), sorted(left, key=_place)


def _told_apart(items: Iterable[T], name: Callable[[T], str], setup: Callable[[T], dict]) -> Iterator[tuple[T, str]]:
    """Each item with its differences to the other items of the same name."""
    for same in _by(items, name).values():
        yield from zip(same, differences([setup(item) for item in same]))


def differences(setups: Sequence[dict[str, Any]]) -> list[str]:
    """How each setup differs from the others, as overrides: `beta=8, trainer.max_steps=100`.

    The prefix `model.` is omitted, and so are settings that follow from others, such as image_shape.
    """
    labels: list[dict[str, Any]] = [{} for _ in setups]
    _differ("", dict(enumerate(setups)), labels)
    keys = list(dict.fromkeys(key for label in labels for key in label))
    values = {key: [label.get(key) for label in labels] for key in keys}
    outer = [values[key] for key in keys if not key.startswith("model.")]
    keys = [key for key in keys if not key.startswith("model.") or values[key] not in outer]
    if any(key.startswith("data.") and key != "data.image_shape" for key in keys):
        keys = [key for key in keys if key != "data.image_shape"]
    short = {key: key.removeprefix("model.") for key in keys}
    return [", ".join(f"{short[key]}={shown(label[key])}" for key in keys if key in label) for label in labels]


def _differ(path: str, values: dict[int, Any], labels: list[dict[str, Any]]) -> None:
    """Adds to labels[i] the paths whose values[i] (None: missing) are not all equal. Objects of one class are compared key
    by key; for objects of different classes the class is added."""
    if len({*map(_hash, values.values())}) == 1:
        return
    kinds = {i: str(value.get("_target_", "")) if isinstance(value, dict) else None for i, value in values.items()}
    alike = _by(values, kinds.get)
    if len(alike) > 1 or None in alike:
        names = {kind: kind.rpartition(".")[2] for kind in alike if kind}
        if len({*names.values()}) < len(names):
            names = {kind: kind for kind in names}
        for i, value in values.items():
            if value is not None:
                labels[i][path] = names[kinds[i]] if kinds[i] else value
    for same in (same for kind, same in alike.items() if kind is not None):
        for key in dict.fromkeys(key for i in same for key in values[i]):
            _differ(f"{path}.{key}" if path else key, {i: values[i].get(key) for i in same}, labels)


# ---- pairs ----------------------------------------------------------------------------------------------------------


class Paired(NamedTuple):
    """a - b of a metric, seed by seed: the mean difference and its 95 % interval."""

    metric: str
    a: Group
    b: Group
    seeds: int
    difference: float
    low: float
    high: float

    @property
    def better(self) -> Group | None:
        """The better setting, if the interval excludes 0."""
        if self.low <= 0 <= self.high:
            return None
        return self.a if catalogue.direction(self.metric) * self.difference > 0 else self.b


def compare(a: Group, b: Group, metric: str) -> Paired | None:
    """Compares two settings; None if they share too few seeds or the likelihoods differ."""
    left, right = ({run.seed: run.metrics[metric] for run in g.runs if metric in run.metrics} for g in (a, b))
    seeds = sorted(left.keys() & right.keys())
    if len(seeds) < PAIRS or (a.likelihood != b.likelihood and catalogue.under_likelihood(metric)):
        return None
    gaps = np.array([left[seed] - right[seed] for seed in seeds])
    return Paired(metric, a, b, len(seeds), float(gaps.mean()), *interval(gaps))


def interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of the mean of [n] values; deterministic.

    Percentile bootstrap of 9,999 resamples, with tails widened from a/2 to Phi(sqrt(n / (n - 1)) t_{a/2, n-1}), since the
    plain interval is too narrow for few seeds. Simulated coverage of the mean of normal values, nominally 95 %:

        n              3     4     5     6     8    10
        plain        75 %  80 %  83 %  85 %  88 %  90 %
        expanded     76 %  87 %  92 %  93 %  95 %  96 %

    No bootstrap interval extends beyond the extremes of its sample, so 3 or 4 seeds cannot give 95 %.
    Source: Hesterberg, 2015, The American Statistician 69(4), expanded percentile interval.
    """
    from scipy import stats  # takes a second to import; not needed without pairs

    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    n = len(values)
    tail = float(stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf((1 - confidence) / 2, n - 1)))
    options: dict[str, Any] = {"method": "percentile", "n_resamples": 9999, "random_state": np.random.default_rng(0)}
    low, high = stats.bootstrap((values,), np.mean, confidence_level=1 - 2 * tail, **options).confidence_interval
    return float(low), float(high)


# ---- formatting -----------------------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """A setting as the user would type it; long values are shortened."""
    if isinstance(value, str) or type(value) is int:  # the second as YAML writes it, which takes long for 10,000 seeds
        text = str(value)
    else:
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    text = clean(text.strip().removesuffix("...").strip())
    return text if len(text) <= 40 else f"{text[:37]}..."


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _by(items: Iterable[T], key: Callable[[T], Any]) -> dict[Any, list[T]]:
    """Groups items by key, in the order in which the keys first appear."""
    found = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return found
