"""Pieces to candidates: templates propose shapes, least squares refine them, colours judge them.

Everything is a least-squares problem in the coverage c of one object. Where y is what is left of a picture when what
is above and behind the object is taken away, and d what full coverage would add, sum |y - c d|^2 is
const - 2 sum c a + sum c^2 b with a = y . d and b = |d|^2: two numbers a pixel, linear in a bank of templates. Textures
are linear too, d = d0 + tone d1, so that five numbers a pixel (`light`) judge every texture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import shapes
from ..paint import every_tone, tones
from ..scene import RADII, palette
from .bank import Bank, banks, covered, frame, slopes, window
from .pieces import Pieces, widened

_SEEN = 0.45  # of a template that must be seen; objects are seen to 0.6 at least
_BEYOND = 0.5  # the weight of what lies beyond the frame, where an object is seldom and by a tenth at most
_FRAMED, _COST_BEYOND = 0.88, 4.0  # the part in the frame below which a candidate pays, and how much a pixel of it
_MIXED = 0.3  # how far from a mixture of its colour and the ground a pixel may be
JITTER = 0.055  # of a size's radius; the law has 0.05
_END = 0.15  # radians from the end of the range of turns within which the other end is tried too


@dataclass(frozen=True)
class Candidates:
    """K candidates for the objects `of` int64[K]: `shape`, `size`, `texture` int64[K] and `place` float32[K, 4].

    A place is x, y, radius and turn, in pixels. `cost` float32[K] is the sum of squared differences from the picture,
    less what it is without the object.
    """

    of: Tensor
    shape: Tensor
    size: Tensor
    texture: Tensor
    place: Tensor
    cost: Tensor

    def __getitem__(self, index: Tensor) -> Candidates:
        return Candidates(*(value[index] for value in self._values()))

    def _values(self) -> tuple[Tensor, ...]:
        return self.of, self.shape, self.size, self.texture, self.place, self.cost

    def renamed(self, of: Tensor) -> Candidates:
        """Return the same candidates for other objects."""
        return Candidates(of, *self._values()[1:])

    def scaled(self, factor: float) -> Candidates:
        """Return the candidates in pictures that are larger by `factor`."""
        place = self.place * torch.tensor([factor, factor, factor, 1.0])
        return Candidates(self.of, self.shape, self.size, self.texture, place, self.cost)

    def put(self, index: Tensor, other: Candidates) -> None:
        """Write `other` over the candidates at `index`."""
        for mine, its in zip(self._values(), other._values(), strict=True):
            mine[index] = its

    def best(self, keep: int = 1, nearly: float = 0.0) -> Candidates:
        """Return the `keep` cheapest candidates of each object, by object, the cheapest first.

        Of those, only what explains `nearly` as much as the cheapest, 0 to 1.
        """
        order = self.cost.argsort(stable=True)
        order = order[self.of[order].argsort(stable=True)]
        of = self.of[order]
        rank = torch.arange(len(of)) - torch.searchsorted(of, of)
        first = torch.searchsorted(of, of)
        near = self.cost[order] <= nearly * self.cost[order][first]
        return self[order[(rank < keep) & (near | (rank == 0))]]


def together(parts: list[Candidates]) -> Candidates:
    """Return all candidates of `parts`."""
    return Candidates(*(torch.cat(values) for values in zip(*(p._values() for p in parts), strict=True)))


def light(left: Tensor, behind: Tensor, through: Tensor, colour: Tensor) -> Tensor:
    """Return float32[P, 5, N], what judges objects of `colour` int64[P].

    `left` [P, 3, N] is the picture less what is above the object and less `behind` [P, 3, N], both as far as they are
    seen; `through` [P, N] is how much is seen through what is above. The five are a = l0 + tone l1 and
    b = l2 + tone l3 + tone^2 l4.
    """
    tone = palette()[0][colour]
    span = (tone[:, 1] - tone[:, 0])[:, :, None]
    add = tone[:, 0, :, None] - behind
    square = through.square()
    return torch.stack(
        [
            through * (left * add).sum(1),
            through * (left * span).sum(1),
            square * add.square().sum(1),
            square * 2 * (add * span).sum(1),
            square * span.square().sum(1),
        ],
        1,
    )


@dataclass(frozen=True)
class View:
    """What is seen of P pieces, pixel by pixel of the whole picture.

    `maps` float32[P, 2, 2, N] is what templates are held against, twice: the weight of a pixel times how much of it
    the object covers, judged by its colour alone; and the weight. First what else is seen may hide
    the object, so its weight is 0; then the object hides it, so it counts as not covered. `light` float32[P, 5, N]
    judges textures, `middle` float32[P, 2] is the middle of what is seen, `touched` bool[P] says whether something
    else is beside it.
    """

    maps: Tensor
    light: Tensor
    middle: Tensor
    touched: Tensor


def views(pictures: Tensor, grounds: Tensor, away: Tensor, pieces: Pieces, taken: Tensor) -> View:
    """Return the views of `pieces`; `away` is from `colour_distances`, `taken` bool[B, S, S] belongs to some piece."""
    left = pictures - grounds
    own, far = away[pieces.row, pieces.colour], left.square().sum(1).sqrt()[pieces.row]
    back = grounds[pieces.row]
    # a mixture lies between the ground and the nearest tone: its distances from both add up to theirs
    mixture = far + own - _to_tones(back, pieces.colour) < _MIXED
    other = taken[pieces.row] & ~pieces.mask
    near = widened(other)
    clear = (mixture | pieces.mask) & ~near
    mine = clear | pieces.mask
    cover = torch.where(clear, far / (far + own).clamp(min=1e-6), pieces.mask.float())
    maps = torch.stack([cover * clear, clear, cover * mine, mine | other], 1).unflatten(1, (2, 2)).flatten(3)
    lights = light(left[pieces.row].flatten(2), back.flatten(2), mine.flatten(1).float(), pieces.colour)
    return View(maps, lights, pieces.middle, (near & pieces.mask).flatten(1).any(1))


def propose(maps: Tensor, middle: Tensor, rows: Tensor, reach: int, step: int, keep: int, side: int) -> Candidates:
    """Return the best template of each of the `keep` best shapes of the objects `rows`.

    `maps` [P, 2 or 3, N] are a, b and how much of a pixel is open to view, of which a template needs enough; a itself
    where it is left out. The middle of its bounding box is moved from `middle` [P, 2] by up to `reach` pixels each way,
    in steps of `step`.
    """
    templates = banks(side)
    widest = templates[-1].width
    origin = (middle[rows] - widest / 2).round().long() - reach
    crop, inside = _cropped(_planes(maps), origin, widest + 2 * reach, side, rows)
    crop[:, 1] += _BEYOND * ~inside
    found = [_matched(crop, size, (widest - size.width) // 2, reach, step) for size in templates]
    cost, shift = (torch.cat(part, 1) for part in zip(*found, strict=True))
    return _chosen(cost, shift, origin + widest / 2, rows, templates, keep, side)


def _matched(crop: Tensor, templates: Bank, margin: int, reach: int, step: int) -> tuple[Tensor, Tensor]:
    """Return what each template costs where it costs least, [K, T], and how far it is moved there, int64[K, T, 2].

    All moves of one row of the lattice are one product; windows begin `margin` pixels inside of `crop` [K, C, ...].
    """
    width, moves = templates.width, range(margin, margin + 2 * reach + 1, step)
    square, needed = templates.cover.square(), _SEEN * templates.cover.sum(0)
    cost = crop.new_full((len(crop), len(needed)), torch.inf)
    shift = torch.zeros((*cost.shape, 2), dtype=torch.int64)
    for dy in moves:
        part = crop[:, :, dy : dy + width, margin : moves[-1] + width].unfold(3, width, step)
        a, b, *clear = part.permute(1, 0, 3, 2, 4).flatten(3).flatten(1, 2).unbind(0)
        new = a @ templates.cover
        hidden = (clear[0] @ templates.cover if clear else new) < needed
        new.addmm_(b, square, beta=-2.0).masked_fill_(hidden, torch.inf)
        least, dx = new.unflatten(0, (len(crop), len(moves))).min(1)
        here = torch.stack([step * dx, torch.full_like(dx, dy - margin)], 2)
        shift = torch.where((least < cost)[:, :, None], here, shift)
        cost = torch.minimum(cost, least)
    return cost, shift


def _chosen(
    cost: Tensor, shift: Tensor, middle: Tensor, rows: Tensor, templates: Sequence[Bank], keep: int, side: int
) -> Candidates:
    shape, size, turn, offset = (
        torch.cat(values) for values in zip(*((t.shape, t.size, t.turn, t.offset) for t in templates), strict=True)
    )
    groups = [(shape == k).nonzero()[:, 0] for k in range(len(shapes.NAMES))]
    best = [cost[:, group].min(1) for group in groups]
    which = torch.stack([group[b.indices] for b, group in zip(best, groups, strict=True)], 1)
    chosen = which.gather(1, torch.stack([b.values for b in best], 1).topk(keep, largest=False).indices)
    at = middle[:, None] + shift.gather(1, chosen[..., None].expand(-1, -1, 2)) + offset[chosen]
    radius = torch.tensor(RADII)[size[chosen]] * side
    place = torch.cat([at, radius[..., None], turn[chosen][..., None]], 2).flatten(0, 1)
    nothing = torch.zeros(len(place), dtype=torch.int64)
    found = shape[chosen].flatten(), size[chosen].flatten()
    return Candidates(rows.repeat_interleave(keep), *found, nothing, place, nothing.float())


def lit(found: Candidates, lights: Tensor, through: Tensor, soft: Tensor, side: int) -> Tensor:
    """Return the maps [P, 3, N] that `propose` takes, of P objects as they are `found`, in order, judged by `lights`.

    Their textures are taken where they are; a and b are in parts of what the object's colour is worth where it is most.
    """
    u, v = frame(found.place, torch.zeros(len(found.of), 2), side)
    tone = tones(found.texture, u, v, found.place[:, 2:3] / soft[:, None])
    a, b = lights[:, 0] + tone * lights[:, 1], lights[:, 2] + tone * (lights[:, 3] + tone * lights[:, 4])
    most = b.amax(1, keepdim=True).clamp(min=1e-6)
    return torch.stack([a / most, b / most, through], 1)


def polish(
    found: Candidates, lights: Tensor, soft: Tensor, steps: tuple[float, ...], side: int, maps: Tensor | None = None
) -> Candidates:
    """Return `found` refined in place, and then with the textures and turns that cost least.

    One damped Gauss-Newton step is taken for each of `steps`, with edges so many times as wide as `soft` float32[P], on
    `lights` [P, 5, N] in the textures found, or on `maps` [P, 2, N], a and b. Each size has windows of its own width.
    """
    out = Candidates(*(value.clone() for value in found._values()))
    lights, maps = _planes(lights), None if maps is None else _planes(maps)
    for size, radius in enumerate(RADII):
        rows = (found.size == size).nonzero()[:, 0]
        if not len(rows):
            continue
        part, width = found[rows], min(window(radius, side) + 2, side)
        origin = (part.place[:, :2] - width / 2).round().long().clamp(0, side - width)
        crop = _cropped(lights, origin, width, side, part.of)[0].flatten(2)
        if maps is None:
            u, v = frame(part.place, origin, width)
            tone = tones(part.texture, u, v, part.place[:, 2:3] / soft[part.of, None])
            a, b = crop[:, 0] + tone * crop[:, 1], crop[:, 2] + tone * (crop[:, 3] + tone * crop[:, 4])
        else:
            a, b = _cropped(maps, origin, width, side, part.of)[0].flatten(2).unbind(1)
        wide = soft[part.of, None]
        place = _refined(part, origin, width, side, a, b, [wide * k for k in steps])
        out.put(rows, _judged(part, place, origin, width, crop, wide))
    return out


def _refined(
    part: Candidates, origin: Tensor, width: int, side: int, a: Tensor, b: Tensor, softs: Sequence[Tensor]
) -> Tensor:
    nominal = torch.tensor(RADII)[part.size] * side
    one = torch.ones_like(nominal)
    limit = torch.stack([1.5 * one, 1.5 * one, 0.1 * nominal, 0.2 * one], 1)
    damp = torch.diag_embed(torch.stack([0.3 * one, 0.3 * one, 0.3 * one, 0.3 + 0.02 * nominal**2], 1))
    place = part.place
    for soft in softs:
        cover, by = slopes(part.shape, place, origin, width, soft)
        pull = torch.einsum("kn,kjn->kj", a - b * cover, by)
        gram = (by * b[:, None]) @ by.mT
        place = place + torch.linalg.solve(gram + damp, pull).clamp(-limit, limit)
        radius = place[:, 2].clamp((1 - JITTER) * nominal, (1 + JITTER) * nominal)
        place = torch.stack([place[:, 0], place[:, 1], radius, place[:, 3]], 1)
    return place


def _judged(part: Candidates, place: Tensor, origin: Tensor, width: int, lights: Tensor, soft: Tensor) -> Candidates:
    """Return the candidates at `place` with the textures that cost least, where edges are `soft` [K, 1] wide.

    A turn is brought into its range; near an end of it, where a texture would turn over, both ends are tried.
    """
    order = torch.tensor(shapes.SYMMETRY)[part.shape]
    period = torch.where(order > 0, 2 * math.pi / order.clamp(min=1), torch.inf)
    turn = torch.where(order > 0, place[:, 3].remainder(period), 0.0)
    place = torch.cat([place[:, :3], turn[:, None]], 1)
    near = (order > 1) & ((turn < _END) | (turn > period - _END))
    extra = near.nonzero()[:, 0]
    other = torch.where(turn < _END, turn + period, turn - period)
    place = torch.cat([place, torch.cat([place[extra, :3], other[extra, None]], 1)])
    row = torch.cat([torch.arange(len(turn)), extra])
    best, texture = _costs(part.shape[row], place, origin[row], width, lights[row], soft[row]).min(1)
    swap = (best[len(turn) :] < best[: len(turn)][extra]).nonzero()[:, 0]
    take = torch.arange(len(turn))
    take[extra[swap]] = len(turn) + swap
    return Candidates(part.of, part.shape, part.size, texture[take], place[take], best[take])


def _costs(shape: Tensor, place: Tensor, origin: Tensor, width: int, lights: Tensor, soft: Tensor) -> Tensor:
    u, v = frame(place, origin, width)
    cover = covered(shape, place, u, v, soft)
    whole = shapes.areas()[shape] * place[:, 2].square()
    outside = _COST_BEYOND * (_FRAMED * whole - cover.sum(1)).clamp(min=0)
    a0, a1, b0, b1, b2 = lights.unbind(1)
    square = cover * cover
    constant = outside + (square * b0 - 2 * cover * a0).sum(1)
    linear, quadratic = square * b1 - 2 * cover * a1, square * b2
    more = [(tone * (linear + tone * quadratic)).sum(1) for tone in every_tone(u, v, place[:, 2:3] / soft)[1:]]
    return torch.stack([constant, *(constant + m for m in more)], 1)


def _to_tones(ground: Tensor, colour: Tensor) -> Tensor:
    """Return how far `ground` [P, 3, S, S] is from the line between both tones of colours [P], float32[P, S, S]."""
    tone = palette()[0][colour]
    base, span = tone[:, 0, :, None, None], (tone[:, 1] - tone[:, 0])[:, :, None, None]
    off = ground - base
    part = (span * off).sum(1, keepdim=True) / span.square().sum(1, keepdim=True)
    return (off - part.clamp(0, 1) * span).square().sum(1).sqrt()


def _planes(maps: Tensor) -> Tensor:
    """Return `maps` [P, C, N] of whole pictures as [C, P N], which windows are cut from."""
    return maps.transpose(0, 1).flatten(1)


def _cropped(planes: Tensor, origin: Tensor, width: int, side: int, of: Tensor) -> tuple[Tensor, Tensor]:
    """Return windows [K, C, width, width] that begin at `origin` int64[K, 2], 0 beyond the picture, and what is inside.

    Window k is cut from picture of[k] of `planes`.
    """
    steps = torch.arange(width)
    x, y = origin[:, :1] + steps, origin[:, 1:] + steps
    inside = ((x >= 0) & (x < side))[:, None, :] & ((y >= 0) & (y < side))[:, :, None]
    left, top = x.clamp(0, side - 1), y.clamp(0, side - 1) + (of * side)[:, None]
    index = top[:, :, None] * side + left[:, None, :]
    out = planes.index_select(1, index.flatten()).unflatten(1, index.shape).transpose(0, 1)
    return out * inside[:, None], inside
