"""Hooks of mkdocs.yml: pages that are generated from conf/ and from the metric catalogue at every build."""

import sys
from pathlib import Path

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import config_reference  # noqa: E402
import metric_reference  # noqa: E402


def on_files(files: Files, config) -> Files:
    """Adds the generated pages; none of them is written to docs/."""
    for uri, text in {**config_reference.pages(), **metric_reference.pages()}.items():
        files.append(File.generated(config, uri, content=text))
    return files
