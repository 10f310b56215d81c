"""Preference pairs: for a caption a better and a worse picture, and the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...core import Batch, InputError, Noise, fold, register
from ..labels import Captions
from .captions import Caption, Descriptive, Style
from .claims import holds
from .dataset import Painted
from .defects import blur
from .paint import paint
from .pairs import edit
from .relations import SLACK
from .sampling import sample_scenes
from .scene import Scenes

REASONS = ("shape", "colour", "size", "texture", "relation", "object", "count", "ground", "blur")
_OF_EDIT = {"move": "relation", "remove": "object", "add": "count"}  # the others are reasons by themselves


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Captions, the scenes that they hold of, the scenes of the worse pictures, and why: numbers into REASONS.

    Where the reason is "blur" both scenes are the same, and the worse picture is out of focus.
    """

    captions: list[Caption]
    better: Scenes
    worse: Scenes
    reason: Tensor


@register
@dataclass(frozen=True, kw_only=True)
class TableauPreferences(Painted):
    """`size` pairs: x_0 the better picture, `cond["worse"]` the other, `caption`, and `reason` int64 into REASONS.

    The worse picture shows an edited scene of which the caption does not hold, not even to within the oracle's slack;
    or, for a share of `blurred` and where no such edit was found, it is blurred.
    """

    style: Style = field(default_factory=Descriptive)
    blurred: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.blurred <= 1:
            raise InputError(f"TableauPreferences needs blurred in [0, 1], got {self.blurred}")

    def preferences(self, indices: Sequence[int]) -> Preference:
        """Return the pairs of the rows `indices`, as scenes."""
        rows = self.noise(indices)
        better = sample_scenes(rows, self.law)
        captions = self.style.write(better, rows)
        made = edit(better, Noise([fold("edit", s) for s in rows.seeds]), law=self.law)
        fails = ~holds([c.claims for c in captions], made.after, SLACK) & (rows.uniform("blurred") >= self.blurred)
        kinds = torch.tensor([REASONS.index(_OF_EDIT.get(kind, kind)) for kind in made.kind])
        worse = {
            name: torch.where(fails.view(-1, *[1] * (new.ndim - 1)), new, better.arrays()[name])
            for name, new in made.after.arrays().items()
        }
        reason = torch.where(fails, kinds, REASONS.index("blur"))
        return Preference(captions=captions, better=better, worse=Scenes(**worse), reason=reason)

    def batch(self, indices: Sequence[int], noise: Noise) -> Batch:
        """Return the rows `indices`; nothing is drawn from `noise`."""
        told = self.preferences(indices)
        worse = paint(told.worse, self.side)
        soft = told.reason == REASONS.index("blur")
        worse[soft] = blur(worse[soft])
        cond = {"worse": worse, "reason": told.reason} | Captions().cond([c.text for c in told.captions])
        return Batch(paint(told.better, self.side), cond)
