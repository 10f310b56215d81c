"""How good the demo's samples are, each figure beside what a perfect and a trivial model score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import Noise
from ..measure import (
    Extractor,
    FeatureSet,
    Figure,
    Memorisation,
    coverage,
    density,
    frechet_distance,
    inception_score,
    kernel_distance,
    memorisation,
    precision,
    recall,
)
from ..measure.biased import biased_kernel_distance
from ..measure.classifier import Classifier

SPLITS = 8  # random halves of the real scans: one split's own figure varies by a factor of two
Metric = Callable[[FeatureSet, FeatureSet], Figure]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of the model, of a perfect one (real scans) and of a trivial one, with the bar that was set before."""

    name: str
    model: float
    perfect: float
    trivial: float
    better: str
    explanation: str
    bar: str = ""
    passed: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Data:
    """The real scans, in two parts: what the model was trained on, and what it never saw."""

    train: Tensor
    train_y: Tensor
    held_out: Tensor
    held_out_y: Tensor


def fitted_gaussian(x: Tensor, n: int, seed: int) -> Tensor:
    """Return n draws of the Gaussian with the pixels' mean and covariance: a model that knows no digit."""
    flat = x.flatten(1).double()
    values, vectors = torch.linalg.eigh(torch.cov(flat.T))
    z = Noise(range(seed, seed + n)).normal((n, flat.shape[1]), "gaussian", dtype=torch.float64)
    return (flat.mean(0) + z * values.clamp(min=0).sqrt() @ vectors.T).float().clamp(-1, 1).reshape(-1, *x.shape[1:])


def score(samples: Tensor, asked: Tensor, data: Data, classifier: Classifier) -> tuple[list[Row], Memorisation]:
    """Return the table's rows and the comparison of nearest-neighbour distances.

    Every distance is measured `SPLITS` times: the real scans are split into random halves A and B, and as many samples
    as A has rows are held against B; "perfect" is A against B. So all three columns have the same counts.
    """
    extract = Extractor(classifier.features)
    real = extract.features([data.train, data.held_out])
    trivial = fitted_gaussian(data.train, len(samples), seed=0)
    sets = {"model": extract.features([samples]), "trivial": extract.features([trivial])}

    def column(metric: Metric) -> dict[str, float]:
        sums = {"model": 0.0, "perfect": 0.0, "trivial": 0.0}
        for seed in range(SPLITS):
            half, reference = real.halves(seed)
            n = min(half.n, len(samples) // 2)
            drawn = {name: side.halves(seed, n)[0] for name, side in sets.items()}
            drawn["perfect"] = half.select(range(n))
            for name, side in drawn.items():
                sums[name] += float(metric(side, reference)) / SPLITS
        return sums

    rows = [
        Row(
            name="asked digit recognised",
            model=classifier.accuracy(samples, asked),
            perfect=classifier.accuracy(data.held_out, data.held_out_y),
            trivial=classifier.accuracy(trivial, asked),
            better="higher",
            explanation="share in which a classifier reads the digit that was asked for; perfect: held-out scans",
            bar="at least 95 %",
            passed=classifier.accuracy(samples, asked) >= 0.95,
        )
    ]
    for name, metric, note in (
        ("Fréchet distance", frechet_distance, "between Gaussians fitted to the features"),
        ("kernel distance, biased", biased_kernel_distance, "cubic kernel, all pairs: has a ratio to real data's own"),
    ):
        c = column(metric)
        rows.append(
            Row(
                name=name,
                model=c["model"],
                perfect=c["perfect"],
                trivial=c["trivial"],
                better="lower",
                explanation=note,
                bar=f"at most 1.5 times perfect = {1.5 * c['perfect']:.3g}",
                passed=c["model"] <= 1.5 * c["perfect"],
            )
        )
    unbiased: Metric = lambda x, y: kernel_distance(x, y, subsets=1, size=min(x.n, y.n))
    for name, metric, better, note in (
        ("kernel distance, unbiased", unbiased, "lower", "0 on average for a perfect model; may be negative"),
        ("precision", precision, "higher", "samples that lie among the real ones"),
        ("recall", recall, "higher", "real scans that lie among the samples"),
        ("density", density, "higher", "as precision, robust to outliers; 1 is perfect"),
        ("coverage", coverage, "higher", "real scans with a sample nearby"),
    ):
        c = column(metric)
        rows.append(
            Row(
                name=name,
                model=c["model"],
                perfect=c["perfect"],
                trivial=c["trivial"],
                better=better,
                explanation=note,
            )
        )
    logits = {"model": classifier(samples), "perfect": classifier(data.held_out), "trivial": classifier(trivial)}
    scores = {k: float(inception_score(v.softmax(1), splits=1)) for k, v in logits.items()}
    rows.append(
        Row(
            name="inception-like score",
            model=scores["model"],
            perfect=scores["perfect"],
            trivial=scores["trivial"],
            better="higher",
            explanation="sharp and varied; at most 10",
        )
    )
    near = memorisation(*(x.flatten(1) for x in (samples, data.train, data.held_out)))
    return rows, near
