"""The exact classifier of noisy data: what a network trained without error on it would answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..core import InputError, Schedule
from .mixture import GaussianMixture


@dataclass(frozen=True, kw_only=True, eq=False)
class ExactClassifier:
    """log p(y | x_t) of a mixture with labels: the share of the components of class y in the density of x_t.

    Computed in float64, differentiable in x, returned in the dtype of x. Raises `InputError` for a mixture without
    labels.
    """

    model: GaussianMixture
    schedule: Schedule

    def __post_init__(self) -> None:
        if self.model.labels is None:
            raise InputError("a classifier needs a mixture with labels: GaussianMixture(..., labels=[...])")

    def __call__(self, x: Tensor, t: float | Tensor, y: Tensor) -> Tensor:
        """Return log p(y | x_t = x), float[B]."""
        alpha, sigma = self.schedule(cast(Any, t))
        if isinstance(t, Tensor):
            alpha, sigma = (cast(Tensor, v).double().to(x.device)[:, None] for v in (alpha, sigma))
        flat = x.double().reshape(len(x), -1)
        own, everything = (self.model.log_joint(flat, alpha, sigma, c) for c in (y, None))
        return (torch.logsumexp(own, -1) - torch.logsumexp(everything, -1)).to(x.dtype)
