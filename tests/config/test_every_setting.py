"""Every setting of every config group gets values of a wrong type, just outside its range and of no choice; each is refused
in one sentence with the setting, the value and what is allowed. `pytest -s` shows how many were tried."""

import contextlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from typing_extensions import is_typeddict

from tests.cli.calls import call
from tests.commands import run as run_process
from tests.config.test_schemas import FILES, NEEDED
from vae_zoo import UserError, config_dir
from vae_zoo.cli.compose import register_resolvers
from vae_zoo.config import check, schemas
from vae_zoo.config import types as kinds
from vae_zoo.config.settings import group_of, known, schema_of

FEWEST = 600  # settings times values
GROUPS = ("model", "data", "trainer", "callbacks", "logger")  # "text" for one of these, or for a group in one, is a choice
UNLIKE = {kinds._ordered: [9, 8], kinds._increasing: [9, 9], kinds._different: [1, 1]}
PLACES = {  # of components that no choice has: {kind: (model, setting)}
    "View": ("split_vae", "model.view"),
    "Schedule": ("beta_vae", "model.beta"),
    "Plateau": ("parted_vae", "model.plateau"),
    "Network": ("vae", "model.network"),
    "Likelihood": ("vae", "model.likelihood"),
    "callbacks": ("vae", "callbacks.mine"),
}
WRONG_TYPES = {int: ("many", 2.5, True), float: ("much", True), bool: ("maybe", 3), str: (7, True)}


class Case(NamedTuple):
    words: tuple[str, ...]  # the command, then the choices
    path: str
    kind: str
    value: Any
    hint: Any
    place: str = ""  # of a component that no choice has
    component: str = ""  # its target


# ---- values that a type does not allow --------------------------------------------------------------------------------


def wrong(hint: Any, limits: Sequence[Any] = ()) -> Iterator[tuple[str, Any]]:
    """(kind, value) of values that the type does not allow."""
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *notes = get_args(hint)
        yield from wrong(inner, [limit for note in notes if isinstance(note, FieldInfo) for limit in note.metadata])
        yield from (("range", UNLIKE[note.func]) for note in notes if isinstance(note, AfterValidator))
    elif origin in (Union, UnionType):
        for arm in get_args(hint):
            others = [other for other in get_args(hint) if other is not arm]
            yield from (case for case in wrong(arm) if not any(allows(other, case[1]) for other in others))
    elif origin is Literal:
        yield from (("choice", "none_of_these"), ("choice", -7), ("type", {"a": 1}))
    elif origin in (list, Sequence):
        yield from (("type", value) for value in (7, "text", {"a": 1}))
        yield from _wrong_lists(get_args(hint)[0], limits)
    elif hint in WRONG_TYPES:
        yield from (("type", value) for value in (*WRONG_TYPES[hint], ["a", "b"], {"a": 1}))
        yield from (("range", value) for value in _just_outside(hint, limits))
    elif hint not in (NoneType, Any):  # a mapping, a component or a schedule
        yield from (("type", value) for value in (7, "text", ["a"], True))


def _wrong_lists(entry: Any, limits: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    fewest, most = (next((getattr(m, n) for m in limits if hasattr(m, n)), 0) for n in ("min_length", "max_length"))
    entry_in_range = good(entry)
    if fewest:
        yield "range", [entry_in_range] * (fewest - 1)
    if most:
        yield "range", [entry_in_range] * (most + 1)
    yield from ((kind, [*[entry_in_range] * max(fewest - 1, 0), value]) for kind, value in wrong(entry))


def _just_outside(hint: type, limits: Sequence[Any]) -> Iterator[float]:
    bounds = {name: getattr(m, name) for m in limits for name in ("ge", "gt", "le", "lt") if hasattr(m, name)}
    for name, bound in bounds.items():
        if name in ("gt", "lt"):
            yield hint(bound)
        elif hint is int:
            yield bound + (1 if name == "le" else -1)
        else:
            yield math.nextafter(bound, math.inf if name == "le" else -math.inf)
    if hint is float:
        yield from (math.nan, math.inf)


def good(hint: Any) -> Any:
    return next(value for value in (9, 1, 0.5, "text", "fixed", "sample", [9], [0, 0]) if allows(hint, value))


@cache
def _adapter(hint: Any) -> TypeAdapter:
    return TypeAdapter(hint, config=None if is_typeddict(hint) else ConfigDict(strict=True))


def allows(hint: Any, value: Any) -> bool:
    try:
        _adapter(hint).validate_python(value)
    except ValidationError:
        return False
    return True


# ---- the settings of every choice -------------------------------------------------------------------------------------


@cache
def composed(name: str, *words: str) -> DictConfig:
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose(name, list(words), return_hydra_config=True)


def choices() -> list[tuple[str, ...]]:
    """Words that together choose every file of these groups."""
    groups = [[(f"{g}={c}", *NEEDED.get(c, [])) for g, c in FILES if g == group] for group in GROUPS]
    chosen = itertools.zip_longest(*groups, fillvalue=())
    return [("train", "data.num_classes=10", *itertools.chain.from_iterable(words)) for words in chosen]


def settings(schema: type, path: str) -> Iterator[tuple[str, Any]]:
    """(path, type) of the settings of a schema or a mapping with fixed keys, and of those in it."""
    for name, hint in get_type_hints(schema, include_extras=True).items():
        if name == "model_config":
            continue
        yield f"{path}{name}", hint
        while get_origin(hint) in (Annotated, Union, UnionType):
            hint = get_args(hint)[0]
        if is_typeddict(hint) or hasattr(hint, "model_fields"):
            yield from settings(hint, f"{path}{name}.")


def components(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, target) of every component of a config."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node["_target_"]
        for key, value in node.items():
            yield from components(value, f"{path}.{key}" if path else key)


def tried(schema: type, path: str, words: tuple[str, ...], *placed: str) -> Iterator[Case]:
    for setting, hint in settings(schema, path):
        yield from (Case(words, setting, kind, value, hint, *placed) for kind, value in wrong(hint))
        if "_target_" in check.describe(hint):
            strange = "vae_zoo.nets.Identity" if "schedule" in check.describe(hint) else "vae_zoo.schedules.Constant"
            yield Case(words, setting, "component", {"_target_": strange}, hint, *placed)


@cache
def cases() -> list[Case]:
    """Every setting of every target at each of its places, and those of the roots. What several targets share is tried in
    full with the first of them, with one value of each kind with the others."""
    roots = {"train": schemas.Train, "evaluate": schemas.Evaluate, "explore": schemas.Explore}
    found, targets_seen = [case for name, schema in roots.items() for case in tried(schema, "", (name,))], set()
    for words in choices():
        for path, target in components(plain(*words)):
            if path.split(".")[0] in GROUPS and (target, path) not in targets_seen:
                targets_seen.add((target, path))
                found += tried(schema_of(target), f"{path}.", words)
    for target in {*known()} - {target for target, _ in targets_seen}:
        choice, place = PLACES[group_of(target)]
        found += tried(schema_of(target), f"{place}.", ("train", f"model={choice}"), place, target)
    for schema, path in (
        (schemas.Sweep, "sweep."),
        (schemas.Sweeper, "hydra.sweeper."),
        (schemas.Launcher, "hydra.launcher."),
    ):
        found += tried(schema, path, ("train", "sweep=optuna"))
    first, kept = {}, {}
    for case in found:
        if first.setdefault((case.path, str(case.hint)), (case.words, case.component)) == (case.words, case.component):
            kept[len(kept)] = case
        else:
            kept.setdefault((case.path, case.kind, case.words, case.component), case)
    return [*kept.values()]


@cache
def plain(*words: str) -> dict[str, Any]:
    """The config as written in its files."""
    return {key: value for key, value in OmegaConf.to_container(composed(*words)).items() if key != "hydra"}


@cache
def resolved(*words: str) -> dict[str, Any]:
    return check.resolved(OmegaConf.masked_copy(composed(*words), [*plain(*words)]))


def refusal(case: Case, monkeypatch, resolves: bool) -> str:
    """The sentence that refuses the case. resolves: values that follow from others are resolved, which takes long."""
    with monkeypatch.context() as patch:
        if case.path.startswith(("hydra.", "sweep.")):
            cfg, checked = composed(*case.words), check.check_sweep
            cfg = OmegaConf.create({"sweep": cfg.sweep, "hydra": {k: dict(cfg.hydra[k]) for k in ("launcher", "sweeper")}})
        elif resolves:
            cfg, checked = OmegaConf.create(plain(*case.words)), check.check_train
        else:
            cfg, checked = resolved(*case.words), getattr(check, f"check_{case.words[0]}")
            patch.setattr(check, "resolved", lambda cfg: cfg)
        if case.component:
            place = replaced(cfg, case.place, complete(case.component))
        else:
            place = contextlib.nullcontext()
        with place, replaced(cfg, case.path, case.value):
            try:
                checked(cfg)
            except UserError as error:
                return str(error)
    return "nothing is said"


@contextlib.contextmanager
def replaced(cfg: Any, path: str, value: Any) -> Iterator[None]:
    """Another value for a while."""
    *parents, key = path.split(".")
    for parent in parents:
        cfg = cfg[parent]
    before = {key: cfg[key]} if key in cfg else {}
    cfg[key] = value
    yield
    del cfg[key]
    cfg.update(before)


def complete(target: str) -> dict[str, Any]:
    """A component with what it must have."""
    schema = schema_of(target)
    needed = [name for name, field in schema.model_fields.items() if field.is_required()]
    return {"_target_": target} | {name: good(hint) for name, hint in settings(schema, "") if name in needed}


def sentence(case: Case) -> str:
    """A pattern of what refuses the case."""
    shown, wanted = re.escape(check.shown(case.value)), re.escape(check.describe(case.hint))
    if case.kind == "component":
        shown, wanted = re.escape(case.value["_target_"]), ".+"
    elif case.value == "text":  # may be meant as a choice of a group
        wanted += "|it is a group of its own, so write [a-z/_]+=text"
    refused = rf"{case.path}={shown} is not allowed; (give )?({wanted})"
    return rf"{refused}|{case.path}: text does not select a choice; write `- override /\w+: text` in .+"


def test_every_wrong_value_of_every_setting_is_refused(monkeypatch):
    resolved_before, passed = set(), []
    for case in cases():
        resolves = f"${{{case.path}}}" in str(plain(*case.words)) and (case.path, case.kind) not in resolved_before
        if resolves:
            resolved_before.add((case.path, case.kind))
        said = refusal(case, monkeypatch, resolves)
        if not re.fullmatch(sentence(case), said):
            passed.append(f"{' '.join(case.words)} {case.path}={check.shown(case.value)} {case.component}: {said}")
    kinds = Counter(case.kind for case in cases())
    print(f"\n{len(cases())} wrong values of {len({(c.path, c.component) for c in cases()})} settings: {dict(kinds)}")
    assert not passed, "\n".join(passed)
    assert len(cases()) > FEWEST and min(kinds.values()) > 100


TYPED = """
$ train seed=-1
seed=-1 is not allowed; give a whole number >= 0 and <
$ train data=digits data.size=many
data.size=many is not allowed; give a whole number >= 8
$ train data.val_size=inf
data.val_size=inf is not allowed; give a number of images, or a
$ train data.image_shape=[1,64]
data.image_shape=[1, 64] is not allowed; give [channels, height,
$ train trainer.max_steps=0
trainer.max_steps=0 is not allowed; give a whole number >= 1
$ train trainer.ema_decay=1.0
trainer.ema_decay=1.0 is not allowed; give a number > 0 and < 1,
$ train model=split_gmvae data=digits model.beta=-1
model.beta=-1 is not allowed; give a number >= 0, or a schedule
$ train model=vae model.optimizer={_target_:torch.optim.Adam,lr:fast}
model.optimizer.lr=fast is not allowed; give a number > 0
$ train model=vae model.likelihood={_target_:vae_zoo.nets.MLP}
model.likelihood=vae_zoo.nets.MLP is not allowed; give a likeli
$ train +callbacks.mine={_target_:vae_zoo.nets.Identity}
callbacks.mine=vae_zoo.nets.Identity is not allowed; give one that
$ train +logger.mine={_target_:vae_zoo.training.Progress}
logger.mine=vae_zoo.training.Progress is not allowed; give one that
$ train model.network={_target_:vae_zoo.nets.MLP,activation:tanh}
adds keys; write each as a setting of its own, such as +model.
$ train -m seed=0,1 sweep.jobs=0
sweep.jobs=0 is not allowed; give a whole number >= 1
$ train -m seed=0,1 hydra.sweeper.max_batch_size=two
hydra.sweeper.max_batch_size=two is not allowed; give a whole n
$ train -m seed=0,1 launcher=joblib hydra.launcher.n_jobs=two
hydra.launcher.n_jobs=two is not allowed; give a whole number
$ train -m seed=0,1 launcher=joblib hydra.launcher.n_jobs=0
hydra.launcher.n_jobs=0 is not allowed; give a whole number >=
$ train -m sweep=optuna hydra.sweeper.params=7
hydra.sweeper.params=7 is not allowed; give a mapping of keys to
$ evaluate run=x device=gpu
device=gpu is not allowed; give cpu, mps, cuda or cuda:<number>
$ explore run=x port=0
port=0 is not allowed; give a whole number >= 1 and <= 65535
$ evaluate run=x columns=most
columns=most is not allowed; give headline or all
"""
TYPED = [case.strip().split("\n") for case in TYPED.split("$ ")[1:]]


@pytest.mark.parametrize("line, sentence", TYPED)
def test_the_command_refuses_in_one_line_with_exit_code_2(line, sentence, tmp_path):
    answer = call(tmp_path, line)
    assert (answer.code, answer.err.count("\n")) == (2, 1) and sentence in answer.err, answer


@pytest.mark.slow
@pytest.mark.parametrize("line, sentence", TYPED)
def test_the_command_in_a_process_of_its_own(line, sentence, tmp_path):
    done = run_process(tmp_path, *line.split(), code=2)
    assert done.stderr.count("\n") == 1 and sentence in done.stderr
