"""The variational bound of a chain of steps on -log p(x_0), term by term
(Ho et al. 2020, arXiv 2006.11239, eq. 5; Nichol & Dhariwal 2021, arXiv 2102.09672, section 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import Denoiser, InputError, Noise, check_cond, posterior, prepare, steps
from ..core.variance import learned
from ..objectives.bound import decoder, gaussian_kl


@dataclass(frozen=True, kw_only=True, eq=False)
class Bound:
    """The bound in nats a row: `prior` [B], `steps` [n - 1, B] from the noisiest on, `decoder` [B]; `dim`, `bin`."""

    prior: Tensor
    steps: Tensor
    decoder: Tensor
    dim: int
    bin: float | None

    @property
    def values(self) -> Tensor:
        """The bound on -log p(x_0) for each row, float64[B]."""
        return self.prior + self.steps.sum(0) + self.decoder

    @property
    def mean(self) -> float:
        """The mean over the rows, nats."""
        return float(self.values.mean())

    @property
    def error(self) -> float:
        """The standard error of `mean`."""
        return float(self.values.std()) / len(self.values) ** 0.5 if len(self.values) > 1 else math.nan

    @property
    def bits_per_dim(self) -> float:
        """Mean / (d ln 2): of discrete data with a `bin`, else of a density."""
        return self.mean / (self.dim * math.log(2))

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {float(v) / (self.dim * math.log(2)):.4g}"
            for name, v in (
                ("prior", self.prior.mean()),
                (f"{len(self.steps)} steps", self.steps.sum(0).mean()),
                ("decoder", self.decoder.mean()),
            )
        )
        kind = "of the density" if self.bin is None else f"of data in bins of {self.bin:g}"
        error = self.error / (self.dim * math.log(2))
        return f"at most {self.bits_per_dim:.4g} ± {error:.2g} bits/dim {kind} ({parts})"


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    x: Tensor,
    *,
    grid: Tensor,
    seeds: Iterable[int] | Noise,
    variance: float | None = 1.0,
    bin: float | None = None,
    cond: Mapping[str, Any] | None = None,
    callback: Callable[[int, int], None] | None = None,
) -> Bound:
    """Return L_T + sum L_(t-1) + L_0 of the chain whose times are `grid`, with one draw of x_t a step and row.

    The chain is that of `solvers.DDPM` on the same grid, strided or not; the grid falls to 0. `variance` is that of
    `DDPM`: 1, the default, is beta, 0 beta-tilde, None what the network says (`LearnedVariance`, as `DDPMLearned`
    samples). The decoder's beta-tilde, which is 0, is the next step's. The prior is the start of the sampler,
    N(0, sigma^2). `bin` is the distance of neighbouring levels of discrete data in [-1, 1], None for a density.

    Raises `InputError` for a grid that does not end at 0 or has one step, and where nothing says a variance.
    """
    noise = seeds if isinstance(seeds, Noise) else Noise(seeds)
    cond = {} if cond is None else cond
    check_cond(denoiser.cond, cond)
    if float(grid[-1]) != 0.0 or len(grid) < 3:
        raise InputError("the bound needs a chain of at least two steps that ends at the data, t = 0")
    if variance is not None and not 0 <= variance <= 1:
        raise InputError(f"variance={variance} must lie in [0, 1], or be None for a learned one")
    x0 = x.double()
    plan = steps(denoiser.schedule, grid)
    qs = [posterior(k.alpha_t, k.sigma_t, k.alpha_s, k.sigma_s) for k in plan]
    ready: Any = prepare(denoiser, [k.t for k in plan])
    rows: list[Tensor] = []
    for k, q in zip(plan, qs, strict=True):
        noised = k.alpha_t * x0 + k.sigma_t * noise.like(x0, "bound", k.i)
        low, high = math.log(q.tilde if k.i + 1 < k.n else qs[-2].tilde), math.log(q.beta)
        if variance is None:
            out, prediction, alpha, sigma = learned(ready, noised, k.t, cond)
            first, v = prediction.halves(out)
            clean = prediction.prediction.to_x0(first, noised, alpha, sigma)
        else:
            clean, v = ready(noised, k.t, **cond), torch.as_tensor(variance, dtype=torch.float64)
        log_p = v * high + (1 - v) * low
        term = gaussian_kl(q.gain * (clean - x0), low, log_p) if k.i + 1 < k.n else decoder(x0, clean, log_p, bin)
        rows.append(term.flatten(1).sum(1))
        if callback is not None:
            callback(k.i + 1, k.n)
    start = plan[0]
    prior = 0.5 * (start.alpha_t / start.sigma_t * x0).square().flatten(1).sum(1)
    return Bound(prior=prior, steps=torch.stack(rows[:-1]), decoder=rows[-1], dim=x0[0].numel(), bin=bin)
