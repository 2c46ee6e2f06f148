"""Griffe extension of mkdocs.yml: doctests outside an Examples section become code blocks, not block quotes."""

import re

import griffe

DOCTEST = re.compile(r"(?:^|(?<=\n))[ ]*>>> .*(?:\n(?![ ]*$).+)*", re.MULTILINE)


class FencedDoctests(griffe.Extension):
    """Fences each doctest, from its first prompt to the next blank line."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Changes the docstring of one object.

        Args:
            obj: The object that was loaded.
            **kwargs: Whatever else Griffe passes.
        """
        if obj.docstring is not None and ">>>" in obj.docstring.value and "Examples:" not in obj.docstring.value:
            obj.docstring.value = DOCTEST.sub(lambda found: f"\n```pycon\n{found[0]}\n```", obj.docstring.value)
