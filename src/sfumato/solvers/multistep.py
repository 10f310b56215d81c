"""The step that the exact multistep methods share: an exponential Adams formula, and how it starts.

P is the polynomial through the last values. Written for x0_hat; in eps_hat it is the same with alpha and sigma
exchanged, which negates lambda.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from torch import Tensor

from ..core import Step, combine
from .phi import adams

Lams = tuple[float, ...]

_LONG = 1.5  # the |h| above which a step is too long to say anything of those before it


class Start(NamedTuple):
    """Where a run began, at a finite lambda, and the factors with which its values stand in x, the newest first.

    `extra` is a value that was of use once, with its factor in x.
    """

    alpha: float
    sigma: float
    rate: float
    used: tuple[float, ...] = ()
    extra: tuple[Tensor, float] | None = None


class History(NamedTuple):
    """The last x0_hat (or eps_hat) with their lambda, the newest first; the start, until there are enough of them."""

    values: tuple[Tensor, ...] = ()
    lams: Lams = ()
    start: Start | None = None


def damping(k: Step, rate: float = 1.0) -> float:
    """Return the factor on x of a step at `rate` a = 1 + eta: (sigma_s / sigma_t) e^(-eta h)."""
    ratio = k.sigma_s / k.sigma_t
    return ratio if rate == 1.0 else ratio * math.exp((1.0 - rate) * (k.lam_s - k.lam_t))


@functools.lru_cache(maxsize=4096)  # the next batch on the same grid asks for the same numbers
def bashforth(k: Step, lams: Lams, rate: float = 1.0) -> tuple[float, ...]:
    """Return the factors of the values at `lams`, the newest first, in alpha_s a int_0^h e^-a(h-u) P(u) du."""
    lam, kept = lams[0], damping(k, rate)
    if len(lams) == 1:
        return (k.alpha_s - k.alpha_t * kept,)
    weights = adams(rate * (k.lam_s - lam), [rate * (v - lam) for v in lams[1:]])
    return k.alpha_s * (1 - sum(weights)) - k.alpha_t * kept, *(k.alpha_s * w for w in weights)


def trapezoid(k: Step, rate: float = 1.0) -> float:
    """Return the factor of (value at s) - (value at t) where P is the line through the two; for finite h."""
    h = rate * (k.lam_s - k.lam_t)
    return k.alpha_s * adams(h, [h])[0]


def starting(k: Step, lams: Lams, start: Start) -> tuple[tuple[float, ...], Start]:
    """Return the factors of the values in a step before there are enough of them, and the start with those in x_s.

    One polynomial through all values since the start is integrated from the start to s, so that each new value also
    corrects the steps before it: the low order of the first steps would otherwise be that of the whole run. Not over
    steps of |h| > 1.5, though: a polynomial through values so far apart is nowhere near them between the first two,
    where eps_hat weighs most.
    """
    whole = k._replace(alpha_t=start.alpha, sigma_t=start.sigma)
    first, *others = bashforth(whole, lams[::-1], start.rate)
    in_s, kept = (*others[::-1], first), damping(k, start.rate)
    return tuple(w - kept * u for w, u in zip(in_s, (0.0, *start.used))), start._replace(used=in_s, extra=None)


def advance(
    x: Tensor, k: Step, value: Tensor, state: History, points: int, rate: float = 1.0
) -> tuple[Tensor, History]:
    """Return x_s by the formula through `points` values, of which `value` at t is the newest, and the next history.

    A value at alpha_t = 0 is at infinite lambda, where no polynomial can use it again.
    """
    start = state.start
    values, lams = (value, *state.values), (k.lam_t, *state.lams)
    if len(lams) == 1 and points > 2 and k.alpha_t > 0.0:
        start = Start(k.alpha_t, k.sigma_t, rate)
    elif any(abs(a - b) > _LONG for a, b in zip((k.lam_s, *lams), lams)):
        start = None
    if start is None:
        x = combine(x, damping(k, rate), values, bashforth(k, lams, rate))
    else:
        extra = start.extra
        factors, start = starting(k, lams, start)
        if extra is not None:
            factors = (*factors, -damping(k, rate) * extra[1])
        x = combine(x, damping(k, rate), values if extra is None else (*values, extra[0]), factors)
    if k.alpha_t <= 0.0:
        return x, History()
    return x, History(values[: points - 1], lams[: points - 1], start if len(lams) < points else None)
