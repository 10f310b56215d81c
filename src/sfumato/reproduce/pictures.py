"""The picture bed: scans of digits, 8 x 8 pixels, a small class-conditional U-Net and a classifier that reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from ..core import Denoiser, Eps, Preconditioned, Solver, VPLinear, sample
from ..data import Digits
from ..measure import Extractor, FeatureSet, coverage, frechet_distance, precision, recall
from ..measure.classifier import Classifier, ClassifierConfig, fit_classifier
from ..nets import UNetConfig
from ..nets.unet import digits as digits_net
from ..objectives import Denoising, Discrete, Weighting
from ..train import Cosine, TrainConfig
from .beds import rows_of
from .runner import Context
from .training import built, fit

BATCH = 128
TRAIN = TrainConfig(steps=1200, batch_size=BATCH, lr=2e-3, rate=Cosine(warmup=50, end=0.02), ema=(10_000.0,))


def trained(context: Context, name: str, weighting: Weighting) -> Preconditioned:
    """Return DDPM on the digits: eps, the linear schedule, steps of 1000, a fifth of the labels dropped."""
    config: UNetConfig = digits_net()
    denoiser = Preconditioned(built(config, context.seed), VPLinear(), Eps())
    objective = Denoising(time=Discrete(count=1000), weighting=weighting, drop=0.2)
    return fit(context, f"digits-{name}", denoiser, objective, Digits(), replace(TRAIN, seed=context.seed))


def reader(context: Context) -> Classifier:
    """Return the classifier of the scans that the models are trained on."""
    rows = Digits().rows
    config = ClassifierConfig(classes=10)
    net = config.build()

    def train(empty: torch.nn.Module) -> None:
        empty.load_state_dict(fit_classifier(rows.x0, rows.cond["y"], config).state_dict())

    context.progress("training the classifier that reads the samples", None)
    context.fitted("digits-reader", {"data": Digits().fingerprint, "config": str(config)}, net, train)
    return net.eval().requires_grad_(False)


@dataclass(frozen=True)
class Score:
    """How samples stand against as many real scans, in the features of the classifier."""

    frechet: float
    recognised: float
    precision: float
    recall: float
    coverage: float

    def __str__(self) -> str:
        return (
            f"Fréchet {self.frechet:.1f}, recognised {self.recognised:.3f}, precision {self.precision:.3f}, "
            f"recall {self.recall:.3f}, coverage {self.coverage:.3f}"
        )


class Judge:
    """Scores samples against one half of the scans (718); `floor` is the score of the other half, a perfect model's."""

    def __init__(self, context: Context) -> None:
        self.net = reader(context)
        self.extract = Extractor(self.net.features)
        scans = Digits().rows
        self.real, self.other = self.extract.features([scans.x0]).halves(0)
        read = self.net.accuracy(Digits(held_out=True).rows.x0, Digits(held_out=True).rows.cond["y"])
        self.floor = self._score(self.other, read)
        self.n = self.real.n

    def __call__(self, x: Tensor, y: Tensor) -> Score:
        """Return the score of pictures `x` that were asked to be `y`."""
        return self._score(self.extract.features(x.split(BATCH)), self.net.accuracy(x, y))

    def _score(self, features: FeatureSet, recognised: float) -> Score:
        figures = (metric(features, self.real).value for metric in (frechet_distance, precision, recall, coverage))
        f, p, r, c = figures
        return Score(f, recognised, p, r, c)


@cache
def labels(n: int) -> Tensor:
    """Return n labels, each digit as often as another."""
    return torch.arange(n) % 10


def draw(denoiser: Denoiser, y: Tensor, solver: Solver, grid: Tensor, key: str, *, seed: int = 0) -> Tensor:
    """Return a picture for each label, in batches of `BATCH`; a row's noise belongs to (key, seed, row)."""
    parts = []
    rows = rows_of(key, len(y), seed=seed)
    for start in range(0, len(y), BATCH):
        part = y[start : start + BATCH]
        shape, seeds = (len(part), 1, 8, 8), rows[start : start + BATCH]
        parts.append(sample(denoiser, shape, solver=solver, grid=grid, seeds=seeds, cond={"y": part}))
    return torch.cat(parts).clamp(-1, 1)
