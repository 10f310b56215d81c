"""Pixels to pieces: which colour each pixel has, and the connected pieces of each colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..scene import palette

_CROWD = 7  # pieces looked at in a picture, the largest first
_SMALL = 0.005  # of the picture: what a piece must cover


@dataclass(frozen=True)
class Pieces:
    """P pieces of B pictures: `row` int64[P] the picture, `colour` int64[P], and `mask` bool[P, S, S]."""

    row: Tensor
    colour: Tensor
    mask: Tensor

    def __getitem__(self, index: Tensor) -> Pieces:
        return Pieces(self.row[index], self.colour[index], self.mask[index])

    @property
    def middle(self) -> Tensor:
        """float32[P, 2], the middle of each piece's bounding box, in pixels."""
        lines = self.mask.any(1).float(), self.mask.any(2).float()
        side = self.mask.shape[1]
        return torch.stack([(line.argmax(1) + side - line.flip(1).argmax(1)).float() / 2 for line in lines], 1)

    def taken(self, batch: int) -> Tensor:
        """Return bool[batch, S, S]: what belongs to some piece."""
        out = torch.zeros((batch, *self.mask.shape[1:]), dtype=torch.int64)
        return out.index_put_((self.row,), self.mask.long(), accumulate=True) > 0

    def __add__(self, other: Pieces) -> Pieces:
        parts = [(self.row, other.row), (self.colour, other.colour), (self.mask, other.mask)]
        return Pieces(*(torch.cat(part) for part in parts))

    @property
    def key(self) -> Tensor:
        """int64[P], the same for pieces of one colour in one picture."""
        return self.row * len(palette()[0]) + self.colour

    def pairs(self, may: Tensor) -> Tensor:
        """Return bool[G, P], the pairs of pieces, of those that `may` bool[P], of one colour in one picture."""
        same = (self.key[:, None] == self.key) & may[:, None] & may
        i, j = torch.triu(same, diagonal=1).nonzero().unbind(1)
        number = torch.arange(len(self.row))
        return (number == i[:, None]) | (number == j[:, None])

    def crowds(self, may: Tensor) -> Tensor:
        """Return bool[G, P], the groups of three or more pieces, of those that `may`, of one colour in one picture."""
        keys, count = self.key[may].unique(return_counts=True)
        return (self.key == keys[count > 2][:, None]) & may

    def beside(self, taken: Tensor) -> Tensor:
        """Return bool[P]: whether something else of what is `taken` bool[B, S, S] is within two pixels."""
        other = widened(widened(taken[self.row] & ~self.mask))
        return (other & self.mask).flatten(1).any(1)

    def joined(self, members: Tensor) -> Pieces:
        """Return the unions of the groups bool[G, P]."""
        first = members.int().argmax(1)
        mask = (members.float() @ self.mask.flatten(1).float() > 0).unflatten(1, self.mask.shape[1:])
        return Pieces(self.row[first], self.colour[first], mask)


def widened(mask: Tensor) -> Tensor:
    """Return `mask` bool[P, S, S] and the pixels beside it."""
    lines = mask.clone()
    lines[:, 1:] |= mask[:, :-1]
    lines[:, :-1] |= mask[:, 1:]
    out = lines.clone()
    out[..., 1:] |= lines[..., :-1]
    out[..., :-1] |= lines[..., 1:]
    return out


def colour_distances(pictures: Tensor) -> Tensor:
    """Return float32[B, colours, S, S], how far each pixel is from the line between a colour and its second tone."""
    tones = palette()[0]
    base, span = tones[:, 0], tones[:, 1] - tones[:, 0]
    p = pictures.flatten(2)
    along = torch.einsum("kc,bcn->bkn", span, p) - (span * base).sum(1)[:, None]
    length = span.square().sum(1)[:, None]
    part = (along / length).clamp_(0, 1)
    square = p.square().sum(1)[:, None] - 2 * torch.einsum("kc,bcn->bkn", base, p) + base.square().sum(1)[:, None]
    square += part * (part * length - 2 * along)
    return square.clamp_(min=0).sqrt_().unflatten(2, pictures.shape[2:])


def cut(pictures: Tensor, grounds: Tensor, away: Tensor) -> Pieces:
    """Return the pieces of `pictures` float32[B, 3, S, S] on `grounds`; `away` is from `colour_distances`.

    A pixel belongs to the nearest colour, -1 where the ground is nearer. An edge is a mixture that may be nearest to a
    colour that is not there, so a piece needs a core of 2 x 2 pixels.
    """
    nearest, colour = away.min(1)
    label = torch.where(nearest < (pictures - grounds).square().sum(1).sqrt(), colour, -1)
    planes = F.one_hot(label + 1, away.shape[1] + 1)[..., 1:].movedim(3, 1).bool()  # [B, K, S, S]
    number = _components(planes)
    core = F.avg_pool2d(planes.flatten(0, 1)[:, None].float(), 2, 1) == 1  # 2 x 2 of one colour
    return _chosen(number, core[:, 0])


def _components(planes: Tensor) -> Tensor:
    """Return int64 of the shape of `planes` bool[B, K, S, S]: the number of the connected piece, 0 for none."""
    from scipy.ndimage import label  # scikit-learn brings it

    near = np.zeros((3, 3, 3), dtype=bool)
    near[1] = True  # the eight neighbours within a plane
    found = np.zeros(planes.flatten(0, 1).shape, dtype=np.int32)
    label(planes.flatten(0, 1).numpy(), near, output=found)
    return torch.from_numpy(found).long().view(planes.shape)


def _chosen(number: Tensor, core: Tensor) -> Pieces:
    batch, colours, side, _ = number.shape
    count = int(number.max()) + 1
    flat = number.flatten()
    area = torch.bincount(flat, minlength=count)
    cores = torch.bincount(number.flatten(0, 1)[:, :-1, :-1][core], minlength=count)
    plane = torch.zeros(count, dtype=torch.int64)
    plane[flat] = torch.arange(batch * colours).repeat_interleave(side * side)
    good = (area >= _SMALL * side * side) & (cores > 0)
    good[0] = False
    kept = good.nonzero()[:, 0]
    row = plane[kept] // colours
    # the largest of each picture first, and so many at most
    order = kept[torch.argsort(row * (side * side + 1) - area[kept])]
    row = plane[order] // colours
    rank = torch.arange(len(row)) - torch.searchsorted(row, row)
    order, row = order[rank < _CROWD], row[rank < _CROWD]
    colour = plane[order] % colours
    planes = number.flatten(0, 1)[row * colours + colour]
    return Pieces(row, colour, planes == order[:, None, None])
