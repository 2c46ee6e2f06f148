"""python train.py: see --help, or the README."""

import sys

from vae_zoo.cli.commands import train

if __name__ == "__main__":
    sys.exit(train())
