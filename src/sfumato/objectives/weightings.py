"""Weightings of the denoising loss. The loss is the squared error of the network's output; each returns its factor.

A weighting w(lambda) of the x_0 error is w gain^2 on the output error, where gain = d x_0 / d out, because an output
error e is an x_0 error of gain e. So one weighting means the same for every prediction. SNR = alpha^2 / sigma^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..core import InputError, register


class Weighting(Protocol):
    """(alpha, sigma, gain), each float64[B] -> the factor of the output's squared error, float64[B]."""

    def __call__(self, alpha: Tensor, sigma: Tensor, gain: Tensor) -> Tensor:
        """Return the factors."""
        ...


def _finite(weight: Tensor, name: str) -> Tensor:
    if not bool(torch.isfinite(weight).all()):
        raise InputError(f"{name} is not finite where alpha or sigma is 0: use V or Flow, or keep t away from the ends")
    return weight


@register
@dataclass(frozen=True, kw_only=True)
class Simple:
    """1 on the output's own error: L_simple for Eps (Ho et al. 2020, arXiv 2006.11239, eq. 14), flow matching for
    Flow.
    """

    def __call__(self, alpha: Tensor, sigma: Tensor, gain: Tensor) -> Tensor:
        """Return ones."""
        return torch.ones_like(alpha)


@register
@dataclass(frozen=True, kw_only=True)
class SNR:
    """w = SNR on the x_0 error: 1 on the eps error, whatever the network puts out (arXiv 2202.00512, section 4)."""

    def __call__(self, alpha: Tensor, sigma: Tensor, gain: Tensor) -> Tensor:
        """Return the factors."""
        return _finite((alpha / sigma * gain) ** 2, "SNR")


@register
@dataclass(frozen=True, kw_only=True)
class MinSNR:
    """w = min(SNR, gamma) on the x_0 error (Hang et al. 2023, arXiv 2303.09556, eq. 7; gamma = 5 is the paper's)."""

    gamma: float = 5.0

    def __call__(self, alpha: Tensor, sigma: Tensor, gain: Tensor) -> Tensor:
        """Return the factors."""
        return _finite((alpha / sigma).square().clamp(max=self.gamma) * gain**2, "MinSNR")


@register
@dataclass(frozen=True, kw_only=True)
class P2:
    """1 / (k + SNR)^gamma on the eps error (Choi et al. 2022, arXiv 2204.00227, eq. 8; k = 1 and gamma = 1 as
    there).
    """

    k: float = 1.0
    gamma: float = 1.0

    def __call__(self, alpha: Tensor, sigma: Tensor, gain: Tensor) -> Tensor:
        """Return the factors."""
        snr = (alpha / sigma) ** 2
        return _finite(snr * gain**2 / (self.k + snr) ** self.gamma, "P2")


@register
@dataclass(frozen=True, kw_only=True)
class KarrasWeight:
    """w = (s^2 + sd^2) / (s sd)^2 on the x_0 error, s = sigma / alpha: 1 on EDM's output (arXiv 2206.00364, table 1).

    `sigma_data` is the data's standard deviation; 0.5 is the paper's.
    """

    sigma_data: float = 0.5

    def __call__(self, alpha: Tensor, sigma: Tensor, gain: Tensor) -> Tensor:
        """Return the factors."""
        return _finite((self.sigma_data**-2 + (alpha / sigma) ** 2) * gain**2, "KarrasWeight")


@register
@dataclass(frozen=True, kw_only=True)
class Sigmoid:
    """sigmoid(bias - ln SNR) on the eps error (Kingma & Gao 2023, arXiv 2303.00848, section 4; bias 2 is the paper's
    best).
    """

    bias: float = 2.0

    def __call__(self, alpha: Tensor, sigma: Tensor, gain: Tensor) -> Tensor:
        """Return the factors."""
        log_snr = 2 * (torch.log(alpha) - torch.log(sigma))
        return _finite(torch.sigmoid(self.bias - log_snr) * (alpha / sigma * gain) ** 2, "Sigmoid")
