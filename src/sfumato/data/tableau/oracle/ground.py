"""The ground of a picture, told from what most of its pixels agree on: 6 plain, 15 graded and 6 textured ones compete."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..scene import GROUND_COLOURS, palette

_NEAR = 0.12  # of a ground's colour; four standard deviations of noise of 0.03 a channel
_LIGHTNESS = 0.4  # how far a textured ground is lighter or darker than its colour: four standard deviations
_EVEN = 0.035  # what more than half of a plain ground's pixels keep to, and less than half of a textured one's
_PAIRS = tuple(itertools.combinations(range(len(GROUND_COLOURS)), 2))
# what a ground that explains more pixels because it is freer has to be ahead by
_SHARE = {"plain": 1.0, "graded": 0.97, "textured": 0.93}


@dataclass(frozen=True)
class Ground:
    """What is read of B grounds: `kind` int64[B], `colours` int64[B, 2] and `angle` float32[B]."""

    kind: Tensor
    colours: Tensor
    angle: Tensor

    def paint(self, pictures: Tensor) -> Tensor:
        """Return the grounds float32[B, 3, S, S], also where objects hide them.

        A textured one takes its lightness from the pixels that agree: their mean over 3 x 3, and where none agree,
        over as wide a square as it takes. So noise finer than 3 pixels counts as a residual, and a ground's own texture,
        of at least 7 pixels a wave, hardly does.
        """
        side = pictures.shape[-1]
        first, second = (palette()[1][self.colours[:, k]][:, :, None, None] for k in (0, 1))
        out = torch.lerp(first, second, _part(self.angle, side)[:, None])
        rows = (self.kind == 2).nonzero()[:, 0]
        if len(rows):
            ray = first[rows] + 1
            shine = pictures[rows] + 1
            lightness = (shine * ray).sum(1, keepdim=True) / ray.square().sum(1, keepdim=True)
            off = (shine - lightness * ray).norm(dim=1, keepdim=True)
            agree = (off < _NEAR) & ((lightness - 1).abs() < _LIGHTNESS)
            out[rows] = (ray * _filled(lightness, agree.float()) - 1).clamp(-1, 1)
        return out


def read_ground(pictures: Tensor) -> Ground:
    """Return the ground that explains most pixels of each of `pictures` float32[B, 3, S, S].

    A lattice of about 16 x 16 pixels is looked at, which is plenty.
    """
    step = max(1, pictures.shape[-1] // 16)
    x = pictures[:, :, step // 2 :: step, step // 2 :: step]
    side = x.shape[-1]
    x = x.flatten(2)  # [B, 3, N]
    colours = palette()[1]
    plain = (x[:, None] - colours[:, :, None]).norm(dim=2) < _NEAR  # [B, 6, N]
    ray = colours + 1
    lightness = torch.einsum("kc,bcn->bkn", ray / ray.square().sum(1, keepdim=True), x + 1)
    off = (x[:, None] + 1 - lightness[:, :, None] * ray[:, :, None]).norm(dim=2)
    textured = (off < _NEAR) & ((lightness - 1).abs() < _LIGHTNESS)
    even = (textured & ((lightness - 1).abs() < _EVEN)).sum(2) > 0.5 * textured.sum(2)
    graded, angles = _graded(x, colours, side)
    votes = torch.cat(
        [
            _SHARE["plain"] * plain.sum(2),
            _SHARE["graded"] * graded.sum(2),
            _SHARE["textured"] * textured.sum(2) * ~even,
        ],
        1,
    )
    best = votes.argmax(1)
    rows, n = torch.arange(len(x)), len(colours)
    pairs = torch.tensor(_PAIRS)
    kind = (best >= n).long() + (best >= n + len(pairs)).long()
    pair = (best - n).clamp(0, len(pairs) - 1)
    single = torch.where(kind == 2, best - n - len(pairs), best.clamp(max=n - 1)).clamp(0, n - 1)
    return Ground(
        kind=kind,
        colours=torch.where((kind == 1)[:, None], pairs[pair], single[:, None].expand(-1, 2)),
        angle=torch.where(kind == 1, angles[rows, pair], 0.0),
    )


def _graded(x: Tensor, colours: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return bool[B, 15, N], the pixels on the best gradient between each pair of colours, and its angles [B, 15].

    The part of the second colour is linear in the place, 1/2 in the middle, so its slope is found by least squares
    over the pixels near the line between both colours, twice; a slope's direction is all that a gradient has.
    """
    first, second = (colours[[p[k] for p in _PAIRS]] for k in (0, 1))
    span = second - first
    length = span.square().sum(1)
    part = (torch.einsum("kc,bcn->bkn", span, x) - (span * first).sum(1)[:, None]) / length[:, None]
    clear = part.clamp(0, 1)
    square = (
        x.square().sum(1)[:, None]
        - 2 * torch.einsum("kc,bcn->bkn", first, x)
        + first.square().sum(1)[:, None]
        - 2 * clear * part * length[:, None]
        + clear.square() * length[:, None]
    )
    near = square < _NEAR**2
    place = (torch.arange(side) + 0.5) / side - 0.5
    basis = torch.stack([place.expand(side, side).flatten(), place[:, None].expand(side, side).flatten()])  # [2, N]
    moments = torch.stack([basis[0] ** 2, basis[0] * basis[1], basis[1] ** 2])
    weight = near.float()
    for _ in range(3):
        a, b, c = (weight @ moments.T + torch.tensor([1e-3, 0, 1e-3])).unbind(-1)
        right, down = ((weight * (part - 0.5)) @ basis.T).unbind(-1)
        slope = torch.stack([c * right - b * down, a * down - b * right], -1) / (a * c - b * b)[..., None]
        angle = torch.atan2(slope[..., 1], slope[..., 0])
        off = part - _part(angle.flatten(), side).flatten(1).unflatten(0, angle.shape)
        weight = (near & (off.abs() * length.sqrt()[:, None] < 3 * _NEAR)).float()
    return near & (off.abs() * length.sqrt()[:, None] < _NEAR), angle % (2 * torch.pi)


def _part(angle: Tensor, side: int) -> Tensor:
    """Return the part of the second colour, [N, S, S], as `paint` has it."""
    place = (torch.arange(side, device=angle.device) + 0.5) / side - 0.5
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    along = (sin * place)[:, :, None] + (cos * place)[:, None, :]
    return 0.5 + along / (cos.abs() + sin.abs())[..., None]


def _filled(value: Tensor, agree: Tensor) -> Tensor:
    """Return the mean of `value` over the pixels that agree nearby, the nearer first."""
    out, total = value.new_zeros(value.shape), value.new_zeros(value.shape)
    for reach in (1, 3, 7, 15, 31):
        if 2 * reach + 1 > 2 * value.shape[-1]:
            break
        mean = F.avg_pool2d(value * agree, 2 * reach + 1, 1, reach, count_include_pad=False)
        count = F.avg_pool2d(agree, 2 * reach + 1, 1, reach, count_include_pad=False)
        take = (total == 0) & (count > 0.2 / (2 * reach + 1))
        out = torch.where(take, mean / count.clamp(min=1e-6), out)
        total = total + take
    return torch.where(total == 0, torch.ones_like(out), out)
