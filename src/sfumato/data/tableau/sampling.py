"""Seeds to scenes: the law of the world. Scene i is a pure function of (seed i, law)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ...core import InputError, Noise, register
from . import shapes
from .scene import COLOURS, GROUND_COLOURS, MAX_OBJECTS, RADII, SHAPES, Scenes, held_out

_TRIES = 6  # places proposed for an object, of which the first that fits is taken
_ROUNDS = (1, 2, 4, 8, 16)  # layouts proposed at once to a scene without one, which in the end is laid out in quarters
_EDGE = 0.06  # radians from the ends of a gradient's angles, where half a turn with the colours swapped is as near
_GAP = 0.05  # of the side between objects of one colour: more than a pixel of ground at 32 pixels, or they read as one
_IN_FRAME, _SEEN = 0.92, 0.65  # of an object; the promise is 0.90 and 0.60, and 128 points count within 0.03


@register
@dataclass(frozen=True, kw_only=True)
class Law:
    """How often a scene has 1, 2, 3, 4 objects, an object each size and texture, a ground each kind: weights.

    Of the combinations of shape and colour, the `common` ones occur and the `held_out` ones do not; with
    `common=False, held_out=True` the held-out ones alone. An object has the shape, colour and texture of the one
    before it with probability `twins`, so that there is something to count. Crowded scenes have fewer large objects,
    since they must fit.
    """

    counts: tuple[float, float, float, float] = (0.3, 0.35, 0.2, 0.15)
    sizes: tuple[float, float, float] = (1.0, 1.0, 1.0)
    textures: tuple[float, float, float, float] = (0.4, 0.2, 0.2, 0.2)
    grounds: tuple[float, float, float] = (0.5, 0.25, 0.25)
    twins: float = 0.15
    common: bool = True
    held_out: bool = False

    def __post_init__(self) -> None:
        for name in ("counts", "sizes", "textures", "grounds"):
            weights = getattr(self, name)
            if min(weights) < 0 or not math.isfinite(sum(weights)) or sum(weights) <= 0:
                raise InputError(f"{name} are weights, at least 0 and not all 0; got {weights}")
        if not 0 <= self.twins <= 1:
            raise InputError(f"twins is a probability, got {self.twins}; give 0 to 1")
        if not (self.common or self.held_out):
            raise InputError("common and held_out are both False, so no combination may occur; set one")

    def combinations(self) -> Tensor:
        """Return int64[n, 2], the pairs (shape, colour) that occur."""
        pairs = torch.cartesian_prod(torch.arange(len(SHAPES)), torch.arange(len(COLOURS)))
        kept = held_out(pairs[:, 0], pairs[:, 1])
        return pairs[(kept & self.held_out) | (~kept & self.common)]


def sample_scenes(seeds: Noise | list[int] | range, law: Law | None = None) -> Scenes:
    """Return one scene a seed.

    At least 90 % of an object lies in the picture and at least 60 % of it is seen; objects of the same colour do not
    touch.
    """
    law = Law() if law is None else law
    noise = seeds if isinstance(seeds, Noise) else Noise(seeds)
    m = MAX_OBJECTS
    drawn = _uniform(noise, (6, m), "attributes")
    count = 1 + _choice(law.counts, drawn[:, 0, 0])
    present = torch.arange(m) < count[:, None]
    pairs = law.combinations()
    own = torch.arange(m).expand(len(noise), m).clone()  # the object that each takes its looks from
    for j in range(1, m):
        own[:, j] = torch.where(drawn[:, 5, j] < law.twins, own[:, j - 1], own[:, j])
    shape, colour = pairs[(drawn[:, 1] * len(pairs)).long()].gather(1, own[..., None].expand(-1, -1, 2)).unbind(2)
    order = torch.tensor(shapes.SYMMETRY)[shape]
    turn = torch.where(order > 0, drawn[:, 2] * 2 * math.pi / order.clamp(min=1), 0).float()
    ground = _choice(law.grounds, drawn[:, 0, 1])
    first = (drawn[:, 0, 2] * len(GROUND_COLOURS)).long()
    other = (first + 1 + (drawn[:, 0, 3] * (len(GROUND_COLOURS) - 1)).long()) % len(GROUND_COLOURS)
    size, x, y, radius = _places(noise, law, count, shape, colour, turn)
    return Scenes(
        count=count,
        shape=shape * present,
        colour=colour * present,
        size=size * present,
        texture=_choice(law.textures, drawn[:, 3]).gather(1, own) * present,
        x=x * present,
        y=y * present,
        radius=radius * present,
        turn=turn * present,
        ground=ground,
        ground_colour=torch.stack([first, torch.where(ground == 1, other, first)], 1),
        ground_angle=torch.where(ground == 1, _EDGE + (math.pi - 2 * _EDGE) * drawn[:, 4, 0], 0).float(),
        ground_seed=torch.where(ground == 2, (drawn[:, 4, 1] * 2**31).long(), 0),
    )


def _places(
    noise: Noise, law: Law, count: Tensor, shape: Tensor, colour: Tensor, turn: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (size, x, y, radius): whole layouts are proposed, round by round, until one fits."""
    m = MAX_OBJECTS
    quarter = torch.tensor([[0.27, 0.73, 0.27, 0.73], [0.27, 0.27, 0.73, 0.73]])
    size = torch.zeros(len(noise), m, dtype=torch.int64)
    x, y = quarter[0].repeat(len(noise), 1), quarter[1].repeat(len(noise), 1)
    radius = torch.full_like(x, RADII[0])
    rest = torch.arange(len(noise))
    for proposals in _ROUNDS:
        drawn = _uniform(noise.rows(rest.tolist()), (proposals, m, 2 + 4 * _TRIES), "places", proposals).flatten(0, 1)
        rows = rest.repeat_interleave(proposals)
        sizes = _choice(law.sizes, drawn[:, :, 0])
        radii = (torch.tensor(RADII)[sizes] * (0.95 + 0.1 * drawn[:, :, 1])).float()
        xs, ys, found = _layout(drawn[:, :, 2:].float(), count[rows], colour[rows], radii, shape[rows])
        fits = found & fit(count[rows], shape[rows], xs, ys, radii, turn[rows])
        first = fits.view(-1, proposals).int().argmax(1) + proposals * torch.arange(len(rest))
        taken = first[fits[first]]
        done = rows[taken]
        size[done], x[done], y[done], radius[done] = sizes[taken], xs[taken], ys[taken], radii[taken]
        rest = rest[~fits[first]]
        if not len(rest):
            break
    return size, x, y, radius


def _layout(
    drawn: Tensor, count: Tensor, colour: Tensor, radius: Tensor, shape: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (x, y, whether every object found a place), object by object, by what discs of these radii would do."""
    n, m = radius.shape
    x, y = torch.zeros(n, m), torch.zeros(n, m)
    found = torch.ones(n, dtype=torch.bool)
    rows = torch.arange(n)
    reach = radius * _reach()[shape]
    for j in range(m):
        own = radius[:, j, None]
        u, v, near, which = drawn[:, j].unflatten(1, (4, _TRIES)).unbind(1)
        px, py = 0.72 * own + u * (1 - 1.44 * own), 0.72 * own + v * (1 - 1.44 * own)
        if j:  # a third of the places are at, or in, an object that is there: overlaps and insides
            k = (which * j).long()
            far = (3 * near).square() * (radius.gather(1, k) + own)
            px = torch.where(near < 1 / 3, x.gather(1, k) + far * torch.cos(2 * math.pi * u), px)
            py = torch.where(near < 1 / 3, y.gather(1, k) + far * torch.sin(2 * math.pi * u), py)
        good = (px > 0.6 * own) & (px < 1 - 0.6 * own) & (py > 0.6 * own) & (py < 1 - 0.6 * own)
        for i in range(j):
            apart = torch.hypot(px - x[:, i, None], py - y[:, i, None])
            other = radius[:, i, None]
            free = apart > 0.72 * (own + other)
            within = (apart < other - 0.6 * own) & (own < 0.6 * other)
            touching = apart < (reach[:, j] + reach[:, i])[:, None] + _GAP
            same = (colour[:, i] == colour[:, j])[:, None]
            good &= (free | within) & ~(same & touching)
        pick = good.int().argmax(1)
        x[:, j], y[:, j] = px[rows, pick], py[rows, pick]
        found &= good.any(1) | (j >= count)
    return x, y, found


def fit(count: Tensor, shape: Tensor, x: Tensor, y: Tensor, radius: Tensor, turn: Tensor) -> Tensor:
    """Return bool[B]: whether enough of every object is in the picture and seen, by 128 points of each."""
    present = torch.arange(shape.shape[1]) < count[:, None]
    px, py = spread(shape, x, y, radius, turn)
    framed = ((px > 0) & (px < 1) & (py > 0) & (py < 1)).float().mean(2)
    seen = torch.ones_like(framed)
    for i in range(shape.shape[1] - 1):
        covered = torch.zeros(px[:, i].shape, dtype=torch.bool)
        for j in range(i + 1, shape.shape[1]):
            over = contains(shape[:, j], x[:, j], y[:, j], radius[:, j], turn[:, j], px[:, i], py[:, i])
            covered |= over & present[:, j, None]
        seen[:, i] = 1 - covered.float().mean(1)
    return (((framed >= _IN_FRAME) & (seen >= _SEEN)) | ~present).all(1)


def lawful(scenes: Scenes) -> Tensor:
    """Return bool[B]: whether each scene keeps what `sample_scenes` promises of its places."""
    ok = fit(scenes.count, scenes.shape, scenes.x, scenes.y, scenes.radius.clamp(min=1e-3), scenes.turn)
    reach, present = scenes.radius * _reach()[scenes.shape], scenes.present
    for i in range(1, MAX_OBJECTS):
        for j in range(i):
            same = (scenes.colour[:, i] == scenes.colour[:, j]) & present[:, i] & present[:, j]
            apart = torch.hypot(scenes.x[:, i] - scenes.x[:, j], scenes.y[:, i] - scenes.y[:, j])
            ok &= ~same | (apart >= reach[:, i] + reach[:, j] + _GAP)
    return ok


def spread(shape: Tensor, x: Tensor, y: Tensor, radius: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of 128 points spread evenly over each object, two float32[B, M, 128]."""
    u, v = shapes.points()[shape].mul(radius[..., None, None]).unbind(3)
    cos, sin = turn.cos()[..., None], turn.sin()[..., None]
    return x[..., None] + cos * u - sin * v, y[..., None] + sin * u + cos * v


def contains(shape: Tensor, x: Tensor, y: Tensor, radius: Tensor, turn: Tensor, px: Tensor, py: Tensor) -> Tensor:
    """Return whether the places (px, py), [B, P], lie in the object of their row, whose attributes are [B] each."""
    dx, dy = (px - x[:, None]) / radius[:, None], (py - y[:, None]) / radius[:, None]
    cos, sin = turn.cos()[:, None], turn.sin()[:, None]
    return shapes.inside(shape[:, None], cos * dx + sin * dy, cos * dy - sin * dx)


@cache
def _reach() -> Tensor:
    return shapes.supports().amax(1)


def _uniform(noise: Noise, shape: tuple[int, ...], *key: int | str) -> Tensor:
    """Return float64[B, *shape], uniform in (0, 1): normals through their distribution function."""
    return torch.special.ndtr(noise.normal((len(noise), *shape), "tableau", *key, dtype=torch.float64))


def _choice(weights: tuple[float, ...], drawn: Tensor) -> Tensor:
    """Return the number that each uniform `drawn` picks, by `weights`."""
    edges = torch.tensor(weights, dtype=torch.float64).cumsum(0)
    return torch.searchsorted(edges / edges[-1], drawn.contiguous(), right=True).clamp(max=len(weights) - 1)
