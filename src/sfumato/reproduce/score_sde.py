"""Score SDE (Song et al. 2021, arXiv 2011.13456): three SDEs, their way back, the flow with the same marginals, and
exact likelihoods, checked on exact denoisers and on pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..core import (
    VE,
    Denoiser,
    Eps,
    Noise,
    Preconditioned,
    Schedule,
    Solver,
    SubVP,
    VPLinear,
    grids,
    sde,
)
from ..data import Digits
from ..measure import HEUN, RK4, Exact, Normal, Rademacher, RungeKutta, Trace, dequantise, log_likelihood
from ..nets.unet import digits as digits_net
from ..objectives import Denoising, Discrete, Simple
from ..solvers import DDPM, DPMpp2M, PredictorCorrector
from ..testing import Gaussian
from . import pictures
from .beds import distance, draw, floor, plane, rows_of, seeds, slope
from .catalogue import CATALOGUE
from .claims import Claim, Measured, System
from .figures import lines, panels
from .runner import Context
from .training import built, fit

SEED = 0
POINTS = 4000
STEPS = (25, 50, 100, 200)
SCHEDULES: dict[str, Schedule] = {"VE": VE(sigma_min=0.01, sigma_max=50.0), "VP": VPLinear(), "sub-VP": SubVP()}
PICTURES = 360
LOW = 0.01  # the last s of the pictures: below it the discrete times that the networks are trained on give out


def closed_forms() -> float:
    """Return the largest relative error of f and g^2 against the formulas of equations 9, 11 and 12."""
    t = torch.linspace(0.001, 1, 200, dtype=torch.float64)
    beta, alpha2 = 0.1 + 19.9 * t, torch.exp(-0.5 * 19.9 * t**2 - 0.1 * t)
    wanted = {
        "VE": (torch.zeros_like(t), 2 * math.log(5000) * (0.01 * 5000**t) ** 2),
        "VP": (-beta / 2, beta),
        "sub-VP": (-beta / 2, beta * (1 - alpha2**2)),
    }
    worst = 0.0
    for name, (f, g2) in wanted.items():
        found = sde.rates(SCHEDULES[name], t)
        worst = max(worst, float((found[0] - f).abs().max()), float((found[1] / g2 - 1).abs().max()))
    return worst


def backwards(denoiser: Denoiser, n: int, steps: int, *key: int | str) -> Tensor:
    """Return n samples of the reverse SDE by Euler and Maruyama in `steps` equal steps of ln s, then E[x_0 | x]."""
    noise = seeds(n, *key)
    times = grids.log_snr(denoiser.schedule, steps + 1, sigma_min=0.002).tolist()[:-1]
    x = noise.normal((n, 2), "start", dtype=torch.float64) * denoiser.schedule(times[0])[1]
    for t, s in pairwise(times):
        drift, g = sde.reverse(denoiser, x, t)
        x = x - (t - s) * drift + g * (t - s) ** 0.5 * noise.increment(x, t, s)
    return denoiser(x, times[-1])


def corrector(solver: Solver, count: int, *, seed: int = SEED) -> Tensor:
    """Return samples of the VE SDE over a geometric ladder of `count` levels."""
    denoiser = plane().denoiser(SCHEDULES["VE"])
    return draw(denoiser, POINTS, solver, grids.log_snr(denoiser.schedule, count, sigma_min=0.01), "pc", seed)


def values(
    steps: int, integrator: RungeKutta, n: int, trace: Trace, schedule: Schedule | None = None, *, seed: int = SEED
) -> Tensor:
    """Return log p of n points of the plane by the ODE, minus the true one, [n]."""
    law, schedule = plane(), VE() if schedule is None else schedule
    x = law.sample(n, seed, dtype=torch.float64)
    grid = grids.log_snr(schedule, steps + 1, sigma_min=0.001)
    noise = seeds(n, "likelihood", seed)
    found = log_likelihood(law.denoiser(schedule), x, grid=grid, trace=trace, seeds=noise, integrator=integrator)
    return found.values - law.log_prob(x)


def run(context: Context) -> Iterator[Measured]:
    """Measure the claims."""
    yield Measured("sdes", closed_forms(), "t from 0.001 to 1")
    yield from _samples(context)
    yield from _likelihoods(context)
    yield from _pictures(context)


def _samples(context: Context) -> Iterator[Measured]:
    seed = context.seed
    truth = plane().sample(POINTS, seed + 1, dtype=torch.float64)
    least = floor(plane(), truth, seed)
    far: dict[str, tuple[float, float]] = {}
    for i, (name, schedule) in enumerate(SCHEDULES.items()):
        context.progress(f"reverse SDE and flow, {name}", i / len(SCHEDULES))
        denoiser = plane().denoiser(schedule)
        path = backwards(denoiser, POINTS, 500, "score-sde", seed)
        ode = draw(denoiser, POINTS, DPMpp2M(), grids.log_snr(schedule, 60), "score-sde", seed)
        far[name] = distance(path, truth), distance(ode, truth)
    told = ", ".join(f"{name} {a:.3f} | {b:.3f}" for name, (a, b) in far.items())
    note = f"sliced Wasserstein, SDE | ODE: {told}; truth against truth {least:.3f}"
    yield Measured("reverse", max(a for a, _ in far.values()) / least, note)
    yield Measured("flow", max(b for _, b in far.values()) / least, "as above")
    alone, corrected, longer = (
        distance(corrector(solver, count, seed=seed), truth)
        for solver, count in ((DDPM(variance=1.0), 20), (PredictorCorrector(), 20), (DDPM(variance=1.0), 40))
    )
    told = f"predictor {alone:.3f}, with a corrector {corrected:.3f}, predictor with 40 steps {longer:.3f}"
    yield Measured("corrector", corrected / alone, f"sliced Wasserstein, VE, 20 steps: {told}")


def _likelihoods(context: Context) -> Iterator[Measured]:
    errors: dict[str, list[float]] = {"Heun": [], "Kutta's fourth order": []}
    # the end of the table is what the integrator converges to: prior and last noise level have their own small error
    seed = context.seed
    limit = values(800, RK4, 500, Exact(), seed=seed)
    for i, count in enumerate(STEPS):
        context.progress(f"likelihood, {count} steps", i / len(STEPS))
        for (_, row), integrator in zip(errors.items(), (HEUN, RK4), strict=True):
            row.append(float((values(count, integrator, 500, Exact(), seed=seed) - limit).square().mean().sqrt()))
    told = "; ".join(f"{name}: " + ", ".join(f"{e:.1e}" for e in row) for name, row in errors.items())
    note = f"root mean square to the limit at {STEPS} steps, nats: {told}"
    yield Measured("order", slope(STEPS[1:], errors["Heun"][1:]), note)
    context.progress("likelihood against the density", None)
    exact = {name: values(200, HEUN, 2000, Exact(), schedule, seed=seed) for name, schedule in SCHEDULES.items()}
    note = ", ".join(f"{name} {float(v.mean()):+.4f}, rms {_rms(v):.4f}" for name, v in exact.items())
    yield Measured("likelihood", max(abs(float(v.mean())) for v in exact.values()), f"nats: {note}")
    context.progress("Hutchinson's estimator", None)
    probes = {type(t).__name__: values(100, RK4, 2000, t, seed=seed) for t in (Rademacher(), Normal())}
    told = "; ".join(f"{name}: mean {float(v.mean()):+.3f}, rms a point {_rms(v):.2f}" for name, v in probes.items())
    signs = probes["Rademacher"]
    yield Measured("hutchinson", abs(float(signs.mean())) / (float(signs.std()) / 2000**0.5), f"nats: {told}")

    def paint() -> Any:
        figure, axes = panels(1, 1, width=5.4, height=3.8)
        curves = {name: ([float(c) for c in STEPS], row) for name, row in errors.items()}
        lines(axes[0], "Error of the log-likelihood, exact denoiser", "steps", "root mean square, nats", curves, "xy")
        return figure

    context.draw("likelihood", paint)


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def sub_vp(context: Context) -> Preconditioned:
    """Return the picture model of `pictures.trained` on the sub-VP SDE, all else equal."""
    denoiser = Preconditioned(built(digits_net(), context.seed), SubVP(), Eps())
    objective = Denoising(time=Discrete(count=1000), weighting=Simple(), drop=0.2)
    train = replace(pictures.TRAIN, seed=context.seed)
    return fit(context, "digits-sub-vp", denoiser, objective, Digits(), train)


def gaussian_bits(x: Tensor, bin: float, *, seed: int = SEED) -> float:
    """Return the bits per dimension of dequantised pictures `x` under a Gaussian fitted to the dequantised scans."""
    scans = Digits().rows.x0
    train = dequantise(scans, bin, Noise(rows_of("fit", len(scans), seed=seed))).flatten(1)
    law = Gaussian(train.mean(0), torch.cov(train.T))
    return -float(law.log_prob(x.flatten(1)).mean()) / (x[0].numel() * math.log(2)) - math.log2(bin)


def _pictures(context: Context) -> Iterator[Measured]:
    data = Digits(held_out=True)
    x, y = data.rows.x0[:PICTURES], data.rows.cond["y"][:PICTURES]
    bits: dict[str, tuple[float, float]] = {}
    rows: dict[str, Tensor] = {}
    models = {"VP": pictures.trained(context, "simple", Simple()), "sub-VP": sub_vp(context)}
    for name, denoiser in models.items():

        def told(done: int, of: int, name: str = name) -> None:
            context.progress(f"likelihood of digits, {name}", done / of)

        grid = grids.log_snr(denoiser.schedule, 17, sigma_min=LOW)
        noise = rows_of("digits", len(x), seed=context.seed)
        found = log_likelihood(
            denoiser, x, grid=grid, seeds=noise, cond={"y": y}, bin=data.bin, sigma_data=0.7, callback=told
        )
        bits[name], rows[name] = (found.bits_per_dim, found.bits_error), found.values
    other = Noise(rows_of("held out", len(x), seed=context.seed))
    baseline = gaussian_bits(dequantise(x, data.bin, other), data.bin, seed=context.seed)
    gain = (rows["sub-VP"] - rows["VP"]) / (x[0].numel() * math.log(2))
    note = ", ".join(f"{name} {value:.3f} ± {error:.3f}" for name, (value, error) in bits.items())
    yield Measured("digits", baseline - bits["VP"][0], f"bits/dim at most: {note}; a full Gaussian {baseline:.3f}")
    yield Measured("sub-vp", float(gain.mean()), f"± {float(gain.std()) / len(x) ** 0.5:.4f} over the same rows")


CLAIMS = (
    Claim(
        key="sdes",
        says="VE, VP and sub-VP are linear SDEs of known drift and diffusion",
        reported="equations 9, 11 and 12",
        measure="largest error of f, and relative error of g^2, derived from alpha and sigma alone",
        high=1e-9,
    ),
    Claim(
        key="reverse",
        says="run backwards in time, the SDE turns noise into data",
        reported="equation 6",
        measure="sliced Wasserstein of 500 Euler-Maruyama steps over that of the truth with itself, the worst SDE",
        high=1.5,
    ),
    Claim(
        key="flow",
        says="the probability-flow ODE has the same marginals",
        reported="equation 13",
        measure="the same for its samples, the worst SDE",
        high=1.5,
    ),
    Claim(
        key="corrector",
        says="a Langevin corrector improves on the predictor",
        reported="table 1",
        measure="sliced Wasserstein with one corrector a step over that of the predictor alone, VE, 20 steps",
        high=1.0,
    ),
    Claim(
        key="order",
        says="the likelihood is that of an ODE solver, as exact as asked",
        measure="order of convergence of Heun's method, 50 to 200 steps",
        low=1.7,
        high=2.6,
    ),
    Claim(
        key="likelihood",
        says="the likelihood is exact",
        reported="section 4.3",
        measure="mean error of log p in nats, exact trace, 200 steps of Heun, the worst SDE",
        high=0.01,
    ),
    Claim(
        key="hutchinson",
        says="one random probe a trajectory estimates it without bias",
        reported="appendix D.2",
        measure="mean error of log p over its standard error, Rademacher, 2000 points",
        high=3.0,
    ),
    Claim(
        key="digits",
        says="score models have competitive likelihoods",
        reported="2.99 bits/dim on CIFAR-10",
        measure="bits/dim of a full Gaussian fitted to the scans less the VP model's, held-out digits, dequantised",
        low=0.0,
    ),
    Claim(
        key="sub-vp",
        says="the sub-VP SDE gives better likelihoods than the VP SDE",
        reported="2.99 against 3.13 bits/dim (table 2)",
        measure="bits/dim that sub-VP saves, equal networks and training, held-out digits",
        low=0.0,
    ),
    Claim(key="cifar", says="FID 2.20, IS 9.89 and 2.99 bits/dim on CIFAR-10", unshown="needs CIFAR-10 on GPUs"),
)

SYSTEM = System(
    entry=CATALOGUE["score-sde"],
    claims=CLAIMS,
    protocol=(
        "The exact denoiser of three Gaussians in the plane: 4000 samples, 500 to 2000 likelihoods. U-Nets of 0.29 M "
        "parameters on 1437 scans of digits, 1200 steps of 128; 360 held-out scans, dequantised in bins of 1/8, "
        "16 steps of Kutta's method, one Rademacher probe."
    ),
    seed=SEED,
    run=run,
)
