"""Langevin dynamics at one noise level, the same for every schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..core import Denoiser, Noise, Step, update


def langevin(
    denoiser: Denoiser, x: Tensor, k: Step, rate: float, count: int, noise: Noise, cond: Mapping[str, Any]
) -> Tensor:
    """Return x after `count` updates x + e score + sqrt(2 e) z at s, e = rate sigma^2, score = (alpha D - x) / sigma^2.

    In sigma^2 score no division by sigma is left.
    """
    for j in range(count):
        z = noise.like(x, "langevin", f"{k.s:.17g}", j)
        x0 = denoiser(x, k.s, **cond)
        x = update(x, 1 - rate, x0, rate * k.alpha_s, z, (2 * rate) ** 0.5 * k.sigma_s)
    return x
