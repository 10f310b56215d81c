"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598, equation 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core import Denoiser, InputError, Schedule, prepare


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassifierFree:
    """x0_hat = null + scale (cond - null), both branches in one batched evaluation.

    `scale` = w counts from the unconditional: 1 is conditional only (one evaluation of B rows), 0 unconditional; the
    paper's w is ours minus 1. The null values are the denoiser's own (`denoiser.cond`), or those in `null`, a mapping
    from key to a number or a row. A key without a null value is the same in both branches.

    Raises `InputError` when no given condition has a null value.
    """

    denoiser: Denoiser
    scale: float
    null: Mapping[str, Any] | None = None

    @property
    def schedule(self) -> Schedule:
        """The schedule of the guided denoiser."""
        return self.denoiser.schedule

    @property
    def cond(self) -> Mapping[str, Any]:
        """The condition keys of the guided denoiser."""
        return self.denoiser.cond

    @property
    def plain(self) -> Denoiser:
        """The denoiser without guidance."""
        return self.denoiser

    def prepare(self, times: Sequence[float]) -> ClassifierFree:
        """Return this with the inner denoiser prepared for the times of a run."""
        return replace(self, denoiser=prepare(self.denoiser, times))

    def __call__(self, x: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        """Return the guided x0_hat."""
        return self.branches(x, t, **cond)[0]

    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return (guided, conditional)."""
        if self.scale == 1.0:
            conditional = self.denoiser(x, t, **cond)
            return conditional, conditional
        both = {key: torch.cat([value, self._null(key, value)]) for key, value in cond.items()}
        time = torch.cat([t, t]) if isinstance(t, Tensor) else t
        conditional, null = self.denoiser(torch.cat([x, x]), time, **both).chunk(2)
        return torch.lerp(null, conditional, self.scale), conditional

    def _null(self, key: str, value: Tensor) -> Tensor:
        nulls = {**self.denoiser.cond, **(self.null or {})}
        null = nulls.get(key)
        if null is None:
            return value
        return torch.as_tensor(null, dtype=value.dtype, device=value.device).expand_as(value)

    def __post_init__(self) -> None:
        if all(null is None for null in {**self.denoiser.cond, **(self.null or {})}.values()):
            raise InputError("classifier-free guidance needs a condition with a null value; this denoiser has none")
