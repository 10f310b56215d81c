"""The Datasaurus in four steps (A. Chan's very tiny diffusion; Fourier features: Tancik et al., arXiv 2006.10739)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from ..core import Eps, Noise, Plain, Preconditioned, Table, fold, grids, sample
from ..data import Datasaurus
from ..measure import nearest_distance, sliced_wasserstein
from ..nets import MLPConfig
from ..nets.blocks.embedding import Fourier, NoFeature, Raw
from ..objectives import Denoising, Discrete
from ..solvers import DDPM
from ..train import Cosine, TrainConfig
from .catalogue import CATALOGUE
from .claims import Claim, Measured, System
from .figures import COLOURS, INK, cloud, panels
from .runner import Context
from .training import built, fit

SEED = 0
SEEDS = 3
T = 50
POINTS = 2000
TRAIN = TrainConfig(steps=2500, batch_size=256, lr=2e-3, rate=Cosine(), clip=None, ema=())


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One of the essay's four steps: what the network sees of the point and of the time, and the last alpha."""

    name: str
    position: Raw | Fourier
    time: NoFeature | Raw | Fourier
    last: float = 0.95

    def schedule(self) -> Table:
        """Return the schedule: the kept share of the signal, alpha, falls linearly from 0.9999 to `last` in T steps."""
        return Table.from_betas(1 - torch.linspace(0.9999, self.last, T, dtype=torch.float64))

    def denoiser(self, seed: int) -> Preconditioned:
        """Return the untrained denoiser: three hidden 64 x 64 layers, t - 1/2 as the time; frequencies of its own."""
        features = [
            replace(feature, seed=fold("frequencies", i, seed)) if isinstance(feature, Fourier) else feature
            for i, feature in enumerate((self.position, self.time))
        ]
        net = built(MLPConfig(width=64, layers=3, position=features[0], time=features[1]), seed)  # type: ignore[arg-type]
        return Preconditioned(net, self.schedule(), Eps(), Plain(scale=1.0, shift=-0.5))


STAGES = (
    Stage(name="no time", position=Raw(), time=NoFeature()),
    Stage(name="linear time", position=Raw(), time=Raw()),
    Stage(name="Fourier features", position=Fourier(count=32), time=Fourier(count=16)),
    Stage(name="adjusted schedule", position=Fourier(count=32), time=Fourier(count=16), last=0.98),
)


def data() -> Tensor:
    """Return the 142 points, standardised."""
    return Datasaurus().rows.x0


def trained(context: Context, stage: Stage, seed: int) -> Preconditioned:
    """Return the stage's denoiser, trained from `seed`."""
    config = replace(TRAIN, seed=fold("datasaurus", seed))
    name = f"datasaurus-{stage.name.replace(' ', '-').lower()}-{seed}"
    return fit(context, name, stage.denoiser(seed), Denoising(time=Discrete(count=T)), Datasaurus(), config)


def samples(denoiser: Preconditioned, seed: int, start: Tensor | None = None) -> Tensor:
    """Return ancestral samples over all T steps from N(0, I), as the essay draws them, or from `start`."""
    rows = [fold("datasaurus", seed, i) for i in range(POINTS)]
    # the loop alone would begin at sigma(1) eps, which is less than N(0, I) where signal is left
    x = Noise(rows).normal((POINTS, 2), "start") if start is None else start
    return sample(denoiser, solver=DDPM(variance=1.0), grid=grids.uniform(denoiser.schedule, T), seeds=rows, x=x)


def noised(schedule: Table, seed: int) -> Tensor:
    """Return draws of the law that the sampler should start from: data noised to t = 1."""
    noise = Noise([fold("noised", seed, i) for i in range(POINTS)])
    index = (noise.uniform("point") * len(data())).long()
    alpha, sigma = schedule(1.0)
    return alpha * data()[index] + sigma * noise.normal((POINTS, 2), "eps")


def run(context: Context) -> Iterator[Measured]:
    """Measure the claims."""
    near: dict[str, list[float]] = {stage.name: [] for stage in STAGES}
    far: dict[str, list[float]] = {stage.name: [] for stage in STAGES}
    shown: dict[str, Tensor] = {}
    right: list[float] = []
    for i in range(SEEDS * len(STAGES)):
        stage, seed = STAGES[i % len(STAGES)], SEEDS * context.seed + i // len(STAGES)
        context.progress(f"{stage.name}, seed {seed}", i / (SEEDS * len(STAGES)))
        denoiser = trained(context, stage, seed)
        points = samples(denoiser, seed)
        shown.setdefault(stage.name, points)
        near[stage.name].append(float(nearest_distance(points, data())))
        far[stage.name].append(float(sliced_wasserstein(points, data())))
        if stage is STAGES[-1]:
            right.append(float(sliced_wasserstein(samples(denoiser, seed, noised(stage.schedule(), seed)), data())))
    note = "; ".join(
        f"{name}: nearest point {fmean(near[name]):.3f} ± {stdev(near[name]):.3f}, "
        f"sliced Wasserstein {fmean(far[name]):.3f} ± {stdev(far[name]):.3f}"
        for name in near
    )
    names = [stage.name for stage in STAGES]
    falls = [1 - fmean(near[b]) / fmean(near[a]) for a, b in pairwise(names)]
    yield Measured("time", falls[0], note)
    yield Measured("fourier", falls[1], "as above")
    yield Measured("adjusted", falls[2], "as above")
    yield Measured("cost", fmean(far[names[3]]) / fmean(far[names[2]]), "as above")
    yield Measured("start", fmean(right) / fmean(far[names[2]]), f"sliced Wasserstein {fmean(right):.3f} then")
    seconds = sum(context.trained.values())
    yield Measured("seconds", seconds / SEEDS, f"{seconds:.0f} for all {SEEDS} seeds ({len(context.kept)} models kept)")
    context.draw("panels", lambda: _paint(shown, near, far))


def _paint(shown: dict[str, Tensor], near: dict[str, list[float]], far: dict[str, list[float]]) -> Any:
    figure, axes = panels(2, 4, width=3.1, height=3.1)
    for axis, (name, points), colour in zip(axes, shown.items(), COLOURS, strict=False):
        cloud(axis, points, name, colour=colour, size=3.0)
        axis.scatter(*data().T, s=3.0, color=INK, linewidths=0)
        axis.set_xlabel(
            loc="left",
            xlabel=f"to the nearest point {fmean(near[name]):.3f}\nsliced Wasserstein {fmean(far[name]):.3f}",
        )
    cloud(axes[4], data(), "the 142 points", colour=INK, size=7.0, alpha=1.0)
    t = list(range(T + 1))
    kept = {stage.last: [1.0, *stage.schedule().alphas_cumprod] for stage in STAGES}
    for (last, values), colour in zip(kept.items(), (COLOURS[2], COLOURS[3]), strict=True):
        axes[5].plot(t, values, color=colour)
        axes[5].text(t[-1] - 11, values[-12] + 0.06, f"to {last}", color=colour)
    axes[5].set_title("signal left", loc="left", fontsize=11)
    axes[5].set_xlabel("step")
    axes[5].set_ylim(0, 1.02)
    for axis, values, title in ((axes[6], near, "to the nearest point"), (axes[7], far, "sliced Wasserstein")):
        for i, (row, colour) in enumerate(zip(values.values(), COLOURS, strict=False)):
            axis.bar(i, fmean(row), color=colour, width=0.7)
            axis.plot([i] * len(row), row, "o", color=INK, markersize=2.5)
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_xticks(range(len(values)), ["none", "linear", "Fourier", "adjusted"])
        axis.grid(False, axis="x")
    return figure


CLAIMS = (
    Claim(
        key="time",
        says="a network that is not told the time fails; told it linearly, it does better",
        reported="by eye",
        measure="fall of the distance to the nearest data point, mean of 3 seeds",
        low=0.1,
    ),
    Claim(
        key="fourier",
        says="Fourier features of position and time sharpen the drawing",
        reported="by eye",
        measure="fall of that distance from the step before",
        low=0.1,
    ),
    Claim(
        key="adjusted",
        says="a schedule that keeps more signal is best",
        reported="by eye",
        measure="fall of that distance from the step before",
        low=0.08,
    ),
    Claim(
        key="cost",
        says="(not in the essay) what the adjusted schedule costs: its points are sharper, their density is worse",
        measure="sliced Wasserstein distance over that of the step before",
        low=1.2,
    ),
    Claim(
        key="start",
        says="(not in the essay) the cost lies in the start: signal is left at the end, yet sampling begins at N(0, I)",
        measure="the same ratio when the sampler begins at noised data",
        high=1.2,
    ),
    Claim(
        key="seconds",
        says="it is tiny",
        reported="a few minutes on a laptop",
        measure="CPU seconds to train all four, mean of the seeds",
        high=120.0,
    ),
)

SYSTEM = System(
    entry=CATALOGUE["datasaurus"],
    claims=CLAIMS,
    protocol=(
        "142 points, T = 50, width 64, three hidden layers, 32 random frequencies of the point and 16 of the time; "
        "2500 steps of 256 points, Adam, 2e-3 falling as a cosine; 2000 ancestral samples, 3 seeds."
    ),
    seed=SEED,
    run=run,
)
