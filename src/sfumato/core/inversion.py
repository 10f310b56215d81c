"""Inversion: from data to the noise that a deterministic solver would make it of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .denoiser import Denoiser, check_cond
from .errors import InputError
from .noise import Noise
from .sampling import Callback, Solver, Step, fit, sample, steps, update


class RoundTrip(NamedTuple):
    """Data to noise and back: the noise x_t, the data made of it, and each row's root mean square error, float64[B]."""

    x: Tensor
    back: Tensor
    error: Tensor


@torch.no_grad()
def invert(
    denoiser: Denoiser,
    x0: Tensor,
    *,
    solver: Solver,
    grid: Tensor,
    cond: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Return x_t at grid[0] for the data `x0` [B, ...]: `solver` on the reversed `grid`, up the probability-flow ODE.

    Each step starts at its lower end (Song et al. 2021, arXiv 2010.02502, section 4.3). At the ends, where no solver
    is defined: from the data to the first level s_1 = sigma / alpha, y = x / alpha goes to y + (y - D(y; s_1)) / 2,
    which is right to O(s_1^4), as dy/ds = -s score; to alpha = 0 it is DDIM's step. A grid that ends above 0 takes `x0`
    as the state there. `callback(k, x)` is called after each step, with k.s the time that was reached.

    Raises `InputError` for a solver that draws noise, and for conditions that do not fit.
    """
    if solver.stochastic:
        raise InputError(f"{type(solver).__name__} draws noise and cannot be inverted; use DDIM(), Heun(), RK45()...")
    cond = {} if cond is None else cond
    check_cond(denoiser.cond, cond)
    fit(solver, denoiser.schedule)
    x, noise = x0.clone(), Noise(range(len(x0)))
    state = solver.init(x)
    for k in _upwards(steps(denoiser.schedule, grid)):
        if k.sigma_t == 0.0:
            x *= k.alpha_s / k.alpha_t
            x = update(x, 1.5, denoiser(x, k.s, **cond), -0.5 * k.alpha_s)
        elif k.alpha_s == 0.0:
            kept = k.sigma_s / k.sigma_t
            x = update(x, kept, denoiser(x, k.t, **cond), -k.alpha_t * kept)
        else:
            x, state = solver.step(denoiser, x, k, state, noise, cond)
        if callback is not None:
            callback(k, x)
    return x


def round_trip(
    denoiser: Denoiser, x0: Tensor, *, solver: Solver, grid: Tensor, cond: Mapping[str, Any] | None = None
) -> RoundTrip:
    """Return the noise of `x0` by `invert`, the data that `sample` makes of it, and how far these are from `x0`."""
    x = invert(denoiser, x0, solver=solver, grid=grid, cond=cond)
    back = sample(denoiser, solver=solver, grid=grid, seeds=range(len(x0)), x=x, cond=cond)
    return RoundTrip(x, back, (back - x0).double().flatten(1).square().mean(1).sqrt())


def _upwards(plan: Sequence[Step]) -> list[Step]:
    """Return the steps of a plan reversed, from data to noise."""
    n = len(plan)
    return [
        Step(n - 1 - k.i, n, k.s, k.t, k.alpha_s, k.sigma_s, k.alpha_t, k.sigma_t)  # from s up to t
        for k in reversed(plan)
    ]
