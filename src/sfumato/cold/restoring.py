"""Restoring: from a degraded picture to its origin, step by step (arXiv 2208.09392, algorithms 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core import InputError, Noise, register
from .degradations import Degradation

Restorer = Callable[..., Tensor]


class Rule(Protocol):
    """How x_s follows from x_t and the restored picture, s < t."""

    def __call__(self, degradation: Degradation, x: Tensor, x0: Tensor, t: float, s: float, noise: Noise) -> Tensor:
        """Return x_s."""
        ...


@register
@dataclass(frozen=True, kw_only=True)
class Naive:
    """x_s = D(x_0_hat, s): right for a perfect restorer only, and every error of it stays (algorithm 1)."""

    def __call__(self, degradation: Degradation, x: Tensor, x0: Tensor, t: float, s: float, noise: Noise) -> Tensor:
        """Return x_s."""
        return degradation(x0, s, noise)


@register
@dataclass(frozen=True, kw_only=True)
class TACoS:
    """x_s = x_t - D(x_0_hat, t) + D(x_0_hat, s): for D = x + t e exact whatever x_0_hat is (algorithm 2)."""

    def __call__(self, degradation: Degradation, x: Tensor, x0: Tensor, t: float, s: float, noise: Noise) -> Tensor:
        """Return x_s."""
        return x - degradation(x0, t, noise) + degradation(x0, s, noise)


@torch.no_grad()
def restore(
    restorer: Restorer,
    degradation: Degradation,
    x: Tensor,
    *,
    rule: Rule,
    grid: Tensor,
    seeds: Iterable[int] | Noise,
    cond: Mapping[str, Any] | None = None,
    callback: Callable[[float, Tensor], None] | None = None,
) -> Tensor:
    """Return x_0 from x = D(x_0, grid[0]) by the steps of `grid` (float64[n + 1], falling, to 0).

    `restorer(x, t, **cond)` says x_0, one evaluation a step. `seeds` are those that x was degraded with: they fix what
    is random about the degradation. `callback(s, x)` is called after each step. Raises `InputError` for seeds or a
    grid that do not fit.
    """
    noise = seeds if isinstance(seeds, Noise) else Noise(seeds)
    times = [float(t) for t in grid]
    if len(noise) != len(x):
        raise InputError(f"{len(noise)} seeds for {len(x)} pictures: give one seed for each")
    if len(times) < 2 or times[-1] != 0.0 or any(t <= s for t, s in pairwise(times)):
        raise InputError("restoring needs falling times that end at 0: use one of sfumato.grids")
    for t, s in pairwise(times):
        x = rule(degradation, x, restorer(x, t, **(cond or {})), t, s, noise)
        if callback is not None:
            callback(s, x)
    return x
