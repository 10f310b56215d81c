"""Handwritten digits: 1797 real scans of 8 x 8 pixels that come with scikit-learn, no download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import Batch, register
from .dataset import InMemory, split


def digits() -> tuple[Tensor, Tensor]:
    """Return (x_0, y): the scans as float32[1797, 1, 8, 8] in [-1, 1], and the digits as int64[1797].

    The published grey levels are the integers 0 .. 16; x_0 = level / 8 - 1 is exact. Alpaydin and Kaynak 1998, UCI
    "Optical recognition of handwritten digits", doi 10.24432/C50P49 (its test part).
    """
    from sklearn.datasets import load_digits

    scans: Any = load_digits()  # a Bunch, or a pair: its type depends on an argument
    x0 = torch.from_numpy(scans["images"]).float().div(8).sub(1).unsqueeze(1)
    return x0, torch.from_numpy(scans["target"]).long()


@register
@dataclass(frozen=True, kw_only=True)
class Digits(InMemory):
    """The scans of `digits` with `cond["y"]`: the 1437 to train on, or the 360 `held_out` (`split`, seed 0, every 5th).

    Each class is held out in proportion, to within one scan. The two parts share no scan and together are all 1797.
    """

    held_out: bool = False

    def _load(self) -> Batch:
        x0, y = digits()
        mine = split(y) == self.held_out
        return Batch(x0[mine], {"y": y[mine]})

    @property
    def classes(self) -> tuple[str, ...]:
        """The ten digits."""
        return tuple("0123456789")

    @property
    def bin(self) -> float:
        """17 grey levels from -1 to 1 are an eighth apart."""
        return 1 / 8
