"""The world as a data set: painted while it is read, nothing on the disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ...core import Batch, InputError, Noise, fold, register, to_config
from ..dataset import Dataset
from ..labels import Captions
from .captions import AltText, Caption, Chinese, Descriptive, Paraphrased, Partial, Style, Terse, choices
from .claims import facts
from .paint import paint
from .sampling import Law, sample_scenes
from .scene import Scenes

WORLD = 1  # the edition of the world: a change of what any row looks like or says makes it another
TRAIN, EVALUATION = 0, 1  # seeds


@dataclass(frozen=True, kw_only=True)
class Painted(Dataset):
    """`size` rows that are painted while they are read; row i is a pure function of (seed, i) and of the settings.

    A larger set begins with the smaller one, and other seeds share no row. Raises `InputError` for sizes that cannot be
    and for rows that are not there.
    """

    size: int = 100_000
    side: int = 64
    seed: int = TRAIN
    law: Law = field(default_factory=Law)

    def __post_init__(self) -> None:
        if self.size < 1 or self.side < 8:
            kind = type(self).__name__
            raise InputError(f"a {kind} needs size >= 1 and side >= 8, got size={self.size} and side={self.side}")

    def __len__(self) -> int:
        return self.size

    def noise(self, indices: Sequence[int]) -> Noise:
        """Return the noise that the rows `indices` are drawn from."""
        if len(indices) and not 0 <= min(indices) <= max(indices) < self.size:
            kind = type(self).__name__
            raise InputError(f"rows {min(indices)} to {max(indices)} of a {kind} of {self.size}: rows count from 0")
        first = fold(type(self).__name__, self.seed)
        return Noise([first + int(i) for i in indices])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one x_0."""
        return (3, self.side, self.side)

    @property
    def fingerprint(self) -> str:
        """A sha256 of the settings and of the edition of the world: nothing else decides a row."""
        return hashlib.sha256(json.dumps([WORLD, to_config(self)], sort_keys=True).encode()).hexdigest()


@register
@dataclass(frozen=True, kw_only=True)
class Tableau(Painted):
    """`size` captioned pictures, x_0 float32[3, side, side] in [-1, 1]; row i is a pure function of (seed, i).

    `cond["caption"]` uint8[B, L] holds the UTF-8 bytes (`data.text` reads them), each caption in one of `styles`, drawn
    by `weights`. Without styles there are no conditions. `dequantise` is the standard deviation of the noise that is
    added to a picture each time it is read (0.02 to 0.05 takes a model off the lattice of flat colours).

    `seed=EVALUATION` is for measuring; combinations of shape and colour that `law` holds out are not in training, and
    `law=Law(common=False, held_out=True)` shows nothing else.
    """

    styles: tuple[Style, ...] = (Terse(), Descriptive(), Partial(), Paraphrased(), AltText(), Chinese())
    weights: tuple[float, ...] = (0.15, 0.2, 0.3, 0.2, 0.05, 0.1)
    dequantise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.styles) != len(self.weights) and self.styles:
            raise InputError(f"{len(self.weights)} weights for {len(self.styles)} styles: give one for each")
        if self.styles and (min(self.weights) < 0 or not 0 < sum(self.weights) < float("inf")):
            raise InputError(f"weights of styles are at least 0 and not all 0; got {self.weights}")
        if not 0 <= self.dequantise < 1:
            raise InputError(f"dequantise is a standard deviation, at least 0 and below 1; got {self.dequantise}")

    def batch(self, indices: Sequence[int], noise: Noise) -> Batch:
        """Return the rows `indices`; only what `dequantise` adds is drawn from `noise`."""
        rows = self.noise(indices)
        scenes = sample_scenes(rows, self.law)
        x0 = paint(scenes, self.side)
        if self.dequantise:
            x0 = x0 + self.dequantise * noise.like(x0, "dequantise")
        written = self.tell(scenes, rows)
        return Batch(x0, Captions().cond([c.text for c in written]) if written else {})

    def scenes(self, indices: Sequence[int]) -> Scenes:
        """Return the scenes of the rows `indices`."""
        return sample_scenes(self.noise(indices), self.law)

    def captions(self, indices: Sequence[int]) -> list[Caption]:
        """Return the captions of the rows `indices`, with what they claim; none without styles."""
        rows = self.noise(indices)
        return self.tell(sample_scenes(rows, self.law), rows)

    def tell(self, scenes: Scenes, rows: Noise) -> list[Caption]:
        """Return a caption of each scene, style and words drawn from its row of the noise; none without styles."""
        if not self.styles:
            return []
        edges = torch.tensor(self.weights, dtype=torch.float64).cumsum(0)
        chosen = torch.searchsorted(edges, rows.uniform("style") * edges[-1], right=True).clamp(
            max=len(self.styles) - 1
        )
        rows_of = zip(chosen.tolist(), facts(scenes), choices(rows), strict=True)
        return [self.styles[k].compose(known, drawn) for k, known, drawn in rows_of]
