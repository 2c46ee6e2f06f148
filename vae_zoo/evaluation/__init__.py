"""Evaluation: suites that a config can name, imported on first use."""

from vae_zoo.utils.lazy import importer

# public name: the file that defines it
FILES = {"BlockFactors": "suites.factors", "WholeSet": "suites.factors", "SampledCodes": "suites.local_global"}
FILES |= {"BlockProbe": "suites.samples", "EvidenceClassifier": "suites.samples"}
__all__ = [*FILES]
__getattr__ = importer(__name__, FILES)
