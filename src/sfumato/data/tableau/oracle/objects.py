"""Pieces to objects: pieces that one object explains are joined, and all objects of a picture settle together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .fit import Candidates, View, light, lit, polish, propose, together, views
from .ground import Ground
from .layers import Layers, settle, softness
from .pieces import Pieces, colour_distances, cut, widened

_EACH = 3  # shapes that a piece is refined as
_SOFT = 1.3  # the width of edges before it is known
_SURE, _AGAIN = 0.95, 6  # what an object has to explain, or so many more shapes are tried
_NEARLY = 0.8  # of what the best candidate explains, what another must explain to be looked at further
_WHOLE = 0.6  # of what a piece explains by itself, what a union has to explain of it
_OWN = 0.012  # of the picture: what an object must show; the smallest one's visible part covers 0.02


@dataclass(frozen=True)
class Fitted:
    """P pieces and their candidates."""

    pieces: Pieces
    found: Candidates

    @property
    def gain(self) -> Tensor:
        """float32[P]: what the best candidate explains."""
        return -self.found.best().cost

    def __getitem__(self, index: Tensor) -> Fitted:
        new = torch.full((len(self.pieces.row),), -1)
        new[index] = torch.arange(len(index))
        of = new[self.found.of]
        return Fitted(self.pieces[index], self.found.renamed(of)[(of >= 0).nonzero()[:, 0]])

    def __add__(self, other: Fitted) -> Fitted:
        later = other.found.renamed(other.found.of + len(self.pieces.row))
        return Fitted(self.pieces + other.pieces, together([self.found, later]))


def objects(pictures: Tensor, ground: Ground) -> tuple[Ground, Layers, Candidates]:
    """Return the objects in `pictures` float32[B, 3, S, S] on their grounds, and what else they may be.

    The grounds are those given, their textures read anew without the objects' edges.
    """
    side = pictures.shape[-1]
    away = colour_distances(pictures)
    pieces = cut(pictures, ground.paint(side), away)
    taken = pieces.taken(len(pictures))
    ground = ground.mottled(pictures, widened(taken))
    back = ground.paint(side)

    def fitted(some: Pieces) -> Fitted:
        return Fitted(some, _candidates(views(pictures, back, away, some, taken), side))

    whole = _merged(fitted(pieces), taken, fitted)
    whole = whole[(whole.pieces.mask.sum((1, 2)) >= _OWN * side * side).nonzero()[:, 0]]
    whole = whole[whole.pieces.row.argsort(stable=True)]
    row, found = whole.pieces.row, whole.found
    slot = torch.arange(len(row)) - torch.searchsorted(row, row)
    layers = Layers(row, slot, whole.pieces.colour, found.best())
    outlines = layers.outlines(side)
    soft = softness(pictures, back, layers, outlines)
    layers, found = settle(pictures, back, layers, found.best(2 * _EACH, _NEARLY), soft, (1.3, 1.0), outlines)
    layers, found = _reconsidered(pictures, back, layers, found, soft, whole.pieces.middle)
    layers, found = settle(pictures, back, layers, found.best(2, _NEARLY), soft, (1.3, 1.0))
    return ground, layers, found


def _reconsidered(
    pictures: Tensor, back: Tensor, layers: Layers, found: Candidates, soft: Tensor, middle: Tensor
) -> tuple[Layers, Candidates]:
    """Return the same, with objects that explain too little held against every template once more.

    Now all others are known, and how soft edges are.
    """
    side = pictures.shape[-1]
    drawn = layers.drawn(back, soft)
    rows = (layers.explained(pictures, drawn) < _SURE).nonzero()[:, 0]
    if not len(rows):
        return layers, found
    left = drawn.left(pictures)
    lights = light(*left, layers.colour)
    again = propose(lit(layers.found, lights, left[2], soft, side), middle, rows, 3, 1, _AGAIN, side)
    again = together([found, polish(again, lights, soft, (1.5, 1.0, 1.0), side)])
    return layers.read_as(again.best()), again


def _candidates(view: View, side: int) -> Candidates:
    free, touched = ((view.touched == t).nonzero()[:, 0] for t in (False, True))
    # a piece by itself is where it seems to be; one beside others may reach behind them, or lie before them
    tries = [(free, True, 1, 1), (touched, True, 4, 2), (touched, False, 1, 1)]
    parts: list[Candidates] = []
    for rows, behind, reach, step in tries:
        maps = view.maps[:, 0 if behind else 1]
        proposed = propose(maps, view.middle, rows, reach, step, _EACH, side)
        parts.append(polish(proposed, view.light, torch.full((len(view.maps),), _SOFT), (1.5, 1.0, 1.0), side, maps))
    return together(parts)


def _merged(whole: Fitted, taken: Tensor, fitted: Callable[[Pieces], Fitted]) -> Fitted:
    """Return the pieces, with those of one colour joined that one object explains together.

    What hides an object may cut it, and is then beside every part: first all such pieces of a colour are tried, where
    there are more than two, then pairs.
    """
    for groups in (Pieces.crowds, Pieces.pairs, Pieces.pairs, Pieces.pairs):
        members = groups(whole.pieces, whole.pieces.beside(taken))
        if not len(members):
            continue
        union = fitted(whole.pieces.joined(members))
        gains = members * whole.gain
        high = gains.amax(1)
        surplus = union.gain - high - _WHOLE * (gains.sum(1) - high)
        key = union.pieces.key  # the best union for each picture and colour
        best = torch.full((int(key.max()) + 1,), 0.0).scatter_reduce(0, key, surplus, "amax")
        take = ((surplus > 0) & (surplus == best[key])).nonzero()[:, 0]
        gone = members[take].any(0)
        whole = whole[(~gone).nonzero()[:, 0]] + union[take]
    return whole
