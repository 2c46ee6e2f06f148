"""Shapes in annotations are checked while tests run: who calls with a wrong one is told so."""

import ast
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

import vae_zoo
from tests.annotations import PACKAGES
from vae_zoo.distributions import Bernoulli, Normal, pool
from vae_zoo.nets import PatchShuffle

ARRAYS = {"Tensor", "torch.Tensor", "np.ndarray", "Array"}
SHAPED = {
    "Bool",
    "Float",
    "Int",
    "Int64",
    "Integer",
    "Num",
    "Real",
    "Shaped",
    "UInt8",
    "UInt64",
    "Callable",
}  # arguments of a Callable have no axes


@pytest.mark.parametrize(
    "call",
    [
        lambda: Normal(torch.zeros(4, 3), torch.zeros(4, 2)),
        lambda: pool(Normal(torch.zeros(4, 3), torch.zeros(4, 3)), torch.zeros(4, 1, dtype=torch.long), 1),
        lambda: Bernoulli().log_prob(torch.zeros(4, 1, 8, 8), torch.zeros(4, 1, 8, 4)),
        lambda: PatchShuffle(4)(torch.zeros(4, 8, 8)),
    ],
    ids=["fields", "group", "images", "view"],
)
def test_a_wrong_shape_is_caught(call):
    with pytest.raises(TypeCheckError):
        call()


def public(node, prefix=""):
    """(name, node) of a module's public functions and classes, and of the methods and fields of these."""
    for child in node.body:
        name = child.target.id if isinstance(child, ast.AnnAssign) else getattr(child, "name", "_")
        if not name.startswith("_") and (prefix or not isinstance(child, ast.AnnAssign)):
            yield prefix + name, child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{prefix}{name}.")


def has_bare_array(annotation):
    """Whether it names an array without its axes."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in SHAPED:
        return False
    if isinstance(annotation, ast.Name | ast.Attribute):
        return ast.unparse(annotation) in ARRAYS
    return any(map(has_bare_array, ast.iter_child_nodes(annotation)))


def lacks(node):
    """What a definition lacks: a docstring, annotations, axes of arrays."""
    if isinstance(node, ast.AnnAssign):
        return ["axes"] if has_bare_array(node.annotation) else []
    found = [] if ast.get_docstring(node) else ["docstring"]
    if isinstance(node, ast.FunctionDef):
        args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        given = {arg.arg: arg.annotation for arg in args if arg.arg not in ("self", "cls")} | {"return": node.returns}
        for name, annotation in given.items():
            if annotation is None:
                found.append(f"annotation of {name}")
            elif has_bare_array(annotation):
                found.append(f"axes of {name}")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_public_definitions_have_docstrings_and_the_shapes_of_their_arrays(package):
    path = Path(vae_zoo.__file__).parent.joinpath(*package.split("."))
    files = sorted(path.rglob("*.py")) or [path.with_suffix(".py")]
    lacking = {f"{file.name} {name}": lacks(node) for file in files for name, node in public(ast.parse(file.read_text()))}
    assert len(lacking) > 1
    assert not {name: found for name, found in lacking.items() if found}
