"""Evaluation: suites that a config can name, imported on first use."""

from vae_zoo.utils.lazy import importer

FILES = {  # public name: the file that defines it
    "BlockFactors": "suites.factors",
    "BlockProbe": "suites.samples",
    "EvidenceClassifier": "suites.samples",
    "SampledCodes": "suites.local_global",
    "WholeSet": "suites.factors",
}
__all__ = [*FILES]
__getattr__ = importer(__name__, FILES)
