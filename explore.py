"""python explore.py: see --help, or the README."""

import sys

from vae_zoo.cli.commands import explore

if __name__ == "__main__":
    sys.exit(explore())
