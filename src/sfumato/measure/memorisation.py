"""Is the model copying? Distances of samples to the training set against those of held-out data to it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import InputError
from .distances import nearest_distances
from .features import FeatureSet, pair
from .figure import Figure

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True, kw_only=True, eq=False)
class Memorisation:
    """Nearest-training-row distances of samples and of held-out data, sorted, and what they say.

    `quantiles` maps each of 1, 5, 25, 50, 75, 95, 99 % to (samples, held-out). `ks` is the two-sample statistic
    sup_r |F(r) - G(r)|, `closer` its one-sided part sup_r (F(r) - G(r)), F that of the samples: mass of the samples
    nearer than held-out data is. `copies` is the fraction of samples nearer than the `level` quantile of held-out
    data: `level` in expectation for a model that has learned the law itself. `critical` is what `ks` exceeds with a
    chance of 5 % when the laws are equal, 1.358 sqrt(1/n + 1/m) (Smirnov 1948).
    """

    samples: Tensor
    held_out: Tensor
    quantiles: dict[float, tuple[float, float]]
    ks: Figure
    closer: Figure
    copies: Figure
    critical: float
    level: float


def memorisation(
    samples: FeatureSet | Tensor, train: FeatureSet | Tensor, held_out: FeatureSet | Tensor, *, level: float = 0.01
) -> Memorisation:
    """Compare how near samples come to the training data with how near unseen data comes.

    Fair only if `held_out` follows the training law and shares no row with it. Give pixels (`FeatureSet.points` of
    flattened images) for copies, features for near-copies. Raises `InputError` for sides that do not fit together.
    """
    x, data = pair(samples, train)
    unseen, _ = pair(held_out, data)
    if not 0 < level < 1:
        raise InputError(f"level is a fraction between 0 and 1, got {level}")
    near = nearest_distances(x.rows, data.rows).sort().values
    base = nearest_distances(unseen.rows, data.rows).sort().values
    at = torch.cat([near, base])
    gap = _below(near, at) - _below(base, at)
    share = float((near < base.quantile(level)).double().mean())
    reference = hashlib.sha256(f"{data.hash} {unseen.hash}".encode()).hexdigest()

    def figure(name: str, value: float, error: float | None, settings: str) -> Figure:
        return Figure(
            name=name,
            value=value,
            error=error,
            better="lower",
            n=x.n,
            n_reference=data.n,
            network=x.network,
            resize=x.resize,
            reference=reference,
            settings=settings,
        )

    against = f"{unseen.n} held out"
    return Memorisation(
        samples=near,
        held_out=base,
        quantiles={q: (float(near.quantile(q)), float(base.quantile(q))) for q in QUANTILES},
        ks=figure("memorisation_ks", float(gap.abs().max()), None, against),
        closer=figure("memorisation_closer", max(float(gap.max()), 0.0), None, against),
        copies=figure("copies", share, math.sqrt(share * (1 - share) / x.n), f"{against}, level {level:g}"),
        critical=1.358 * math.sqrt(1 / x.n + 1 / unseen.n),
        level=level,
    )


def _below(sorted_values: Tensor, at: Tensor) -> Tensor:
    """Return the empirical distribution function of the values at `at`."""
    return torch.searchsorted(sorted_values, at, right=True).double() / len(sorted_values)
