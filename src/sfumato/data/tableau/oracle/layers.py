"""All objects of a picture at once: who hides whom, and each object judged with what is seen of the others in place."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import shapes
from ..paint import tones
from ..scene import RADII, palette
from .bank import away, frame
from .fit import JITTER, Candidates, light, polish

_WIDTHS = (1.0, 1.7, 2.4)  # of edges, in pixels: as painted, and two that blur has softened


@dataclass(frozen=True)
class Outline:
    """K objects `rows` int64[K] of one size, each in a window of n pixels around its place.

    `index` int64[K n]: where its pixels are among those of all objects' whole pictures. `u`, `v`, `away` float32[K, n]:
    its pixels in the shape's own frame, and their distances from the shape.
    """

    rows: Tensor
    index: Tensor
    u: Tensor
    v: Tensor
    away: Tensor
    texture: Tensor
    radius: Tensor


@dataclass(frozen=True)
class Layers:
    """P objects in the pictures `row` int64[P], the one in `slot` int64[P] painted over those in lower slots."""

    row: Tensor
    slot: Tensor
    colour: Tensor
    found: Candidates

    def __getitem__(self, index: Tensor) -> Layers:
        return Layers(self.row[index], self.slot[index], self.colour[index], self.found[index])

    def read_as(self, found: Candidates) -> Layers:
        """Return the same objects, read as `found`."""
        return Layers(self.row, self.slot, self.colour, found)

    def scaled(self, factor: float) -> Layers:
        """Return the objects in pictures that are larger by `factor`."""
        return self.read_as(self.found.scaled(factor))

    def outlines(self, side: int) -> list[Outline]:
        """Return where the objects lie in pictures of `side` pixels, those of one size together."""
        out: list[Outline] = []
        for size, radius in enumerate(RADII):
            rows = (self.found.size == size).nonzero()[:, 0]
            if not len(rows):
                continue
            shape, place, width = self.found.shape[rows], self.found.place[rows], min(_window(radius, side), side)
            origin = (place[:, :2] - width / 2).round().clamp(0, side - width)
            u, v = frame(place, origin, width)
            corner = origin[:, 1] * side + origin[:, 0] + rows * side * side
            index = (corner.long()[:, None] + _square(width, side)).flatten()
            out.append(Outline(rows, index, u, v, away(shape, u, v), self.found.texture[rows], place[:, 2:3]))
        return out

    def drawn(self, grounds: Tensor, soft: Tensor | None = None, outlines: list[Outline] | None = None) -> Drawn:
        """Return the objects drawn over `grounds` float32[B, 3, S, S], their edges `soft` [P] wide (1 each).

        `outlines` are those of the objects, where they are there already.
        """
        side = grounds.shape[-1]
        wide = torch.ones(len(self.row)) if soft is None else soft
        cover, tone = grounds.new_zeros(2, len(self.row), side * side)
        for line in self.outlines(side) if outlines is None else outlines:
            pixels = line.radius / wide[line.rows, None]
            cover.view(-1)[line.index] = (0.5 - line.away * pixels).clamp_(0, 1).flatten()
            tone.view(-1)[line.index] = tones(line.texture, line.u, line.v, pixels).flatten()
        both = palette()[0][self.colour]
        tint = torch.lerp(both[:, 0, :, None], both[:, 1, :, None], tone[:, None])
        return Drawn(grounds.flatten(2), self, cover, tint)

    def explained(self, pictures: Tensor, drawn: Drawn) -> Tensor:
        """Return float32[P], the share of the squared difference without each object that goes away with it."""
        left, _, through = drawn.left(pictures)
        seen = through * drawn.cover
        after = (pictures.flatten(2) - drawn.picture).square().sum(1)[self.row]
        before = (seen * left.square().sum(1)).sum(1).clamp(min=1e-6)
        return torch.where(seen.sum(1) > 0, (1 - (seen * after).sum(1) / before).clamp(0, 1), 0.0)


class Drawn:
    """Objects over grounds: `cover` float32[P, N] and `tint` [P, 3, N] of each, and the `picture` [B, 3, N].

    Beyond its window an object covers nothing, and its tint is its colour's first tone.
    """

    def __init__(self, ground: Tensor, layers: Layers, cover: Tensor, tint: Tensor) -> None:
        self.layers, self.cover, self.tint = layers, cover, tint
        self.picture, self.behind = ground.clone(), torch.empty_like(tint)
        slots = int(layers.slot.max()) + 1 if len(layers.slot) else 0
        self.levels = [(layers.slot == k).nonzero()[:, 0] for k in range(slots)]
        for level in self.levels:
            row = layers.row[level]
            behind = self.behind[level] = self.picture[row]
            self.picture[row] = torch.lerp(behind, tint[level], cover[level, None])

    def left(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is left for each object when all others are in place, float32[P, 3, N].

        And what is behind it [P, 3, N], and how much is seen through what is above it [P, N].
        """
        seen, open_ = pictures.flatten(2).clone(), torch.ones_like(pictures[:, 0]).flatten(1)
        left, through = torch.empty_like(self.tint), torch.empty_like(self.cover)
        for level in reversed(self.levels):  # from the top: what is above is taken away from the picture
            row, cover = self.layers.row[level], self.cover[level]
            here, opened = seen[row], open_[row]
            through[level] = opened
            left[level] = here - opened[:, None] * self.behind[level]
            seen[row] = here.sub_((opened * cover)[:, None] * self.tint[level])
            open_[row] = opened * (1 - cover)
        return left, self.behind, through


def _window(radius: float, side: int) -> int:
    """Return the width in pixels of a window that holds an object of nominal `radius` with the softest of edges.

    A pixel more on each side: outside of its corners a shape's distance is less than the true one.
    """
    return math.ceil(2 * (shapes.REACH * (1 + JITTER) * radius * side + _WIDTHS[-1] / 2)) + 3


def _square(width: int, side: int) -> Tensor:
    """Return int64[width^2], the places of a window in a picture of `side` pixels, less that of its corner."""
    steps = torch.arange(width)
    return (steps[:, None] * side + steps).flatten()


def ordered(layers: Layers, drawn: Drawn, pictures: Tensor) -> Layers:
    """Return `layers` in the order that the pictures show: where two overlap, whose colour is seen.

    Every pair votes with the difference of squared distances over the pixels that both cover, and the permutation that
    most votes agree with is taken.
    """
    slots = max(1, len(drawn.levels))
    at = layers.row, layers.slot
    off, solid = pictures.new_zeros(2, len(pictures), slots, drawn.cover.shape[1])
    solid[at] = (drawn.cover > 0.7).float()
    off[at] = (pictures.flatten(2)[layers.row] - drawn.tint).square().sum(1)
    # votes[i, j] > 0: j is seen where i and j overlap, so j is above i
    votes = torch.einsum("bin,bjn->bij", solid * off, solid) - torch.einsum("bin,bjn->bij", solid, solid * off)
    orders = torch.tensor(list(itertools.permutations(range(slots))))
    place = orders.argsort(1)  # place[o, i]: the slot of object i in order o
    upper = (place[:, :, None] < place[:, None, :]).float().flatten(1)  # of i below j
    best = (votes.flatten(1) @ upper.T).argmax(1)
    return Layers(layers.row, place[best][layers.row, layers.slot], layers.colour, layers.found)


def settle(
    pictures: Tensor,
    back: Tensor,
    layers: Layers,
    found: Candidates,
    soft: Tensor,
    steps: tuple[float, ...],
    outlines: list[Outline] | None = None,
) -> tuple[Layers, Candidates]:
    """Return `layers` put in order and read anew from candidates that are refined with all other objects in place.

    `soft` float32[P] is the width of their edges; `steps` are explained in `polish`; `outlines` are those of `layers`,
    where they are there already.
    """
    drawn = layers.drawn(back, soft, outlines)
    order = ordered(layers, drawn, pictures)
    if not torch.equal(order.slot, layers.slot):
        layers, drawn = order, Drawn(back.flatten(2), order, drawn.cover, drawn.tint)
    lights = light(*drawn.left(pictures), layers.colour)
    found = polish(found, lights, soft, steps, pictures.shape[-1])
    return layers.read_as(found.best()), found


def softness(pictures: Tensor, back: Tensor, layers: Layers, outlines: list[Outline]) -> Tensor:
    """Return float32[P], of `_WIDTHS` the width of edges with which the objects of a picture explain it best."""
    flat, each = pictures.flatten(2), torch.ones(len(layers.row))
    off = [(flat - layers.drawn(back, w * each, outlines).picture).square().sum((1, 2)) for w in _WIDTHS]
    return torch.tensor(_WIDTHS)[torch.stack(off, 1).argmin(1)][layers.row]
