"""Metrics: a function on arrays, and a torchmetrics class (`modules`) that collects them. Imported on first use."""

from vae_zoo.utils.lazy import importer

_NAMES = {
    "disentanglement": "mig dci sap factor_vae_score beta_vae_score modularity explicitness irs udr "
    "unsupervised_scores sample_factors GridIndex FactorSample CodeTable",
    "clustering": "cluster_accuracy balanced_accuracy purity purity_chance nmi ami ari contingency confusion "
    "mutual_information effective_number most_confident pairwise_ari",
    "calibration": "ece",
    "modules": "MIG DCI SAP FactorVAEScore BetaVAEScore Modularity Explicitness IRS UDR UnsupervisedScores "
    "ClusterAccuracy BalancedAccuracy Purity NMI AMI ARI Contingency",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = [*_MODULE_OF]
__getattr__ = importer(__name__, _MODULE_OF)
