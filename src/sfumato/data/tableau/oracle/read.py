"""The oracle: pictures to scenes, with what is left unexplained."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from ....core import InputError
from .. import shapes
from ..scene import MAX_OBJECTS, Scenes, cat
from .ground import Ground, read_ground
from .layers import Layers, settle, softness
from .objects import objects

_CHUNK = 128  # pictures at a time: more for each call, and what they need stays in the last cache
_COARSE = 32  # pixels a side that pictures are parsed at; larger ones are refined at their own size then
_REAL = 0.35  # of the squared difference where it is seen, what an object has to explain to be one
# the 99th percentiles of `residual` and `worst` of pictures read right, of 2,000 after the KL codec's round trip at 64
# pixels, and of 200 crowded ones after a blur of 0.7 pixels with noise of 0.03 at 32; of 2,000 such, `worst` is 0.0249,
# at which every fifth ghost passes (`python -m sfumato.data.tableau.oracle --thresholds`)
_VALID = {32: (0.0126, 0.0166), 64: (0.0177, 0.0169)}


@dataclass(frozen=True)
class Reading:
    """What is read of B pictures.

    `scenes`: a textured ground's seed cannot be read and is 0; a picture without objects has count 0. `residual`
    float32[B] is the mean squared distance of the picture from the parse, painted again. `worst` [B] is the squared
    distance of their means over the square, an eighth of the side wide, where it is largest: noise and edges that are a
    little soft hardly count in it, and what is in the wrong place does. `valid` bool[B]: there is an object, and both
    are as small as for 99 % of the pictures of the world that are read right after a round trip. `confidence`
    float32[B, M]: how much of the squared difference that is there without an object goes away with it, over the pixels
    where it is seen; 0 where there is none.
    """

    scenes: Scenes
    residual: Tensor
    worst: Tensor
    valid: Tensor
    confidence: Tensor

    def __len__(self) -> int:
        return len(self.residual)


@torch.no_grad()
def read(pictures: Tensor) -> Reading:
    """Return what is seen in `pictures` float32[B, 3, S, S] in [-1, 1], S of at least 24.

    By analysis and synthesis: the ground is told from most pixels, the rest is cut into pieces by colour, a bank of
    templates proposes shapes for each, and all objects together are refined by least squares on the picture. Nothing
    is learned. Raises `InputError` for another shape or values that are not finite.
    """
    if pictures.ndim != 4 or pictures.shape[1] != 3 or pictures.shape[2] != pictures.shape[3]:
        raise InputError(f"pictures have shape {[*pictures.shape]}: give [B, 3, S, S]")
    if pictures.shape[-1] < 24:
        raise InputError(f"pictures of {pictures.shape[-1]} pixels a side are too small to read: give at least 24")
    if not bool(torch.isfinite(pictures).all()):
        raise InputError("pictures have values that are not finite: read those of [-1, 1]")
    if not len(pictures):
        raise InputError("no pictures to read: give at least one")
    parts = [_read(part) for part in pictures.float().cpu().split(_CHUNK)]
    joined = [torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Reading)[1:]]
    return Reading(cat([p.scenes for p in parts]), *joined)


def _read(pictures: Tensor) -> Reading:
    side = pictures.shape[-1]
    factor = max(1, side // _COARSE)
    small = F.adaptive_avg_pool2d(pictures, side // factor) if factor > 1 else pictures
    ground, layers, found = objects(small, read_ground(small))
    scale = side / small.shape[-1]
    layers, found = layers.scaled(scale), found.scaled(scale)
    back = ground.paint(side)
    if factor > 1:
        outlines = layers.outlines(side)
        soft = softness(pictures, back, layers, outlines)
        layers, found = settle(pictures, back, layers, found.best(2), soft, (1.0, 1.0), outlines)
    drawn = layers.drawn(back)
    sure = layers.explained(pictures, drawn)
    for _ in range(2):  # what is no object goes, the least real first
        least = torch.ones(len(pictures)).scatter_reduce(0, layers.row, sure, "amin")
        real = (sure > _REAL) | (sure > least[layers.row])
        if bool(real.all()):
            break
        layers = layers[real.nonzero()[:, 0]]
        drawn = layers.drawn(back)
        sure = layers.explained(pictures, drawn)
    off = pictures - drawn.picture.unflatten(2, (side, side))
    residual = off.square().flatten(1).mean(1)
    cell = max(1, side // 8)
    worst = F.avg_pool2d(off, cell, max(1, cell // 2)).square().mean(1).flatten(1).amax(1)
    scenes, confidence = _assembled(len(pictures), side, ground, layers, sure)
    most = _VALID[32 if side < 48 else 64]
    valid = (residual <= most[0]) & (worst <= most[1]) & (scenes.count > 0)
    return Reading(scenes, residual, worst, valid, confidence)


def _assembled(batch: int, side: int, ground: Ground, layers: Layers, sure: Tensor) -> tuple[Scenes, Tensor]:
    """Return the scenes, and how sure each object is, float32[B, M]; at most as many as a scene has, the surest."""
    rank = _ranks(layers.row, -sure)
    kept = (rank < MAX_OBJECTS).nonzero()[:, 0]
    layers, sure = layers[kept], sure[kept]
    at = layers.row, _ranks(layers.row, layers.slot.float())
    found = layers.found
    period = torch.tensor([2 * math.pi / max(order, 1) for order in shapes.SYMMETRY])[found.shape]
    turn = torch.minimum(found.place[:, 3].clamp(min=0), period * (1 - 1e-6))
    values = {"shape": found.shape, "colour": layers.colour, "size": found.size, "texture": found.texture}
    values |= {"x": found.place[:, 0] / side, "y": found.place[:, 1] / side, "radius": found.place[:, 2] / side}
    dense = {
        name: value.new_zeros(batch, MAX_OBJECTS).index_put_(at, value)
        for name, value in (values | {"turn": turn}).items()
    }
    scenes = Scenes(
        count=torch.bincount(layers.row, minlength=batch),
        ground=ground.kind,
        ground_colour=ground.colours,
        ground_angle=ground.angle,
        ground_seed=torch.zeros(batch, dtype=torch.int64),
        **dense,
    )
    return scenes, sure.new_zeros(batch, MAX_OBJECTS).index_put_(at, sure)


def _ranks(row: Tensor, key: Tensor) -> Tensor:
    """Return the place of each object among those of its row, by `key`."""
    order = key.argsort(stable=True)
    order = order[row[order].argsort(stable=True)]
    out = torch.empty_like(order)
    out[order] = torch.arange(len(row)) - torch.searchsorted(row[order], row[order])
    return out
