"""DDIM (Song, Meng & Ermon 2020, arXiv 2010.02502): few steps, eta between ODE and DDPM, and inversion."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..core import Denoiser, Noise, Solver, Step, grids, sample
from ..objectives import Simple
from ..solvers import DDIM, DDPM, DPMpp2M
from . import pictures
from .beds import distance, draw, floor, plane, rms, seeds, slope, typical
from .catalogue import CATALOGUE
from .claims import Claim, Measured, System
from .ddpm import chain
from .figures import lines, panels
from .runner import Context

SEED = 0
POINTS = 4000
FEW = (5, 10, 20, 50, 100)
ORDER = (40, 80, 160, 320)
INVERSION = (10, 20, 50, 100, 200, 400)


def exact() -> Denoiser:
    """Return the exact denoiser of the plane under DDPM's 1000-step schedule."""
    return plane().denoiser(chain(1000))


def few(solver: Solver, count: int, n: int = POINTS, *, seed: int = SEED) -> Tensor:
    """Return n samples with `count` of the 1000 steps; all solvers start from the same noise."""
    denoiser = exact()
    return draw(denoiser, n, solver, grids.linspace(denoiser.schedule, count), "ddim", seed)


def eta_one(*, seed: int = SEED) -> float:
    """Return the largest difference of eta = 1 and DDPM with beta-tilde on the same noise, over 20 steps."""
    ends = [few(solver, 20, 256, seed=seed) for solver in (DDIM(eta=1.0), DDPM(variance=0.0))]
    return float((ends[0] - ends[1]).abs().max())


def invert(denoiser: Denoiser, x: Tensor, grid: Tensor) -> Tensor:
    """Return x at grid[0] from x at grid[-1]: DDIM with eta = 0 walked upwards, each step from its lower end."""
    up = [(t, *denoiser.schedule(t)) for t in grid.flip(0).tolist()]
    unused = Noise([0])
    with torch.no_grad():
        for (t, a, b), (s, c, d) in pairwise(up):
            x, _ = DDIM().step(denoiser, x.clone(), Step(0, 1, t, s, a, b, c, d), None, unused, {})
    return x


def round_trips(n: int = 2000, *, seed: int = SEED) -> dict[int, tuple[float, float, float]]:
    """Return, for each number of steps, (RMS, median) of data - sample(invert(data)), and the noise's relative std."""
    denoiser = exact()
    found: dict[int, tuple[float, float, float]] = {}
    for count in INVERSION:
        grid = grids.linspace(denoiser.schedule, count)[:-1]  # stop at the chain's first entry, where sigma > 0
        x = plane().sample(n, seed + 9, dtype=torch.float64) * denoiser.schedule(float(grid[-1]))[0]
        up = invert(denoiser, x, grid)
        back = sample(denoiser, solver=DDIM(), grid=grid, seeds=seeds(n, "unused"), x=up)
        found[count] = rms(back - x), typical(back - x), float(up.std()) / denoiser.schedule(float(grid[0]))[1]
    return found


def errors(solver: Solver, n: int = 500, *, seed: int = SEED) -> list[float]:
    """Return the median distance to the exact end of the ODE, for each number of steps in `ORDER`."""
    denoiser = exact()
    start = seeds(n, "order", seed).normal((n, 2), "start", dtype=torch.float64)

    def end(s: Solver, count: int) -> Tensor:
        grid = grids.log_snr(denoiser.schedule, count, sigma_min=0.01)[:-1]
        x = start * denoiser.schedule(float(grid[0]))[1]
        return sample(denoiser, solver=s, grid=grid, seeds=seeds(n, "unused"), x=x)

    truth = end(DPMpp2M(), 16 * ORDER[-1])
    return [typical(end(solver, count) - truth) for count in ORDER]


def run(context: Context) -> Iterator[Measured]:
    """Measure the claims."""
    yield Measured("eta-one", eta_one(seed=context.seed), "20 steps, 256 points, the same noise")
    yield from _few_steps(context)
    context.progress("order", None)
    found = errors(DDIM(), seed=context.seed)
    told = ", ".join(f"{e:.1e} in {count}" for count, e in zip(ORDER, found, strict=True))
    yield Measured("order", slope(ORDER, found), f"median error {told} steps")
    context.progress("inversion", None)
    trips = round_trips(seed=context.seed)
    told = ", ".join(f"{r:.3f} ({m:.3f}) in {count}" for count, (r, m, _) in trips.items())
    yield Measured("inversion", trips[100][0], f"RMS (median) {told} steps; data std 1.01")
    tail = [count for count in INVERSION if count >= 50]
    yield Measured("inversion-order", slope(tail, [trips[count][1] for count in tail]), f"over {tail} steps")
    yield Measured("inverted-noise", trips[100][2], f"{trips[10][2]:.2f} with 10 steps")
    yield from _pictures(context)


def _pictures(context: Context) -> Iterator[Measured]:
    """The model that `ddpm` trains, sampled in 10 of its 1000 steps."""
    judge = pictures.Judge(context)
    denoiser = pictures.trained(context, "simple", Simple())
    y = pictures.labels(judge.n)
    grid = grids.linspace(denoiser.schedule, 10)
    scores: dict[str, pictures.Score] = {}
    for name, solver in {"eta = 0": DDIM(), "eta = 1": DDIM(eta=1.0), "DDPM, beta": DDPM(variance=1.0)}.items():
        context.progress(f"sampling digits, {name}", None)
        scores[name] = judge(pictures.draw(denoiser, y, solver, grid, "ddim", seed=context.seed), y)
    told = "; ".join(f"{name}: {score}" for name, score in scores.items())
    least = scores["eta = 0"].frechet
    yield Measured("digits", scores["eta = 1"].frechet / least, f"{told}; real scans: {judge.floor}")
    yield Measured("digits-beta", scores["DDPM, beta"].frechet / least, "as above")


def _few_steps(context: Context) -> Iterator[Measured]:
    seed = context.seed
    truth = plane().sample(POINTS, seed + 1, dtype=torch.float64)
    least = floor(plane(), truth, seed)
    solvers: dict[str, Solver] = {
        "eta = 0": DDIM(),
        "eta = 0.5": DDIM(eta=0.5),
        "eta = 1": DDIM(eta=1.0),
        "DDPM, beta": DDPM(variance=1.0),
    }
    far: dict[str, list[float]] = {name: [] for name in solvers}
    ends: dict[tuple[str, int], Tensor] = {}
    for i, count in enumerate(FEW):
        context.progress(f"{count} steps", i / len(FEW))
        for name, solver in solvers.items():
            ends[name, count] = few(solver, count, seed=seed)
            far[name].append(distance(ends[name, count], truth))
    told = "; ".join(f"{name}: " + ", ".join(f"{v:.3f}" for v in row) for name, row in far.items())
    note = f"sliced Wasserstein at {FEW} steps: {told}; truth against truth {least:.3f}"
    at = FEW.index(10)
    yield Measured("few-steps", far["eta = 1"][at] / far["eta = 0"][at], note)
    yield Measured("speed", far["eta = 0"][FEW.index(100)] / least, "as above")
    apart = rms(ends["eta = 0", 100] - ends["eta = 0", 100].roll(1, 0))
    same = {name: rms(ends[name, 20] - ends[name, 100]) / apart for name in ("eta = 0", "eta = 1")}
    yield Measured("consistent", same["eta = 0"], f"{same['eta = 1']:.2f} with eta = 1 on one Brownian path")

    def paint() -> Any:
        figure, axes = panels(1, 1, width=5.2, height=3.8)
        curves = {name: ([float(c) for c in FEW], row) for name, row in far.items()}
        lines(axes[0], "Few steps with an exact denoiser", "steps", "sliced Wasserstein", curves, "xy")
        axes[0].axhline(least, color="#999", linewidth=1, linestyle=":")
        return figure

    context.draw("few_steps", paint)


CLAIMS = (
    Claim(
        key="eta-one",
        says="eta = 1 is DDPM",
        reported="equation 16",
        measure="largest difference from DDPM with beta-tilde, the same noise",
        high=1e-12,
    ),
    Claim(
        key="few-steps",
        says="with few steps the deterministic sampler is better",
        reported="FID 13.4 with eta = 0, 41.1 with eta = 1, in 10 steps on CIFAR-10",
        measure="distance with eta = 1 over that with eta = 0, 10 steps",
        low=1.1,
    ),
    Claim(
        key="speed",
        says="100 steps do what 1000 did",
        reported="FID 4.16 in 100 steps, 4.04 in 1000",
        measure="distance in 100 steps over that of the truth with itself",
        high=2.0,
    ),
    Claim(
        key="consistent",
        says="the same noise gives the same sample whatever the number of steps",
        reported="section 5.2, by eye",
        measure="RMS between 20 and 100 steps over RMS between two samples",
        high=0.1,
    ),
    Claim(
        key="order",
        says="eta = 0 is Euler's method on the probability-flow ODE",
        reported="equation 14",
        measure="order of convergence",
        low=0.9,
        high=1.1,
    ),
    Claim(
        key="inversion",
        says="data can be encoded and decoded",
        reported="squared error per dimension 0.0009 in 100 steps on CIFAR-10",
        measure="RMS of the round trip in 100 steps",
        high=0.08,
    ),
    Claim(
        key="inversion-order",
        says="the error of the round trip halves when the steps double",
        reported="0.0023, 0.0009, 0.0004 in 50, 100, 200 steps (squared)",
        measure="order of the median error",
        low=0.85,
        high=1.15,
    ),
    Claim(
        key="inverted-noise",
        says="the code is the noise that the sample came from",
        measure="standard deviation of the code over that of the noise, 100 steps",
        low=0.95,
        high=1.05,
    ),
    Claim(
        key="digits",
        says="with few steps the deterministic sampler is better, on a trained model too",
        reported="FID 13.4 with eta = 0, 41.1 with eta = 1, in 10 steps on CIFAR-10",
        measure="Fréchet distance with eta = 1 over that with eta = 0, digits, 10 steps",
        low=1.2,
    ),
    Claim(
        key="digits-beta",
        says="and DDPM's larger variance is far worse",
        reported="FID 367",
        measure="Fréchet distance with variance beta over that with eta = 0, digits, 10 steps",
        low=2.0,
    ),
    Claim(key="cifar", says="FID 4.04 on CIFAR-10", reported="4.04", unshown="needs CIFAR-10 on GPUs"),
)

SYSTEM = System(
    entry=CATALOGUE["ddim"],
    claims=CLAIMS,
    protocol=(
        "DDPM's linear 1000-step schedule; the exact denoiser of three Gaussians in the plane, 4000 points; the model "
        "of digits that `ddpm` trains, 718 samples."
    ),
    seed=SEED,
    run=run,
)
