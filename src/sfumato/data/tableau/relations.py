"""How objects stand to one another, from their exact places and outlines.

Between the centres of objects i and j, with d_x = x_i - x_j and d_y = y_i - y_j:

    left of:   d_x <= -0.15 and |d_x| >= |d_y|     (right of, above, below alike)
    inside:    the hull of i lies within the hull of j
    in front of:  i is painted later and covers a tenth, at least, of the smaller of the two

A caption states a relation that holds so. A reader of pictures, who measures places with an error, accepts one that
holds to within a `slack` of 0.03 of the side (for what is in front, 3 % of the smaller area are then enough).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import shapes
from .sampling import contains, spread
from .scene import Scenes

RELATIONS = ("left of", "right of", "above", "below", "inside", "in front of")
CONVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
SLACK = 0.03
_APART, _COVERED = 0.15, 0.10


def relations(scenes: Scenes, slack: float = 0.0) -> Tensor:
    """Return bool[B, 6, M, M]: whether object i (third) is in RELATIONS[k] (second) to object j (last)."""
    return within(scenes, (slack,))[0]


def within(scenes: Scenes, slacks: Sequence[float]) -> list[Tensor]:
    """Return `relations` for each of several slacks, of one measurement."""
    dx = scenes.x[:, :, None] - scenes.x[:, None, :]
    dy = scenes.y[:, :, None] - scenes.y[:, None, :]
    wide = dx.abs() - dy.abs()
    gap, covered = containment(scenes), overlaps(scenes)
    both = scenes.present[:, :, None] & scenes.present[:, None, :]
    both &= ~torch.eye(scenes.shape.shape[1], dtype=torch.bool, device=both.device)
    out: list[Tensor] = []
    for slack in slacks:
        far, wider, taller = _APART - slack, wide >= -slack, wide <= slack
        axes = [(dx <= -far) & wider, (dx >= far) & wider, (dy <= -far) & taller, (dy >= far) & taller]
        front = covered >= _COVERED * (1 - 0.7 * slack / SLACK)
        out.append(torch.stack([*axes, gap >= -slack, front], 1) & both[:, None])
    return out


def overlaps(scenes: Scenes) -> Tensor:
    """Return float32[B, M, M]: how much object i covers of object j < i, in parts of the smaller one; 0 elsewhere."""
    places = (scenes.shape, scenes.x, scenes.y, scenes.radius.clamp(min=1e-3), scenes.turn)
    px, py = spread(*places)
    area = shapes.areas().to(scenes.x.device)[scenes.shape] * scenes.radius.square()
    out = scenes.x.new_zeros(*scenes.x.shape, scenes.x.shape[1])
    row = torch.arange(len(scenes), device=scenes.x.device)
    for i in range(1, out.shape[1]):
        for j in range(i):  # by the points of the smaller one
            small = torch.where(area[:, i] < area[:, j], i, j)
            shape, x, y, radius, turn = (value[row, i + j - small] for value in places)
            found = contains(shape, x, y, radius, turn, px[row, small], py[row, small])
            out[:, i, j] = found.float().mean(1)
    return out * (scenes.present[:, :, None] & scenes.present[:, None, :])


def containment(scenes: Scenes) -> Tensor:
    """Return float32[B, M, M]: by how much the hull of i lies within that of j in the tightest of 72 directions."""
    supports = shapes.supports().to(scenes.x.device)
    n = supports.shape[1]
    angle = 2 * math.pi / n * torch.arange(n, device=scenes.x.device)
    at = (angle - scenes.turn[..., None]) * (n / (2 * math.pi))  # [B, M, n], in steps of the table
    low = at.floor()
    near, after = (supports[scenes.shape].gather(2, ((low + k) % n).long()) for k in (0, 1))
    reach = torch.lerp(near, after, at - low) * scenes.radius[..., None]
    reach = reach + scenes.x[..., None] * angle.cos() + scenes.y[..., None] * angle.sin()
    return (reach[:, None, :] - reach[:, :, None]).amin(3)
