"""Maps that follow from a scene: edges, depth, segments, keypoints. All exact, none estimated from the picture."""

from __future__ import annotations

import torch
from torch import Tensor

from .paint import covered, open_above, visible
from .scene import Scenes

KEYPOINTS = ("centre", "top", "right", "bottom", "left")  # of an object, in its own frame


def segments(scenes: Scenes, side: int = 64) -> Tensor:
    """Return int64[B, side, side]: 1 + the number of the object of which most is seen in a pixel, 0 for the ground."""
    seen = visible(scenes, side)
    return torch.cat([1 - seen.sum(1, keepdim=True), seen], 1).argmax(1)


def classes(scenes: Scenes, side: int = 64) -> Tensor:
    """Return int64[B, side, side]: 1 + the number of the shape in SHAPES of what is seen, 0 for the ground."""
    names = torch.cat([torch.zeros_like(scenes.shape[:, :1]), scenes.shape + 1], 1)
    return names.gather(1, segments(scenes, side).flatten(1)).unflatten(1, (side, side))


def depth(scenes: Scenes, side: int = 64) -> Tensor:
    """Return float32[B, 1, side, side] in [0, 1], larger is nearer: 0 the ground, (j + 1) / M object j.

    A pixel on an edge has the mean of what is seen in it.
    """
    m = scenes.shape.shape[1]
    level = torch.arange(1, m + 1, device=scenes.x.device) / m
    return torch.einsum("bjhw,j->bhw", visible(scenes, side), level)[:, None]


def edges(scenes: Scenes, side: int = 64) -> Tensor:
    """Return float32[B, 1, side, side] in [0, 1]: the outlines that are seen, one pixel wide.

    Object j gives 4 c_j (1 - c_j) prod_{k > j} (1 - c_k) of its coverage c: 1 where the outline runs through the middle
    of a pixel, 0 from half a pixel away.
    """
    covers = covered(scenes, side)[0]
    lines = 4 * covers * (1 - covers) * open_above(covers)
    return lines.amax(1).unflatten(1, (side, side))[:, None]


def keypoints(scenes: Scenes) -> Tensor:
    """Return float32[B, M, 5, 2], x and y of KEYPOINTS: each object's centre and four points at one radius from it."""
    frame = torch.tensor([[0.0, 0.0], [0.0, -1.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], device=scenes.x.device)
    cos, sin = scenes.turn.cos(), scenes.turn.sin()
    turn = torch.stack([torch.stack([cos, -sin], 2), torch.stack([sin, cos], 2)], 2)  # [B, M, 2, 2]
    places = scenes.radius[..., None, None] * frame @ turn.transpose(2, 3)
    return torch.stack([scenes.x, scenes.y], 2)[:, :, None] + places


def keypoint_maps(scenes: Scenes, side: int = 64, width: float = 1.0) -> Tensor:
    """Return float32[B, 5, side, side]: for each of KEYPOINTS a bump of `width` pixels on every object."""
    return bumps(keypoints(scenes), scenes.present, side, width)


def bumps(places: Tensor, present: Tensor, side: int, width: float) -> Tensor:
    """Return float32[B, K, side, side], the largest over objects j of exp(-|p - places_jk|^2 / 2 width^2), in pixels.

    `places` is float32[B, M, K, 2] in units of the side; only objects that are `present`, bool[B, M], count.
    """
    centres = torch.arange(side, device=places.device) + 0.5
    x, y = (torch.exp(-0.5 * ((centres - t[..., None] * side) / width).square()) for t in places.unbind(3))
    return (y[..., :, None] * x[..., None, :] * present[:, :, None, None, None]).amax(1)
