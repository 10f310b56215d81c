"""Fidelity and coverage from balls around nearest neighbours: precision, recall, density, coverage."""

from __future__ import annotations

import math

from torch import Tensor

from .distances import inside, radii
from .features import FeatureSet, measured, pair
from .figure import Figure


def precision(samples: FeatureSet | Tensor, reference: FeatureSet | Tensor, *, k: int = 3) -> Figure:
    """Return the fraction of samples inside the union of the reference's balls, higher is better.

    The ball of a reference row reaches to its k-th nearest other reference row, closed (Kynkaanniemi et al. 2019,
    arXiv 1904.06991, eq. 1 and 2; k = 3 is theirs). A single outlier's ball can hold many samples: see `density`.
    """
    x, y = pair(samples, reference)
    held = inside(x.rows, y.rows, radii(y.rows, k))[0] > 0
    return _fraction("precision", held, x, y, k)


def recall(samples: FeatureSet | Tensor, reference: FeatureSet | Tensor, *, k: int = 3) -> Figure:
    """Return the fraction of reference rows inside the union of the samples' balls, higher is better.

    `precision` with the sides exchanged (arXiv 1904.06991, eq. 2). Depends strongly on the number of samples.
    """
    x, y = pair(samples, reference)
    held = inside(y.rows, x.rows, radii(x.rows, k))[0] > 0
    return _fraction("recall", held, x, y, k)


def density(samples: FeatureSet | Tensor, reference: FeatureSet | Tensor, *, k: int = 5) -> Figure:
    """Return the mean number of reference balls that hold a sample, divided by k, higher is better.

    1 in expectation for equal laws, and not bounded by it (Naeem et al. 2020, arXiv 2002.09797; k = 5 is
    theirs). The error is that of the mean over samples, given the reference.
    """
    x, y = pair(samples, reference)
    counts = inside(x.rows, y.rows, radii(y.rows, k))[0].double() / k
    error = float(counts.std()) / math.sqrt(x.n) if x.n > 1 else None
    return measured("density", float(counts.mean()), x, y, better="higher", error=error, settings=f"k={k}")


def coverage(samples: FeatureSet | Tensor, reference: FeatureSet | Tensor, *, k: int = 5) -> Figure:
    """Return the fraction of reference balls that hold a sample, higher is better.

    For equal laws and counts it is near 1 - 2^-k (arXiv 2002.09797; k = 5 is theirs).
    """
    x, y = pair(samples, reference)
    held = inside(x.rows, y.rows, radii(y.rows, k))[1] > 0
    return _fraction("coverage", held, x, y, k)


def _fraction(name: str, held: Tensor, x: FeatureSet, y: FeatureSet, k: int) -> Figure:
    """Return the fraction with its binomial error, given the side that the balls belong to."""
    p = float(held.double().mean())
    error = math.sqrt(p * (1 - p) / len(held))
    return measured(name, p, x, y, better="higher", error=error, settings=f"k={k}")
