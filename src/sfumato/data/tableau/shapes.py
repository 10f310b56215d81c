"""The shapes: signed distances in a unit frame, with what follows from them (area, symmetry, hull, points inside).

A shape lives in its own frame (u to the right, v downwards), is about 2 units across and centred near its centroid. The
distance is negative inside, positive outside; it is exact on straight sides and arcs, and at corners it is the distance
of the nearest side's line, which is what an anti-aliased edge of one pixel needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]
REACH = 1.45  # no point of a shape is farther than this from its centre
_CELLS = 145  # of the table over [-REACH, REACH]^2
_POINTS = 128
_DIRECTIONS = 72


def _circle(u: Tensor, v: Tensor) -> Tensor:
    return torch.hypot(u, v) - 0.95


def _square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) - 0.85


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(v, math.sqrt(0.75) * u.abs() - 0.5 * v) - 0.68


def _star(u: Tensor, v: Tensor) -> Tensor:
    # five mirror lines fold the plane into a wedge around one tip, in which the outline is one straight side
    u, v = u.abs(), -v
    for angle in (math.radians(18), math.radians(54)):
        across = u * math.sin(angle) - v * math.cos(angle)
        across = across.clamp(min=0).mul(2)
        u, v = (u - across * math.sin(angle)).abs(), v + across * math.cos(angle)
    tip, notch, half = 1.36, 0.58, math.radians(36)
    across, along = tip - notch * math.cos(half), notch * math.sin(half)
    return (across * u + along * (v - tip)) / math.hypot(across, along)


def _ring(u: Tensor, v: Tensor) -> Tensor:
    return (torch.hypot(u, v) - 0.78).abs() - 0.26


def _cross(u: Tensor, v: Tensor) -> Tensor:
    u, v = u.abs(), v.abs()
    return torch.maximum(torch.minimum(u, v) - 0.34, torch.maximum(u, v) - 1.1)


def _heart(u: Tensor, v: Tensor) -> Tensor:
    # a square on its corner, with a disc on the middle of each of its upper sides
    half, u, v = 0.6, u.abs(), v - 0.24
    centre = half * math.sqrt(0.5)
    return torch.minimum((u + v.abs()) * math.sqrt(0.5), torch.hypot(u - centre, v + centre)) - half


def _diamond(u: Tensor, v: Tensor) -> Tensor:
    wide, high = 0.74, 1.36
    return (high * u.abs() + wide * v.abs() - wide * high) / math.hypot(wide, high)


def _moon(u: Tensor, v: Tensor) -> Tensor:
    u = u - 0.42
    return torch.maximum(torch.hypot(u, v) - 1.16, 0.96 - torch.hypot(u - 0.56, v))


def _drop(u: Tensor, v: Tensor) -> Tensor:
    # the hull of a disc and a point above it: the tangent's line above where it touches, the disc below
    radius, u, v = 0.76, u.abs(), v - 0.36
    slope = radius / 1.75
    side = math.sqrt(1 - slope * slope)
    return torch.where(slope * u + side * v < 0, side * u - slope * v, torch.hypot(u, v)) - radius


def _arrow(u: Tensor, v: Tensor) -> Tensor:
    # a shaft and, above it, a head whose tip points up
    u = u.abs()
    shaft = torch.maximum(u - 0.34, torch.maximum(v - 1.15, -0.3 - v))
    slope = math.hypot(1.1, 1.05)
    head = torch.maximum(v + 0.1, (1.1 * u - 1.05 * (v + 1.2)) / slope)
    return torch.minimum(shaft, head)


# name -> (distance, order of the rotational symmetry; 0 where every turn looks the same)
TABLE: dict[str, tuple[Distance, int]] = {
    "circle": (_circle, 0),
    "square": (_square, 4),
    "triangle": (_triangle, 3),
    "star": (_star, 5),
    "ring": (_ring, 0),
    "cross": (_cross, 4),
    "heart": (_heart, 1),
    "diamond": (_diamond, 2),
    "moon": (_moon, 1),
    "drop": (_drop, 1),
    "arrow": (_arrow, 1),
}
NAMES = tuple(TABLE)
SYMMETRY = tuple(order for _, order in TABLE.values())


def distance(shape: int, u: Tensor, v: Tensor) -> Tensor:
    """Return the signed distance of the points (u, v) of shape number `shape`'s frame from its outline."""
    return TABLE[NAMES[shape]][0](u, v)


@cache
def table() -> Tensor:
    """Return float32[shapes, 145, 145], the distances on a lattice over [-REACH, REACH]^2: [shape, v, u]."""
    return torch.stack([distance(k, *_lattice(_CELLS)) for k in range(len(NAMES))])


def inside(shape: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return whether points (u, v) lie in their shapes, by the table's nearest point; shapes broadcast."""
    scale = (_CELLS - 1) / (2 * REACH)
    column, row = ((t.clamp(-REACH, REACH) + REACH).mul(scale).round().long() for t in (u, v))
    return table().to(u.device).view(-1)[(shape * _CELLS + row) * _CELLS + column] < 0


@cache
def points() -> Tensor:
    """Return float32[shapes, 128, 2], points spread evenly over each shape (the plane's R2 sequence, Roberts 2018)."""
    step = torch.tensor([0.7548776662466927, 0.5698402909980532], dtype=torch.float64)
    spread = (((torch.arange(1, 4001)[:, None] * step) % 1) * 2 - 1).mul(REACH).float()
    return torch.stack([spread[distance(k, *spread.T) < 0][:_POINTS] for k in range(len(NAMES))])


@cache
def areas() -> Tensor:
    """Return float32[shapes], the areas in units of the squared radius."""
    return (
        torch.stack([(distance(k, *_lattice(1001)) < 0).float().mean() for k in range(len(NAMES))]) * (2 * REACH) ** 2
    )


@cache
def supports() -> Tensor:
    """Return float32[shapes, 72], the supports of the hulls: the farthest reach in each direction 2 pi k / 72."""
    angle = 2 * math.pi / _DIRECTIONS * torch.arange(_DIRECTIONS)
    u, v = _lattice(501)
    parts = [distance(k, u, v) < 0 for k in range(len(NAMES))]
    along = torch.stack([angle.cos(), angle.sin()])
    return torch.stack([(torch.stack([u[part], v[part]], 1) @ along).amax(0) for part in parts])


def _lattice(cells: int) -> tuple[Tensor, Tensor]:
    """Return u and v, float32[cells, cells], over [-REACH, REACH]^2 with v down the rows."""
    line = torch.linspace(-REACH, REACH, cells)
    v, u = torch.meshgrid(line, line, indexing="ij")
    return u, v
