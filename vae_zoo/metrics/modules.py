"""The metrics as `torchmetrics.Metric`: `update` collects rows, `compute` applies the function to all of them.

metric = SAP(continuous=True)                     # settings are the function's keyword arguments
metric.update(codes, factors)                     # any number of times, on any device and rank
metric.compute()                                  # == sap(all codes, all factors, continuous=True), as a tensor

metric = DCI(seed=1)
metric.update(codes, factors)                     # training rows
metric.update(codes, factors, test=True)          # the rows it is scored on
metric = ClusterAccuracy(mapping="majority")
metric.update(clusters, labels, fit=True)         # rows that fit the map from clusters to classes; default: the scored rows
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from vae_zoo.metrics import clustering as c
from vae_zoo.metrics import disentanglement as d
from vae_zoo.metrics.arrays import to_numpy


class _Rows(Metric):
    """Rows x and y, and those of the arguments `test` and `fit`, for a function(x, y, **settings)."""

    full_state_update = False

    def __init_subclass__(cls, of: Callable, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        cls.function = staticmethod(of)

    def __init__(self, **settings: Any):
        super().__init__()
        self.settings = settings
        for state in ("x", "y", "test_x", "test_y", "fit_x", "fit_y"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(
        self,
        x: Shaped[Any, "B ..."] | Sequence,
        y: Shaped[Any, "B ..."] | Sequence | None = None,
        *,
        test: bool = False,
        fit: bool = False,
    ) -> None:
        """Adds rows.

        Args:
            x: Codes, or numbers of clusters.
            y: Factors or labels of the same rows.
            test: Whether a fitted estimator is scored on these rows.
            fit: Whether the map from clusters to classes is fitted on these rows.
        """
        prefix = "test_" if test else "fit_" if fit else ""
        for name, rows in {"x": x, "y": y}.items():
            if rows is not None:
                getattr(self, prefix + name).append(torch.as_tensor(rows).detach())

    def compute(self) -> Tensor | dict[str, Tensor]:
        """Computes the metric of all rows, with the settings of the constructor."""
        others = {name: self._all(f"{name}_x", f"{name}_y") for name in ("test", "fit")}
        value = self._score(*self._all("x", "y"), **self.settings, **{name: pair for name, pair in others.items() if pair})
        return {k: _tensor(v) for k, v in value.items()} if isinstance(value, dict) else _tensor(value)

    def _all(self, *states: str) -> tuple[Tensor, ...]:
        return tuple(dim_zero_cat(rows) for rows in (getattr(self, state) for state in states) if len(rows))

    def _score(self, *rows: Tensor, **settings: Any) -> Any:
        return self.function(*rows, **settings)


def _tensor(value: Any) -> Tensor:
    return torch.as_tensor(np.asarray(value))


class MIG(_Rows, of=d.mig):
    """Torchmetrics form of `mig`."""


class Modularity(_Rows, of=d.modularity):
    """Torchmetrics form of `modularity`."""


class IRS(_Rows, of=d.irs):
    """Torchmetrics form of `irs`."""


class SAP(_Rows, of=d.sap):
    """Torchmetrics form of `sap`."""


class Explicitness(_Rows, of=d.explicitness):
    """Torchmetrics form of `explicitness`."""


class DCI(_Rows, of=d.dci):
    """Torchmetrics form of `dci`."""


class FactorVAEScore(_Rows, of=d.factor_vae_score):
    """Torchmetrics form of `factor_vae_score`, of a whole factor grid.

    `update` takes the codes and factor values of every image, in any order and batches.

    Args:
        factor_sizes: Number of values of each factor.
        **settings: Arguments of the function.

    >>> metric = FactorVAEScore([4, 5], num_train=100, num_eval=100)
    >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(5))
    >>> metric.update(-2.0 * factors, factors)
    >>> metric.compute().item()
    1.0
    """

    def __init__(self, factor_sizes: Sequence[int] | Int[np.ndarray, " F"], **settings: Any):
        super().__init__(**settings)
        self.grid = d.GridIndex(factor_sizes)

    def _score(self, codes: Tensor, factors: Tensor, **settings: Any) -> float:
        seen, rows = np.unique(self.grid.render(to_numpy(factors)), return_index=True)
        if len(seen) < (size := np.prod(self.grid.factor_sizes)):
            raise ValueError(f"{type(self).__name__} needs every image of the grid, got {len(seen)} of {size}")
        return self.function(to_numpy(codes)[rows].__getitem__, self.grid, **settings)


class BetaVAEScore(FactorVAEScore, of=d.beta_vae_score):
    """Torchmetrics form of `beta_vae_score`, of a whole factor grid, as `FactorVAEScore`."""


class UnsupervisedScores(_Rows, of=d.unsupervised_scores):
    """Torchmetrics form of `unsupervised_scores`."""


class UDR(_Rows, of=d.udr):
    """Torchmetrics form of `udr`.

    `update` takes codes [B, M, D] of M runs on the same images, and the KL [B, M, D] of each image and dimension.
    """

    def _score(self, codes: Tensor, kl: Tensor, **settings: Any) -> np.ndarray:
        return self.function(codes.unbind(1), kl.mean(0), **settings)


class ClusterAccuracy(_Rows, of=c.cluster_accuracy):
    """Torchmetrics form of `cluster_accuracy`."""


class BalancedAccuracy(_Rows, of=c.balanced_accuracy):
    """Torchmetrics form of `balanced_accuracy`."""


class Purity(_Rows, of=c.purity):
    """Torchmetrics form of `purity`."""


class NMI(_Rows, of=c.nmi):
    """Torchmetrics form of `nmi`."""


class AMI(_Rows, of=c.ami):
    """Torchmetrics form of `ami`."""


class ARI(_Rows, of=c.ari):
    """Torchmetrics form of `ari`."""


class Contingency(_Rows, of=c.contingency):
    """Torchmetrics form of `contingency`."""
