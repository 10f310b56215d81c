"""What the exponential Adams predictor-correctors share: a corrector whose evaluation is the next step's own."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ..core import Step, combine
from .multistep import Lams, damping
from .phi import adams

Weight = Callable[[float], float]


class Ahead(NamedTuple):
    """The state between two steps: the past values with their lambda, the newest first, and the last step's rate.

    x is only predicted: with the next value it is corrected, and the next step taken, in one sum.
    """

    values: tuple[Tensor, ...] = ()
    lams: Lams = ()
    rate: float = 1.0


def predictor(lam_s: float, lams: Lams, rate: float, b: Weight | None) -> list[float]:
    """Return the weights of D_j - D_0 in a int_0^h e^-a(h-u) P(u) du, P through the values D_j at `lams`.

    `b` is UniPC's B(h): where one slope is known, its weight is B(h) / 2 in place of the exact integral.
    """
    h = lam_s - lams[0]
    if b is not None and len(lams) == 2:
        return [0.5 * b(h) * h / (lams[1] - lams[0])]
    return adams(rate * h, [rate * (v - lams[0]) for v in lams[1:]])


def corrector(lam_s: float, lams: Lams, rate: float, b: Weight | None) -> list[float]:
    """Return the weight of the value at s, less D_0, and then those of `predictor`, where P goes through it too.

    From alpha_t = 0, where h is infinite, P is the line in e^lambda.
    """
    h = lam_s - lams[0]
    if len(lams) == 1 and b is not None:
        return [0.5 * b(h)]
    if h == math.inf:
        return [rate / (1 + rate)]
    return adams(rate * h, [rate * h, *(rate * (v - lams[0]) for v in lams[1:])])


def _finite(lams: Lams) -> Lams:
    return tuple(v for v in lams if v > -math.inf) or lams[:1]


@functools.lru_cache(maxsize=4096)  # the next batch on the same grid asks for the same numbers
def coefficients(
    k: Step, lams: Lams, points: int, rate: float, last: float, b: Weight | None
) -> tuple[float, tuple[float, ...]]:
    """Return the factor of x, and those of the values at `lams`, in x_s: of the correction at t and the prediction.

    The correction is the last step's, at its rate `last`, with the value at t: what `corrector` gives in place of
    `predictor`. A value at infinite lambda is in the first correction only.
    """
    kept = damping(k, rate)
    factors = [0.0] * len(lams)
    weights = predictor(k.lam_s, _finite(lams[:points]), rate, b)
    factors[0] = k.alpha_s * (1 - sum(weights)) - k.alpha_t * kept
    for j, w in enumerate(weights, 1):
        factors[j] = k.alpha_s * w
    if len(lams) > 1:
        past = _finite(lams[1 : points + 1])
        new, *better = corrector(lams[0], past, last, b)
        gain = [c - p for c, p in zip(better, predictor(lams[0], past, last, b))]
        for j, g in enumerate((new, -new - sum(gain), *gain)):
            factors[j] += kept * k.alpha_t * g
    return kept, tuple(factors)


def predict(
    x: Tensor, k: Step, value: Tensor, state: Ahead, points: int, rate: float = 1.0, b: Weight | None = None
) -> tuple[Tensor, Ahead]:
    """Return x_s through the last `points` values, from x corrected with the newest, `value`, and the next state."""
    values, lams = (value, *state.values), (k.lam_t, *state.lams)
    kept, factors = coefficients(k, lams, points, rate, state.rate, b)
    return combine(x, kept, values, factors), Ahead(values[:points], lams[:points], rate)
