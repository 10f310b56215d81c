"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598, equation 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .guided import Around, branches_of, check_null, with_null


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassifierFree(Around):
    """x0_hat = null + scale (cond - null), both branches in one batched evaluation.

    `scale` = w counts from the unconditional: 1 is conditional only (one evaluation of B rows), 0 unconditional; the
    paper's w is ours minus 1. The null values are the denoiser's own (`denoiser.cond`), or those in `null`, a mapping
    from key to a number, a row, or a row for each sample: a null of another class or text is a negative prompt. A key
    without a null value is the same in both branches. `channels`: guide the first so many alone and leave the others to
    the conditional branch, as the published code of DiT and Lumina does with three of four latent channels.

    Raises `InputError` when no given condition has a null value.
    """

    scale: float
    null: Mapping[str, Any] | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        check_null(self.denoiser, self.null)

    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return (guided, conditional)."""
        if self.scale == 1.0:
            return branches_of(self.denoiser, x, t, **cond)
        conditional, null = with_null(self.denoiser, self.null, x, t, cond)
        guided = torch.lerp(null, conditional, self.scale)
        if self.channels is not None:
            guided = torch.cat([guided[:, : self.channels], conditional[:, self.channels :]], dim=1)
        return guided, conditional
