"""NCSN (Song & Ermon 2019, arXiv 1907.05600): scores on a ladder of noise levels, sampled by annealed Langevin."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..core import VE, Denoiser, Eps, Noise, Plain, Preconditioned, Prediction, Schedule, Score, fold, sample
from ..data import Tensors
from ..nets import MLPConfig
from ..nets.blocks.embedding import Fourier
from ..objectives import SNR, Denoising, Ladder
from ..solvers import AnnealedLangevin
from ..testing import GaussianMixture
from ..train import Cosine, TrainConfig
from .beds import distance, floor, plane, rows_of, seeds
from .catalogue import CATALOGUE
from .claims import Claim, Measured, System
from .figures import cloud, panels
from .runner import Context
from .training import built, fit

SEED = 0
CHAINS = 1280
UPDATES = 100
RATE = 0.1
HEAVY = 0.8
TOY = Ladder(count=10, high=20.0, low=1.0)
# the paper's steps, carried on to 0.1: where the last level is as wide as the modes, E[x_0 | x_t] makes them too narrow
FINE = Ladder(count=17, high=20.0, low=0.1)
PLANE = Ladder(count=10, high=5.0, low=0.05)
THIN = Ladder(count=10, high=5.0, low=0.1)
POINTS = 2000
TRAIN = TrainConfig(steps=3000, batch_size=256, lr=2e-3, rate=Cosine(), ema=())


@cache
def modes() -> GaussianMixture:
    """Return the paper's two modes, 0.2 N((-5, -5), I) + 0.8 N((5, 5), I) (section 3.2.2)."""
    return GaussianMixture([[-5.0, -5.0], [5.0, 5.0]], 1.0, [0.2, 0.8])


@cache
def thin() -> GaussianMixture:
    """Return eight Gaussians of deviation 0.05 on a circle of radius 1.5: like pictures, thin in most directions."""
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    return GaussianMixture(1.5 * torch.stack([angle.cos(), angle.sin()], 1), 0.05**2)


def grid(schedule: Schedule, ladder: Ladder) -> Tensor:
    """Return the times of a start just above the ladder, of its levels, and of the data."""
    s = ladder.levels()
    s = torch.cat([1.0005 * s[:1], s])
    return torch.cat([schedule.inverse(-s.log()).clamp(max=1.0), torch.zeros(1, dtype=torch.float64)])


def annealed(denoiser: Denoiser, ladder: Ladder, n: int = CHAINS, denoise: bool = True, *, seed: int = SEED) -> Tensor:
    """Return draws by annealed Langevin dynamics down the ladder; its last level is left by E[x_0 | x_t], or not."""
    solver = AnnealedLangevin(steps=UPDATES, rate=RATE)
    t = grid(denoiser.schedule, ladder)
    t = t if denoise else t[:-1]
    return sample(denoiser, (n, 2), solver=solver, grid=t, seeds=seeds(n, "ncsn", seed), dtype=torch.float64)


def unannealed(denoiser: Denoiser, ladder: Ladder, n: int = CHAINS, *, seed: int = SEED) -> Tensor:
    """Return draws by as many updates as `FINE` has, at a ladder's last level, from the uniform law on [-8, 8]^2."""
    noise = seeds(n, "ncsn", seed)
    start = torch.stack([16 * noise.uniform("start", axis) - 8 for axis in ("x", "y")], 1)
    t = denoiser.schedule.inverse(-torch.tensor([1.0005 * ladder.low, ladder.low], dtype=torch.float64).log())
    solver = AnnealedLangevin(steps=FINE.count * UPDATES, rate=RATE)
    return sample(denoiser, solver=solver, grid=t, seeds=noise, x=start)


def heavy(points: Tensor) -> float:
    """Return the share of points nearer to the heavy mode."""
    return float((points.sum(1) > 0).double().mean())


def width(points: Tensor) -> float:
    """Return the standard deviation of the points nearer to the heavy mode, in a coordinate."""
    return float(points[points.sum(1) > 0].var(0).mean().sqrt())


def away(points: Tensor) -> float:
    """Return the mean distance of points to the nearest of the thin modes."""
    return float(torch.cdist(points, thin().means).amin(1).mean())


def trained(
    context: Context, name: str, law: GaussianMixture, ladder: Ladder, prediction: Prediction
) -> Preconditioned:
    """Return a perceptron trained by denoising score matching on the ladder, weighted by sigma^2 (eq. 6)."""
    config = MLPConfig(width=128, layers=3, time=Fourier(count=16, scale=1.0))
    schedule = VE(sigma_min=ladder.low / 10, sigma_max=1.001 * ladder.high)
    denoiser = Preconditioned(built(config, context.seed), schedule, prediction, Plain(scale=1.0, shift=-0.5))
    points = Tensors(law.sample(20_000, fold("data", context.seed), dtype=torch.float32))
    train = replace(TRAIN, seed=context.seed)
    return fit(context, f"ncsn-{name}", denoiser, Denoising(time=ladder, weighting=SNR()), points, train)


def exact(law: GaussianMixture, ladder: Ladder) -> Denoiser:
    """Return the exact denoiser of a law on a variance-exploding schedule that holds the ladder."""
    return law.denoiser(VE(sigma_min=ladder.low / 10, sigma_max=1.001 * ladder.high))


def spread(law: GaussianMixture, ladder: Ladder, n: int = 4000, *, seed: int = SEED) -> tuple[float, float]:
    """Return how far the mean size of sigma s, and of s, varies over the ladder: largest over smallest."""
    x0, noise = law.sample(n, seed, dtype=torch.float64), Noise(rows_of("spread", n, seed=seed))
    denoiser, sizes = exact(law, ladder), list[float]()
    for s in ladder.levels().tolist():
        x = x0 + s * noise.normal(x0.shape, "eps", dtype=torch.float64)
        t = float(denoiser.schedule.inverse(-torch.tensor(s, dtype=torch.float64).log()))
        sizes.append(float(((x - denoiser(x, t)) / s).norm(dim=1).mean()))
    plain = [size / s for size, s in zip(sizes, ladder.levels().tolist(), strict=True)]
    return max(sizes) / min(sizes), max(plain) / min(plain)


def run(context: Context) -> Iterator[Measured]:
    """Measure the claims."""
    seed = context.seed
    weighted, raw = spread(modes(), TOY, seed=seed)
    yield Measured("weight", weighted, f"the score itself: {raw:.1f}")
    context.progress("Langevin dynamics", None)
    alone = unannealed(exact(modes(), TOY), TOY, seed=seed)
    together = annealed(exact(modes(), FINE), FINE, seed=seed)
    note = f"truth {HEAVY}; {FINE.count * UPDATES} updates at one level, {CHAINS} chains"
    yield Measured("plain", heavy(alone), note)
    yield Measured("annealed", abs(heavy(together) - HEAVY), f"share {heavy(together):.3f}, as many updates")
    net = trained(context, "modes", modes(), FINE, Score())
    learned = annealed(net, FINE, seed=seed)
    yield Measured("learned", abs(heavy(learned) - HEAVY), f"share {heavy(learned):.3f}")
    yield Measured("width", width(learned), f"exact score {width(together):.3f}, truth 1")
    truth = plane().sample(POINTS, fold("truth", seed), dtype=torch.float64)
    least = floor(plane(), truth, seed)
    points = annealed(trained(context, "plane", plane(), PLANE, Eps()), PLANE, POINTS, seed=seed)
    perfect = distance(annealed(exact(plane(), PLANE), PLANE, POINTS, seed=seed), truth)
    note = f"{distance(points, truth):.3f}; exact denoiser {perfect:.3f}; truth against truth {least:.3f}"
    yield Measured("plane", distance(points, truth) / least, note)
    ends = [away(annealed(exact(thin(), THIN), THIN, POINTS, denoise, seed=seed)) for denoise in (False, True)]
    true = away(thin().sample(POINTS, seed, dtype=torch.float64))
    note = f"{ends[0]:.3f} and {ends[1]:.3f}, truth {true:.3f}; last level {THIN.low}"
    yield Measured("denoise", ends[0] / ends[1], note)
    shown = {"without annealing": alone, "annealed": together, "annealed, learned": learned}
    context.draw("modes", lambda: _paint(shown, seed=seed))


def _paint(shown: dict[str, Tensor], *, seed: int) -> Any:
    figure, axes = panels(1, 4, width=3.0, height=3.2)
    truth = modes().sample(CHAINS, seed)
    for axis, (name, x) in zip(axes, ({"truth": truth} | shown).items(), strict=True):
        cloud(axis, x, f"{name}: {heavy(x):.3f}", size=2.0, span=10.0)
    return figure


CLAIMS = (
    Claim(
        key="weight",
        says="weighted by sigma^2, the levels of the ladder count alike: sigma s has about the same size at all",
        reported="section 4.2",
        measure="largest mean of |sigma s| over the smallest, levels from 20 to 1",
        high=2.0,
    ),
    Claim(
        key="plain",
        says="Langevin dynamics does not find the weights of modes that lie apart",
        reported="section 3.2.2, figure 3",
        measure="share of chains in the mode of weight 0.8, without annealing",
        high=0.6,
    ),
    Claim(
        key="annealed",
        says="annealed over the noise levels it does",
        reported="section 4.3, figure 3",
        measure="|share - 0.8|, exact score, as many updates",
        high=0.03,
    ),
    Claim(
        key="learned",
        says="and so it does with a learned score",
        measure="|share - 0.8|, score of a perceptron",
        high=0.05,
    ),
    Claim(
        key="width",
        says="with the modes as wide as they are",
        measure="standard deviation of the heavy mode's points, score of a perceptron",
        low=0.9,
        high=1.1,
    ),
    Claim(
        key="plane",
        says="the learned score draws the law",
        measure="distance of its samples over that of the truth with itself",
        high=3.0,
    ),
    Claim(
        key="denoise",
        says="(2009.05475, app. A) the samples carry the last level's noise: one denoising step takes it off",
        measure="mean distance to the nearest of eight thin modes, without that step over with it, exact score",
        low=3.0,
    ),
    Claim(
        key="cifar",
        says="Inception score 8.87 and FID 25.32 on CIFAR-10",
        reported="8.87; 25.32",
        unshown="needs CIFAR-10 on GPUs",
    ),
)

SYSTEM = System(
    entry=CATALOGUE["ncsn"],
    claims=CLAIMS,
    protocol=(
        "Two modes at (-5, -5) and (5, 5) of weights 0.2 and 0.8: 17 levels from 20 to 0.1, 100 updates each with "
        "a = 0.1 sigma^2, 1280 chains; without annealing at the level 1. Three "
        "Gaussians in the plane: levels from 5 to 0.05, 2000 points. Perceptrons of width 128, 3000 steps of 256; the "
        "plane's puts out sigma s, up to the sign, as NCSNv2's does."
    ),
    seed=SEED,
    run=run,
)
