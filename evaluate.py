"""python evaluate.py: see --help, or the README."""

import sys

from vae_zoo.cli.commands import evaluate

if __name__ == "__main__":
    sys.exit(evaluate())
