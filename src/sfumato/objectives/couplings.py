"""Couplings: which noise a training row is mixed with. Each keeps the law of the noise, and so that of the samples.

With any coupling but `Independent`, the network learns the flow of the coupled pairs: deterministic solvers follow it;
those that draw noise, and likelihoods, rest on independent noise and do not apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core import Batch, InputError, register


class Coupling(Protocol):
    """(batch, eps [B, ...]) -> (the batch that the denoiser is to see, the noise of its rows)."""

    def __call__(self, batch: Batch, eps: Tensor) -> tuple[Batch, Tensor]:
        """Return the batch and its noise."""
        ...


@register
@dataclass(frozen=True, kw_only=True)
class Independent:
    """Each row gets its own noise: diffusion, and 1-rectified flow (arXiv 2209.03003, alg. 1)."""

    def __call__(self, batch: Batch, eps: Tensor) -> tuple[Batch, Tensor]:
        """Return both as they are."""
        return batch, eps


@register
@dataclass(frozen=True, kw_only=True)
class MiniBatchOT:
    """The noise permuted over the batch so that sum |x_0 - eps|^2 is least, by exact assignment.

    (Pooladian et al. 2023, arXiv 2304.14772, section 3.2; Tong et al. 2023, arXiv 2302.00482, alg. 3.) Rows change
    places only with rows of the same conditions: across them, the noise would tell the condition, and sampling from
    free noise would be wrong. A row's loss then depends on its batch; accumulation and several processes couple
    their own rows.
    """

    def __call__(self, batch: Batch, eps: Tensor) -> tuple[Batch, Tensor]:
        """Return the batch and the permuted noise."""
        from scipy.optimize import linear_sum_assignment  # scikit-learn brings it

        x, z = (v.detach().flatten(1).double().cpu() for v in (batch.x0, eps))
        order = torch.arange(len(x))
        for rows in _alike(batch):
            solve: Any = linear_sum_assignment
            _, columns = solve(torch.cdist(x[rows], z[rows]).square().numpy())
            order[rows] = rows[torch.from_numpy(columns)]
        return batch, eps[order.to(eps.device)]


@register
@dataclass(frozen=True, kw_only=True)
class Given:
    """The noise that the data set itself pairs with the row, under `key` of its conditions: reflow.

    (Liu et al. 2022, arXiv 2209.03003, section 2.) `data.pairs` makes such data. Raises `InputError` without the key.
    """

    key: str = "eps"

    def __call__(self, batch: Batch, eps: Tensor) -> tuple[Batch, Tensor]:
        """Return the batch without the key, and the noise found there."""
        found = batch.cond.get(self.key)
        if found is None or found.shape != batch.x0.shape:
            raise InputError(
                f"Given needs the noise of each row as cond[{self.key!r}], shaped as x_0: train on data.pairs"
            )
        return Batch(batch.x0, {k: v for k, v in batch.cond.items() if k != self.key}), found.to(eps.dtype)


def _alike(batch: Batch) -> list[Tensor]:
    """Return the row numbers of each set of rows with equal conditions."""
    group = torch.zeros(len(batch.x0), dtype=torch.int64)
    for value in batch.cond.values():
        rows = value.detach().cpu().double().reshape(len(group), -1)
        joined = torch.cat([group[:, None].double(), rows], 1)
        group = torch.unique(joined, dim=0, return_inverse=True)[1]
    return [(group == g).nonzero().flatten() for g in group.unique().tolist()]
