"""Scenes to pictures: signed distances turned into the coverage of pixels, one object over another.

An object's coverage of a pixel is clamp(1/2 - d, 0, 1) with d the signed distance in pixels of its centre from the
outline: an edge is one pixel wide at any size. What is seen of object i is c_i prod_{j > i} (1 - c_j), and the picture
is the sum of what is seen of each object and of the ground, each times its colour.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core import InputError, Noise
from . import shapes
from .scene import RADII, TEXTURES, Scenes, palette

_PERIOD = 0.9  # of stripes and checks, in units of the radius
_PITCH = 0.75  # of dots
_WAVES = 5
_MOTTLE = 0.1  # the standard deviation of a textured ground's lightness, relative


def paint(scenes: Scenes, side: int = 64) -> Tensor:
    """Return the pictures, float32[B, 3, side, side] in [-1, 1]; the same scene at two sizes is the same picture."""
    seen, tone = _seen(scenes, side)
    base = palette()[0].to(seen.device)[scenes.colour]  # [B, M, 2, 3]
    ground = grounds(scenes, side).flatten(2)
    open_ground = 1 - seen.sum(1, keepdim=True)
    weights = torch.cat([seen - seen * tone, seen * tone], 1)
    colours = torch.cat([base[:, :, 0], base[:, :, 1]], 1).transpose(1, 2)
    return torch.baddbmm(ground * open_ground, colours, weights).unflatten(2, (side, side))


def visible(scenes: Scenes, side: int = 64) -> Tensor:
    """Return float32[B, M, side, side], the part of each pixel in which each object is seen; the rest is ground."""
    return _seen(scenes, side)[0].unflatten(2, (side, side))


def grounds(scenes: Scenes, side: int) -> Tensor:
    """Return the grounds alone, float32[B, 3, side, side] in [-1, 1]."""
    colours = palette()[1].to(scenes.x.device)[scenes.ground_colour][..., None, None]  # [B, 2, 3, 1, 1]
    out = colours[:, 0].expand(-1, -1, side, side).clone()
    place = _centres(side, scenes.x.device) - 0.5
    for rows in _chosen(scenes.ground == 1):
        cos, sin = scenes.ground_angle[rows, None].cos(), scenes.ground_angle[rows, None].sin()
        along = (sin * place)[:, :, None] + (cos * place)[:, None, :]
        part = 0.5 + along / (cos.abs() + sin.abs())[..., None]
        out[rows] = torch.lerp(colours[rows, 0], colours[rows, 1], part[:, None])
    for rows in _chosen(scenes.ground == 2):
        mottle = _MOTTLE * _waves(scenes.ground_seed[rows], place)
        out[rows] += (out[rows] + 1) * mottle[:, None]
    return out.clamp_(-1, 1)


def coverage(shape: int, u: Tensor, v: Tensor, pixels: Tensor) -> Tensor:
    """Return the coverage of pixels at (u, v) in the frame of shape number `shape`, of radius `pixels` pixels."""
    return (0.5 - shapes.distance(shape, u, v) * pixels).clamp(0, 1)


def tones(texture: Tensor, u: Tensor, v: Tensor, pixels: Tensor) -> Tensor:
    """Return how much of a pixel at (u, v) has the second tone, for textures int64[N] and u, v [N, ...].

    Stripes run along v, checks repeat along both axes, dots lie on a lattice of triangles; half a turn changes none.
    """
    out = torch.zeros_like(u)
    wide = pixels.expand(len(texture), *[1] * (u.ndim - 1))
    for k in range(1, len(TEXTURES)):
        for rows in _chosen(texture == k):
            out[rows] = _tone(k, u[rows], v[rows], wide[rows])
    return out


def every_tone(u: Tensor, v: Tensor, pixels: Tensor) -> tuple[Tensor, ...]:
    """Return what `tones` is for each of the textures, in their order."""
    over, under = _striped(u, pixels), _striped(v, pixels)
    return torch.zeros_like(over), over, _dotted(u, v, pixels), _checked(over, under)


def _tone(texture: int, u: Tensor, v: Tensor, pixels: Tensor) -> Tensor:
    if texture == 2:
        return _dotted(u, v, pixels)
    over = _striped(u, pixels)
    return over if texture == 1 else _checked(over, _striped(v, pixels))


def _striped(t: Tensor, pixels: Tensor) -> Tensor:
    return (0.5 + _bands(t) * pixels).clamp(0, 1)


def _dotted(u: Tensor, v: Tensor, pixels: Tensor) -> Tensor:
    return (0.5 + (0.25 - _from_dots(u, v)) * pixels).clamp(0, 1)


def _checked(over: Tensor, under: Tensor) -> Tensor:
    return over + under - 2 * over * under


def _bands(t: Tensor) -> Tensor:
    """Return the signed distance, positive inside, of bands half a period wide, the first from a quarter."""
    return ((t / _PERIOD + 0.5).remainder_(1).sub(0.5).abs() - 0.25) * _PERIOD


def _from_dots(u: Tensor, v: Tensor) -> Tensor:
    """Return the distance from the nearest point of a lattice of equilateral triangles, one of them at 0."""
    high = _PITCH * math.sqrt(0.75)
    row = (v / high).round()
    shifted = u / _PITCH + 0.5 * row
    return torch.hypot((shifted - shifted.round()) * _PITCH, v - row * high)


def _seen(scenes: Scenes, side: int) -> tuple[Tensor, Tensor]:
    """Return what is seen of each object and its share of the second tone, both float32[B, M, side * side]."""
    covers, tone = covered(scenes, side)
    return covers * open_above(covers), tone


def open_above(covers: Tensor) -> Tensor:
    """Return prod_{k > j} (1 - c_k) for each object j of `covers` [B, M, ...]: the part that nothing lies over."""
    above = (1 - covers).flip(1).cumprod(1).flip(1)
    return torch.cat([above[:, 1:], torch.ones_like(above[:, :1])], 1)


def covered(scenes: Scenes, side: int) -> tuple[Tensor, Tensor]:
    """Return each object's coverage, seen or not, and its share of the second tone, float32[B, M, side * side]."""
    if side < 4:
        raise InputError(f"a picture of side {side} is too small: give at least 4")
    covers = scenes.x.new_zeros((*scenes.x.shape, side * side))
    tone = torch.zeros_like(covers)
    flat = {name: value.flatten() for name, value in scenes.arrays().items() if value.shape == scenes.x.shape}
    present = scenes.present.flatten()
    for size in range(len(RADII)):
        for group in _chosen(present & (flat["size"] == size)):
            window = min(math.ceil(2 * shapes.REACH * side * flat["radius"][group].max().item()) + 2, side)
            _fill(covers, tone, {name: value[group] for name, value in flat.items()}, group, window, side)
    return covers, tone


def _fill(covers: Tensor, tone: Tensor, flat: dict[str, Tensor], group: Tensor, window: int, side: int) -> None:
    """Write the objects `group` into `covers` and `tone`, each in a window of its own around its centre."""
    steps = torch.arange(window, device=group.device)
    left, top = ((flat[a] * side - window / 2).round().long().clamp(0, side - window)[:, None] + steps for a in "xy")
    radius, cos, sin = (t[:, None] for t in (flat["radius"], flat["turn"].cos(), flat["turn"].sin()))
    across = ((left + 0.5) / side - flat["x"][:, None]) / radius
    down = ((top + 0.5) / side - flat["y"][:, None]) / radius
    u = (sin * down)[:, :, None] + (cos * across)[:, None, :]
    v = (cos * down)[:, :, None] - (sin * across)[:, None, :]
    pixels = radius[:, None] * side
    patch = torch.empty_like(u)
    for shape in flat["shape"].unique().tolist():
        for rows in _chosen(flat["shape"] == shape):
            patch[rows] = coverage(shape, u[rows], v[rows], pixels[rows])
    index = (top[:, :, None] * side + left[:, None, :] + (group * side * side)[:, None, None]).flatten()
    covers.view(-1)[index] = patch.flatten()
    for rows in _chosen(flat["texture"] > 0):
        part = tones(flat["texture"][rows], u[rows], v[rows], pixels[rows])
        tone.view(-1)[index.view(u.shape)[rows].flatten()] = part.flatten()


def _chosen(mask: Tensor) -> list[Tensor]:
    """Return the places where `mask` is true as the only entry of a list, which is empty where there are none."""
    index = mask.nonzero()[:, 0]
    return [index] if len(index) else []


def _centres(side: int, device: torch.device) -> Tensor:
    return (torch.arange(side, device=device) + 0.5) / side


def _waves(seeds: Tensor, place: Tensor) -> Tensor:
    """Return float32[N, S, S] of about unit variance: cosines of 2 to 4.5 periods a side in drawn directions."""
    drawn = torch.special.ndtr(Noise(seeds.tolist()).normal((len(seeds), 3, _WAVES), "ground")).to(place.device)
    angle, phase = 2 * math.pi * drawn[:, 0, :, None], 2 * math.pi * drawn[:, 1, :, None]
    rate = 2 * math.pi * (2 + 2.5 * drawn[:, 2, :, None])
    x, y = rate * angle.cos() * place + phase, rate * angle.sin() * place
    both = torch.cat([y.cos(), -y.sin()], 1), torch.cat([x.cos(), x.sin()], 1)
    return math.sqrt(2 / _WAVES) * both[0].transpose(1, 2) @ both[1]
