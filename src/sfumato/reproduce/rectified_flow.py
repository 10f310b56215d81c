"""Rectified flow (Liu, Gong & Liu 2022, arXiv 2209.03003), with couplings by mini-batch optimal transport."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..core import Denoiser, Flow, Plain, Preconditioned, Rectified, fold, grids, sample
from ..data import Dataset, Tensors, pairs
from ..measure import Paths, straightness
from ..nets import MLPConfig
from ..nets.blocks.embedding import Fourier
from ..objectives import Coupling, Denoising, Given, Independent, MiniBatchOT
from ..solvers import Euler, Heun
from ..train import Cosine, TrainConfig
from .beds import distance, draw, floor, plane
from .catalogue import CATALOGUE
from .claims import Claim, Measured, System
from .figures import COLOURS, cloud, lines, panels
from .runner import Context
from .training import built, fit

SEED = 0
POINTS = 4000
PAIRS = 20_000
STEPS = (1, 2, 4, 8, 16)
FINE = 200
TRAIN = TrainConfig(steps=4000, batch_size=256, lr=2e-3, rate=Cosine(), ema=())


def exact() -> Denoiser:
    """Return the exact 1-rectified flow of the plane: that of independent noise and data."""
    return plane().denoiser(Rectified())


@cache
def reflow(*, seed: int = SEED) -> Tensors:
    """Return `PAIRS` pairs of noise and where the exact flow takes it, by 100 steps of Heun's method."""
    denoiser = exact()
    grid = grids.uniform(denoiser.schedule, 100)
    return pairs(denoiser, PAIRS, (2,), solver=Heun(), grid=grid, seed=seed)


def trained(context: Context, name: str, coupling: Coupling, data: Dataset) -> Preconditioned:
    """Return a perceptron of width 128 trained to give the velocity of the pairs that `coupling` makes."""
    config = MLPConfig(width=128, layers=3, time=Fourier(count=16, scale=1.0))
    denoiser = Preconditioned(built(config, context.seed), Rectified(), Flow(), Plain(scale=1.0, shift=-0.5))
    train = replace(TRAIN, seed=context.seed)
    return fit(context, f"rectified-{name}", denoiser, Denoising(coupling=coupling), data, train)


def ends(denoiser: Denoiser, steps: int, *, seed: int = SEED) -> Tensor:
    """Return samples by `steps` steps of Euler's method, all from the same noise."""
    return draw(denoiser, POINTS, Euler(), grids.uniform(denoiser.schedule, steps), "rectified", seed)


def paths(denoiser: Denoiser, count: int = 2000, *, seed: int = SEED) -> Paths:
    """Return straightness and cost of the flow, followed by Euler's method in `FINE` steps."""
    grid = grids.uniform(denoiser.schedule, FINE)
    seeds = [fold("rectified", seed, i) for i in range(count)]
    return straightness(denoiser, (count, 2), solver=Euler(), grid=grid, seeds=seeds)


def independent_cost() -> float:
    """Return E|eps - x_0|^2 of independent pairs: the data's second moment and that of the noise, in closed form."""
    law = plane()
    return float(law.covariance.trace() + law.mean.square().sum()) + 2.0


def run(context: Context) -> Iterator[Measured]:
    """Measure the claims."""
    seed = context.seed
    truth = plane().sample(POINTS, fold("truth", seed), dtype=torch.float64)
    least = floor(plane(), truth, seed)
    context.progress("pairs of the exact flow", None)
    points = Tensors(plane().sample(PAIRS, fold("data", seed), dtype=torch.float32))
    models = {
        "exact 1-flow": exact(),
        "2-flow": trained(context, "reflow", Given(), reflow(seed=seed)),
        "flow matching": trained(context, "independent", Independent(), points),
        "mini-batch OT": trained(context, "ot", MiniBatchOT(), points),
    }
    far: dict[str, list[float]] = {}
    shape: dict[str, Paths] = {}
    for i, (name, denoiser) in enumerate(models.items()):
        context.progress(name, i / len(models))
        far[name] = [distance(ends(denoiser, n, seed=seed), truth) for n in STEPS]
        shape[name] = paths(denoiser, seed=seed)
    told = "; ".join(f"{name}: " + ", ".join(f"{d:.3f}" for d in row) for name, row in far.items())
    note = f"sliced Wasserstein at {STEPS} steps of Euler: {told}; truth against truth {least:.3f}"
    drawn = "; ".join(f"{name}: S = {p.straightness:.4f}, cost {p.cost:.3f}" for name, p in shape.items())
    one, two, plain, ot = (shape[name] for name in models)
    many = distance(ends(models["flow matching"], 50, seed=seed), truth)
    yield Measured("learned", many / least, "50 steps of Euler")
    yield Measured("one-step", far["exact 1-flow"][0] / least, note)
    yield Measured("reflow", far["2-flow"][0] / least, "as above")
    yield Measured("straight", one.straightness / two.straightness, drawn)
    yield Measured("cost", two.cost / one.cost, "as above")
    yield Measured("coupling", one.cost / independent_cost(), f"independent pairs {independent_cost():.3f}")
    yield Measured("ot-straight", plain.straightness / ot.straightness, drawn)
    yield Measured("ot-few", math.prod(far["flow matching"][i] / far["mini-batch OT"][i] for i in (0, 1)) ** 0.5, note)
    yield Measured("ot-cost", ot.cost / plain.cost, drawn)
    context.draw("flows", lambda: _paint(models, far, least, seed=seed))


def _paint(models: dict[str, Denoiser], far: dict[str, list[float]], least: float, *, seed: int) -> Any:
    figure, axes = panels(1, 4, width=3.2, height=3.2)
    for axis, name, colour in zip(axes, ("exact 1-flow", "2-flow", "mini-batch OT"), COLOURS, strict=False):
        _trace(axis, models[name], colour, seed=seed)
        one = ends(models[name], 1, seed=seed)
        cloud(axis, one, f"{name}: paths, 1 step", colour=colour, size=1.5, span=3.2)
    lines(
        axes[3], "Error", "Euler steps", "distance", {k: ([float(n) for n in STEPS], v) for k, v in far.items()}, "xy"
    )
    axes[3].axhline(least, linestyle=":", color="#2b2a33", linewidth=1)
    return figure


def _trace(axis: Any, denoiser: Denoiser, colour: str, count: int = 40, *, seed: int) -> None:
    kept: list[Tensor] = []
    grid = grids.uniform(denoiser.schedule, 50)
    seeds = [fold("trace", seed, i) for i in range(count)]
    sample(denoiser, (count, 2), solver=Euler(), grid=grid, seeds=seeds, callback=lambda k, x: kept.append(x.clone()))
    for line in torch.stack(kept, 1):
        axis.plot(line[:, 0], line[:, 1], color="#2b2a33", linewidth=0.6, alpha=0.5)


CLAIMS = (
    Claim(
        key="learned",
        says="regression on straight paths learns the law",
        reported="FID 2.58 (CIFAR-10, 127 evaluations)",
        measure="distance of a trained flow's samples over that of the truth with itself",
        high=2.0,
    ),
    Claim(
        key="one-step",
        says="the first flow is not straight: one step fails",
        reported="FID 378",
        measure="distance after one step, exact flow, over that of the truth with itself",
        low=5.0,
    ),
    Claim(
        key="reflow",
        says="trained on the first flow's own pairs, one step is enough",
        reported="FID 12.2",
        measure="distance of the 2-rectified flow after one step over that of the truth with itself",
        high=1.5,
    ),
    Claim(
        key="straight",
        says="because its paths are nearly straight",
        reported="figure 5",
        measure="straightness S of the first flow over that of the second",
        low=100.0,
    ),
    Claim(
        key="cost",
        says="rectifying does not raise the transport cost",
        reported="theorem 3.5",
        measure="E|z - x_0|^2 of the second flow over that of the first",
        high=1.01,
    ),
    Claim(
        key="coupling",
        says="the first flow's pairs cost less than the independent ones that it learned from",
        reported="theorem 3.5",
        measure="cost of the exact flow over that of independent pairs (closed form)",
        high=0.5,
    ),
    Claim(
        key="ot-straight",
        says="(2302.00482, 2304.14772) pairing noise and data by mini-batch optimal transport straightens the flow",
        measure="straightness S with independent pairs over that with coupled ones",
        low=3.0,
    ),
    Claim(
        key="ot-few",
        says="and improves samples of few steps",
        measure="distance with independent pairs over that with coupled ones, 1 and 2 steps, geometric mean",
        low=1.5,
    ),
    Claim(
        key="ot-cost",
        says="at no more transport cost",
        measure="cost of the flow with coupled pairs over that with independent ones",
        high=1.02,
    ),
    Claim(
        key="cifar",
        says="FID 2.58, 12.2 and, distilled, 4.85 on CIFAR-10",
        reported="table 1",
        unshown="needs CIFAR-10 on GPUs",
    ),
    Claim(
        key="sd3",
        says="(2403.03206) logit-normal times rank best of 61 formulations",
        reported="table 1",
        unshown="needs ImageNet; the laws themselves are tested against their densities",
    ),
)

SYSTEM = System(
    entry=CATALOGUE["rectified-flow"],
    claims=CLAIMS,
    protocol=(
        "Three Gaussians in the plane, exact first flow; 20000 pairs by 100 steps of Heun; perceptrons of width 128, "
        "4000 steps of 256; Euler's method on equal steps, 4000 points; S and cost over 200 steps, 2000 paths."
    ),
    seed=SEED,
    run=run,
)
