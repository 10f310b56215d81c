"""Guidance by a picture and a text, each with a scale of its own (Brooks et al. 2022, arXiv 2211.09800, eq. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.ahead import remembered
from .guided import Around, check_null, playing


@dataclass(frozen=True, kw_only=True, eq=False)
class TwoScale(Around):
    """x0_hat = null + image_scale (image - null) + scale (full - image), three branches in one batched evaluation.

    "full" sees all conditions, "image" those without the texts (the keys of `null`, at their null values), "null" has
    zeros for the condition `key` as well: no picture is zeros, as InstructPix2Pix was trained. Its defaults, 1.5 and
    7.5, are the pipeline's that was published.

    Where `key` is not given there is no picture to guide by, and this is classifier-free guidance. Raises `InputError`
    without a null value for some condition.
    """

    scale: float = 7.5
    image_scale: float = 1.5
    null: Mapping[str, Any] | None = None
    key: str = "extra"

    def __post_init__(self) -> None:
        check_null(self.denoiser, self.null)

    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return (guided, conditional)."""
        nulls = {**self.denoiser.cond, **(self.null or {})}

        def tripled() -> dict[str, Tensor]:
            rows: dict[str, Tensor] = {}
            for name, value in cond.items():
                none = nulls.get(name)
                if name == self.key:
                    rows[name] = torch.cat([value, value, torch.zeros_like(value)])
                elif none is None:
                    rows[name] = torch.cat([value] * 3)
                else:
                    blank = torch.as_tensor(none, dtype=value.dtype, device=value.device).expand_as(value)
                    rows[name] = torch.cat([value, blank, blank])
            return rows

        rows = remembered(self.denoiser, "tripled", {**cond, **{f"null {k}": nulls.get(k) for k in cond}}, tripled)
        time = torch.cat([t] * 3) if isinstance(t, Tensor) else t
        asked = playing(self.denoiser, ("cond", "image", "null"))(torch.cat([x] * 3), time, **rows)
        full, image, null = asked.chunk(3)
        return null + self.image_scale * (image - null) + self.scale * (full - image), full
