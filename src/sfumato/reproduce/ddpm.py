"""DDPM (Ho, Jain & Abbeel 2020, arXiv 2006.11239): its bound, its sampler and its loss, checked on exact denoisers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..core import Denoiser, Noise, Table, VPLinear, grids, register, steps
from ..objectives import Simple
from ..solvers import DDPM, DPMpp2M
from . import pictures
from .beds import distance, draw, floor, plane, seeds
from .catalogue import CATALOGUE
from .claims import Claim, Measured, System
from .figures import lines, panels, tiles
from .runner import Context

SEED = 0
LENGTHS = (10, 30, 100, 1000)
FEW = (10, 30, 100, 1000)
POINTS = 4000


def chain(T: int) -> Table:
    """Return the linear schedule of T steps: beta from 1e-4 to 0.02 (section 4), times 1000 / T, at most 0.999."""
    return Table.from_betas((torch.linspace(1e-4, 0.02, T, dtype=torch.float64) * 1000 / T).clamp(max=0.999))


def bound(denoiser: Denoiser, x0: Tensor, T: int, variance: float, noise: Noise, *, width: float = 0.07) -> Tensor:
    """Return L = L_T + sum L_(t-1) + L_0 (eq. 5) in nats, [B, 2]: the whole, and the prior's part L_T.

    One draw of x_t a step. `variance` is that of `solvers.DDPM`: 1 is beta, 0 beta-tilde. To halve the spread, what a
    Gaussian of variance `width` would have, whose mean is known, is taken from each squared error; any value is right.
    """
    d = x0[0].numel()
    plan = steps(denoiser.schedule, grids.uniform(denoiser.schedule, T))
    a, s = plan[0].alpha_t, plan[0].sigma_t
    prior = 0.5 * ((a * x0).square().sum(1) + d * (s * s - 1 - 2 * math.log(s)))
    total = prior.clone()
    for k in plan:
        eps = noise.like(x0, "bound", k.i)
        error = (denoiser(k.alpha_t * x0 + k.sigma_t * eps, k.t) - x0).square().sum(1)
        level = (k.sigma_t / k.alpha_t) ** 2
        error = error - level * (width / (width + level)) ** 2 * (eps.square().sum(1) - d)
        beta = k.sigma_t**2 - (k.alpha_t / k.alpha_s * k.sigma_s) ** 2
        if k.sigma_s == 0.0:  # the decoder L_0, a Gaussian of variance beta_1
            total += 0.5 * (error / beta + d * math.log(2 * math.pi * beta))
            continue
        tilde = beta * (k.sigma_s / k.sigma_t) ** 2
        v = beta**variance * tilde ** (1 - variance)
        gain = (k.alpha_s * beta / k.sigma_t**2) ** 2
        total += 0.5 * (d * (tilde / v - 1 + math.log(v / tilde)) + gain * error / v)
    return torch.stack([total, prior], 1)


def gap(T: int, variance: float, n: int = POINTS, *, seed: int = SEED) -> tuple[float, float, float]:
    """Return (bound - entropy of the data, its standard error, L_T) in nats, with the exact denoiser of the plane."""
    x0 = plane().sample(n, seed, dtype=torch.float64)
    found = bound(plane().denoiser(chain(T)), x0, T, variance, seeds(n, "ddpm", seed))
    excess = found[:, 0] + plane().log_prob(x0)
    return float(excess.mean()), float(excess.std()) / n**0.5, float(found[:, 1].mean())


def mean_by_noise(*, seed: int = SEED) -> float:
    """Return the largest difference between a step's mean and (x - beta eps / sigma) / sqrt(1 - beta) (eq. 11)."""
    schedule = chain(1000)
    denoiser = plane().denoiser(schedule)
    x = plane().sample(64, seed, dtype=torch.float64)
    worst = 0.0
    for k in steps(schedule, grids.uniform(schedule, 1000))[:-1:37]:
        x0 = denoiser(x, k.t)
        beta = k.sigma_t**2 - (k.alpha_t / k.alpha_s * k.sigma_s) ** 2
        mean = (x - beta * (x - k.alpha_t * x0) / k.sigma_t**2) * k.alpha_s / k.alpha_t
        noise = seeds(64, "mean", k.i)
        drawn, _ = DDPM(variance=1.0).step(denoiser, x.clone(), k, None, noise, {})
        worst = max(worst, float((drawn - mean - beta**0.5 * noise.increment(x, k.t, k.s)).abs().max()))
    return worst


def sampled(count: int, variance: float, n: int, *, seed: int = SEED) -> Tensor:
    """Return n ancestral samples with `count` of the 1000 steps, evenly spaced."""
    schedule = chain(1000)
    grid = grids.linspace(schedule, count)
    return draw(plane().denoiser(schedule), n, DDPM(variance=variance), grid, "ddpm", seed)


@register
@dataclass(frozen=True, kw_only=True)
class BoundWeight:
    """The bound's weight of the eps error, beta_t^2 / (2 v alpha_t (1 - alpha-bar_t)) with v = beta_t (eq. 12).

    For beta(t) dt of the linear schedule over `T` steps, divided by its mean over these, so that the learning rate
    means the same as with the simple weight 1.
    """

    T: int = 1000

    def raw(self, log_alpha: Tensor, variance: Tensor) -> Tensor:
        """Return the weight where ln alpha and sigma^2 are given, but for a constant factor."""
        schedule = VPLinear()
        t = schedule.inverse_log_alpha(log_alpha)
        return (schedule.beta_min + t * (schedule.beta_max - schedule.beta_min)) / variance

    def __call__(self, alpha: Tensor, sigma: Tensor, gain: Tensor) -> Tensor:
        """Return the factors of the output's error, for an output that is eps."""
        a, s = VPLinear()(torch.arange(1, self.T + 1, dtype=torch.float64) / self.T)
        return self.raw(alpha.log(), sigma.square()) / self.raw(a.log(), s.square()).mean()


def run(context: Context) -> Iterator[Measured]:
    """Measure the claims."""
    yield Measured("mean", mean_by_noise(seed=context.seed), "every 37th step of 1000")
    gaps: dict[int, tuple[float, float, float]] = {}
    for i, T in enumerate(LENGTHS):
        context.progress(f"the bound at T = {T}", i / len(LENGTHS))
        gaps[T] = gap(T, 1.0, seed=context.seed)
    told = ", ".join(f"{g:.3f} ± {e:.3f} at T = {T}" for T, (g, e, _) in gaps.items())
    yield Measured("prior", gaps[1000][2], "nats, for two dimensions")
    yield Measured("bound", gaps[1000][0], f"nats: {told}")
    yield Measured("bound-steps", min(gaps[a][0] - gaps[b][0] for a, b in pairwise(LENGTHS)), f"nats: {told}")
    yield from _samples(context, gaps)
    yield from _losses(context)


def _samples(context: Context, gaps: dict[int, tuple[float, float, float]]) -> Iterator[Measured]:
    n, seed = POINTS, context.seed
    truth = plane().sample(n, seed + 1, dtype=torch.float64)
    least = floor(plane(), truth, seed)
    far: dict[float, list[float]] = {1.0: [], 0.0: []}
    for i, count in enumerate(FEW):
        context.progress(f"ancestral sampling, {count} steps", i / len(FEW))
        for variance, row in far.items():
            row.append(distance(sampled(count, variance, n, seed=seed), truth))
    told = "sliced Wasserstein with beta | beta-tilde: " + ", ".join(
        f"{a:.3f} | {b:.3f} at {count} steps" for count, a, b in zip(FEW, far[1.0], far[0.0], strict=True)
    )
    yield Measured("samples", far[1.0][-1] / least, f"{told}; truth against truth {least:.3f}")
    yield Measured("variances", far[0.0][-1] / least, "as above")
    yield Measured("few-steps", min(far[v][0] / far[v][-1] for v in far), "as above")

    def paint() -> Any:
        figure, axes = panels(1, 2)
        bounds = {"exact denoiser": ([float(T) for T in LENGTHS], [gaps[T][0] for T in LENGTHS])}
        lines(axes[0], "More steps, tighter bound", "steps T", "bound - entropy (nats)", bounds, "xy")
        across = [float(count) for count in FEW]
        curves = {"variance beta": (across, far[1.0]), "variance beta-tilde": (across, far[0.0])}
        lines(axes[1], "Fewer steps, worse samples", "steps", "sliced Wasserstein", curves, "xy")
        axes[1].axhline(least, color="#999", linewidth=1, linestyle=":")
        return figure

    context.draw("bound_and_steps", paint)


def _losses(context: Context) -> Iterator[Measured]:
    judge = pictures.Judge(context)
    y = pictures.labels(judge.n)
    scores: dict[str, pictures.Score] = {}
    shown: dict[str, Tensor] = {}
    for name, weighting in (("simple", Simple()), ("weighted", BoundWeight())):
        denoiser = pictures.trained(context, name, weighting)
        context.progress(f"sampling digits, {name}", None)
        grid = grids.log_snr(denoiser.schedule, 20, sigma_min=0.01)
        shown[name] = pictures.draw(denoiser, y, DPMpp2M(), grid, "ddpm", seed=context.seed)
        scores[name] = judge(shown[name], y)
    told = "; ".join(f"{name}: {score}" for name, score in scores.items())
    yield Measured("digits", scores["simple"].frechet / judge.floor.frechet, f"{told}; real scans: {judge.floor}")
    yield Measured("simple-loss", scores["weighted"].frechet / scores["simple"].frechet, "as above")

    def paint() -> Any:
        figure, axes = panels(1, 2, width=4.4, height=2.6)
        for axis, (name, x) in zip(axes, shown.items(), strict=True):
            tiles(axis, x[:50], 10, f"{name} loss, Fréchet distance {scores[name].frechet:.1f}")
        return figure

    context.draw("digits", paint)


CLAIMS = (
    Claim(
        key="mean",
        says="predicting x_0 and predicting eps give the same posterior mean",
        reported="equations 7 and 11",
        measure="largest difference of a step's mean from equation 11",
        high=1e-12,
    ),
    Claim(
        key="prior",
        says="with beta from 1e-4 to 0.02 over 1000 steps nothing of the data is left at the end",
        reported="L_T about 1e-5 bits per dimension",
        measure="L_T",
        high=1e-3,
    ),
    Claim(
        key="bound",
        says="the reverse chain with a fixed variance can be the data's own law",
        reported="a variational bound, equation 5",
        measure="bound minus the entropy of the data, T = 1000, variance beta",
        low=-0.03,
        high=0.03,
    ),
    Claim(
        key="bound-steps",
        says="a longer chain makes the bound tighter",
        measure="least fall of that gap from one T to the next",
        low=0.02,
    ),
    Claim(
        key="samples",
        says="ancestral sampling draws from the data's law",
        reported="FID 3.17 on CIFAR-10",
        measure="sliced Wasserstein of 1000-step samples over that of the truth with itself",
        high=1.5,
    ),
    Claim(
        key="variances",
        says="beta and beta-tilde do equally well as the variance",
        reported="similar results (section 3.2)",
        measure="the same with beta-tilde",
        high=1.5,
    ),
    Claim(
        key="few-steps",
        says="the sampler needs many steps",
        reported="T = 1000",
        measure="distance with 10 steps over that with 1000, the better variance",
        low=2.0,
    ),
    Claim(
        key="digits",
        says="it learns pictures",
        reported="FID 3.17 on CIFAR-10",
        measure="Fréchet distance of samples of digits over that of the other half of the scans",
        high=3.0,
    ),
    Claim(
        key="simple-loss",
        says="dropping the bound's weights makes better samples",
        reported="FID 3.17 against 13.51 with the true weights (table 2)",
        measure="Fréchet distance with the bound's weights over that with the simple loss, digits",
        low=1.2,
    ),
    Claim(
        key="cifar", says="FID 3.17 and IS 9.46 on CIFAR-10", reported="3.17; 9.46", unshown="needs CIFAR-10 on GPUs"
    ),
)

SYSTEM = System(
    entry=CATALOGUE["ddpm"],
    claims=CLAIMS,
    protocol=(
        "Linear betas; the exact denoiser of three Gaussians in the plane, 4000 points. A U-Net of 0.29 M parameters "
        "on 1437 scans of digits, 1200 steps of 128, average of the weights; 718 samples, DPM-Solver++(2M) in 20 steps."
    ),
    seed=SEED,
    run=run,
)
