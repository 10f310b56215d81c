"""How straight a flow is, and how far it carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import Denoiser, InputError, Noise, Solver, Step, sample


@dataclass(frozen=True, kw_only=True)
class Paths:
    """`straightness` S = int_0^1 E|(z - x_0) - v|^2 dtau, 0 for straight paths, and `cost` E|z - x_0|^2.

    z is the noise where a path begins and x_0 where it ends (arXiv 2209.03003, eq. 3 and section 2). The velocity is
    v = eps_hat - x_0_hat and tau = sigma / (alpha + sigma): on `Rectified` these are u and t themselves, and on another
    schedule those of the same flow drawn with straight paths, y = x / (alpha + sigma).
    """

    straightness: float
    cost: float


def straightness(
    denoiser: Denoiser, shape: Sequence[int], *, solver: Solver, grid: Tensor, seeds: Sequence[int]
) -> Paths:
    """Return the `Paths` of the samples of `seeds`, followed by `solver` along `grid`; `shape` [B, ...].

    The integral is a sum over the grid's steps with v at their beginning: its error falls as 1 / n. Raises `InputError`
    for a solver that draws noise.
    """
    if solver.stochastic:
        raise InputError(f"{solver} draws noise: give a deterministic solver, whose paths are those of the flow")
    noise = Noise(seeds)
    z = noise.normal(shape, "start", dtype=torch.float64)
    plan: list[tuple[Step, Tensor]] = []
    start = z * denoiser.schedule(float(grid[0]))[1]
    before = [start]

    def keep(k: Step, x: Tensor) -> None:
        plan.append((k, before[0]))
        before[0] = x.clone()

    x0 = sample(denoiser, solver=solver, grid=grid, seeds=noise, x=start, callback=keep)
    total = 0.0
    for k, x in plan:
        with torch.no_grad():
            clean = denoiser(x, k.t)
        velocity = (x - k.alpha_t * clean) / k.sigma_t - clean
        width = k.sigma_t / (k.alpha_t + k.sigma_t) - k.sigma_s / (k.alpha_s + k.sigma_s)
        total += width * float((z - x0 - velocity).square().flatten(1).sum(1).mean())
    return Paths(straightness=total, cost=float((z - x0).square().flatten(1).sum(1).mean()))
