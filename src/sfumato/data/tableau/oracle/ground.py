"""The ground of a picture, told from what most of its pixels agree on: plain, graded and textured ones compete."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from ..scene import GROUND_COLOURS, palette

_NEAR = 0.12  # of a ground's colour; four standard deviations of noise of 0.03 a channel
_LIGHTNESS = 0.4  # how far a textured ground is lighter or darker than its colour: four standard deviations
_EVEN = 0.035  # what nearly all of a plain ground's pixels keep to, and about half of a textured one's
_WAVES = 12  # half waves along each axis: textured grounds have up to 9 across a side
_PRIOR, _GRAIN = 2e-4, 0.02  # the variance of a texture's coefficients, and what a pixel's lightness is off by
_PAIRS = tuple(itertools.combinations(range(len(GROUND_COLOURS)), 2))
# what a ground that explains more pixels because it is freer has to be ahead by
_SHARE = {"plain": 1.0, "graded": 0.97, "textured": 0.93}


@dataclass(frozen=True)
class Ground:
    """What is read of B grounds: `kind` int64[B], `colours` int64[B, 2], `angle` float32[B], `mottle` float32[B, K].

    `mottle` is the relative lightness of a textured ground in a basis of cosines: a texture's seed cannot be read back,
    its picture can.
    """

    kind: Tensor
    colours: Tensor
    angle: Tensor
    mottle: Tensor

    def paint(self, side: int) -> Tensor:
        """Return the grounds float32[B, 3, side, side], also where objects hide them."""
        first, second = (palette()[1][self.colours[:, k]][:, :, None, None] for k in (0, 1))
        out = first.expand(-1, -1, side, side).clone()
        for rows in _where(self.kind == 1):
            out[rows] = torch.lerp(first[rows], second[rows], _part(self.angle[rows], side)[:, None])
        for rows in _where(self.kind == 2):
            mottle = (self.mottle[rows] @ _cosines(side).T).unflatten(1, (1, side, side))
            out[rows] = ((first[rows] + 1) * (1 + mottle) - 1).clamp(-1, 1)
        return out

    def mottled(self, pictures: Tensor, hidden: Tensor) -> Ground:
        """Return the grounds with the textures that `pictures` show outside of what is `hidden` bool[B, S, S]."""
        mottle = self.mottle.clone()
        for rows in _where(self.kind == 2):
            mottle[rows] = _mottle(pictures[rows], palette()[1][self.colours[rows, 0]] + 1, ~hidden[rows])
        return replace(self, mottle=mottle)


def read_ground(pictures: Tensor) -> Ground:
    """Return the ground that explains most pixels of each of `pictures` float32[B, 3, S, S].

    A lattice of some 14 x 14 pixels is looked at, which is plenty for the kind and the colours.
    """
    step = max(1, pictures.shape[-1] // 12)
    x = pictures[:, :, step // 2 :: step, step // 2 :: step]
    side = x.shape[-1]
    x = x.flatten(2)  # [B, 3, N]
    colours = palette()[1]
    plain = (x[:, None] - colours[:, :, None]).square().sum(2) < _NEAR**2  # [B, 6, N]
    ray = colours + 1
    lightness = torch.einsum("kc,bcn->bkn", ray / ray.square().sum(1, keepdim=True), x + 1)
    off = (x[:, None] + 1 - lightness[:, :, None] * ray[:, :, None]).square().sum(2)
    textured = (off < _NEAR**2) & ((lightness - 1).abs() < _LIGHTNESS)
    even = (textured & ((lightness - 1).abs() < _EVEN)).sum(2) > 0.65 * textured.sum(2)
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
    angle = torch.where(kind == 1, angles[rows, pair], 0.0)
    # half a turn less with the colours swapped is the same picture, and [0, pi) is how it is described
    both = torch.where((angle >= torch.pi)[:, None], pairs[pair].flip(1), pairs[pair])
    ground = Ground(
        kind=kind,
        colours=torch.where((kind == 1)[:, None], both, single[:, None].expand(-1, 2)),
        angle=angle % torch.pi,
        mottle=x.new_zeros(len(x), _WAVES * _WAVES),
    )
    return ground.mottled(pictures, torch.zeros_like(pictures[:, 0], dtype=torch.bool))


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
    weight, angle, off = near.float(), torch.zeros_like(length), torch.zeros_like(part)
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


def _mottle(pictures: Tensor, ray: Tensor, open_ground: Tensor) -> Tensor:
    """Return the relative lightness of textured grounds of colour ray - 1 in `_cosines`, float32[B, K].

    Least squares over the pixels of `open_ground` that look like the ground, with a ridge: the most likely coefficients
    where each has the prior variance `_PRIOR` and each pixel the noise `_GRAIN`.
    """
    shine, ray = pictures.flatten(2) + 1, ray[:, :, None]
    lightness = (shine * ray).sum(1) / ray.square().sum(1)
    off = (shine - lightness[:, None] * ray).square().sum(1)
    weight = ((off < _NEAR**2) & ((lightness - 1).abs() < _LIGHTNESS) & open_ground.flatten(1)).float()
    gram = _moments(weight.unflatten(1, pictures.shape[2:]))
    gram += torch.eye(len(gram[0])) * (_GRAIN**2 / _PRIOR)
    return torch.linalg.solve(gram, (weight * (lightness - 1)) @ _cosines(pictures.shape[-1]))


def _moments(weight: Tensor) -> Tensor:
    """Return sum_n w_n f_k(n) f_l(n) of the functions f of `_cosines`, float32[B, K, K], for weights [B, S, S].

    cos a cos b = (cos(a + b) + cos(a - b)) / 2 along either axis, so cosines of twice as many half waves are enough.
    """
    wave = _waves(weight.shape[1], 2 * _WAVES - 1)
    sums = (wave.T @ weight @ wave).flatten(1)  # [B, (2 W - 1)^2]
    k = torch.arange(_WAVES)
    ways = torch.stack([k[:, None] + k, (k[:, None] - k).abs()])  # [2, W, W]
    place = ways[:, None, :, None, :, None] * len(wave[0]) + ways[None, :, None, :, None, :]
    return sums[:, place.flatten(0, 1)].sum(1).flatten(3, 4).flatten(1, 2) / 4


@cache
def _cosines(side: int) -> Tensor:
    """Return float32[side^2, K], the products of cosines of 0 to K^(1/2) - 1 half waves along either axis."""
    wave = _waves(side, _WAVES)
    return torch.einsum("yk,xl->yxkl", wave, wave).flatten(2).flatten(0, 1)


@cache
def _waves(side: int, count: int) -> Tensor:
    """Return float32[side, count], the cosines of 0 to count - 1 half waves."""
    place = (torch.arange(side) + 0.5) / side
    return (torch.pi * place[:, None] * torch.arange(count)).cos()


def _where(mask: Tensor) -> list[Tensor]:
    """Return the places where `mask` is true as the only entry of a list, which is empty where there are none."""
    index = mask.nonzero()[:, 0]
    return [index] if len(index) else []
