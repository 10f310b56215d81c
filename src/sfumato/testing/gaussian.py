"""A Gaussian: everything about diffusing it is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core import InputError, Schedule
from .exact import ExactDenoiser, draws, float64, rotate, spectrum, total


class Gaussian:
    """N(mean, covariance) over data of the mean's shape.

    `mean` [...] of D values; `covariance` is D x D, or a number for that times the identity.

    Raises `InputError` for a covariance that is not symmetric positive definite or does not fit the mean.
    """

    def __init__(self, mean: Any, covariance: Any) -> None:
        self.mean = float64(mean)
        if self.mean.ndim == 0:
            raise InputError("Gaussian.mean is a single number: give a list, such as [0.0]")
        self.shape = tuple(self.mean.shape)
        given = float64(covariance)
        if given.ndim not in (0, 2):
            raise InputError(f"Gaussian.covariance has shape {tuple(given.shape)}: give a number or a D x D matrix")
        size = self.mean.numel()
        variances, basis = spectrum(given[None], size)
        self.covariance = given if given.ndim == 2 else given * torch.eye(size, dtype=torch.float64)
        self._variances, self._basis = variances[0], None if basis is None else basis[0]
        self._given = given

    @property
    def cond(self) -> Mapping[str, Any]:
        """No conditions."""
        return {}

    def sample(self, n: int, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return n draws, [n, ...]; draw i depends on (seed, i) alone."""
        z = draws(n, seed).normal((n, self.mean.numel()), dtype=torch.float64)
        x = self.mean.flatten() + rotate(z * self._variances.sqrt(), self._transposed)
        return x.reshape(n, *self.shape).to(dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x), float64[B], for x [B, ...]."""
        z = rotate(x.double().reshape(len(x), -1) - self.mean.flatten().to(x.device), self._basis)
        v = self._variances.to(x.device)
        return -0.5 * total(z * z / v + torch.log(2 * math.pi * v))

    def marginal(self, schedule: Schedule, t: float) -> Gaussian:
        """Return the distribution of x_t: N(alpha mean, alpha^2 covariance + sigma^2)."""
        alpha, sigma = schedule(t)
        noise = sigma**2 * (torch.eye(len(self._given), dtype=torch.float64) if self._given.ndim else 1.0)
        return Gaussian(alpha * self.mean, alpha**2 * self._given + noise)

    def denoiser(self, schedule: Schedule) -> ExactDenoiser:
        """Return E[x_0 | x_t] = mean + alpha C (alpha^2 C + sigma^2)^-1 (x_t - alpha mean)."""
        return ExactDenoiser(model=self, schedule=schedule)

    def posterior_mean(self, x: Tensor, alpha: Any, sigma: Any, cond: Mapping[str, Tensor]) -> Tensor:
        """Return E[x_0 | x] for x [B, D] = alpha x_0 + sigma eps."""
        mean, s = self.mean.flatten().to(x.device), self._variances.to(x.device)
        z = rotate(x - alpha * mean, self._basis)
        return mean + rotate(z * (alpha * s / (alpha * alpha * s + sigma * sigma)), self._transposed)

    def flow(self, schedule: Schedule, x: Tensor, t: float, s: float) -> Tensor:
        """Return where the probability-flow ODE takes x_t = `x` [B, ...] at time s.

        x_s = m_s + C_s^(1/2) C_t^(-1/2) (x_t - m_t), with the mean m and covariance C of the marginals, which share
        their eigenvectors. Exact from alpha = 0 to sigma = 0.
        """
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        mean = self.mean.flatten().to(x.device)
        v_t, v_s = (a * a * self._variances.to(x.device) + b * b for a, b in ((alpha_t, sigma_t), (alpha_s, sigma_s)))
        z = rotate(x.double().reshape(len(x), -1) - alpha_t * mean, self._basis)
        moved = alpha_s * mean + rotate(z * (v_s / v_t).sqrt(), self._transposed)
        return moved.reshape(x.shape).to(x.dtype)

    @property
    def _transposed(self) -> Tensor | None:
        return None if self._basis is None else self._basis.mT
