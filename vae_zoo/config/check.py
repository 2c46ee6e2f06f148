"""Checks a config before any data are read; an error is one sentence: the value got, what is allowed, what to do."""

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from typing_extensions import is_typeddict

from vae_zoo.config import config_dir, schemas
from vae_zoo.config.renamed import MOVED_SETTINGS
from vae_zoo.config.schemas import Schema
from vae_zoo.config.settings import group_of, known, schema_of, targets
from vae_zoo.config.types import COMPONENTS
from vae_zoo.utils.errors import UserError

OPTIONAL_GROUPS = ("experiment", "launcher", "sweep", "debug")  # null in train.yaml; Hydra finds their choices by file
TRUSTED = re.compile(  # classes, but neither functions nor what their modules import
    r"vae_zoo\.(?P<module>[a-z_0-9.]+)\.[A-Z]\w*|torch\.(nn|optim)(\.[a-z_]+)?\.[A-Z]\w*"
    r"|torchmetrics(\.[a-z_]+)*\.[A-Z]\w*|lightning\.pytorch\.(callbacks|loggers)\.[A-Z]\w*"
)


def check_train(cfg: DictConfig) -> dict[str, Any]:
    """The resolved and checked config of a training run, as plain containers. Raises UserError if it is not valid."""
    plain = resolved(cfg)
    check(plain, schemas.Train)
    for group in ("trainer", "data", "model"):  # settings of the model follow from those of the others
        check_component(plain[group], group)
    for group in ("logger", "callbacks"):
        check_components(plain[group], group)
    check_components(plain["evaluation"]["suites"], "evaluation.suites")
    check_together(plain)
    return plain


def check_evaluate(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config of an evaluation as plain containers. Raises UserError as `check_train` does."""
    plain = resolved(cfg)
    check(plain, schemas.Evaluate)
    check_components(plain["evaluation"]["suites"], "evaluation.suites")
    return plain


def check_explore(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config of the explorer as plain containers. Raises UserError as `check_train` does."""
    plain = resolved(cfg)
    check(plain, schemas.Explore)
    if plain["run"] is None:
        raise UserError("explore.py needs a run: give run=<run folder> or run=[<folder>,<folder>]")
    return plain


def check_sweep(cfg: DictConfig) -> None:
    """Checks how the jobs of a sweep are made and started. Raises UserError as `check_train` does."""
    check(resolved(cfg.sweep), schemas.Sweep, "sweep")
    check(resolved(cfg.hydra.launcher), schemas.Launcher, "hydra.launcher")
    if str(cfg.hydra.sweeper._target_).startswith("hydra_plugins.vae_zoo."):
        check(resolved(cfg.hydra.sweeper), schemas.Sweeper, "hydra.sweeper")


def check_export(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config of an export as plain containers. Raises UserError as `check_train` does."""
    plain = resolved(cfg)
    check(plain, schemas.Export)
    return plain


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain containers. Raises UserError if a value is missing or refers to one that does not exist."""
    try:
        if missing := sorted(OmegaConf.missing_keys(cfg)):
            raise UserError(f"{missing[0]} has no value and no default; add {missing[0]}=<value>")
        return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    except OmegaConfBaseException as error:
        of_resolver = error.__cause__ or error.__context__
        while of_resolver is not None and not isinstance(of_resolver, UserError):
            of_resolver = of_resolver.__cause__ or of_resolver.__context__
        if of_resolver is not None:
            raise of_resolver from None
        reason = one_line(error)
        raise UserError(f"{error.full_key} cannot be resolved ({reason}); set it or correct the name") from error


def check(node: dict[str, Any], schema: type[Schema], path: str = "") -> None:
    """Raises UserError for the first entry of `node` that `schema` does not allow."""
    try:
        schema.model_validate({k: v for k, v in node.items() if k not in ("_target_", "_partial_")})
    except ValidationError as error:
        raise UserError(_sentence(error, node, schema, path)) from None


def check_component(node: Any, path: str, kind: str = "", wanted: str = "one that `python train.py --help` lists") -> None:
    """Checks a node with a `_target_`, and every such node in it, against the schema or signature of its target.

    kind: group or type that a target of vae_zoo must have, "Component": any; wanted: this in words.
    """
    group = path.split(".")[0]
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        raise UserError(f"{path} has no _target_; choose one of the {group} group, listed by `python train.py --help`")
    target = node["_target_"]
    schema = schema_of(target)
    if schema is None:
        _check_signature(node, path)
        for key, value in node.items():
            if isinstance(value, dict) and "_target_" in value:
                check_component(value, f"{path}.{key}", "Component")
        return
    if group_of(target) != (kind or group) != "Component":
        raise UserError(f"{path}={target} is not allowed; give {wanted}")
    check(node, schema, path)
    for key, hint in known().get(target, {}).get("types", {}).items():
        if isinstance(value := node.get(key), dict) and (kinds := COMPONENTS & {*hint.split()}):
            wanted = describe_field(schema.model_fields[key])
            if "_target_" not in value:
                raise UserError(f"{path}.{key}={shown(value)} has no _target_; give {wanted}")
            check_component(value, f"{path}.{key}", kinds.pop(), wanted)
            if hint.endswith(" | Schedule") and value["_target_"] in known():  # a user's own may mean something else
                _check_values(value, key, schema, node, path)


def _check_values(schedule: dict[str, Any], key: str, schema: type[Schema], node: dict[str, Any], path: str) -> None:
    """Checks the first and the last value of a schedule against the range of the number that it replaces."""
    for name in ("value", "start", "end"):
        if isinstance(number := schedule.get(name), int | float):
            try:
                check(node | {key: number}, schema, path)
            except UserError as error:
                sentence = str(error).replace(f".{key}=", f".{key}.{name}=")
                raise UserError(sentence.partition(", or a schedule")[0]) from None


def check_components(nodes: dict[str, Any], path: str) -> None:
    """Checks each node of a mapping {name: node with a `_target_`, or None}."""
    for name, node in nodes.items():
        if node is not None:
            check_component(node, f"{path}.{name}")


def check_together(cfg: dict[str, Any]) -> None:
    """Checks settings of several groups against each other."""
    model, data, trainer = cfg["model"], cfg["data"], cfg["trainer"]
    if "image_shape" in data and model.get("image_shape", data["image_shape"]) != data["image_shape"]:
        raise UserError(
            f"model.image_shape={model['image_shape']}, but data.image_shape={data['image_shape']}; "
            f"remove model.image_shape, since it is derived from the data"
        )
    if "image_shape" in data:
        _check_convolutions(model.get("network"), min(data["image_shape"][1:]))
    needs, about = needs_of(model), known().get(data["_target_"])
    if about is not None:
        _check_groups(needs, data, about)
        if data.get("folds") is not None and data.get("fold", 0) >= data["folds"]:
            raise UserError(f"data.fold must be in 0..{data['folds'] - 1}, got {data['fold']}")
    _check_processes(data, trainer, grouped="group" in needs or data.get("group_by") is not None)


def _check_convolutions(network: Any, side: int) -> None:
    """Checks that the images are large enough for the network. The network checks it too, but after torch is imported."""
    if not isinstance(network, dict) or network.get("_target_") != "vae_zoo.nets.Conv":
        return
    number = len(network["channels"])
    if side < 2**number:
        raise UserError(
            f"images of {side} pixels are too small for {number} convolutions of stride 2 (model.network.channels); "
            f"use images of {2**number} pixels or more, fewer convolutions, or model/network=mlp"
        )


def _check_processes(data: dict[str, Any], trainer: dict[str, Any], grouped: bool) -> None:
    """Checks that the processes can share the images or groups of a step evenly."""
    devices = trainer.get("devices")
    ranks = len(devices) if isinstance(devices, list) else devices if isinstance(devices, int) and devices > 0 else 1
    ranks *= trainer.get("num_nodes", 1)
    for name in (*(["num_groups"] if grouped else []), "batch_size"):
        if (data.get(name) or ranks) % ranks:
            raise UserError(
                f"data.{name} must be a multiple of {ranks}, the number of processes, got {data[name]}; change it or "
                f"trainer.devices"
            )


def _check_groups(needs: Iterable[str], data: dict[str, Any], about: dict[str, Any]) -> None:
    by = data.get("group_by")
    if by is not None and about["groupings"] and by not in about["groupings"]:
        raise UserError(f"data.group_by={by} is not a grouping of this data set; {choose(by, about['groupings'])}")
    if "group" in needs and by is None and about["default_group"] is None:
        raise UserError("this model needs groups, but the data set has none; choose a data set with labels or known factors")
    has_sizes = {"group_size", "batch_size"} <= {*data}
    if by is None and "group" not in needs or data.get("num_groups") is not None or not has_sizes:
        return
    size = data["group_size"]
    if (size if isinstance(size, int) else size[1]) > data["batch_size"]:
        raise UserError(
            f"data.group_size={shown(size)} must not exceed data.batch_size={data['batch_size']}; lower it or set "
            f"data.num_groups"
        )


def needs_of(model: dict[str, Any]) -> frozenset[str]:
    """Keys of the batch that the model needs; a class of the user is imported for this."""
    about = known().get(model["_target_"])
    return frozenset(about["needs"]) if about is not None else locate(model["_target_"], "model").needs


def check_trust(node: Any, trust: Iterable[str]) -> None:
    """Raises UserError if a config from a run folder or checkpoint would import a package that is not trusted."""
    if isinstance(node, dict):
        target = str(node.get("_target_", ""))
        package = target.split(".")[0]
        if target and package not in trust and not _is_trusted(target):
            raise UserError(
                f"the config of the run imports {node['_target_']!r}, which is not in trust; if you trust it, add "
                f"trust=[{package}]"
            )
        node = node.values()
    if isinstance(node, str) and "${" in node:  # which could become any target when the config is read
        raise UserError(f"{shown(node)} in the config of the run is an interpolation, which is not allowed; write its value")
    if not isinstance(node, str) and isinstance(node, Iterable):
        for value in node:
            check_trust(value, trust)


def _is_trusted(target: str) -> bool:
    """Whether TRUSTED matches a class; its files define one of vae_zoo, unlike vae_zoo.reports.report.Environment."""
    found = TRUSTED.fullmatch(target)
    if found is None or found["module"] is None:
        return found is not None
    path = Path(__file__).parents[1].joinpath(*found["module"].split("."))
    files = path.rglob("*.py") if path.is_dir() else filter(Path.is_file, [path.with_suffix(".py")])
    name = target.rpartition(".")[2]
    return any(re.search(rf"^class {name}\b", file.read_text(encoding="utf-8"), re.MULTILINE) for file in files)


def locate(target: str, path: str) -> Any:
    """Imports a dotted name. Raises UserError if it cannot be imported."""
    module, _, name = target.rpartition(".")
    while module:
        try:
            found = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
            return found
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise _import_fails(target, path, error) from error
            module, _, head = module.rpartition(".")
            name = f"{head}.{name}"
        except AttributeError:
            break
        except Exception as error:  # the module of the user may raise anything
            raise _import_fails(target, path, error) from error
    remedy = (
        "give the full name of a class, such as my_module.MyModel, whose module is in the current folder, next to the "
        "--config-dir, or installed"
    )
    if near := difflib.get_close_matches(target, targets(), n=1, cutoff=0.6):
        remedy = f"did you mean {near[0]}?"
    raise UserError(f"{path}._target_={target} cannot be imported; {remedy}")


def _import_fails(target: str, path: str, error: Exception) -> UserError:
    reason = f"{type(error).__name__}: {one_line(error)}"
    return UserError(f"{path}._target_={target} cannot be imported ({reason}); HYDRA_FULL_ERROR=1 shows where it fails")


# ---- wording --------------------------------------------------------------------------------------------------------


def choose(got: str, allowed: Iterable[str], prefix: str = "") -> str:
    """'did you mean X?' if a name is similar, else the list of names. prefix: put before each name, such as `model.`."""
    allowed = list(allowed)
    near = difflib.get_close_matches(str(got), allowed, n=1, cutoff=0.6)
    return f"did you mean {prefix}{near[0]}?" if near else f"choose {_or(allowed)}"


def shown(value: Any) -> str:
    """A value as the user would type it: true, null, [1, 2]; long values are shortened."""
    text = repr(value) if isinstance(value, float) else value
    if not isinstance(text, str) or not text:
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
        text = text.removesuffix("...\n").strip()
    return text if len(text) <= 80 else f"{text[:77]}..."


def moved(setting: str) -> str:
    return f"{setting} is now {MOVED_SETTINGS[setting]}; write {MOVED_SETTINGS[setting]}=<value>"


def describe_field(field: FieldInfo) -> str:
    return field.description or describe(field.annotation, field.metadata)


def describe(hint: Any, limits: Iterable[Any] = ()) -> str:
    """Describes a type of the schemas in words, such as `a whole number >= 1, or null`."""
    if get_origin(hint) is Annotated:
        kind, *fields = get_args(hint)
        own = [field for field in fields if isinstance(field, FieldInfo)]
        return next((f.description for f in own if f.description), None) or describe(
            kind, [limit for f in own for limit in f.metadata]
        )
    if get_origin(hint) in (Union, UnionType):
        arms = sorted(get_args(hint), key=lambda arm: arm is NoneType)  # null comes last
        return ", or ".join(describe(arm) for arm in arms)
    if get_origin(hint) is Literal:
        return _or([shown(value) for value in get_args(hint)])
    if get_origin(hint) in (list, Sequence):
        return f"a list, each entry {describe(*get_args(hint))}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", NoneType: "null"}
    signs = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
    bounds = [f"{sign} {getattr(m, name)}" for m in limits for name, sign in signs if hasattr(m, name)]
    return " ".join([words.get(hint, "a mapping of keys to values"), " and ".join(bounds)]).strip()


def one_line(error: BaseException) -> str:
    """The first line of a library's message, without the full stop."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def _or(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def settings_of(target: str) -> list[str] | None:
    """Names of the settings of a target, or None if they are unknown."""
    if (schema := schema_of(target)) is not None:
        return list(schema.model_fields)
    try:
        allowed, _ = _named_arguments(locate(target, ""))
    except (UserError, TypeError, ValueError):
        return None
    return None if allowed is None else sorted(allowed)


def _check_signature(node: dict[str, Any], path: str) -> None:
    """Checks a target without a schema, such as a class of the user, against its named arguments."""
    target = node["_target_"]
    found = locate(target, path)
    try:
        allowed, required = _named_arguments(found)
    except (TypeError, ValueError):
        raise UserError(f"{path}._target_={target} is not a class or function; give the full name of one") from None
    keys = [key for key in node if not (key.startswith("_") and key.endswith("_"))]
    for key in keys:
        if allowed is not None and key not in allowed:
            raise UserError(f"{path}.{key} is not an argument of {target}; {_other_keys(key, sorted(allowed), path)}")
    given_by_run = {"folder"} if path.startswith("logger.") else set()
    if missing := sorted(required - {*keys} - given_by_run):
        if not node.get("_partial_") and "_args_" not in node:
            raise UserError(f"{path}.{missing[0]} is missing, but {target} needs it; add it to the YAML file")


def _named_arguments(target: Any) -> tuple[set[str] | None, set[str]]:
    """Names of a target's arguments, with those of its bases if it passes **kwargs on (None: any name), and the names of
    those without a default."""
    names: set[str] = set()
    required: set[str] | None = None
    for cls in inspect.getmro(target) if inspect.isclass(target) else (target,):
        if inspect.isclass(cls) and "__init__" not in vars(cls) and not hasattr(cls, "__dataclass_fields__"):
            continue
        parameters = inspect.signature(cls).parameters.values()
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        named += [p for part in vars(cls).get("parts", ()) for p in inspect.signature(part).parameters.values()]
        names |= {p.name for p in named}
        if required is None:  # the class itself may pass those of a base
            required = {p.name for p in named if p.default is p.empty}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return names, required
    return None, required or set()


def _other_keys(got: str, allowed: Iterable[str], path: str) -> str:
    """The second half of the message for a wrong key: the alternatives."""
    allowed = list(allowed)
    return choose(got, allowed, f"{path}." if path else "") if allowed else "it has no settings; remove the key"


def _sentence(error: ValidationError, node: dict[str, Any], schema: type[Schema], path: str) -> str:
    """The first error of pydantic as a sentence; a wrong key comes before a missing one, since it may be a misspelling."""
    first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    keys, siblings, field, value = _follow(first["loc"], schema, node)
    name = ".".join([*([path] if path else []), *keys])
    if first["type"] == "extra_forbidden":
        if name in MOVED_SETTINGS:
            return moved(name)
        parent = name.rpartition(".")[0]
        if schema is schemas.Train and name in OPTIONAL_GROUPS:
            remedy = f"begin the YAML file of the {name} with `# @package _global_`"
            return f"{name} is not a key of the config; {remedy if isinstance(value, dict) else 'write it without +'}"
        return f"{name} is not a key of {parent or 'the config'}; {_other_keys(keys[-1], siblings, parent)}"
    wanted = describe_field(field) if field else "another value"
    if first["type"] == "missing":
        base = {"model": "_vae", "data": "_common"}.get(path)
        return f"{name} is missing; give {wanted}" + (
            f", or begin your YAML file with `defaults: [{base}]`, which has the usual values" if base else ""
        )
    group = name.replace(".", "/")
    if isinstance(value, str) and name in ("model", "data", "trainer", "logger", "callbacks", "paths"):
        remedy = f"write `- override /{name}: {value}` in the defaults list of the YAML file"
        return f"{name}: {value} does not select a choice; {remedy}"
    if isinstance(value, str) and "_target_" in wanted and (config_dir() / group).is_dir():
        return f"{name}={value} is not allowed; it is a group of its own, so write {group}={value}"
    return f"{name}={shown(value)} is not allowed; give {wanted}"


def _fields_of(hint: Any) -> dict[str, FieldInfo] | None:
    """The fields of a schema or of a mapping with fixed keys; None: the type has no fields."""
    while get_origin(hint) in (Annotated, Union, UnionType):  # the first member of a union, which may also be null
        hint = get_args(hint)[0]
    if is_typeddict(hint):
        return {name: FieldInfo.from_annotation(kind) for name, kind in get_type_hints(hint, include_extras=True).items()}
    return getattr(hint, "model_fields", None)


def _follow(location: tuple, schema: type[Schema], node: Any) -> tuple[list[str], list[str], FieldInfo | None, Any]:
    """Resolves a location of pydantic: its keys (other entries are union members or items), the names allowed instead of
    the last key, its field if it has one, and its value."""
    keys, siblings, field, hint = [], [], None, schema
    for key in location:
        fields = _fields_of(hint)
        if fields is None and get_origin(hint) is not dict:
            break
        keys.append(str(key))
        siblings = list(fields or ())
        field = FieldInfo.from_annotation(get_args(hint)[1]) if fields is None else fields.get(key)
        hint = field.annotation if field else None
        node = node.get(key) if isinstance(node, dict) else None
    return keys, siblings, field, node
