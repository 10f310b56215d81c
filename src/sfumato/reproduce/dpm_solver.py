"""DPM-Solver (Lu et al. 2022, arXiv 2206.00927) and DPM-Solver++ (arXiv 2211.01095): orders, and few evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..core import Denoiser, Noise, Schedule, Solver, VPLinear, grids, sample, steps
from ..guidance import ClassifierFree
from ..objectives import Simple
from ..solvers import (
    DDIM,
    DPMpp2M,
    DPMpp2S,
    DPMpp3M,
    DPMpp3MShipped,
    DPMpp3S,
    DPMSolver2,
    DPMSolver3,
)
from . import cfg, pictures
from .beds import plane, seeds, slope, typical
from .catalogue import CATALOGUE
from .claims import Claim, Measured, System
from .classical import MidpointInLambda, MidpointInTime
from .figures import lines, panels
from .runner import Context

SEED = 0
PATHS = 500
LAST = 0.01  # the noise level s at which the paths end: where the ODE is compared, without a jump to the data
EVALUATIONS = (6, 12, 18, 24, 36, 48, 96)
ORDER = (60, 120, 240, 480)
GUIDED = 7.5
FEW = (6, 12, 24)
DIGITS = ("DPM-Solver-1 = DDIM", "DPM-Solver-2", "DPM-Solver++(2M)")

SOLVERS: dict[str, Solver] = {
    "DPM-Solver-1 = DDIM": DDIM(),
    "DPM-Solver-2": DPMSolver2(),
    "DPM-Solver-3": DPMSolver3(),
    "DPM-Solver++(2S)": DPMpp2S(),
    "DPM-Solver++(3S)": DPMpp3S(),
    "DPM-Solver++(2M)": DPMpp2M(),
    "DPM-Solver++(3M)": DPMpp3M(),
    "3M as shipped": DPMpp3MShipped(),
}


def even(schedule: Schedule, n: int) -> Tensor:
    """Return n equal steps of lambda from t = 1 to the level `LAST`."""
    return grids.log_snr(schedule, n + 1, sigma_min=LAST, sigma_max=math.inf)[:-1]


def uniform(schedule: Schedule, n: int) -> Tensor:
    """Return n equal steps of t over the same levels."""
    return grids.uniform(schedule, n, end=float(schedule.inverse(-math.log(LAST))))


Grid = Callable[[Schedule, int], Tensor]


class Bed:
    """Paths of one exact denoiser from the same noise, and how far a solver's ends are from the exact flow's."""

    def __init__(self, denoiser: Denoiser, *, seed: int = SEED, **cond: Tensor) -> None:
        self.denoiser, self.cond = denoiser, cond
        self.start = seeds(PATHS, "dpm-solver", seed).normal((PATHS, 2), "start", dtype=torch.float64)
        self.truth = self.ends(DPMpp3M(), even, 4000)

    def ends(self, solver: Solver, grid: Grid, n: int) -> Tensor:
        """Return the ends of all paths after n steps."""
        times = grid(self.denoiser.schedule, n)
        x = self.start * self.denoiser.schedule(float(times[0]))[1]
        unused = seeds(PATHS, "unused")
        return sample(self.denoiser, solver=solver, grid=times, seeds=unused, x=x, cond=self.cond)

    def error(self, solver: Solver, evaluations: int, grid: Grid = even) -> float:
        """Return the median distance to the truth at that many evaluations."""
        return typical(self.ends(solver, grid, evaluations // (solver.nfe or 1)) - self.truth)


@cache
def bed(*, seed: int = SEED) -> Bed:
    """Return the paths of the plane under the continuous linear schedule."""
    return Bed(plane().denoiser(VPLinear()), seed=seed)


def first(*, seed: int = SEED) -> float:
    """Return how far DDIM's step is from x (alpha_s / alpha_t) - sigma_s (e^h - 1) eps_hat (equation 3.7), 20 steps."""
    denoiser, worst = plane().denoiser(VPLinear()), 0.0
    x = seeds(PATHS, "first", seed).normal((PATHS, 2), "start", dtype=torch.float64)
    for k in steps(denoiser.schedule, even(denoiser.schedule, 20)):
        eps = (x - k.alpha_t * denoiser(x, k.t)) / k.sigma_t
        exact = k.alpha_s / k.alpha_t * x - k.sigma_s * math.expm1(k.lam_s - k.lam_t) * eps
        x, _ = DDIM().step(denoiser, x.clone(), k, None, Noise(range(PATHS)), {})
        worst = max(worst, float((x - exact).abs().max()))
    return worst


def run(context: Context) -> Iterator[Measured]:
    """Measure the claims."""
    yield Measured("first", first(seed=context.seed), f"20 steps, {PATHS} points")
    yield from _orders(context)
    yield from _few(context)
    yield from _guided(context)
    yield from _digits(context)


def _orders(context: Context) -> Iterator[Measured]:
    found: dict[str, list[float]] = {}
    paths = bed(seed=context.seed)
    for i, (name, solver) in enumerate(SOLVERS.items()):
        context.progress(f"order of {name}", i / len(SOLVERS))
        found[name] = [typical(paths.ends(solver, even, n) - paths.truth) for n in ORDER]
    # the last doubling alone: a slope over coarser grids would mix in what is not yet asymptotic
    order = {name: slope(ORDER[-2:], errors[-2:]) for name, errors in found.items()}
    told = "; ".join(f"{name} {', '.join(f'{e:.1e}' for e in errors)}" for name, errors in found.items())
    note = f"median error in {ORDER} steps: {told}"
    yield Measured("order-1", order["DPM-Solver-1 = DDIM"], note)
    yield Measured("order-2", order["DPM-Solver-2"], "as above")
    yield Measured("order-3", order["DPM-Solver-3"], "as above")
    yield Measured("order-2m", order["DPM-Solver++(2M)"], f"2S {order['DPM-Solver++(2S)']:.2f}")
    yield Measured("order-3m", order["DPM-Solver++(3M)"], f"3S {order['DPM-Solver++(3S)']:.2f}")
    yield Measured("order-shipped", order["3M as shipped"], "as above")


def _few(context: Context) -> Iterator[Measured]:
    found: dict[str, list[float]] = {}
    paths = bed(seed=context.seed)
    for name, solver in SOLVERS.items():
        context.progress(f"few evaluations, {name}", None)
        found[name] = [paths.error(solver, n) for n in EVALUATIONS]
    found["midpoint rule in t"] = [paths.error(MidpointInTime(), n, uniform) for n in EVALUATIONS]
    found["midpoint rule in lambda"] = [paths.error(MidpointInLambda(), n) for n in EVALUATIONS]
    told = "; ".join(f"{name} {', '.join(f'{e:.2g}' for e in errors)}" for name, errors in found.items())
    note = f"median error at {EVALUATIONS} evaluations: {told}"
    ours = [min(pair) for pair in zip(found["DPM-Solver-2"], found["DPM-Solver-3"], strict=True)]
    ratio = [a / b for a, b in zip(found["DPM-Solver-1 = DDIM"], ours, strict=True)]
    at = EVALUATIONS.index
    yield Measured("few-24", ratio[at(24)], note)
    yield Measured("few-48", ratio[at(48)], "as above")
    yield Measured("multistep", found["DPM-Solver++(2S)"][at(24)] / found["DPM-Solver++(2M)"][at(24)], "as above")
    by_t = [paths.error(DPMSolver3(), n, uniform) for n in EVALUATIONS]
    told = ", ".join(f"{e:.2g}" for e in by_t)
    yield Measured("grid", by_t[at(48)] / found["DPM-Solver-3"][at(48)], f"in equal steps of t: {told}")

    def paint() -> Any:
        figure, axes = panels(1, 2, width=5.6, height=4.0)
        counts = [float(n) for n in EVALUATIONS]
        left = {name: (counts, found[name]) for name in list(SOLVERS)[:3]}
        left |= {name: (counts, found[name]) for name in ("midpoint rule in t", "midpoint rule in lambda")}
        lines(axes[0], "Exact denoiser, singlestep and classical", "evaluations", "median error", left, "xy")
        right = {name: (counts, found[name]) for name in list(SOLVERS) if "++" in name or "shipped" in name}
        lines(axes[1], "Singlestep and multistep", "evaluations", "median error", right, "xy")
        axes[1].set_ylim(axes[0].get_ylim())
        return figure

    context.draw("error_and_evaluations", paint)


def _guided(context: Context) -> Iterator[Measured]:
    context.progress(f"guidance, w = {GUIDED}", None)
    y = torch.zeros(PATHS, dtype=torch.int64)
    guided = Bed(ClassifierFree(denoiser=cfg.classes().denoiser(VPLinear()), scale=GUIDED), seed=context.seed, y=y)
    found = {name: [guided.error(SOLVERS[name], n) for n in FEW] for name in SOLVERS}
    told = "; ".join(f"{name} {', '.join(f'{e:.2g}' for e in errors)}" for name, errors in found.items())
    note = f"median error at {FEW} evaluations, w = {GUIDED}: {told}"
    at = FEW.index(24)
    yield Measured("guided", found["DPM-Solver-3"][at] / found["DPM-Solver++(3S)"][at], note)
    yield Measured("guided-ddim", found["DPM-Solver-1 = DDIM"][at] / found["DPM-Solver++(2M)"][at], "as above")


def _digits(context: Context) -> Iterator[Measured]:
    """The model that `ddpm` trains, in 10 evaluations and in many."""
    judge = pictures.Judge(context)
    denoiser = pictures.trained(context, "simple", Simple())
    y = pictures.labels(judge.n)
    first, cond = pictures.BATCH, {"y": y[: pictures.BATCH]}
    start = seeds(first, "dpm-solver", context.seed)

    def ends(solver: Solver, n: int) -> Tensor:
        context.progress(f"sampling digits, {n} evaluations", None)
        grid = even(denoiser.schedule, n // (solver.nfe or 1))
        return sample(denoiser, (first, 1, 8, 8), solver=solver, grid=grid, seeds=start, cond=cond)

    truth = ends(DPMpp3M(), 200)
    far = {(name, n): typical(ends(SOLVERS[name], n) - truth) for name in DIGITS for n in FEW[1:]}
    note = "median distance of a picture to where 200 steps of 3M take it: "
    note += "; ".join(f"{name} in {n} {error:.3f}" for (name, n), error in far.items())
    ddim, ours = DIGITS[0], DIGITS[-1]
    yield Measured("digits-12", far[ddim, 12] / far[ours, 12], note)
    yield Measured("digits-24", far[ddim, 24] / far[ours, 24], "as above")
    runs: dict[str, tuple[Solver, int, Grid]] = {
        "DDIM, 12": (DDIM(), 12, _levels),
        "DPM-Solver-2, 11": (DPMSolver2(), 6, _levels),
        "midpoint rule in t, 11": (MidpointInTime(), 6, _times),
        "2M, 12": (DPMpp2M(), 12, _levels),
        "DDIM, 50": (DDIM(), 50, _levels),
    }
    scores: dict[str, pictures.Score] = {}
    for name, (solver, n, grid) in runs.items():
        context.progress(f"sampling digits, {name} evaluations", None)
        x = pictures.draw(denoiser, y, solver, grid(denoiser.schedule, n), "dpm-solver", seed=context.seed)
        scores[name] = judge(x, y)
    note = f"{'; '.join(f'{name}: {score}' for name, score in scores.items())}; real scans: {judge.floor}"
    yield Measured("digits", scores["2M, 12"].frechet / scores["DDIM, 50"].frechet, note)


def _levels(schedule: Schedule, n: int) -> Tensor:
    """Return n - 1 equal steps of lambda down to s = `LAST`, and one to the data."""
    return grids.log_snr(schedule, n, sigma_min=LAST, sigma_max=math.inf)


def _times(schedule: Schedule, n: int) -> Tensor:
    """Return n - 1 equal steps of t down to s = `LAST`, and one to the data."""
    return torch.cat([uniform(schedule, n - 1), torch.zeros(1, dtype=torch.float64)])


CLAIMS = (
    Claim(
        key="first",
        says="DPM-Solver-1 is DDIM",
        reported="section 4.1",
        measure="largest difference of a step from equation 3.7",
        high=1e-12,
    ),
    Claim(key="order-1", says="it is of first order", measure="order of convergence", low=0.9, high=1.1),
    Claim(
        key="order-2",
        says="DPM-Solver-2 is of second order",
        reported="theorem 3.2",
        measure="order of convergence",
        low=1.8,
        high=2.2,
    ),
    Claim(
        key="order-3",
        says="DPM-Solver-3 is of third order",
        reported="theorem 3.2",
        measure="order of convergence",
        low=2.7,
        high=3.3,
    ),
    Claim(
        key="order-2m",
        says="DPM-Solver++(2M) is of second order at one evaluation a step",
        reported="2211.01095, section 4.2",
        measure="order of convergence",
        low=1.8,
        high=2.2,
    ),
    Claim(
        key="order-3m",
        says="with 2 phi_3 on half the second difference, 3M is of third order",
        measure="order of convergence",
        low=2.7,
        high=3.3,
    ),
    Claim(
        key="order-shipped",
        says="with phi_3 there, as every library ships it, it is of second order",
        measure="order of convergence",
        low=1.8,
        high=2.4,
    ),
    Claim(
        key="few-24",
        says="at equal evaluations it beats DDIM",
        reported="by FID, from 10 on",
        measure="DDIM's median error over the better of DPM-Solver-2 and -3, 24 evaluations",
        low=2.0,
    ),
    Claim(key="few-48", says="and by more with more", measure="the same, 48 evaluations", low=5.0),
    Claim(
        key="multistep",
        says="a multistep method makes more of the same evaluations than a singlestep one",
        reported="2211.01095, figure 4",
        measure="median error of 2S over 2M, 24 evaluations",
        low=1.0,
    ),
    Claim(
        key="grid",
        says="steps that are equal in lambda beat steps that are equal in t",
        reported="appendix D.4",
        measure="DPM-Solver-3's median error with the latter over that with the former, 48 evaluations",
        low=1.5,
    ),
    Claim(
        key="guided",
        says="under strong guidance a polynomial in x_0 (DPM-Solver++) is better than one in eps",
        reported="2211.01095, section 3.1: instability at w = 8",
        measure="DPM-Solver-3's median error over DPM-Solver++(3S)'s, w = 7.5, 24 evaluations",
        low=1.5,
    ),
    Claim(
        key="guided-ddim",
        says="and better than DDIM",
        reported="2211.01095, figure 4",
        measure="DDIM's median error over DPM-Solver++(2M)'s, w = 7.5, 24 evaluations",
        low=1.0,
    ),
    Claim(
        key="digits-12",
        says="a trained network's samples reach their end in fewer evaluations than by DDIM",
        reported="2211.01095, figure 4",
        measure="DDIM's median distance to that end over DPM-Solver++(2M)'s, 12 evaluations",
        low=1.2,
    ),
    Claim(key="digits-24", says="and by more with more", measure="the same, 24 evaluations", low=2.0),
    Claim(
        key="digits",
        says="12 evaluations of DPM-Solver++(2M) are as good as 50 of DDIM",
        reported="CIFAR-10 FID 2.87 at 20",
        measure="ratio of the Fréchet distances",
        high=1.2,
    ),
    Claim(
        key="fid-12",
        says="DPM-Solver-2 beats DDIM and the midpoint rules by FID in 12 evaluations",
        reported="CIFAR-10: 5.28; RK2 16.4 in t, 107.8 in lambda",
        unshown="not so on 8x8 digits, which DDIM and the midpoint rule draw in 12 as well as in 50",
    ),
    Claim(
        key="cifar", says="FID 2.87 in 20 evaluations on CIFAR-10", reported="2.87", unshown="needs CIFAR-10 on GPUs"
    ),
)

SYSTEM = System(
    entry=CATALOGUE["dpm-solver"],
    claims=CLAIMS,
    protocol=(
        "The exact denoiser of three Gaussians in the plane under the linear schedule, 500 paths from t = 1 to "
        "s = 0.01, medians of the distance to the exact flow; two classes with w = 7.5; the model of digits that "
        "`ddpm` trains, 718 samples."
    ),
    seed=SEED,
    run=run,
)
