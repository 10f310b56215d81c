"""Log-likelihoods by the instantaneous change of variables along the probability-flow ODE
(Song et al. 2021, arXiv 2011.13456, section 4.3 and app. D.2; Chen et al. 2018, arXiv 1806.07366, eq. 8).

With y = x / alpha and u = ln s, s = sigma / alpha, the ODE is dy/du = y - D. It is integrated for w = y / r,
r^2 = s^2 + c^2: dw/du = (c^2 / r^2 y - D) / r, which stays of order one from the data to the noise and vanishes for
Gaussian data of deviation c. Then, from the data's end of the grid to the noise's,

    log p(y_min) = log N(y_max; 0, s_max^2) + d ln(r_max / r_min) + int tr(c^2 / r^2 - dD/dy) du.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core import Denoiser, InputError, Noise, check_cond, prepare, register, steps


class Trace(Protocol):
    """How tr A is found from products v^T A v, for a matrix A that is different in each row."""

    def vectors(self, x: Tensor, noise: Noise | None) -> Tensor:
        """Return the vectors v, [P, B, ...] for x [B, ...]; they are kept along a whole trajectory."""
        ...

    def reduce(self, products: Tensor) -> Tensor:
        """Return the estimates of the trace, [Q, B], from the products [P, B]."""
        ...


@register
@dataclass(frozen=True, kw_only=True)
class Exact:
    """tr A = sum_j e_j^T A e_j: no randomness, one derivative for each of the d dimensions."""

    def vectors(self, x: Tensor, noise: Noise | None) -> Tensor:
        """Return the d unit vectors."""
        unit = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
        return unit.reshape(-1, 1, *x.shape[1:]).expand(-1, *x.shape)

    def reduce(self, products: Tensor) -> Tensor:
        """Return the sum, [1, B]."""
        return products.sum(0, keepdim=True)


@register
@dataclass(frozen=True, kw_only=True)
class Rademacher:
    """tr A = E v^T A v for v of independent signs (Hutchinson 1990, doi 10.1080/03610919008812866).

    Its variance is 2 sum_(i != j) A_ij^2 for a symmetric A: the diagonal costs nothing. Default: one probe a row.
    """

    probes: int = 1

    def vectors(self, x: Tensor, noise: Noise | None) -> Tensor:
        """Return `probes` vectors of signs a row."""
        return torch.where(_normals(x, noise, self.probes) < 0, -1.0, 1.0).to(x.dtype)

    def reduce(self, products: Tensor) -> Tensor:
        """Return the products: each is an estimate."""
        return products


@register
@dataclass(frozen=True, kw_only=True)
class Normal:
    """tr A = E v^T A v for standard normal v; its variance is 2 sum_ij A_ij^2 (FFJORD, arXiv 1810.01367, eq. 7)."""

    probes: int = 1

    def vectors(self, x: Tensor, noise: Noise | None) -> Tensor:
        """Return `probes` standard normal vectors a row."""
        return _normals(x, noise, self.probes)

    def reduce(self, products: Tensor) -> Tensor:
        """Return the products: each is an estimate."""
        return products


@register
@dataclass(frozen=True, kw_only=True)
class RungeKutta:
    """An explicit Runge-Kutta method by its Butcher tableau: `stages[i]` are the weights of the slopes before slope i.

    Slope i is taken at the fraction sum(stages[i]) of the step; `weights` make the step. `HEUN` is of second order with
    two evaluations a step, `RK4` (Kutta 1901) of fourth with four.
    """

    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


HEUN = RungeKutta(stages=((), (1.0,)), weights=(0.5, 0.5))
RK4 = RungeKutta(stages=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), weights=(1 / 6, 1 / 3, 1 / 3, 1 / 6))


@dataclass(frozen=True, kw_only=True, eq=False)
class Likelihood:
    """Log-likelihoods in nats: `draws` float64[Q, B], one row a probe; `dim` dimensions; `bin` as it was asked for."""

    draws: Tensor
    dim: int
    bin: float | None

    @property
    def values(self) -> Tensor:
        """The estimate of log p for each row, float64[B]: the mean over its probes."""
        return self.draws.mean(0)

    @property
    def mean(self) -> float:
        """The mean over the rows, nats."""
        return float(self.values.mean())

    @property
    def error(self) -> float:
        """The standard error of `mean` as an estimate for the law that the rows come from; the probes' is in it."""
        return float(self.values.std()) / len(self.values) ** 0.5 if len(self.values) > 1 else math.nan

    @property
    def probe_error(self) -> float:
        """The part of `error` that more probes would take away; NaN with a single probe, which cannot tell."""
        count, rows = self.draws.shape
        return float(self.draws.var(0).mean() / (count * rows)) ** 0.5 if count > 1 else math.nan

    @property
    def bits_per_dim(self) -> float:
        """-(mean + d ln bin) / (d ln 2): with a `bin` an upper bound for the discrete data, else of the density."""
        return -(self.mean / self.dim + math.log(self.bin or 1.0)) / math.log(2)

    @property
    def bits_error(self) -> float:
        """The standard error of `bits_per_dim`."""
        return self.error / (self.dim * math.log(2))

    def __str__(self) -> str:
        told = f"log p = {self.mean:.6g} ± {self.error:.2g} nats over {self.draws.shape[1]} rows"
        bits = f"{self.bits_per_dim:.4g} ± {self.bits_error:.2g} bits/dim"
        if self.bin is None:
            return f"{told}; {bits} of the density, which may be negative"
        return f"{told}; at most {bits}: uniform dequantisation in bins of {self.bin:g} gives an upper bound"


def join(parts: Sequence[Likelihood]) -> Likelihood:
    """Return the likelihoods of several batches as one.

    Raises `InputError` for no parts, or parts that differ in anything but their rows.
    """
    if len({(len(p.draws), p.dim, p.bin) for p in parts}) != 1:
        raise InputError(f"{len(parts)} likelihoods cannot be joined: give some of equal probes, dimension and bin")
    return Likelihood(draws=torch.cat([p.draws for p in parts], 1), dim=parts[0].dim, bin=parts[0].bin)


def dequantise(x: Tensor, bin: float, noise: Noise) -> Tensor:
    """Return x + bin (v - 1/2), v uniform on (0, 1), float64, for data on a lattice of spacing `bin`.

    log P(x) = log int p over the bin >= E log p(x + bin (v - 1/2)) + d ln bin: a bound by Jensen's inequality
    (Theis et al. 2015, arXiv 1511.01844, eq. 6). Pixels of 256 levels in [-1, 1] have bin = 2 / 255.
    """
    if not bin > 0:
        raise InputError(f"bin={bin} must be the distance of neighbouring levels, a positive number")
    return x.double() + bin * (torch.special.ndtr(noise.like(x.double(), "dequantise")) - 0.5)


def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    *,
    grid: Tensor,
    trace: Trace | None = None,
    seeds: Iterable[int] | Noise | None = None,
    cond: Mapping[str, Any] | None = None,
    bin: float | None = None,
    integrator: RungeKutta = RK4,
    sigma_data: float = 1.0,
    callback: Callable[[int, int], None] | None = None,
) -> Likelihood:
    """Return log p(x) of each row of x [B, ...] under the model that samples from the probability-flow ODE of `grid`.

    `grid` falls from noise to data, as for `sample`; a last time 0 is left out, so x is held against the data with
    noise of the last s added: `grids.log_snr(schedule, n, sigma_min=...)` has equal steps of ln s, which suits. The
    start of the sampler, N(0, sigma^2), is the prior. `trace` is `Rademacher()` unless given; it and `bin` (the
    distance of neighbouring levels of discrete data, which are dequantised) draw from `seeds`, one a row. `sigma_data`
    is c above: any value is right, the data's deviation costs least error. `callback(done, of)` is told of every step.

    Raises `InputError` where seeds are missing, alpha = 0 at the start, or the denoiser cannot be differentiated.
    """
    trace, cond = Rademacher() if trace is None else trace, {} if cond is None else cond
    check_cond(denoiser.cond, cond)
    noise = seeds if isinstance(seeds, Noise) or seeds is None else Noise(seeds)
    if noise is not None and len(noise) != len(x):
        raise InputError(f"{len(noise)} seeds for {len(x)} rows: give one seed for each row")
    if bin is not None:
        x = dequantise(x, bin, _needed(noise))
    plan = steps(denoiser.schedule, grid[:-1] if float(grid[-1]) == 0.0 else grid)
    if plan[0].alpha_t <= 0.0:
        raise InputError("a likelihood cannot start where alpha = 0: use a grid with a sigma_max, as grids.log_snr")
    edges = [-plan[-1].lam_s, *(-k.lam_t for k in reversed(plan))]  # ln s, rising
    times = [plan[-1].s, *(k.t for k in reversed(plan))]
    field = _Field(denoiser, x.double(), trace, noise, dict(cond), sigma_data)
    places = [[sum(weights) for weights in integrator.stages] for _ in plan]
    stage_times = [
        [times[i + int(c)] if c in (0.0, 1.0) else _at(denoiser, edges[i] + c * (edges[i + 1] - edges[i])) for c in row]
        for i, row in enumerate(places)
    ]
    with torch.no_grad():
        field.denoiser = prepare(denoiser, sorted({t for row in stage_times for t in row}))
        low, high = math.exp(edges[0]), math.exp(edges[-1])
        radius = [math.hypot(s, sigma_data) for s in (low, high)]
        w, volume = x.double() / radius[0], torch.zeros((), dtype=torch.float64, device=x.device)
        for i in range(len(plan)):
            h = edges[i + 1] - edges[i]
            slopes: list[tuple[Tensor, Tensor]] = []
            for weights, t in zip(integrator.stages, stage_times[i]):
                moved = w + h * sum((a * v for a, (v, _) in zip(weights, slopes)), torch.zeros_like(w))
                slopes.append(field(moved, t))
            w = w + h * sum((b * v for b, (v, _) in zip(integrator.weights, slopes)), torch.zeros_like(w))
            volume = volume + h * sum(b * c for b, (_, c) in zip(integrator.weights, slopes))
            if callback is not None:
                callback(i + 1, len(plan))
        d = x[0].numel()
        z = (w * radius[1] / high).flatten(1)
        prior = -0.5 * z.square().sum(1) - d * (0.5 * math.log(2 * math.pi) + math.log(high))
        draws = prior + volume + d * math.log(radius[1] / radius[0])
    return Likelihood(draws=draws.cpu(), dim=d, bin=bin)


class _Field:
    """dw/du and the trace of c^2 / r^2 - dD/dy, for one batch with its probes."""

    def __init__(
        self, denoiser: Denoiser, x: Tensor, trace: Trace, noise: Noise | None, cond: dict[str, Any], c: float
    ) -> None:
        self.denoiser, self.trace, self.cond, self.c = denoiser, trace, cond, c
        self.vectors = trace.vectors(x, noise)

    def __call__(self, w: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Return (dw/du [B, ...], the trace's estimates [Q, B])."""
        alpha, sigma = self.denoiser.schedule(t)
        r = math.hypot(sigma / alpha, self.c)
        share = (self.c / r) ** 2
        with torch.enable_grad():
            y = (w * r).requires_grad_()
            clean = self.denoiser(y * alpha, t, **self.cond)
            if not clean.requires_grad:
                raise InputError("this denoiser gives no derivative by x: let it run outside of torch.no_grad")
            products: list[Tensor] = []
            for j, v in enumerate(self.vectors):
                (slope,) = torch.autograd.grad(clean, y, v, retain_graph=j + 1 < len(self.vectors))
                products.append((v * (share * v - slope)).flatten(1).sum(1))
        return (share * y - clean).detach() / r, self.trace.reduce(torch.stack(products))


def _at(denoiser: Denoiser, log_s: float) -> float:
    return min(float(denoiser.schedule.inverse(-log_s)), 1.0)


def _normals(x: Tensor, noise: Noise | None, count: int) -> Tensor:
    if count < 1:
        raise InputError(f"probes={count} must be at least 1")
    return torch.stack([_needed(noise).like(x, "probe", j) for j in range(count)])


def _needed(noise: Noise | None) -> Noise:
    if noise is None:
        raise InputError("this likelihood draws noise: give seeds, one for each row (or trace=Exact() and no bin)")
    return noise
