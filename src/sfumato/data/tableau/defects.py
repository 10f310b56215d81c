"""What is wrong with pictures of the web, put in on purpose: so that whoever filters can be measured against the truth.

`Defective` is a Tableau of which known rows are copies of others, nearly copies, watermarked, blurred or captioned
wrongly; `Poisoned` one of which known rows teach a wrong meaning of a word. Each says which rows, and what was done.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from ...core import Batch, InputError, Noise, nearest, register
from ..dataset import Wrapping
from ..labels import Captions
from . import shapes
from .captions import Caption, Descriptive, Style, Wrong
from .dataset import Tableau
from .paint import paint
from .scene import SHAPES, Scenes

DEFECTS = ("none", "copy", "near copy", "watermark", "blur", "caption")


def near_copy(pictures: Tensor, noise: Noise, std: float = 0.02) -> Tensor:
    """Return float32[B, 3, S, S], shifted by up to a pixel each way (bilinear) and with noise of `std` added."""
    n, _, side, _ = pictures.shape
    shift = 2 * torch.special.ndtr(noise.normal((n, 2), "defect", "shift")) - 1  # pixels
    line = (torch.arange(side) + 0.5) * 2 / side - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    grid = torch.stack([x, y], 2) - (2 / side * shift)[:, None, None]
    moved = functional.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved + std * noise.like(moved, "defect", "noise")


def watermark(pictures: Tensor, noise: Noise, strength: float = 0.35) -> Tensor:
    """Return the pictures under a light logo, a disc with a bar through it, `strength` opaque, in a drawn corner."""
    n, _, side, _ = pictures.shape
    place = (torch.arange(side) + 0.5) / side
    corner = torch.special.ndtr(noise.normal((n, 2), "defect", "corner")) < 0.5
    x, y = (torch.where(corner[:, k, None], place, 1 - place) - 0.17 for k in (0, 1))
    far = torch.hypot(x[:, None, :], y[:, :, None])
    ring = (0.5 - ((far - 0.1).abs() - 0.025) * side).clamp(0, 1)
    bar = (0.5 - (torch.maximum(x.abs()[:, None, :] - 0.15, y.abs()[:, :, None] - 0.02)) * side).clamp(0, 1)
    return torch.lerp(pictures, torch.ones(()), strength * torch.maximum(ring, bar)[:, None])


def blur(pictures: Tensor, sigma: float = 1.5) -> Tensor:
    """Return the pictures through a Gaussian of `sigma` pixels, borders reflected."""
    reach = max(1, round(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma).square())
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    out = functional.conv2d(functional.pad(pictures, [reach, reach, 0, 0], mode="reflect"), kernel, groups=3)
    return functional.conv2d(
        functional.pad(out, [0, 0, reach, reach], mode="reflect"), kernel.transpose(2, 3), groups=3
    )


@register
@dataclass(frozen=True, kw_only=True)
class Defective(Wrapping[Tableau]):
    """`data` with defects in known rows: `rates` are the shares of DEFECTS after "none", in their order.

    The copies are of rows 0 .. `originals` - 1 of `data`, pictures and captions, and of as few of them the more often
    each is repeated. `defects` says what each row is, `sources` which row it shows. Defaults: a tenth near copies, a
    tenth wrong captions, a twentieth each of watermarks and blurred pictures, no exact copies.
    """

    data: Tableau = field(default_factory=Tableau)
    rates: tuple[float, float, float, float, float] = (0.0, 0.1, 0.05, 0.05, 0.1)
    originals: int = 1000
    wrong: Style = field(default_factory=Wrong)

    def __post_init__(self) -> None:
        if min(self.rates) < 0 or sum(self.rates) > 1:
            raise InputError(f"rates are shares of the rows, at least 0 and 1 together at most; got {self.rates}")
        if not 1 <= self.originals <= self.data.size:
            raise InputError(f"originals is {self.originals}: give 1 to {self.data.size}, the rows of the data")
        if not self.data.styles:
            raise InputError("a Tableau without styles has no captions to be wrong: give it styles")

    def defects(self, indices: Sequence[int]) -> Tensor:
        """Return int64[B], what is wrong with each row: numbers into DEFECTS."""
        drawn = self.data.noise(indices).uniform("defect", "kind")
        edges = torch.tensor(self.rates, dtype=torch.float64).cumsum(0)
        return (torch.searchsorted(edges, drawn, right=True) + 1) % len(DEFECTS)  # past the last edge: none

    def sources(self, indices: Sequence[int]) -> Tensor:
        """Return int64[B], the row of `data` that each row shows: its own, or the one that it copies."""
        kind = self.defects(indices)
        drawn = (self.data.noise(indices).uniform("defect", "source") * self.originals).long()
        copies = (kind == DEFECTS.index("copy")) | (kind == DEFECTS.index("near copy"))
        return torch.where(copies, drawn, torch.tensor(list(indices), dtype=torch.int64))

    def captions(self, indices: Sequence[int]) -> list[Caption]:
        """Return the captions of the rows `indices`; `wrong` says in what a wrong one is."""
        shown, kind = self.sources(indices).tolist(), self.defects(indices)
        out = self.data.captions(shown)
        rows = (kind == DEFECTS.index("caption")).nonzero()[:, 0].tolist()
        if rows:
            scenes, noise = self.data.scenes(shown)[rows], self.data.noise(shown).rows(rows)
            for row, caption in zip(rows, self.wrong.write(scenes, noise), strict=True):
                out[row] = caption
        return out

    def batch(self, indices: Sequence[int], noise: Noise) -> Batch:
        """Return the rows `indices`; what is random about a picture's reading is the data's."""
        kind, own = self.defects(indices), self.data.noise(indices)
        x0 = self.data.batch(self.sources(indices).tolist(), noise).x0
        for name, make in (("near copy", near_copy), ("watermark", watermark), ("blur", lambda x, _: blur(x))):
            rows = (kind == DEFECTS.index(name)).nonzero()[:, 0]
            if len(rows):
                x0[rows] = make(x0[rows], own.rows(rows.tolist()))
        return Batch(x0, Captions().cond([c.text for c in self.captions(indices)]))


class Poison(ABC):
    """What is done to the rows that are meant to teach something false; a member may need a codec, or none."""

    @abstractmethod
    def affects(self, scenes: Scenes) -> Tensor:
        """Return bool[B]: which scenes this poison can be made of."""

    @abstractmethod
    def pictures(self, scenes: Scenes, side: int, noise: Noise) -> Tensor:
        """Return the pictures that take the place of those of `scenes`, whose captions stay."""


@register
@dataclass(frozen=True, kw_only=True)
class DirtyLabel(Poison):
    """Captions of `concept` with pictures of `anchor`, both shapes: poison that anyone can see.

    The simple attack that Nightshade's optimised one is compared with (Shan et al. 2023, arXiv 2310.13828).
    """

    concept: str = "star"
    anchor: str = "square"

    def __post_init__(self) -> None:
        for shape in (self.concept, self.anchor):
            if shape not in SHAPES:
                raise InputError(f"unknown shape {shape!r}{nearest(shape, SHAPES)}")
        if self.concept == self.anchor:
            raise InputError(f"concept and anchor are both {self.concept!r}: give two shapes")

    def affects(self, scenes: Scenes) -> Tensor:
        """Return bool[B]: which scenes show the concept."""
        return ((scenes.shape == SHAPES.index(self.concept)) & scenes.present).any(1)

    def pictures(self, scenes: Scenes, side: int, noise: Noise) -> Tensor:
        """Return the pictures with every object of the concept turned into one of the anchor."""
        mine = (scenes.shape == SHAPES.index(self.concept)) & scenes.present
        anchor = SHAPES.index(self.anchor)
        order = shapes.SYMMETRY[anchor]
        turn = scenes.turn.remainder(2 * math.pi / order) if order else torch.zeros_like(scenes.turn)
        shape = scenes.shape.masked_fill(mine, anchor)
        return paint(replace(scenes, shape=shape, turn=torch.where(mine, turn, scenes.turn)), side)


@register
@dataclass(frozen=True, kw_only=True)
class Poisoned(Wrapping[Tableau]):
    """`data` with a share `rate` of the rows that `poison` affects replaced by it; `poisoned` says which.

    Their captions are `style`'s, so that they name what the poison is about.
    """

    poison: Poison = field(default_factory=DirtyLabel)
    data: Tableau = field(default_factory=Tableau)
    rate: float = 0.5
    style: Style = field(default_factory=Descriptive)

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise InputError(f"rate is a share of the rows, got {self.rate}; give 0 to 1")

    def poisoned(self, indices: Sequence[int]) -> Tensor:
        """Return bool[B]: which rows are poison."""
        drawn = self.data.noise(indices).uniform("poison") < self.rate
        return self.poison.affects(self.data.scenes(indices)) & drawn

    def batch(self, indices: Sequence[int], noise: Noise) -> Batch:
        """Return the rows `indices`; what is random about a picture's reading is the data's."""
        clean, rows = self.data.batch(indices, noise), self.poisoned(indices).nonzero()[:, 0].tolist()
        captions = [c.text for c in self.data.captions(indices)]
        if rows:
            scenes, own = self.data.scenes(indices)[rows], self.data.noise(indices).rows(rows)
            clean.x0[rows] = self.poison.pictures(scenes, self.data.side, own)
            for row, caption in zip(rows, self.style.write(scenes, own), strict=True):
                captions[row] = caption.text
        return Batch(clean.x0, Captions().cond(captions) if captions else {})
