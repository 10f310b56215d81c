"""What the solvers with error control share: each row goes its own way, with steps of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core import InputError

# (state, from[b], to[b], cond) -> (new state, error[b]); a step is good where its error is at most 1
Trial = Callable[[Tensor, Tensor, Tensor, Mapping[str, Any]], tuple[Tensor, Tensor]]

_SAFETY = 0.9  # of the step that would have just met the tolerance (Hairer, Norsett & Wanner 1993, II.4)
_SLOWEST, _FASTEST = 0.2, 5.0  # a step may shrink and grow so much at a time (ibid.)
_MOST = 10_000  # trials in one step of the grid: far beyond what a tolerance above rounding takes


class OwnSteps:
    """What a solver with error control declares: steps of its own, the first of 0.05 in every row; no noise."""

    @property
    def nfe(self) -> None:
        """Nothing: the steps are chosen on the way."""

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn: never."""
        return False

    def init(self, x: Tensor) -> Tensor:
        """Return the first steps, float64[B]."""
        return torch.full((len(x),), 0.05, dtype=torch.float64)


def drive(
    trial: Trial, x: Tensor, way: tuple[float, float], h: Tensor, power: int, what: str, cond: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """Return `x` [B, ...] taken from way[0] to way[1] by trials of step sizes `h` (float64[B]), and the sizes to go on.

    A trial whose error is above 1 is repeated with a smaller step; the next step is 0.9 error^(-1 / power) times as
    large. All is decided row by row, so that a row's result does not depend on its neighbours. Rows that are done are
    not evaluated any more; `cond` is cut with them. An error that is not a number is let through, for it to be seen.

    Raises `InputError` where 10,000 trials do not do: rounding then hides what the tolerance asks for.
    """
    start, end = way
    sign = 1.0 if end > start else -1.0
    place, h = torch.full_like(h, start), h.clone()
    active = torch.arange(len(x))
    for _ in range(_MOST):
        here = place[active]
        left = (end - here) * sign
        last = h[active] >= left
        size = torch.minimum(h[active], left)
        there = torch.where(last, torch.full_like(here, end), here + sign * size)
        rows = active.to(x.device)
        cut = {k: v[active.to(v.device)] if isinstance(v, Tensor) and len(v) == len(x) else v for k, v in cond.items()}
        new, error = trial(x[rows], here, there, cut)
        error = error.cpu()
        good = ~(error > 1.0)
        growth = _SAFETY * error.nan_to_num(nan=0.0).clamp(min=1e-12) ** (-1 / power)
        wanted = size * growth.clamp(_SLOWEST, _FASTEST)
        # a step cut short by the end says nothing against the larger one that was wanted before
        h[active] = torch.where(good & last, torch.maximum(wanted, h[active]), wanted)
        x[rows[good.to(x.device)]] = new[good.to(x.device)]
        place[active[good]] = there[good]
        active = active[~(good & last)]
        if not len(active):
            return x, h
    raise InputError(f"{what} cannot be met in {x.dtype}: give larger tolerances, or dtype=torch.float64")


def rms(x: Tensor) -> Tensor:
    """Return the root mean square of each row, float64[B], summed in an order that does not depend on B."""
    v = x.reshape(len(x), -1).double().square()
    count = n = v.shape[1]
    while n > 1:
        half = n // 2
        summed = v[:, :half] + v[:, half : 2 * half]
        v = summed if n % 2 == 0 else torch.cat([summed, v[:, n - 1 :]], 1)
        n = v.shape[1]
    return (v[:, 0] / count).sqrt()
