"""One step of the reverse chain, and a network that also says its variance
(Ho et al. 2020, arXiv 2006.11239, eq. 7; Nichol & Dhariwal 2021, arXiv 2102.09672, section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .config import register
from .errors import InputError
from .predictions import Eps, Prediction


class Posterior(NamedTuple):
    """q(x_s | x_t, x_0) = N(kept x_t + gain x_0, tilde); `beta` is the variance of x_t given x_s."""

    kept: Any
    gain: Any
    beta: Any
    tilde: Any


def posterior(alpha_t: Any, sigma_t: Any, alpha_s: Any, sigma_s: Any) -> Posterior:
    """Return the posterior of a step from t to s < t, for floats or tensors.

    With r = alpha_t / alpha_s: beta = sigma_t^2 - r^2 sigma_s^2, tilde = beta sigma_s^2 / sigma_t^2,
    kept = r sigma_s^2 / sigma_t^2, gain = alpha_s beta / sigma_t^2.
    """
    r, share = alpha_t / alpha_s, (sigma_s / sigma_t) ** 2
    beta = sigma_t * sigma_t - r * r * sigma_s * sigma_s
    return Posterior(r * share, alpha_s * beta / (sigma_t * sigma_t), beta, beta * share)


@register
@dataclass(frozen=True, kw_only=True)
class LearnedVariance:
    """A prediction from the first half of the output's channels; the second half, o, says v = (o + 1) / 2.

    v interpolates the variance of a reverse step in its logarithm, exp(v ln beta + (1 - v) ln beta-tilde) (eq. 15).
    Every solver reads it as any other prediction; `solvers.DDPMLearned`, `objectives.VLB` and the variational bound
    use v. Default: eps, as in the paper. The network puts out twice the channels that it takes.
    """

    prediction: Prediction = field(default_factory=Eps)

    def halves(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prediction's own output, and v. Raises `InputError` for an odd number of channels."""
        if out.shape[1] % 2:
            raise InputError(f"LearnedVariance needs twice the channels, got {out.shape[1]}: double net.out_channels")
        first, second = out.chunk(2, 1)
        return first, 0.5 * (second + 1)

    def to_x0(self, out: Tensor, x: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """Return E[x_0 | x_t] from the first half."""
        return self.prediction.to_x0(self.halves(out)[0], x, alpha, sigma)

    def target(self, x0: Tensor, eps: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """Return the inner prediction's target, with a second half of v = 1/2."""
        first = self.prediction.target(x0, eps, alpha, sigma)
        return torch.cat([first, torch.zeros_like(first)], 1)

    def gain(self, alpha: Any, sigma: Any) -> Any:
        """Return d x_0 / d out of the first half."""
        return self.prediction.gain(alpha, sigma)


def learned(
    denoiser: Any, x: Tensor, t: float | Tensor, cond: Mapping[str, Any]
) -> tuple[Tensor, LearnedVariance, Any, Any]:
    """Return (the network's output, its `LearnedVariance`, alpha, sigma); `InputError` where it says no variance."""
    prediction = getattr(denoiser, "prediction", None)
    if not isinstance(prediction, LearnedVariance):
        raise InputError(
            f"a learned variance needs a network whose prediction is LearnedVariance; "
            f"{type(denoiser).__name__} says none: use DDPM(), or a fixed variance"
        )
    out, alpha, sigma = denoiser.output(x, t, **cond)
    return out, prediction, alpha, sigma
