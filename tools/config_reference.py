"""Reference pages of the configuration, generated from the files in conf/ and their comments.

The hook of mkdocs.yml calls `pages` at every build; `python tools/config_reference.py` prints the pages.
"""

import re
from pathlib import Path

import yaml

CONF = Path(__file__).parent.parent / "conf"
FOLDER = "reference/configuration"
GROUPS = {  # page: (folder below conf/, how a choice is written, first sentence)
    "model": (
        "model",
        "model",
        "The method. `_common` and the other files with an underscore hold the keys that methods share.",
    ),
    "network": ("model/network", "model/network", "Encoder and decoder of the method."),
    "likelihood": ("model/likelihood", "model/likelihood", "The likelihood p(x given z)."),
    "lr_schedule": ("model/lr_schedule", "model/lr_schedule", "Factor on the learning rate, by step; null: constant."),
    "data": ("data", "data", "The data set. Every set also takes the keys of `_common`."),
    "trainer": ("trainer", "trainer", "Length, hardware and precision of training."),
    "callbacks": ("callbacks", "callbacks", "What happens while training: figures, metrics, checkpoints, progress."),
    "logger": ("logger", "logger", "Loggers in addition to `metrics.csv` and the figures, which are always written."),
    "launcher": ("launcher", "launcher", "How the jobs of a sweep are started."),
    "sweep": ("sweep", "sweep", "Presets of sweeps and searches; none of them needs `-m`."),
    "debug": ("debug", "debug", "Short runs for development."),
    "paths": ("paths", "paths", "Folders."),
}
COMMANDS = tuple((name, f"python {name}.py") for name in ("train", "evaluate", "explore", "export"))
KEY = re.compile(r"^(?P<indent> *)(?P<key>[\w/.@\"-]+(?: [\w/@.]+)?):(?P<rest>.*)$")


def escape(text: str) -> str:
    """Plain text as Markdown; names of pages in it become links."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    text = re.sub(r"([*_\[\]~])", r"\\\1", text)
    return re.sub(r"docs/([\w/\\]+)\.md", lambda m: _link(m[1].replace("\\", "")), text)


def _link(page: str) -> str:
    return f"[{page.rpartition('/')[2]}](../../{page}.md)"


def split_comment(rest: str) -> tuple[str, str]:
    """(value, comment) of what follows a key; a # within quotes or without a blank before it is no comment."""
    quote = None
    for place, letter in enumerate(rest):
        if quote is None and letter in "\"'":
            quote = letter
        elif letter == quote:
            quote = None
        elif letter == "#" and quote is None and (place == 0 or rest[place - 1].isspace()):
            return rest[:place].strip(), rest[place + 1 :].strip()
    return rest.strip(), ""


def _word(value) -> str:
    return "null" if value is None else str(value)


class Choice:
    """One file of a group: its heading comment, its parents and its keys.

    Attributes:
        about: The comment before the first key, package directives and commands left out.
        commands: The commands that the comment names.
        defaults: The entries of the defaults list, as text.
        keys: Tuples (dotted key, default, comment).
    """

    def __init__(self, path: Path, name: str | None = None):
        self.name = name or path.stem
        lines = path.read_text(encoding="utf-8").splitlines()
        self.text = "\n".join(lines)
        comments = []
        while lines and (not lines[0].strip() or lines[0].startswith("#")):
            comments.append(lines.pop(0).lstrip("# ").strip())
        comments = [line for line in comments if line and not line.startswith("@package")]
        self.commands = [line for line in comments if line.startswith("python ")]
        self.about = " ".join(line for line in comments if line not in self.commands)
        config = yaml.safe_load(self.text) or {}
        defaults = [entry for entry in config.get("defaults", []) if entry != "_self_"]
        self.defaults = [
            entry if isinstance(entry, str) else ": ".join(_word(part) for pair in entry.items() for part in pair)
            for entry in defaults
        ]
        self.target = config.get("_target_")
        self.keys = list(_keys(lines))


def _keys(lines: list[str]):
    """(dotted key, default, comment) of every leaf, from the lines of a file; lists over several lines are joined."""
    path: list[tuple[int, str]] = []
    opened = False  # within a list over several lines
    rows: list[list[str]] = []
    for line in lines:
        if opened:
            rows[-1][1] += " " + line.strip()
            opened = rows[-1][1].count("[") > rows[-1][1].count("]")
            continue
        found = KEY.match(line)
        if found is None:
            if line.strip().startswith("#") and rows:
                rows[-1][2] = " ".join([rows[-1][2], line.strip("# ").strip()]).strip()
            continue
        indent, key = len(found["indent"]), found["key"].strip('"')
        path = [(depth, name) for depth, name in path if depth < indent] + [(indent, key)]
        value, comment = split_comment(found["rest"])
        opened = value.count("[") > value.count("]")
        rows.append([".".join(name for _, name in path), value, comment])
    own = [row for row in rows if not row[0].startswith(("defaults", "_target_", "hydra.help"))]
    parents = {name.rpartition(".")[0] for name, _, _ in own}
    for name, value, comment in own:
        if value or comment or name not in parents:
            yield name, value, comment


def table(choice: Choice, prefix: str = "") -> list[str]:
    """The keys of a choice as a Markdown table; [] where it has none."""
    rows = [row for row in choice.keys if not row[0].endswith(("_partial_",))]
    if not rows:
        return []
    commented = any(comment for _, _, comment in rows)
    lines = ["| key | default | meaning |", "| --- | --- | --- |"] if commented else ["| key | value |", "| --- | --- |"]
    for name, value, comment in rows:
        shown = f"`{value}`" if value else ""
        lines.append(f"| `{prefix}{name}` | {shown} |" + (f" {escape(comment)} |" if commented else ""))
    return lines + [""]


def section(choice: Choice, chosen: str, prefix: str) -> list[str]:
    """One choice: what it is, its class, its parents, its keys."""
    lines = [f"## {choice.name} {{ #{choice.name.replace('/', '-')} }}", ""]
    if choice.about:
        lines += [escape(choice.about[0].upper() + choice.about[1:]) + ".", ""]
    facts = []
    if not choice.name.startswith("_"):
        facts.append(f"`{chosen}={choice.name}`")
    if choice.target:
        facts.append(f"class `{choice.target}`")
    if choice.defaults:
        entries = [f"[`{entry}`](#{entry})" if ":" not in entry else f"`{entry}`" for entry in choice.defaults]
        facts.append("defaults: " + ", ".join(entries))
    lines += [" · ".join(facts), ""] if facts else []
    return lines + table(choice, prefix)


def files(folder: str) -> dict[str, Path]:
    """The choices of a group; sub-folders of most are groups of their own."""
    pattern = "**/*.yaml" if folder in ("experiment", "sweep") else "*.yaml"
    paths = sorted((CONF / folder).glob(pattern))
    return {path.relative_to(CONF / folder).with_suffix("").as_posix(): path for path in paths}


def group_page(name: str) -> str:
    """The page of one config group."""
    folder, chosen, sentence = GROUPS[name]
    prefix = "" if name in ("launcher", "sweep", "debug") else f"{folder.replace('/', '.')}."
    choices = [Choice(path, choice) for choice, path in files(folder).items()]
    lines = [f"# {chosen}", "", sentence, ""]
    public = [choice.name for choice in choices if not choice.name.startswith("_")]
    lines += ["Choices: " + ", ".join(f"[{name}](#{name.replace('/', '-')})" for name in public) + ".", ""]
    for choice in choices:
        lines += section(choice, chosen, prefix)
    return "\n".join(lines)


def experiment_page() -> str:
    """All experiments: a table, then each with its comment, its command and its settings."""
    choices = {name: Choice(path) for name, path in files("experiment").items()}
    lines = ["# experiment", "", "A method on a data set with all its settings: `python train.py experiment=<name>`.", ""]
    lines += ["| experiment | defaults |", "| --- | --- |"]
    for name, choice in choices.items():
        defaults = ", ".join(f"`{entry.removeprefix('override ')}`" for entry in choice.defaults)
        lines.append(f"| [{name}](#{name.replace('/', '-')}) | {defaults} |")
    lines.append("")
    for name, choice in choices.items():
        about = escape(choice.about[:1].upper() + choice.about[1:])
        lines += [f"## {name} {{ #{name.replace('/', '-')} }}", "", about, ""]
        for command in choice.commands or [f"python train.py experiment={name}"]:
            lines += ["```", command, "```", ""]
        lines += table(choice)
    return "\n".join(lines)


def index_page() -> str:
    """The keys of the commands, and links to the groups."""
    lines = [
        "# Configuration",
        "",
        "Generated from the files in `conf/`. `python train.py --help` prints the groups, their choices and every key.",
        "Any key can be set on the command line; a key with a default of `null` may be left out.",
        "",
        "| group | choices |",
        "| --- | --- |",
    ]
    for name, (folder, chosen, _) in GROUPS.items():
        public = [choice for choice in files(folder) if not choice.startswith("_")]
        lines.append(f"| [`{chosen}=`]({name}.md) | {' '.join(f'`{choice}`' for choice in public)} |")
    lines += ["| [`experiment=`](experiment.md) | a method on a data set with all its settings |", ""]
    for file, command in COMMANDS:
        lines += [f"## Keys of `{command}` {{ #{file} }}", "", *table(Choice(CONF / f"{file}.yaml"))]
    return "\n".join(lines)


def pages() -> dict[str, str]:
    """{path below docs/: Markdown}."""
    found = {name: group_page(name) for name in GROUPS}
    found |= {"index": index_page(), "experiment": experiment_page()}
    return {f"{FOLDER}/{name}.md": text + "\n" for name, text in found.items()}


if __name__ == "__main__":
    print(*pages().values(), sep="\n\n")
