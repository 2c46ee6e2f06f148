"""python export.py: see --help, or the README."""

import sys

from vae_zoo.cli.commands import export

if __name__ == "__main__":
    sys.exit(export())
