"""Small pieces of pictures, from which a convolutional codec learns as much a pixel as from whole ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from ..core import Batch, InputError, Noise, register, to_config
from .dataset import Dataset


@register
@dataclass(frozen=True, kw_only=True)
class Glimpses(Dataset):
    """Pictures of `side` pixels: rows of `data`, the even ones cut out of the picture, the odd ones painted that small.

    `data` paints at any size (its field `side`). The place of a cut belongs to the noise of the reading. A codec that
    sees both knows edges as they are in large pictures, and whole scenes in small ones. Conditions are left out. Raises
    `InputError` for data that has no `side`, or a smaller one.
    """

    data: Dataset
    side: int = 32

    def __post_init__(self) -> None:
        if not isinstance(getattr(self.data, "side", None), int) or not 0 < self.side <= cast(Any, self.data).side:
            raise InputError(f"Glimpses of {self.side} pixels need data with a `side` of at least that many")

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: Sequence[int], noise: Noise) -> Batch:
        """Return the rows `indices`."""
        room = cast(Any, self.data).side - self.side + 1
        right, down = ((noise.uniform(axis) * room).long().tolist() for axis in ("right", "down"))
        small = replace(cast(Any, self.data), side=self.side)
        x = torch.empty(len(indices), *self.shape)
        for odd, source in ((0, self.data), (1, small)):
            places = [k for k, row in enumerate(indices) if row % 2 == odd]
            if places:
                found = source.batch([indices[k] for k in places], noise.rows(places)).x0
                for k, picture in zip(places, found, strict=True):
                    a, b = (0, 0) if odd else (down[k], right[k])
                    x[k] = picture[:, a : a + self.side, b : b + self.side]
        return Batch(x, {})

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one x_0."""
        return (self.data.shape[0], self.side, self.side)

    @property
    def fingerprint(self) -> str:
        """A sha256 of the data's and of the settings."""
        return hashlib.sha256(json.dumps([self.data.fingerprint, to_config(self)]).encode()).hexdigest()
