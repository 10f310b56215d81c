"""Learning-rate laws: the factor on the base rate as a pure function of the step, so that nothing needs to be saved."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from ..core import InputError, register


class Rate(ABC):
    """The factor on `lr` at each step: a linear warm-up (step + 1) / warmup over `warmup` steps, times a decay.

    `bounded` says whether the decay depends on the length of the run, so that a run cannot be made longer later.
    """

    bounded: ClassVar[bool] = False
    warmup: int

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise InputError(f"{type(self).__name__}.warmup={self.warmup} is a number of steps: give 0 or more")

    def __call__(self, step: int, steps: int) -> float:
        """Return the factor at `step` (from 0) of a run of `steps`."""
        ramp = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return ramp * self.decay(step, steps)

    @abstractmethod
    def decay(self, step: int, steps: int) -> float:
        """Return the factor without the warm-up."""


@register
@dataclass(frozen=True, kw_only=True)
class Constant(Rate):
    """1 after the warm-up. Default: no warm-up."""

    warmup: int = 0

    def decay(self, step: int, steps: int) -> float:
        """Return 1."""
        return 1.0


@register
@dataclass(frozen=True, kw_only=True)
class Cosine(Rate):
    """end + (1 - end) (1 + cos(pi k / n)) / 2 at step k of the n after the warm-up (arXiv 1608.03983, eq. 5).

    No restarts. Default end = 0, the paper's.
    """

    bounded: ClassVar[bool] = True
    warmup: int = 0
    end: float = 0.0

    def decay(self, step: int, steps: int) -> float:
        """Return the cosine's value: 1 until the warm-up is over, `end` once `steps` are done."""
        done = min(max((step - self.warmup) / max(steps - self.warmup, 1), 0.0), 1.0)
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * done))


@register
@dataclass(frozen=True, kw_only=True)
class InverseSqrt(Rate):
    """1 / sqrt(max(step / after, 1)): constant for `after` steps, then falling (Karras et al. 2023, arXiv 2312.02696).

    Default after = 70,000, that of its reference implementation; no warm-up.
    """

    warmup: int = 0
    after: int = 70_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.after < 1:
            raise InputError(f"InverseSqrt.after={self.after} is a number of steps: give 1 or more")

    def decay(self, step: int, steps: int) -> float:
        """Return the factor."""
        return max(step / self.after, 1.0) ** -0.5
