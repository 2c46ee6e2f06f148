"""Refuses a config before any data are read: one sentence with what was got, what is allowed and the nearest name."""

import difflib
import importlib
import inspect
from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from vae_zoo.config import schemas
from vae_zoo.config.schemas import SCHEMAS, Schema
from vae_zoo.errors import UserError

TRUSTED = ("vae_zoo", "lightning", "torch", "torchmetrics")


def check_train(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config of a training run as plain containers. Raises UserError for anything that cannot be meant."""
    plain = resolved(cfg)
    check(plain, schemas.Train)
    for group in ("model", "data", "trainer"):
        check_component(plain[group], group)
    for group in ("logger", "callbacks"):
        for name, node in plain[group].items():
            if node is not None:
                check_component(node, f"{group}.{name}")
    check_together(plain)
    return plain


def resolved(cfg: DictConfig) -> dict[str, Any]:
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from error


def check(node: dict[str, Any], schema: type[Schema], path: str = "") -> None:
    """Raises UserError for the first thing in `node` that `schema` does not allow."""
    try:
        schema.model_validate({k: v for k, v in node.items() if k not in ("_target_", "_partial_")})
    except ValidationError as error:
        raise UserError(_sentence(error, node, schema, path)) from None


def check_component(node: Any, path: str) -> None:
    """Checks a node with a `_target_`, and every such node inside it, against the schema or the signature of its target."""
    if "_target_" not in node:
        raise UserError(f"{path} has no _target_; choose a {path.split('.')[0]} that `python train.py --help` lists")
    target = node["_target_"]
    if target in SCHEMAS:
        check(node, SCHEMAS[target], path)
    else:
        _check_signature(node, path)
    for key, value in node.items():
        if isinstance(value, dict) and "_target_" in value:
            check_component(value, f"{path}.{key}")


def check_together(cfg: dict[str, Any]) -> None:
    """What no group can see by itself."""
    model, data, trainer = cfg["model"], cfg["data"], cfg["trainer"]
    if "image_shape" in data and model.get("image_shape", data["image_shape"]) != data["image_shape"]:
        raise UserError(
            f"model.image_shape={model['image_shape']}, but the data give {data['image_shape']}; "
            f"leave it ${{data.image_shape}}"
        )
    network = model.get("network", {})
    if network.get("_target_") == "vae_zoo.nets.Conv":
        least, side = 2 ** len(network["channels"]), min(data["image_shape"][1:])
        if side < least:
            raise UserError(
                f"{len(network['channels'])} convolutions of stride 2 need images of at least {least} pixels, got {side}; "
                f"give fewer model.network.channels or set data.size"
            )
    ranks = trainer["devices"] if isinstance(trainer["devices"], int) and trainer["devices"] > 0 else 1
    if data.get("batch_size", ranks) % (ranks * trainer["num_nodes"]):
        raise UserError(
            f"data.batch_size={data['batch_size']} cannot be shared by {ranks * trainer['num_nodes']} processes; "
            f"choose a multiple of them"
        )
    schema = SCHEMAS.get(data["_target_"])
    if schema is not None:
        _check_groups(needs_of(model), data, schema)


def _check_groups(needs: Iterable[str], data: dict[str, Any], schema: type[schemas.Data]) -> None:
    by = data["group_by"]
    if by is not None and by not in schema.groupings:
        raise UserError(f"data.group_by={by} is not known to these data; {choose(by, schema.groupings)}")
    if "group" in needs and by is None and schema.default_group is None:
        raise UserError("this model needs groups and these data have none; choose data with labels or known factors")
    if data["labelled"] is not None and schema.labels is False:
        raise UserError(f"data.labelled={data['labelled']}, but these data have no labels; drop it or choose other data")
    if by is not None and data["group_size"] > data["batch_size"] and data["num_groups"] is None:
        raise UserError(
            f"data.group_size={data['group_size']} exceeds data.batch_size={data['batch_size']}; "
            f"lower it or set data.num_groups"
        )


def needs_of(model: dict[str, Any]) -> frozenset[str]:
    """What the model needs of a batch; a user's own class is imported to ask it."""
    schema = SCHEMAS.get(model["_target_"])
    return schema.needs if schema is not None else getattr(locate(model["_target_"], "model"), "needs", frozenset())


def check_trust(node: Any, trust: Iterable[str]) -> None:
    """Raises UserError when a config from a run folder or checkpoint would import a package that nobody vouched for."""
    if isinstance(node, dict):
        package = str(node.get("_target_", "vae_zoo")).split(".")[0]
        if package not in (*TRUSTED, *trust):
            raise UserError(f"the run's config imports {node['_target_']!r}; if you trust it, add trust=[{package}]")
        node = node.values()
    if not isinstance(node, str) and isinstance(node, Iterable):
        for value in node:
            check_trust(value, trust)


def locate(target: str, path: str) -> Any:
    """Imports a dotted name. Raises UserError when there is none such."""
    module, _, name = target.rpartition(".")
    while module:
        try:
            found = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
            return found
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise UserError(f"{path}._target_={target} cannot be imported: {error}") from error
            module, _, head = module.rpartition(".")
            name = f"{head}.{name}"
        except AttributeError:
            break
    raise UserError(f"{path}._target_={target} cannot be imported; {choose(target, SCHEMAS)}")


def choose(got: str, allowed: Iterable[str]) -> str:
    """'did you mean X?' when something is near, else the list."""
    allowed = list(allowed)
    near = difflib.get_close_matches(str(got), allowed, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"choose one of {', '.join(allowed)}"


def one_line(error: BaseException) -> str:
    """The first line of a library's message, without the full stop."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def _check_signature(node: dict[str, Any], path: str) -> None:
    """A target without a schema, such as the user's own: its named arguments are what is allowed."""
    found = locate(node["_target_"], path)
    try:
        parameters = _named_arguments(found)
    except (TypeError, ValueError):
        raise UserError(f"{path}._target_={node['_target_']} is not a class or function") from None
    keys = [key for key in node if not (key.startswith("_") and key.endswith("_"))]
    for key in keys:
        if parameters is not None and key not in parameters:
            raise UserError(f"{path}.{key} is not an argument of {node['_target_']}; {choose(key, parameters)}")


def _named_arguments(target: Any) -> set[str] | None:
    """Names a target can be called with, those of its bases included where it passes **kwargs on; None: anything."""
    names: set[str] = set()
    for cls in inspect.getmro(target) if inspect.isclass(target) else (target,):
        if inspect.isclass(cls) and "__init__" not in vars(cls) and not hasattr(cls, "__dataclass_fields__"):
            continue
        parameters = inspect.signature(cls).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return names
    return None


def _sentence(error: ValidationError, node: dict[str, Any], schema: type[Schema], path: str) -> str:
    """The first complaint of pydantic in our words."""
    first = error.errors(include_url=False)[0]
    keys = [str(part) for part in first["loc"]]
    name = ".".join([*([path] if path else []), *_real_keys(keys, node)])
    if first["type"] == "extra_forbidden":
        parent = schema
        for key in keys[:-1]:
            parent = parent.model_fields[key].annotation
        allowed = [*parent.model_fields, *(["_target_"] if path else [])]
        return f"{name} is not a key of {path or 'the config'}; {choose(keys[-1], allowed)}"
    if first["type"] == "missing":
        return f"{name} is missing; set it (the group's YAML file has its usual value)"
    same = [e for e in error.errors(include_url=False) if e["loc"][:1] == first["loc"][:1]]  # the arms of a union
    wanted = " or ".join(dict.fromkeys(e["msg"].removeprefix("Input should be ").removeprefix("a valid ") for e in same))
    return f"{name}={_value(keys, node)!r} is not allowed; it must be {wanted}"


def _real_keys(keys: list[str], node: Any) -> list[str]:
    """The part of pydantic's location that is keys of the config (the rest names the arm of a union)."""
    real = []
    for key in keys:
        if isinstance(node, dict) and (key in node or not real):
            real.append(key)
            node = node.get(key)
        elif isinstance(node, list) and key.isdigit():
            real.append(key)
            node = node[int(key)]
        elif isinstance(node, dict) and key == keys[-1] and key.isidentifier():
            real.append(key)
            break
        else:
            break
    return real


def _value(keys: list[str], node: Any) -> Any:
    for key in _real_keys(keys, node):
        node = node[int(key)] if isinstance(node, list) else node.get(key)
    return node
