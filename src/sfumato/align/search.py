"""The search for the grid of least cost: by coordinates, then with twice the steps (arXiv 2404.14507, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..core import InputError, Schedule, grids
from .klub import Cost

HeldOut = Callable[[Tensor], float]


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """A grid that the search found: n + 1 falling noise levels s = sigma / alpha, from the noise to the data's end.

    `cost` is what the search lowers, `held_out` what decides when it stops, `start` the latter of the first guess.
    """

    levels: tuple[float, ...]
    cost: float
    held_out: float
    start: float

    def grid(self, schedule: Schedule, n: int | None = None) -> Tensor:
        """Return n steps (its own number by default) as times, float64[n + 1]; see `times`."""
        return times(schedule, self.levels, n)


def times(schedule: Schedule, levels: Sequence[float], n: int | None = None) -> Tensor:
    """Return the grid of n steps through `levels`, interpolated log-linearly, with 0 for the last (section 3.3).

    A first level above the schedule's own is lowered to it. Raises `InputError` unless the levels fall, stay above 0,
    and from the second on below the schedule's largest.
    """
    s = [float(v) for v in levels]
    if len(s) < 2 or s[-1] <= 0 or any(high <= low for high, low in pairwise(s)):
        raise InputError(f"a grid's levels must be at least two, fall and stay above 0, got {s[:12]}")
    largest = math.exp(min(-schedule.lam(1.0), 700.0))
    if s[1] >= largest:
        raise InputError(f"several levels lie beyond this schedule's largest, {largest:.4g}: give lower ones")
    return grids.tabulated(schedule, len(s) - 1 if n is None else n, levels=[min(s[0], largest), *s[1:]])


@dataclass(frozen=True, kw_only=True)
class Search:
    """Move one level at a time between its neighbours, every second level at once, and keep what lowers the cost.

    A round tries, for each level, the shares +-reach and +-reach/2 of the way to its neighbours in log s; one that
    moves nothing halves the reach. The search ends when the reach falls below `tolerance`, after `rounds`, or when
    `held_out` has found nothing better for `patience` rounds: the cost is only a bound, and weighs the smallest levels
    too much, so the best grid by `held_out` is the result (section 3.3, "early stopping").
    Defaults: ours; the paper stops by eye or FID, in fewer than 300 moves.
    """

    reach: float = 0.25
    tolerance: float = 0.02
    rounds: int = 40
    patience: int = 6

    def __post_init__(self) -> None:
        if not 0 < self.tolerance <= self.reach < 1 or self.rounds < 1 or self.patience < 1:
            raise InputError(f"{self} needs 0 < tolerance <= reach < 1, and rounds and patience of at least 1")

    def run(self, levels: Tensor, cost: Cost, held_out: HeldOut, free: Tensor | None = None) -> Iterator[Aligned]:
        """Yield the best grid so far, first the one given and then after each round; both ends stay where they are.

        `levels` float64[n + 1] fall; `free` bool[n + 1] says which may move, all by default.
        """
        s, reach, worse = levels.double().clone(), self.reach, 0
        inner = torch.arange(1, len(s) - 1)
        movable = inner if free is None else inner[free[1:-1]]
        best = _aligned(s, cost, held_out, None)
        yield best
        for _ in range(self.rounds):
            moved = False
            for parity in (0, 1):
                index = movable[movable % 2 == parity]
                moved = (len(index) > 0 and _move(s, index, reach, cost)) or moved
            if not moved:
                reach /= 2
                if reach < self.tolerance:
                    return
                continue
            found = _aligned(s, cost, held_out, best.start)
            worse = 0 if found.held_out < best.held_out else worse + 1
            if worse == 0:
                best = found
            yield best
            if worse >= self.patience:
                return


def refined(levels: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return (levels, free) of twice the steps: a level is put at the geometric middle of each, free to move."""
    s = torch.tensor(list(levels), dtype=torch.float64)
    out = torch.empty(2 * len(s) - 1, dtype=torch.float64)
    out[::2], out[1::2] = s, (s[:-1] * s[1:]).sqrt()
    free = torch.zeros(len(out), dtype=torch.bool)
    free[1::2] = True
    return out, free


def align(levels: Tensor, n: int, cost: Cost, held_out: HeldOut, search: Search | None = None) -> Iterator[Aligned]:
    """Search from the first guess `levels`, then double its steps until there are at least `n`, moving new levels only.

    Yields the best grid so far; a consumer may stop at any time and keep the last. `held_out` scores a whole grid:
    `total` of a cost with other draws, or the distance of samples to data (`SampleDistance`).
    """
    search, found = Search() if search is None else search, None
    free: Tensor | None = None
    while True:
        for found in search.run(levels, cost, held_out, free):
            yield found
        assert found is not None
        if len(found.levels) > n:
            return
        levels, free = refined(found.levels)


def total(cost: Cost) -> HeldOut:
    """Return the score of a grid that sums `cost` over its steps."""
    return lambda levels: float(cost(levels[:-1], levels[1:]).sum())


def guesses(n: int, high: float, low: float, c: float) -> dict[str, Tensor]:
    """Return first guesses of n + 1 levels from `high` to `low`, by name.

    Equal steps of ln s, of s^(1/7) (Karras), and of arctan(s / c), which is the best grid of Euler's method for
    Gaussian data of standard deviation c (theorem 3.1).
    """

    def equal(a: float, b: float) -> Tensor:
        return torch.linspace(a, b, n + 1, dtype=torch.float64)

    return {
        "arctan": c * equal(math.atan(high / c), math.atan(low / c)).tan(),
        "log": equal(math.log(high), math.log(low)).exp(),
        "karras": equal(high ** (1 / 7), low ** (1 / 7)) ** 7,
    }


def _aligned(s: Tensor, cost: Cost, held_out: HeldOut, start: float | None) -> Aligned:
    unseen = held_out(s)
    levels = tuple(s.tolist())
    return Aligned(levels=levels, cost=total(cost)(s), held_out=unseen, start=unseen if start is None else start)


def _move(s: Tensor, index: Tensor, reach: float, cost: Cost) -> bool:
    """Move the levels `index`, no two of them neighbours, to their best candidates; return whether any moved."""
    above, here, below = (s[index + k].log()[:, None] for k in (-1, 0, 1))
    share = reach * torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    tried = torch.cat([here + share * (above - here), here + share[1:] * (below - here)], 1)
    high, low = (v.expand_as(tried).exp().flatten() for v in (above, below))
    middle = tried.exp().flatten()
    both = cost(torch.cat([high, middle]), torch.cat([middle, low])).reshape(2, len(index), -1).sum(0)
    choice = both.argmin(1)
    s[index] = tried.gather(1, choice[:, None]).exp().flatten()
    return bool((choice > 0).any())
