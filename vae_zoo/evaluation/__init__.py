"""Evaluation: suites that a config can name, imported on first use."""

from vae_zoo.utils.lazy import importer

FILES = {"BlockFactors": "suites.factors"}  # public name: the file that defines it
__all__ = ["BlockFactors"]
__getattr__ = importer(__name__, FILES)
