"""Measure the figures of docs/tableau.md, how near combinations look and rates: python tools/tableau_figures.py"""

from __future__ import annotations

import itertools
import math
import time

import torch

import sfumato as sf
from sfumato.data.tableau import COLOURS, SHAPES, SIZES, TEXTURES, Scenes, Tableau, paint, shapes
from sfumato.data.tableau.scene import RADII

torch.set_num_threads(1)


def combinations(size: int, x: float, y: float, turn: float) -> Scenes:
    """Return every shape, colour and texture, alone on plain grey; `turn` in parts of the shape's own."""
    shape, colour, texture = torch.cartesian_prod(*map(torch.arange, (len(SHAPES), len(COLOURS), len(TEXTURES)))).T
    n = len(shape)
    order = torch.tensor([o or math.inf for o in shapes.SYMMETRY])[shape]
    zero = torch.zeros(n, dtype=torch.int64)
    return Scenes(
        count=zero + 1,
        shape=shape[:, None],
        colour=colour[:, None],
        size=zero[:, None] + size,
        texture=texture[:, None],
        x=torch.full((n, 1), x),
        y=torch.full((n, 1), y),
        radius=torch.full((n, 1), RADII[size]),
        turn=(turn * 2 * math.pi / order)[:, None],
        ground=zero,
        ground_colour=zero[:, None].expand(-1, 2) + 1,
        ground_angle=torch.zeros(n),
        ground_seed=zero,
    )


def nearest(size: int, side: int) -> tuple[float, str]:
    """Return how far the two that look most alike are apart (root mean square), and their names."""
    fixed = combinations(size, 0.43, 0.52, 0.2)
    pictures = paint(fixed, side).flatten(1)
    closest = torch.full((len(fixed), len(fixed)), math.inf)
    for turn, dx, dy in itertools.product(range(6), (0, 0.5), (0, 0.5)):
        other = paint(combinations(size, 0.43 + dx / side, 0.52 + dy / side, turn / 6), side).flatten(1)
        closest = torch.minimum(closest, torch.cdist(pictures, other))
    closest.fill_diagonal_(math.inf)
    pair = divmod(int(closest.argmin()), len(fixed))
    words = ("colour", "texture", "shape")
    names = [" ".join(fixed.describe(k)["objects"][0][word] for word in words) for k in pair]
    return float(closest.min()) / math.sqrt(3 * side * side), " | ".join(names)


def rate(data: Tableau, n: int = 128, times: int = 8) -> float:
    """Return rows a second of CPU time, the best of three runs."""
    best = 0.0
    for _ in range(3):
        start = time.process_time()
        for k in range(times):
            data.batch(range(k * n, k * n + n), sf.Noise(range(n)))
        best = max(best, n * times / (time.process_time() - start))
    return best


def main() -> None:
    """Print the figures."""
    for side in (32, 64):
        for k, size in enumerate(SIZES):
            print(f"{side} px, {size}: nearest %.4f, %s" % nearest(k, side))
        plain, told = Tableau(side=side, styles=(), weights=()), Tableau(side=side)
        print(f"{side} px: {rate(plain):.0f} pictures a second, {rate(told):.0f} with captions")


if __name__ == "__main__":
    main()
