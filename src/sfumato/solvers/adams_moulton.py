"""What the exponential Adams predictor-correctors share: a corrector whose evaluation is the next step's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import NamedTuple

from torch import Tensor

from ..core import Step
from .multistep import Values, bashforth, damping, trapezoid
from .phi import adams, combine


class Ahead(NamedTuple):
    """The state between two steps: past values, and what the next value and these add to x, which is predicted only."""

    values: Values = ()
    correction: tuple[float, ...] = ()


def moulton(k: Step, lams: Sequence[float], rate: float) -> list[float]:
    """Return the factors of the value at s and of those at `lams`, P through all of them (see `bashforth`)."""
    lam, h = lams[0], rate * (k.lam_s - lams[0])
    weights = adams(h, [h, *(rate * (v - lam) for v in lams[1:])])
    own = k.alpha_s * (1 - sum(weights)) - k.alpha_t * damping(k, rate)
    return [k.alpha_s * weights[0], own, *(k.alpha_s * w for w in weights[1:])]


def factors(
    k: Step, lams: Sequence[float], rate: float, b: Callable[[float], float] | None
) -> tuple[list[float], list[float]]:
    """Return the predictor's factors of the values at `lams`, and what the corrector adds to them, the one at s first.

    `b` is UniPC's B(h): where one slope is known, its weight is B(h) / 2 in place of the exact integral.
    """
    predicted = bashforth(k, lams, rate)
    if len(lams) == 1:
        w = trapezoid(k, rate) if b is None else 0.5 * k.alpha_s * b(k.lam_s - lams[0])
        return predicted, [w, -w]
    if len(lams) == 2 and b is not None:
        h = k.lam_s - lams[0]
        w = 0.5 * k.alpha_s * b(h) * h / (lams[1] - lams[0])
        predicted = [k.alpha_s - k.alpha_t * damping(k, rate) - w, w]
    first, *corrected = moulton(k, lams, rate)
    return predicted, [first, *(c - p for c, p in zip(corrected, predicted))]


def predict(
    x: Tensor,
    k: Step,
    value: Tensor,
    state: Ahead,
    points: int,
    rate: float = 1.0,
    b: Callable[[float], float] | None = None,
) -> tuple[Tensor, Ahead]:
    """Return x_s through the last `points` values, from x corrected with the newest, `value`, and the next state.

    The two are one sum over the values. A value at alpha = 0 (lambda infinite) is in the first correction only.
    """
    values = ((value, k.lam_t), *state.values)
    lams = [lam for _, lam in values[:points] if lam > -math.inf] or [-math.inf]
    predicted, correction = factors(k, lams, rate, b)
    kept = damping(k, rate)
    here = [kept * c + p for c, p in zip_longest(state.correction, predicted, fillvalue=0.0)]
    x = combine(x, kept, [(v, f) for (v, _), f in zip(values, here)])
    return x, Ahead(values[:points], tuple(correction))
