"""Shapes drawn fast: a bank of templates to match with, and coverage with its derivatives to refine with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .. import shapes
from ..scene import RADII

_CELLS = 129  # of the tables of distances along each axis
_REACH = 1.6  # the tables' half side, in radii
_SOFT = 1.4  # the width of the templates' edges, in pixels: between those of sharp and of blurred pictures
_TURN = math.radians(15)  # between neighbouring templates, about


@dataclass(frozen=True)
class Bank:
    """T templates of one size in a window of `width` pixels, for pictures of one side.

    `shape`, `size` int64[T] and `turn` float32[T] say what each is; `cover` float32[width^2, T] is its coverage, with
    the middle of its bounding box in the middle of the window, and `offset` float32[T, 2] leads from there to its
    centre, in pixels.
    """

    width: int
    shape: Tensor
    size: Tensor
    turn: Tensor
    cover: Tensor
    offset: Tensor


@cache
def banks(side: int) -> tuple[Bank, ...]:
    """Return the templates for pictures of `side` pixels, size by size, the widths of all windows even or all odd."""
    widest = min(window(RADII[-1], side), side + side % 2)
    widths = [min(window(radius, side), widest) for radius in RADII]
    return tuple(_bank(size, width + (widest - width) % 2, side) for size, width in enumerate(widths))


def _bank(size: int, width: int, side: int) -> Bank:
    rows = [(k, t) for k, order in enumerate(shapes.SYMMETRY) for t in _turns(order)]
    shape, turn = (torch.tensor([row[k] for row in rows]) for k in range(2))
    radius = torch.full_like(turn, RADII[size]) * side
    support = shapes.supports()[shape]
    ends = []
    for way in (0.0, math.pi / 2, math.pi, 3 * math.pi / 2):  # right, down, left, up, in the shape's own frame
        index = ((way - turn) / (2 * math.pi) * support.shape[1]).round().long() % support.shape[1]
        ends.append(support.gather(1, index[:, None])[:, 0])
    offset = -torch.stack([ends[0] - ends[2], ends[1] - ends[3]], 1) / 2 * radius[:, None]
    place = torch.cat([offset + width / 2, radius[:, None], turn[:, None]], 1)
    cover = draw(shape, place, torch.zeros(len(rows), 2), width, _SOFT)
    return Bank(width, shape, torch.full_like(shape, size), turn, cover.T.contiguous(), offset)


def window(radius: float, side: int) -> int:
    """Return the width of a window, in pixels, that holds an object of nominal `radius` (of the side) whole."""
    return math.ceil(2 * 1.05 * 1.36 * radius * side) + 2


def _turns(order: int) -> list[float]:
    if order == 0:
        return [0.0]
    n = round(2 * math.pi / order / _TURN)
    return [2 * math.pi / order * k / n for k in range(n)]


def draw(shape: Tensor, place: Tensor, origin: Tensor, width: int, soft: float | Tensor = 1.0) -> Tensor:
    """Return the coverage float32[K, width^2] of shapes int64[K] at `place` float32[K, 4]: x, y, radius, turn.

    Places are in pixels; pixel (0, 0) of a window begins at `origin` [K, 2]. Edges are `soft` pixels
    wide, one width or one for each, [K, 1].
    """
    return covered(shape, place, *frame(place, origin, width), soft)


def covered(shape: Tensor, place: Tensor, u: Tensor, v: Tensor, soft: float | Tensor = 1.0) -> Tensor:
    """Return the coverage float32[K, N] at the places (u, v) of the shapes' own frames, as `frame` gives them."""
    return (0.5 - away(shape, u, v) * (place[:, 2:3] / soft)).clamp_(0, 1)


def away(shape: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return the signed distances float32[K, N] of the places (u, v) of the shapes' own frames, in radii."""
    return _lookup(shape, u, v)[0]


def frame(place: Tensor, origin: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return (u, v), float32[K, width^2]: where the pixels of windows lie in the frames of the shapes."""
    steps = torch.arange(width) + 0.5
    across = (origin[:, :1] + steps - place[:, :1]) / place[:, 2:3]
    down = (origin[:, 1:] + steps - place[:, 1:2]) / place[:, 2:3]
    cos, sin = place[:, 3:].cos(), place[:, 3:].sin()
    u = (sin * down)[:, :, None] + (cos * across)[:, None, :]
    v = (cos * down)[:, :, None] - (sin * across)[:, None, :]
    return u.flatten(1), v.flatten(1)


def slopes(
    shape: Tensor, place: Tensor, origin: Tensor, width: int, soft: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the coverage [K, N] and its derivatives by x, y, radius and turn [K, 4, N], where it is differentiable."""
    u, v = frame(place, origin, width)
    d, du, dv = _lookup(shape, u, v)
    radius = place[:, 2:3]
    raw = 0.5 - d * (radius / soft)
    cover = raw.clamp(0, 1)
    edge = (cover == raw).float().div_(soft)
    d, du, dv = d.mul_(edge), du.mul_(edge), dv.mul_(edge)
    cos, sin = place[:, 3:].cos(), place[:, 3:].sin()
    by = u.new_empty(len(u), 4, u.shape[1])
    torch.mul(du, cos, out=by[:, 0]).addcmul_(dv, sin, value=-1)
    torch.mul(du, sin, out=by[:, 1]).addcmul_(dv, cos)
    torch.mul(du, u, out=by[:, 2]).addcmul_(dv, v).sub_(d)
    torch.mul(dv, u, out=by[:, 3]).addcmul_(du, v, value=-1).mul_(radius)
    return cover, by


@cache
def _tables() -> tuple[Tensor, Tensor, Tensor]:
    """Return three tables float32[shapes * cells^2] of planes d + du u + dv v, those that touch the distance in the
    middle of each cell.

    Apart, and not in one of three columns: numbers are gathered several times faster than short rows.
    """
    line = ((torch.arange(_CELLS, dtype=torch.float64) + 0.5) / _CELLS * 2 - 1) * _REACH
    v, u = torch.meshgrid(line, line, indexing="ij")
    h = _REACH / _CELLS
    rows: list[Tensor] = []
    for k in range(len(shapes.NAMES)):
        along = [shapes.distance(k, u + h * a, v + h * b) for a, b in ((1, 0), (-1, 0), (0, 1), (0, -1))]
        du, dv = (along[0] - along[1]) / (2 * h), (along[2] - along[3]) / (2 * h)
        rows.append(torch.stack([shapes.distance(k, u, v) - du * u - dv * v, du, dv]).flatten(1))
    d, du, dv = torch.cat(rows, 1).float().unbind()
    return d, du, dv


def _lookup(shape: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distances at (u, v) [K, N] and their slopes, to first order around the nearest cell's middle.

    Beyond the tables, where nothing is covered, the way to them is added.
    """
    scale = _CELLS / (2 * _REACH)
    near_u, near_v = u.clamp(-_REACH, _REACH), v.clamp(-_REACH, _REACH)
    column, row = (t.add(_REACH).mul_(scale).floor_().clamp_(max=_CELLS - 1) for t in (near_u, near_v))
    index = (column.add_(row, alpha=_CELLS).add_(shape[:, None] * _CELLS**2)).long().flatten()  # exact below 2^24
    d, du, dv = (table.index_select(0, index).view(u.shape) for table in _tables())
    d.addcmul_(du, near_u).addcmul_(dv, near_v)
    return d.add_((u - near_u).abs_()).add_((v - near_v).abs_()), du, dv
