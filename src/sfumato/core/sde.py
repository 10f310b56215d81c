"""A schedule as a stochastic differential equation, and the two equations that run it backwards
(Song et al. 2021, arXiv 2011.13456).

The corruption x_t = alpha x_0 + sigma eps is the solution of dx = f(t) x dt + g(t) dw with f = d ln alpha / dt and
g^2 = d sigma^2 / dt - 2 f sigma^2 = -2 sigma^2 d lambda / dt. With score = (alpha D - x) / sigma^2, D = E[x_0 | x_t],
the same marginals belong to the reverse SDE dx = (f x - g^2 score) dt + g dw, run from t = 1 to 0 (eq. 6), and to the
probability-flow ODE dx/dt = f x - g^2 score / 2 (eq. 13).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .denoiser import Denoiser, per_row
from .errors import InputError
from .schedules import VP, Schedule

_START = 1e-12  # t = 0 is looked at from here: d sigma / dt may be infinite there, while g^2 has a limit


def rates(schedule: Schedule, t: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return (f, g^2), float64 with the shape of `t` (a float gives tensors of shape []).

    Exact derivatives: g^2 = -2 f where variance is preserved, otherwise automatic differentiation in float64. At t = 0
    they are the limits. Raises `InputError` where alpha = 0, at t = 1 of some schedules: f is infinite there.
    """
    moments = torch.as_tensor(t, dtype=torch.float64).clamp(min=_START)
    alpha, sigma = schedule(moments)
    if not bool((alpha > 0).all()):
        raise InputError(f"the drift f is infinite where alpha = 0: keep t below 1 on {type(schedule).__name__}")
    d_alpha, d_sigma = schedule.derivatives(moments)
    f = d_alpha / alpha
    # 2 sigma (d sigma - f sigma) = -2 f there, without the difference of two large numbers near the data
    return f, -2 * f if isinstance(schedule, VP) else 2 * sigma * (d_sigma - f * sigma)


def forward(schedule: Schedule, x: Tensor, t: float | Tensor) -> tuple[Tensor, Any]:
    """Return (f x, g): the drift [B, ...] and the diffusion of the forward SDE, g a float, or shaped [B, 1, ...]."""
    f, g2 = _shaped(schedule, x, t)
    return f * x, g2**0.5


def score(denoiser: Denoiser, x: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
    """Return grad log p_t(x) = (alpha D - x) / sigma^2 (Tweedie), for t > 0."""
    alpha, sigma = _noise(denoiser.schedule, x, t)
    return (alpha * denoiser(x, t, **cond) - x) / sigma**2


def reverse(denoiser: Denoiser, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Any]:
    """Return (f x - g^2 score, g): drift and diffusion of the reverse SDE (eq. 6), where dt is negative, for t > 0."""
    f, g2 = _shaped(denoiser.schedule, x, t)
    return f * x - g2 * score(denoiser, x, t, **cond), g2**0.5


def flow(denoiser: Denoiser, x: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
    """Return the velocity dx/dt of the probability-flow ODE (eq. 13), for t > 0.

    Written as d alpha/dt D + d sigma/dt eps_hat, eps_hat = (x - alpha D) / sigma, which is finite where alpha = 0.
    """
    alpha, sigma = _noise(denoiser.schedule, x, t)
    d_alpha, d_sigma = denoiser.schedule.derivatives(torch.as_tensor(t, dtype=torch.float64))
    clean = denoiser(x, t, **cond)
    return _row(d_alpha, x) * clean + _row(d_sigma, x) * ((x - alpha * clean) / sigma)


def _shaped(schedule: Schedule, x: Tensor, t: float | Tensor) -> tuple[Any, Any]:
    f, g2 = rates(schedule, t)
    return _row(f, x), _row(g2, x)


def _noise(schedule: Schedule, x: Tensor, t: float | Tensor) -> tuple[Any, Any]:
    alpha, sigma = schedule(torch.as_tensor(t, dtype=torch.float64))
    if not bool((sigma > 0).all()):
        raise InputError("the score and the flow need noise: give t above 0")
    return _row(alpha, x), _row(sigma, x)


def _row(value: Tensor, x: Tensor) -> Any:
    """Return a number for all rows as a float, one value a row shaped as rows of `x`."""
    return per_row(value, x) if value.ndim else float(value)
