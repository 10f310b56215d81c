"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598): fidelity against diversity as w grows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..core import VE, Denoiser, grids
from ..guidance import ClassifierFree, Interval
from ..objectives import Simple
from ..solvers import DPMpp2M, Heun
from ..testing import GaussianMixture
from . import pictures
from .beds import distance, draw, floor, rms, seeds
from .catalogue import CATALOGUE
from .claims import Claim, Measured, System
from .figures import COLOURS, cloud, lines, panels, tiles
from .runner import Context

SEED = 0
POINTS = 4000
SCALES = (0.0, 1.0, 2.0, 3.0, 5.0, 7.5)
STEPS = 50
LOW_NOISE = 0.5  # guidance below this s acts after the classes have parted


@cache
def classes() -> GaussianMixture:
    """Return two classes of two round Gaussians each, at (±1, 1) and (±1, -1), of variance 0.1: narrow across."""
    return GaussianMixture([[-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]], 0.1, labels=[0, 0, 1, 1])


def exact() -> Denoiser:
    """Return the exact class-conditional denoiser."""
    return classes().denoiser(VE())


def guided(denoiser: Denoiser, steps: int = STEPS, n: int = POINTS, *, seed: int = SEED) -> Tensor:
    """Return n samples of class 0 from the same noise."""
    y = torch.zeros(n, dtype=torch.int64)
    return draw(denoiser, n, Heun(), grids.karras(denoiser.schedule, steps), "cfg", seed, y=y)


def recognised(points: Tensor) -> float:
    """Return the share of points that Bayes' rule gives to class 0."""
    ours, other = (classes().conditional(c).log_prob(points) for c in (0, 1))
    return float((ours > other).double().mean())


def tilted(w: float, n: int = POINTS, *, seed: int = SEED) -> Tensor:
    """Return n draws of p(x) p(y = 0 | x)^w, which the samples at scale w are often taken for, by rejection."""
    pool = classes().sample(12 * n, seed + 5, dtype=torch.float64)
    ours, other = (classes().conditional(c).log_prob(pool) for c in (0, 1))
    level = seeds(len(pool), "tilted", seed).uniform("keep").log()
    chosen = pool[level < w * torch.nn.functional.logsigmoid(ours - other)]
    return chosen[:n]


def run(context: Context) -> Iterator[Measured]:
    """Measure the claims."""
    denoiser, seed = exact(), context.seed
    only = guided(denoiser, seed=seed)
    off = guided(ClassifierFree(denoiser=denoiser, scale=1.0), seed=seed)
    yield Measured("off", float((off - only).abs().max()), f"{POINTS} points, Heun, {STEPS} steps")

    clouds: dict[float, Tensor] = {}
    for i, w in enumerate(SCALES):
        context.progress(f"w = {w}", i / len(SCALES))
        clouds[w] = guided(ClassifierFree(denoiser=denoiser, scale=w), seed=seed)
    truth = classes().conditional(0).sample(POINTS, seed + 1, dtype=torch.float64)
    least = floor(classes().conditional(0), truth, seed)
    far = {w: distance(x, truth) for w, x in clouds.items()}
    hits = {w: recognised(x) for w, x in clouds.items()}
    narrow = {w: float(x[:, 1].std()) for w, x in clouds.items()}
    told = "; ".join(f"w = {w:g}: {hits[w]:.4g}, {narrow[w]:.3f}, {far[w]:.3f}" for w in SCALES)
    note = f"share recognised, std across, sliced Wasserstein at {told}; truth {0.1**0.5:.3f}, {least:.3f}"
    yield Measured("fidelity", min(hits[b] - hits[a] for a, b in pairwise(SCALES)), note)
    yield Measured("unguided", hits[0.0], "as above")
    yield Measured("diversity", max(narrow[b] / narrow[a] for a, b in pairwise(SCALES)), "as above")
    above = [w for w in SCALES if w >= 1.0]
    yield Measured("distribution", min(far[b] / far[a] for a, b in pairwise(above)), "as above")
    yield Measured("conditional", far[1.0] / least, "as above")

    context.progress("interval", None)
    some = Interval(denoiser=ClassifierFree(denoiser=denoiser, scale=3.0), low=0.0, high=LOW_NOISE)
    kept = distance(guided(some, seed=seed), truth)
    removed = (far[3.0] - kept) / (far[3.0] - far[1.0])
    yield Measured("interval", removed, f"{far[3.0]:.3f} everywhere, {kept:.3f} for s <= {LOW_NOISE}, w = 3")
    tilt = tilted(3.0, seed=seed)
    apart = distance(clouds[3.0][: len(tilt)], tilt)
    yield Measured("tilt", apart / least, f"{apart:.3f}; {least:.3f} between two draws of the truth")
    yield from _one_step(denoiser, clouds, seed=seed)
    yield from _pictures(context)

    def paint() -> Any:
        figure, axes = panels(1, 4, width=3.1, height=3.1)
        for axis, w in zip(axes, (1.0, 3.0, 7.5), strict=False):
            cloud(axis, classes().sample(1500, seed, dtype=torch.float64), "", colour="#c9c5ba")
            cloud(axis, clouds[w][:1500], f"w = {w:g}", colour=COLOURS[0])
        curves = {
            "distance": (list(SCALES[1:]), [far[w] for w in SCALES[1:]]),
            "std across": (list(SCALES[1:]), [narrow[w] for w in SCALES[1:]]),
        }
        lines(axes[3], "More guidance, less variety", "w", "", curves)
        return figure

    context.draw("guidance", paint)


def _pictures(context: Context) -> Iterator[Measured]:
    """The class-conditional model of digits that `ddpm` trains, with a fifth of the labels dropped."""
    judge = pictures.Judge(context)
    denoiser = pictures.trained(context, "simple", Simple())
    y = pictures.labels(judge.n)
    grid = grids.log_snr(denoiser.schedule, 20, sigma_min=0.01)
    scores: dict[float, pictures.Score] = {}
    shown: dict[float, Tensor] = {}
    for w in (0.0, 1.0, 2.0, 4.0, 8.0):
        context.progress(f"sampling digits, w = {w:g}", None)
        strong = ClassifierFree(denoiser=denoiser, scale=w)
        shown[w] = pictures.draw(strong, y, DPMpp2M(), grid, "cfg", seed=context.seed)
        scores[w] = judge(shown[w], y)
    told = "; ".join(f"w = {w:g}: {score}" for w, score in scores.items())
    note = f"{told}; real scans: {judge.floor}"
    yield Measured("digits-joint", max(scores[w].frechet for w in (0.0, 1.0)) / judge.floor.frechet, note)
    yield Measured("digits-fidelity", scores[4.0].recognised - scores[1.0].recognised, "as above")
    yield Measured("digits-precision", scores[4.0].precision - scores[1.0].precision, "as above")
    yield Measured("digits-recall", scores[4.0].recall / scores[1.0].recall, "as above")

    def paint() -> Any:
        figure, axes = panels(1, 4, width=3.1, height=3.1)
        for axis, w in zip(axes, (1.0, 2.0, 8.0), strict=False):
            tiles(axis, shown[w][:100], 10, f"w = {w:g}")
        across = list(scores)[1:]
        curves = {
            name: (across, [getattr(scores[w], name) for w in across])
            for name in ("recognised", "precision", "recall", "coverage")
        }
        lines(axes[3], "Fidelity against diversity", "w", "", curves)
        return figure

    context.draw("digits", paint)


def _one_step(denoiser: Denoiser, clouds: dict[float, Tensor], *, seed: int) -> Iterator[Measured]:
    """One evaluation from pure noise sees nothing of the sample: guidance only moves it along the class direction."""
    centre = classes().conditional(0).mean
    ends = {w: guided(ClassifierFree(denoiser=denoiser, scale=w), 1, seed=seed) for w in SCALES[1:]}
    reach = {w: rms(x) / rms(centre[None]) for w, x in ends.items()}
    slow = {w: float(clouds[w][:, 1].mean()) for w in reach}
    note = "; ".join(f"w = {w:g}: {reach[w]:.3f} in one step, {slow[w]:.2f} in {STEPS}" for w in reach)
    worst = max(abs(reach[w] / w - 1) for w in reach)
    yield Measured("one-step", worst, f"class direction, centre at 1: {note}")
    yield Measured("many-steps", slow[7.5] / reach[7.5], "as above")
    off = float((ends[7.5][:, 1] > 1 + 5 * math.sqrt(0.1)).double().mean())
    yield Measured("outside", off, "share beyond five standard deviations of the class, w = 7.5")


CLAIMS = (
    Claim(
        key="off",
        says="w = 1 (the paper's w = 0) is the conditional model",
        reported="equation 6",
        measure="largest difference from the conditional denoiser alone",
        high=0.0,
    ),
    Claim(
        key="unguided",
        says="w = 0 forgets the class",
        measure="share recognised as the class asked for, of two",
        low=0.45,
        high=0.55,
    ),
    Claim(
        key="fidelity",
        says="the class is met more and more as w grows",
        reported="IS rises with w throughout",
        measure="least gain of the share recognised from one w to the next",
        low=0.0,
    ),
    Claim(
        key="diversity",
        says="samples lose variety as w grows",
        reported="the third figure, by eye",
        measure="largest ratio of the std across the class from one w to the next",
        high=0.98,
    ),
    Claim(
        key="conditional",
        says="without guidance the conditional law is met",
        measure="distance at w = 1 over that of the truth with itself",
        high=1.5,
    ),
    Claim(
        key="distribution",
        says="beyond a small w the samples leave the data's law, further and further",
        reported="best FID at the paper's w = 0.1 (1.55 on ImageNet 64), worse beyond",
        measure="least ratio of distances from one w >= 1 to the next",
        low=1.1,
    ),
    Claim(
        key="interval",
        says="most of that harm is done at high noise (arXiv 2404.07724)",
        reported="ImageNet-512 FID 1.81 to 1.40",
        measure="share of the excess distance that guiding only for s <= 0.5 removes",
        low=0.8,
    ),
    Claim(
        key="tilt",
        says="guided samples do not follow p(x) p(y|x)^w",
        measure="distance to it over that of the truth with itself, w = 3",
        low=2.0,
    ),
    Claim(
        key="one-step",
        says="in one step guidance only over-saturates",
        measure="deviation of the reach along the class direction from w times the class centre",
        high=0.05,
    ),
    Claim(
        key="many-steps",
        says="many steps undo most of the over-shoot",
        measure="reach in 50 steps over that in one, w = 7.5",
        high=0.5,
    ),
    Claim(
        key="outside", says="one guided step leaves the data", measure="share of samples outside the class", low=0.99
    ),
    Claim(
        key="digits-joint",
        says="one network, its label dropped now and then, is both a conditional and an unconditional model",
        reported="section 3.2",
        measure="the worse Fréchet distance of w = 0 and w = 1 over that of the other half of the scans",
        high=3.0,
    ),
    Claim(
        key="digits-fidelity",
        says="guidance raises fidelity on a trained model",
        reported="IS rises with w",
        measure="gain of the share of samples recognised from w = 1 to 4",
        low=0.0,
    ),
    Claim(key="digits-precision", says="and precision", measure="gain of precision from w = 1 to 4", low=0.01),
    Claim(
        key="digits-recall",
        says="and costs diversity",
        reported="by eye",
        measure="recall at w = 4 over that at w = 1",
        high=0.8,
    ),
    Claim(key="imagenet", says="FID 1.55 on ImageNet 64", reported="1.55", unshown="needs ImageNet on GPUs"),
)

SYSTEM = System(
    entry=CATALOGUE["cfg"],
    claims=CLAIMS,
    protocol=(
        "w = 1 is conditional (the paper's w + 1). The exact denoiser of two classes in the plane, Heun in 50 steps, "
        "4000 points; the model of digits that `ddpm` trains, 718 samples, DPM-Solver++(2M) in 20 steps."
    ),
    seed=SEED,
    run=run,
)
