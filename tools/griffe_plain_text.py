"""Griffe extension of mkdocs.yml: docstrings are plain text, which Markdown must not change."""

import re

import griffe

DOCTEST = re.compile(r"(?:^|(?<=\n))[ ]*>>> .*(?:\n(?![ ]*$).+)*", re.MULTILINE)
CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)


class PlainText(griffe.Extension):
    """Fences doctests outside an Examples section, and escapes names in angle brackets, which would be HTML tags."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Changes the docstring of one object.

        Args:
            obj: The object that was loaded.
            **kwargs: Whatever else Griffe passes.
        """
        if obj.docstring is None:
            return
        text = obj.docstring.value
        if ">>>" in text and "Examples:" not in text:
            text = DOCTEST.sub(lambda found: f"\n```pycon\n{found[0]}\n```", text)
        parts = CODE.split(text)  # every second one is code
        parts[::2] = [re.sub(r"<(?=[A-Za-z/])", "&lt;", part) for part in parts[::2]]
        obj.docstring.value = "".join(parts)
