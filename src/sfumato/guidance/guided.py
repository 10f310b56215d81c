"""What a guided denoiser offers to the next one around it."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from ..core import Denoiser


class Guided(Denoiser, Protocol):
    """A denoiser that steers another: it also gives the unguided answer that its own started from."""

    @property
    def plain(self) -> Denoiser:
        """The innermost denoiser, without any guidance."""
        ...

    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return (guided x0_hat, conditional x0_hat) from the same evaluations."""
        ...
