"""The page of the metric catalogue, from vae_zoo/metrics/catalogue.py, which is parsed and not imported.

python tools/metric_reference.py prints the page.
"""

import ast
from pathlib import Path

CATALOGUE = Path(__file__).parent.parent / "vae_zoo" / "metrics" / "catalogue.py"
PAGE = "reference/metric_catalogue.md"
FIELDS = ("pattern", "direction", "unit", "density", "compared", "card")
BETTER = {1: "higher", -1: "lower", 0: "–"}
HEAD = """# Metric catalogue

What the report and the leaderboard know of a metric, generated from `vae_zoo/metrics/catalogue.py`. A name is looked up by
its last part: `test/facet0/shape/nmi` by `nmi`, and `test/worth/<block>` by `worth`; `<name>/gaussian` and `<name>_pixels`
are looked up as `<name>`; `<name>_pixels` is a baseline, so neither direction counts as better. The first pattern that
matches the whole last part applies. Columns of a leaderboard come in this order, except that the
first row and unknown names come last. The numbers are defined under [Metrics](metrics.md).

| name (regular expression) | better | unit | same likelihood only | compared in pairs | on the report's cards |
| --- | --- | --- | --- | --- | --- |
"""
FIGURES = """
*Same likelihood only*: the number is not comparable between models with different likelihoods. *Compared in pairs*: the
leaderboard shows paired differences between settings with intervals.

## Captions of figures

| name begins with | shows |
| --- | --- |
"""


def constant(tree: ast.Module, name: str) -> ast.expr:
    """The value assigned to a module-level name.

    Raises:
        ValueError: If the module assigns no such name.
    """
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]:
            return node.value
    raise ValueError(f"{CATALOGUE} assigns no {name}")


def entries(tree: ast.Module) -> list[dict]:
    """The arguments of each Entry(...) of METRICS, by field."""
    found = []
    for call in constant(tree, "METRICS").elts:
        values = dict(zip(FIELDS, map(ast.literal_eval, call.args), strict=False))
        found.append(values | {word.arg: ast.literal_eval(word.value) for word in call.keywords})
    return found


def pages() -> dict[str, str]:
    """{path below docs/: Markdown}."""
    tree = ast.parse(CATALOGUE.read_text(encoding="utf-8"))
    rows = []
    for entry in entries(tree):
        marks = ["yes" if entry.get(field) else "" for field in ("density", "compared", "card")]
        rows.append(
            f"| `{entry['pattern']}` | {BETTER[entry['direction']]} | {entry.get('unit', '')} | {' | '.join(marks)} |"
        )
    figures = ast.literal_eval(constant(tree, "FIGURES"))
    captions = [
        f"| `{start}` | {text.replace('{rest}', '<name>').replace('<', '&lt;')} |" for start, text in figures.items()
    ]
    return {PAGE: HEAD + "\n".join(rows) + "\n" + FIGURES + "\n".join(captions) + "\n"}


if __name__ == "__main__":
    print(*pages().values(), sep="\n")
