"""The metrics as `torchmetrics.Metric`: `update` collects rows, `compute` hands all of them to the function.

metric = SAP(continuous=True)                     # settings are the function's keyword arguments
metric.update(codes, factors)                     # any number of times, on any device and rank
metric.compute()                                  # == sap(all codes, all factors, continuous=True), as a tensor

metric = DCI(seed=1)
metric.update(codes, factors)                     # training rows
metric.update(codes, factors, test=True)          # the rows it is scored on
metric = ClusterAccuracy(mapping="majority")
metric.update(clusters, labels, fit=True)         # rows the naming is found on; without any: the scored ones
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from vae_zoo.metrics import clustering as c
from vae_zoo.metrics import disentanglement as d


class _Rows(Metric):
    """Rows x, y for a function(x, y, **settings); `other` names its argument for a second pair, if it has one."""

    full_state_update = False
    function, other = None, None

    def __init_subclass__(cls, of: Callable | None = None, other: str | None = None, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        cls.other = other or cls.other
        if of:
            cls.function = staticmethod(of)
            cls.__doc__ = cls.__doc__ or f"{of.__doc__.splitlines()[0]}\n\nSettings and result: `{of.__name__}`."

    def __init__(self, **settings: Any):
        super().__init__()
        self.settings = settings
        for state in ("x", "y", "other_x", "other_y"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def _collect(self, x: Tensor, y: Tensor, other: bool = False) -> None:
        states = (self.other_x, self.other_y) if other else (self.x, self.y)
        for state, rows in zip(states, (x, y), strict=True):
            state.append(torch.as_tensor(rows).detach())

    def compute(self) -> Tensor | dict[str, Tensor]:
        other = tuple(dim_zero_cat(state) for state in (self.other_x, self.other_y) if len(state))
        settings = self.settings | ({self.other: other} if other else {})
        return _tensors(self.function(dim_zero_cat(self.x), dim_zero_cat(self.y), **settings))


def _tensors(value: Any) -> Tensor | dict[str, Tensor]:
    return {k: _tensors(v) for k, v in value.items()} if isinstance(value, dict) else torch.as_tensor(np.asarray(value))


class _Codes(_Rows, other="test"):
    def update(self, codes: Tensor, factors: Tensor, *, test: bool = False) -> None:
        self._collect(codes, factors, test)


class MIG(_Codes, of=d.mig): ...


class Modularity(_Codes, of=d.modularity): ...


class IRS(_Codes, of=d.irs): ...


class SAP(_Codes, of=d.sap): ...


class Explicitness(_Codes, of=d.explicitness): ...


class DCI(_Codes, of=d.dci): ...


class FactorVAEScore(_Codes, of=d.factor_vae_score):
    """Of a whole factor grid: `update` with the codes and factor values of every image, in any order and batches.

    >>> metric = FactorVAEScore([4, 5], num_train=100, num_eval=100)
    >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(5))
    >>> metric.update(-2.0 * factors, factors)
    >>> metric.compute().item()
    1.0
    """

    def __init__(self, factor_sizes: Sequence[int], **settings: Any):
        super().__init__(**settings)
        self.grid = d.GridIndex(factor_sizes)

    def compute(self) -> Tensor:
        codes, index = d.to_numpy(dim_zero_cat(self.x)), self.grid.render(dim_zero_cat(self.y))
        seen, rows = np.unique(index, return_index=True)
        if len(seen) < (size := np.prod(self.grid.factor_sizes)):
            raise ValueError(f"{type(self).__name__} needs every image of the grid, got {len(seen)} of {size}")
        return _tensors(self.function(codes[rows].__getitem__, self.grid, **self.settings))


class BetaVAEScore(FactorVAEScore, of=d.beta_vae_score):
    """Of a whole factor grid, as `FactorVAEScore`."""


class UnsupervisedScores(_Rows, of=d.unsupervised_scores):
    def update(self, codes: Tensor) -> None:
        self.x.append(torch.as_tensor(codes).detach())

    def compute(self) -> dict[str, Tensor]:
        return _tensors(self.function(dim_zero_cat(self.x), **self.settings))


class UDR(_Rows, of=d.udr):
    """`update` with codes [B, M, D] of M runs on the same images, and the KL [B, M, D] of each image and dimension."""

    def update(self, codes: Tensor, kl: Tensor) -> None:
        self._collect(codes, kl)

    def compute(self) -> Tensor:
        codes, kl = dim_zero_cat(self.x), dim_zero_cat(self.y)
        return _tensors(self.function(codes.unbind(1), kl.mean(0), **self.settings))


class _Clusters(_Rows, other="fit"):
    def update(self, clusters: Tensor, labels: Tensor, *, fit: bool = False) -> None:
        self._collect(clusters, labels, fit)


class ClusterAccuracy(_Clusters, of=c.cluster_accuracy): ...


class BalancedAccuracy(_Clusters, of=c.balanced_accuracy): ...


class Purity(_Clusters, of=c.purity): ...


class NMI(_Clusters, of=c.nmi): ...


class AMI(_Clusters, of=c.ami): ...


class ARI(_Clusters, of=c.ari): ...


class Contingency(_Clusters, of=c.contingency): ...
