"""What a perfect model would score: one half of the real data against the other."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .features import FeatureSet
from .figure import Figure


def floor(
    metric: Callable[[FeatureSet, FeatureSet], Figure],
    real: FeatureSet | Tensor,
    *,
    seed: int = 0,
    n: int | None = None,
) -> Figure:
    """Return the figure of one of two disjoint parts of the real data against the other, each of `n` rows.

    The parts are `real.halves(seed, n)`, half of the rows each without `n`. To hold a model's figure against it,
    measure as many samples against the same part: `metric(samples, real.halves(seed, n)[0])`.
    """
    whole = FeatureSet.points(real) if isinstance(real, Tensor) else real
    reference, perfect = whole.halves(seed, n)
    return metric(perfect, reference)
