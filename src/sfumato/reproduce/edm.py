"""EDM (Karras et al. 2022, arXiv 2206.00364): Heun, the grid, churn and the preconditioning, each on its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core import (
    EDM,
    VE,
    X0,
    Denoiser,
    Eps,
    Karras,
    Preconditioned,
    Prediction,
    Scaling,
    Schedule,
    Solver,
    grids,
    register,
)
from ..data import Tensors
from ..nets import MLPConfig
from ..nets.blocks.embedding import Fourier
from ..objectives import Denoising, KarrasWeight, LogNormal
from ..solvers import DPMpp2M, Euler, Heun
from ..solvers.churn import Churn
from ..train import Cosine, TrainConfig
from .beds import distance, draw, floor, plane, seeds, slope, typical
from .catalogue import CATALOGUE
from .claims import Claim, Measured, System
from .figures import lines, panels
from .runner import Context
from .training import built, fit

SEED = 0
POINTS = 4000
PATHS = 500
EVALUATIONS = (9, 19, 35, 79, 159, 319)
LEVELS = (0.002, 0.02, 0.1, 0.5, 2.0, 10.0, 80.0)
CHURN = (0.0, 5.0, 10.0, 40.0)
TRAIN = TrainConfig(steps=2000, batch_size=256, lr=2e-3, rate=Cosine(), ema=())


def exact() -> Denoiser:
    """Return the exact denoiser of the plane with s from 0 to 80."""
    return plane().denoiser(VE())


def variances(n: int = 40_000, *, seed: int = SEED) -> tuple[float, float, float]:
    """Return the largest |variance - 1| of the network's inputs and of its targets, and |lambda c_out^2 - 1|."""
    sd = float(plane().covariance.diagonal().mean().sqrt())
    centred = plane().sample(n, seed, dtype=torch.float64) - plane().mean
    eps = seeds(n, "edm", seed).normal((n, 2), "eps", dtype=torch.float64)
    worst = [0.0, 0.0, 0.0]
    for s in LEVELS:
        scaling, prediction = EDM(sigma_data=sd), Karras(sigma_data=sd)
        c_in, _ = scaling(0.5, 1.0, s)
        a, b = torch.ones(1, dtype=torch.float64), torch.full((1,), s, dtype=torch.float64)
        weight = KarrasWeight(sigma_data=sd)(a, b, torch.as_tensor(prediction.gain(a, b)))
        # the weight of the output's own error: 1 at every level is what "lambda = 1 / c_out^2" means
        found = (
            _power(c_in * (centred + s * eps)) - 1,
            _power(prediction.target(centred, eps, 1.0, s)) - 1,
            weight - 1,
        )
        worst = [max(w, abs(float(f))) for w, f in zip(worst, found, strict=True)]
    return worst[0], worst[1], worst[2]


def _power(values: Tensor) -> Tensor:
    return values.square().mean()


def paths(
    solver: Solver, evaluations: int, denoiser: Denoiser, grid: Any = grids.karras, *, seed: int = SEED
) -> Tensor:
    """Return the ends of `PATHS` samples that cost `evaluations` calls each, all from the same noise."""
    count = (evaluations + 1) // 2 if isinstance(solver, Heun) else evaluations
    return draw(denoiser, PATHS, solver, grid(denoiser.schedule, count), "edm", seed)


def run(context: Context) -> Iterator[Measured]:
    """Measure the claims."""
    inputs, targets, weight = variances(seed=context.seed)
    yield Measured("inputs", inputs, f"s in {LEVELS}")
    yield Measured("targets", targets, f"s in {LEVELS}")
    yield Measured("weight", weight, f"s in {LEVELS}")
    yield from _samplers(context)
    yield from _churn(context)
    yield from _ablation(context)


def _samplers(context: Context) -> Iterator[Measured]:
    denoiser, seed = exact(), context.seed
    context.progress("reference", None)
    truth = paths(DPMpp2M(), 3000, denoiser, seed=seed)
    found: dict[str, list[float]] = {"Heun": [], "Euler": [], "Heun, equal log s": [], "Heun, rho = 1": []}
    for i, count in enumerate(EVALUATIONS):
        context.progress(f"{count} evaluations", i / len(EVALUATIONS))
        found["Heun"].append(typical(paths(Heun(), count, denoiser, seed=seed) - truth))
        found["Euler"].append(typical(paths(Euler(), count, denoiser, seed=seed) - truth))
        found["Heun, equal log s"].append(typical(paths(Heun(), count, denoiser, grids.log_snr, seed=seed) - truth))
        found["Heun, rho = 1"].append(typical(paths(Heun(), count, denoiser, _equal, seed=seed) - truth))
    told = "; ".join(f"{name}: " + ", ".join(f"{e:.2g}" for e in row) for name, row in found.items())
    note = f"median error at {EVALUATIONS} evaluations: {told}"
    at = EVALUATIONS.index(35)
    yield Measured("heun", found["Euler"][at] / found["Heun"][at], note)
    yield Measured("heun-79", found["Euler"][at + 1] / found["Heun"][at + 1], "as above")
    orders = [slope(EVALUATIONS[-3:], found[name][-3:]) for name in ("Heun", "Euler")]
    yield Measured("order", orders[0], f"Euler {orders[1]:.2f}; over {EVALUATIONS[-3:]} evaluations")
    yield Measured("rho", found["Heun, rho = 1"][at] / found["Heun"][at], "as above")

    def paint() -> Any:
        figure, axes = panels(1, 1, width=5.4, height=3.8)
        curves = {name: ([float(c) for c in EVALUATIONS], row) for name, row in found.items()}
        lines(axes[0], "Error at equal cost, exact denoiser", "evaluations", "median error", curves, "xy")
        return figure

    context.draw("heun_and_euler", paint)


def _equal(schedule: Schedule, n: int) -> Tensor:
    """Return the grid of equal steps in s, rho = 1."""
    return grids.karras(schedule, n, rho=1.0)


def _churn(context: Context, steps: int = 20) -> Iterator[Measured]:
    denoiser, seed = exact(), context.seed
    truth = plane().sample(POINTS, seed + 1, dtype=torch.float64)
    far: dict[float, float] = {}
    for i, amount in enumerate(CHURN):
        context.progress(f"churn {amount:g}", i / len(CHURN))
        solver = Heun(churn=Churn(amount=amount)) if amount else Heun()
        points = draw(denoiser, POINTS, solver, grids.karras(denoiser.schedule, steps), "churn", seed)
        far[amount] = distance(points, truth)
    told = ", ".join(f"{d:.3f} at {amount:g}" for amount, d in far.items())
    note = f"sliced Wasserstein {told}; truth against truth {floor(plane(), truth, seed):.3f}"
    yield Measured("churn", far[CHURN[-1]] / far[0.0], note)


@register
@dataclass(frozen=True, kw_only=True)
class Unscaled:
    """EDM's label ln(s) / 4 with c_in = 1: the network sees x itself, up to 80 standard deviations of the data wide."""

    def __call__(self, t: Any, alpha: Any, sigma: Any) -> tuple[Any, Any]:
        """Return (c_in, c_noise)."""
        return 1.0, EDM()(t, alpha, sigma)[1]


ABLATION: dict[str, tuple[Prediction, Scaling]] = {
    "EDM": (Karras(sigma_data=1.0), EDM(sigma_data=1.0)),
    "x_0, unscaled input": (X0(), Unscaled()),
    "eps, unscaled input": (Eps(), Unscaled()),
    "x_0, scaled input": (X0(), EDM(sigma_data=1.0)),
    "eps, scaled input": (Eps(), EDM(sigma_data=1.0)),
}


def ablated(context: Context, name: str) -> Preconditioned:
    """Return an MLP trained on the plane with one of the preconditionings, all else equal, the loss on x_0 included."""
    prediction, scaling = ABLATION[name]
    config = MLPConfig(width=128, layers=3, time=Fourier(count=16, scale=2.0))
    denoiser = Preconditioned(built(config, context.seed), VE(), prediction, scaling)
    # ln s centred a factor of two above the paper's: the data's deviation is 1 here, 0.5 there
    objective = Denoising(time=LogNormal(mean=-0.5), weighting=KarrasWeight(sigma_data=1.0))
    points = Tensors(plane().sample(20_000, context.seed, dtype=torch.float32))
    train = replace(TRAIN, seed=context.seed)
    return fit(context, f"edm-{name.replace(' ', '-').replace(',', '')}", denoiser, objective, points, train)


def _ablation(context: Context) -> Iterator[Measured]:
    seed = context.seed
    truth = plane().sample(POINTS, seed + 1, dtype=torch.float64)
    least = floor(plane(), truth, seed)
    far: dict[str, float] = {}
    for name in ABLATION:
        denoiser = ablated(context, name)
        context.progress(f"sampling, {name}", None)
        points = draw(denoiser, POINTS, Heun(), grids.karras(denoiser.schedule, 20), "ablation", seed)
        far[name] = distance(points, truth)
    told = ", ".join(f"{d:.3f} for {name}" for name, d in far.items())
    note = f"sliced Wasserstein {told}; truth against truth {least:.3f}"
    yield Measured("trained", far["EDM"] / least, note)
    yield Measured("unscaled", min(d for name, d in far.items() if "unscaled" in name) / far["EDM"], "as above")
    yield Measured("scaled", min(d for name, d in far.items() if ", scaled" in name) / far["EDM"], "as above")


CLAIMS = (
    Claim(
        key="inputs",
        says="c_in gives the network inputs of unit variance at every noise level",
        reported="appendix B.6",
        measure="largest |variance - 1|",
        high=0.02,
    ),
    Claim(
        key="targets",
        says="c_skip and c_out give it targets of unit variance at every noise level",
        reported="appendix B.6",
        measure="largest |variance - 1|",
        high=0.02,
    ),
    Claim(
        key="weight",
        says="lambda = 1 / c_out^2 weighs the network's own error alike at every level",
        reported="appendix B.6",
        measure="largest deviation from 1",
        high=1e-12,
    ),
    Claim(
        key="heun",
        says="Heun's method beats Euler's at equal evaluations",
        reported="FID 1.97 at 35 evaluations (CIFAR-10); Euler needs hundreds",
        measure="median error of Euler over Heun, 35 evaluations",
        low=1.2,
    ),
    Claim(
        key="heun-79",
        says="and the more so the more evaluations there are",
        measure="the same at 79 evaluations",
        low=3.0,
    ),
    Claim(
        key="order",
        says="it is of second order",
        reported="section 3",
        measure="order of convergence",
        low=1.8,
        high=2.2,
    ),
    Claim(
        key="rho",
        says="steps that shrink towards the data (rho = 7) beat equal ones",
        reported="appendix D.1, by FID",
        measure="median error with rho = 1 over that with rho = 7, 35 evaluations",
        low=3.0,
    ),
    Claim(
        key="churn",
        says="churn corrects a model's errors; with a perfect denoiser there are none, and it only adds its own",
        reported="the benefit shrinks as the model improves (section 4)",
        measure="distance with churn 40 over that without, 39 evaluations",
        low=1.2,
    ),
    Claim(
        key="trained",
        says="a network so preconditioned learns the law",
        measure="distance of its samples over that of the truth with itself",
        high=2.0,
    ),
    Claim(
        key="unscaled",
        says="training without input scaling, to noise levels of 80, is worse",
        reported="table 2, configurations C and D",
        measure="the better distance of x_0 and eps with unscaled inputs, over EDM's",
        low=1.3,
    ),
    Claim(
        key="scaled",
        says="mixing x_0 and eps by level (c_skip, c_out) is as good as the better of the two, whichever that is",
        reported="section 5",
        measure="the better distance of x_0 and eps with scaled inputs, over EDM's",
        low=0.9,
    ),
    Claim(
        key="churn-helps",
        says="churn helps on ImageNet 64",
        reported="FID 2.07 to 1.55 by the sampler alone",
        unshown="needs a large model with errors of its own",
    ),
    Claim(key="cifar", says="FID 1.97 and 1.79 on CIFAR-10", reported="1.97; 1.79", unshown="needs CIFAR-10 on GPUs"),
)

SYSTEM = System(
    entry=CATALOGUE["edm"],
    claims=CLAIMS,
    protocol=(
        "The exact denoiser of three Gaussians in the plane, s from 80 to 0.002 and 0; 500 paths, 4000 points. For the "
        "ablation a perceptron of width 128, 2000 steps of 256 points, the same loss on x_0 for all."
    ),
    seed=SEED,
    run=run,
)
