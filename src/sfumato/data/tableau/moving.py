"""Moving scenes: 16 frames of objects that glide and turn, with the state of every frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...core import Batch, InputError, Noise, register
from ..labels import Captions
from . import shapes
from .captions import choices
from .claims import Facts, Mention, facts
from .dataset import Painted
from .paint import paint
from .sampling import sample_scenes
from .scene import Scenes
from .wording import Draws, English

FRAMES = 16
MOTION_WORDS = ("moves", "left", "right", "up", "down", "stays")
STEP = 0.12  # of the side: an object that moves less than this is said to stay


def motions(scenes: Scenes, noise: Noise, frames: int = FRAMES) -> Scenes:
    """Return the states of all frames, B * frames scenes, those of one film next to one another; frame 0 is `scenes`.

    An object glides on a straight line to a place drawn from those in the picture, s(t) = 3 t^2 - 2 t^3 of the way at
    time t in [0, 1], and turns by up to a quarter; a third of them stay where they are and a third do not turn. Looks,
    sizes and the ground do not change. On their way objects pass over one another in their order, those of one colour
    too: how much is seen of them in a frame is for `visible` to say.

    Raises `InputError` for fewer than two frames.
    """
    if frames < 2:
        raise InputError(f"a film needs at least 2 frames, got {frames}")
    drawn = torch.special.ndtr(noise.normal((len(scenes), 5, scenes.shape.shape[1]), "tableau", "motion"))
    margin = scenes.radius  # of which nine tenths of an object stay in the picture
    goes = scenes.present & (drawn[:, 2] > 1 / 3)
    ends = margin[:, None] + drawn[:, :2] * (1 - 2 * margin[:, None])
    to_x, to_y = torch.where(goes, ends[:, 0], scenes.x), torch.where(goes, ends[:, 1], scenes.y)
    order = torch.tensor(shapes.SYMMETRY)[scenes.shape]
    turns = scenes.present & (order > 0) & (drawn[:, 3] > 1 / 3)
    by = torch.where(turns, math.pi * (drawn[:, 4] - 0.5), 0)
    time = torch.linspace(0, 1, frames)
    way = (3 * time.square() - 2 * time**3)[None, :, None]
    period = torch.where(order > 0, 2 * math.pi / order.clamp(min=1), 1.0)[:, None]
    film = scenes[torch.arange(len(scenes)).repeat_interleave(frames)]
    return replace(
        film,
        x=torch.lerp(scenes.x[:, None], to_x[:, None], way).flatten(0, 1),
        y=torch.lerp(scenes.y[:, None], to_y[:, None], way).flatten(0, 1),
        turn=(scenes.turn[:, None] + way * by[:, None]).remainder(period).flatten(0, 1),
    )


def narrate(film: Scenes, frames: int, noise: Noise) -> list[str]:
    """Return what happens in each film of `frames` frames: "a red circle moves right, a small star stays".

    Every object is named by shape and colour, by size and texture too where another shares them, and said to move the
    way that it moves most, or to stay where it moves by less than STEP.
    """
    first, last = film[0::frames], film[frames - 1 :: frames]
    dx, dy = ((b - a).tolist() for a, b in ((first.x, last.x), (first.y, last.y)))
    told = zip(facts(first), choices(noise), dx, dy, strict=True)
    return [_story(known, draws, xs, ys) for known, draws, xs, ys in told]


def _story(known: Facts, draws: Draws, dx: Sequence[float], dy: Sequence[float]) -> str:
    parts: list[str] = []
    for j in draws.order(len(known.objects)):
        looks, others = known.objects[j], [o for i, o in enumerate(known.objects) if i != j]
        short: dict[str, Any] = {a: looks[a] for a in ("shape", "colour")}
        said: dict[str, Any] = dict(looks) if any(short.items() <= other.items() for other in others) else short
        x, y = dx[j], dy[j]
        way = ("left" if x < 0 else "right") if abs(x) >= abs(y) else ("up" if y < 0 else "down")
        verb = "stays" if max(abs(x), abs(y)) < STEP else f"moves {way}"
        parts.append(f"{English().noun(Mention(**said), draws)} {verb}")
    return ", ".join(parts)


@register
@dataclass(frozen=True, kw_only=True)
class TableauFilms(Painted):
    """`size` films: x_0 float32[3, frames, side, side] in [-1, 1], `cond["caption"]` what moves where.

    Words are those of captions and MOTION_WORDS.
    """

    side: int = 32
    frames: int = FRAMES

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 2:
            raise InputError(f"TableauFilms needs frames >= 2, got {self.frames}")

    def states(self, indices: Sequence[int]) -> Scenes:
        """Return the scenes of all frames of the rows `indices`, `frames` for each, one row after another."""
        return self._film(self.noise(indices))

    def batch(self, indices: Sequence[int], noise: Noise) -> Batch:
        """Return the rows `indices`; nothing is drawn from `noise`."""
        rows = self.noise(indices)
        film = self._film(rows)
        x0 = paint(film, self.side).unflatten(0, (len(rows), self.frames)).transpose(1, 2).contiguous()
        return Batch(x0, Captions().cond(narrate(film, self.frames, rows)))

    def _film(self, rows: Noise) -> Scenes:
        return motions(sample_scenes(rows, self.law), rows, self.frames)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one x_0."""
        return (3, self.frames, self.side, self.side)
