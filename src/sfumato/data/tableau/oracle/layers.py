"""All objects of a picture at once: who hides whom, and each object judged with what is seen of the others in place."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from ..paint import tones
from ..scene import palette
from .bank import covered, frame
from .fit import Candidates, light, polish

_WIDTHS = (1.0, 1.7, 2.4)  # of edges, in pixels: as painted, and two that blur has softened


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

    def drawn(self, grounds: Tensor, soft: Tensor | None = None) -> Drawn:
        """Return the objects drawn over `grounds` float32[B, 3, S, S], their edges `soft` [P] wide (1 each)."""
        side = grounds.shape[-1]
        origin = torch.zeros(len(self.row), 2)
        u, v = frame(self.found.place, origin, side)
        wide = torch.ones(len(self.row), 1) if soft is None else soft[:, None]
        tone = tones(self.found.texture, u, v, self.found.place[:, 2:3] / wide)
        both = palette()[0][self.colour]
        tint = torch.lerp(both[:, 0, :, None], both[:, 1, :, None], tone[:, None])
        cover = covered(self.found.shape, self.found.place, u, v, wide)
        slots = int(self.slot.max()) + 1 if len(self.slot) else 1
        dense = cover.new_zeros(len(grounds), slots, side * side)
        dense[self.row, self.slot] = cover
        tints = cover.new_zeros(len(grounds), slots, 3, side * side)
        tints[self.row, self.slot] = tint
        return Drawn(grounds.flatten(2), dense, tints)

    def explained(self, pictures: Tensor, drawn: Drawn) -> Tensor:
        """Return float32[P], the share of the squared difference without each object that goes away with it."""
        left, _, through = drawn.left(pictures, self)
        seen = through * drawn.cover[self.row, self.slot]
        after = (pictures.flatten(2) - drawn.picture).square().sum(1)[self.row]
        before = (seen * left.square().sum(1)).sum(1).clamp(min=1e-6)
        return torch.where(seen.sum(1) > 0, (1 - (seen * after).sum(1) / before).clamp(0, 1), 0.0)


class Drawn:
    """Objects over grounds: `cover` float32[B, M, N] and `tint` [B, M, 3, N] by slot, and the `picture` [B, 3, N]."""

    def __init__(self, ground: Tensor, cover: Tensor, tint: Tensor) -> None:
        self.cover, self.tint = cover, tint
        picture = ground
        self.behind: list[Tensor] = []
        for k in range(cover.shape[1]):
            self.behind.append(picture)
            picture = torch.lerp(picture, tint[:, k], cover[:, k, None])
        self.picture = picture

        above, through = torch.zeros_like(ground), torch.ones_like(cover[:, 0])
        slots = cover.shape[1]
        self.above, self.through = [above] * slots, [through] * slots
        for k in reversed(range(slots)):
            self.above[k], self.through[k] = above, through
            above = above + (through * cover[:, k])[:, None] * tint[:, k]
            through = through * (1 - cover[:, k])

    def left(self, pictures: Tensor, layers: Layers) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is left for each of `layers` when all others are in place, float32[P, 3, N].

        And what is behind it [P, 3, N], and how much is seen through what is above it [P, N].
        """
        at = layers.row, layers.slot
        behind, above, through = (torch.stack(part, 1)[at] for part in (self.behind, self.above, self.through))
        return pictures.flatten(2)[layers.row] - above - through[:, None] * behind, behind, through

    def light(self, pictures: Tensor, layers: Layers) -> Tensor:
        """Return what judges each of `layers` with all others in place, float32[P, 5, N]."""
        return light(*self.left(pictures, layers), layers.colour)


def ordered(layers: Layers, drawn: Drawn, pictures: Tensor) -> Layers:
    """Return `layers` in the order that the pictures show: where two overlap, whose colour is seen.

    Every pair votes with the difference of squared distances over the pixels that both cover, and the permutation that
    most votes agree with is taken.
    """
    slots = drawn.cover.shape[1]
    off = (pictures.flatten(2)[:, None] - drawn.tint).square().sum(2)
    solid = (drawn.cover > 0.7).float()
    # votes[i, j] > 0: j is seen where i and j overlap, so j is above i
    votes = torch.einsum("bin,bjn->bij", solid * off, solid) - torch.einsum("bin,bjn->bij", solid, solid * off)
    orders = torch.tensor(list(itertools.permutations(range(slots))))
    place = orders.argsort(1)  # place[o, i]: the slot of object i in order o
    upper = (place[:, :, None] < place[:, None, :]).float().flatten(1)  # of i below j
    best = (votes.flatten(1) @ upper.T).argmax(1)
    return Layers(layers.row, place[best][layers.row, layers.slot], layers.colour, layers.found)


def settle(
    pictures: Tensor, back: Tensor, layers: Layers, found: Candidates, soft: Tensor, steps: tuple[float, ...]
) -> tuple[Layers, Candidates]:
    """Return `layers` put in order and read anew from candidates that are refined with all other objects in place.

    `soft` float32[P] is the width of their edges; `steps` are explained in `polish`.
    """
    drawn = layers.drawn(back, soft)
    order = ordered(layers, drawn, pictures)
    if not torch.equal(order.slot, layers.slot):
        layers, drawn = order, order.drawn(back, soft)
    found = polish(found, drawn.light(pictures, layers), soft, steps, pictures.shape[-1])
    return layers.read_as(found.best()), found


def softness(pictures: Tensor, back: Tensor, layers: Layers) -> Tensor:
    """Return float32[P], of `_WIDTHS` the width of edges with which the objects of a picture explain it best."""
    flat = pictures.flatten(2)
    off = [(flat - layers.drawn(back, torch.full((len(layers.row),), w)).picture).square().sum((1, 2)) for w in _WIDTHS]
    return torch.tensor(_WIDTHS)[torch.stack(off, 1).argmin(1)][layers.row]
