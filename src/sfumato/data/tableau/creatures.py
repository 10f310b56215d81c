"""Recurring characters: a face-like creature with an identity of 12 numbers and five named landmarks, in any pose.

The identity says how it is built and coloured, the pose where it is, how large, how far its head is turned in the
picture (`turn`) and to the side (`yaw`, which moves the features over the face). Both are known exactly, and
so is where the eyes, the nose and the corners of the mouth are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ...core import Batch, InputError, Noise, fold, register
from .dataset import Painted
from .paint import paint
from .sampling import Law, sample_scenes
from .scene import Scenes

TRAITS = (
    ("skin", 0.0, 1.0),  # a hue, like iris and fur
    ("width", 0.72, 1.0),  # of the head, whose height is 1
    ("ear_height", 0.25, 0.65),
    ("ear_width", 0.14, 0.34),
    ("eye_apart", 0.26, 0.46),
    ("eye_size", 0.14, 0.24),
    ("iris", 0.0, 1.0),
    ("nose", 0.06, 0.18),
    ("mouth_width", 0.18, 0.45),
    ("mouth_curve", -0.16, 0.2),
    ("crest", 0.0, 0.5),
    ("fur", 0.0, 1.0),  # of ears and crest
)
LANDMARKS = ("left eye", "right eye", "nose", "left corner of the mouth", "right corner of the mouth")
_EYES, _NOSE, _MOUTH, _YAW = -0.18, 0.16, 0.52, 0.22


@dataclass(frozen=True, kw_only=True)
class Creatures:
    """B creatures over scenes: `identity` float32[B, 12] in [0, 1], the pose float32[B] each, and what is behind."""

    identity: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor  # half the head's height, of the side
    turn: Tensor  # radians, clockwise
    yaw: Tensor  # -1 to 1, to the right
    behind: Scenes

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> Creatures:
        """Return some of the creatures."""
        return Creatures(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def landmarks(self) -> Tensor:
        """Return float32[B, 5, 2], x and y of LANDMARKS."""
        t = _traits(self.identity)
        shift, zero = _YAW * self.yaw, torch.zeros_like(self.yaw)
        corner = _MOUTH + t["mouth_curve"]
        u = torch.stack([-t["eye_apart"], t["eye_apart"], zero, -t["mouth_width"], t["mouth_width"]], 1)
        v = torch.stack([zero + _EYES, zero + _EYES, zero + _NOSE, corner, corner], 1)
        u, cos, sin = u + shift[:, None], self.turn.cos()[:, None], self.turn.sin()[:, None]
        x, y = cos * u - sin * v, sin * u + cos * v
        return torch.stack([x, y], 2) * self.radius[:, None, None] + torch.stack([self.x, self.y], 1)[:, None]


def paint_creatures(creatures: Creatures, side: int = 64) -> Tensor:
    """Return the pictures, float32[B, 3, side, side] in [-1, 1]."""
    out = paint(creatures.behind, side)
    for cover, colour in _parts(creatures, side):
        out = out + cover[:, None] * (colour[..., None, None] - out)
    return out


def silhouette(creatures: Creatures, side: int = 64) -> Tensor:
    """Return float32[B, side, side], the part of each pixel that a creature covers."""
    left = torch.ones(len(creatures), side, side)
    for cover, _ in _parts(creatures, side):
        left = left * (1 - cover)
    return 1 - left


def sample_creatures(seeds: Noise | Sequence[int], identity: Tensor | None = None, law: Law | None = None) -> Creatures:
    """Return one creature a seed, of the given identities or of its own, alone on a ground of `law`."""
    noise = seeds if isinstance(seeds, Noise) else Noise(seeds)
    drawn = torch.special.ndtr(noise.normal((len(noise), 5), "creature", "pose"))
    radius = 0.18 + 0.1 * drawn[:, 0]
    scenes = sample_scenes(noise, law)
    empty = {
        f.name: torch.zeros_like(getattr(scenes, f.name)) for f in fields(Scenes) if not f.name.startswith("ground")
    }
    return Creatures(
        identity=identities(noise) if identity is None else identity,
        x=1.2 * radius + drawn[:, 1] * (1 - 2.4 * radius),
        y=1.3 * radius + drawn[:, 2] * (1 - 2.5 * radius),
        radius=radius,
        turn=math.pi / 4 * (2 * drawn[:, 3] - 1),
        yaw=2 * drawn[:, 4] - 1,
        behind=replace(scenes, **empty),
    )


def identities(seeds: Noise | Sequence[int]) -> Tensor:
    """Return float32[B, 12], one identity a seed, every trait uniform."""
    noise = seeds if isinstance(seeds, Noise) else Noise(seeds)
    return torch.special.ndtr(noise.normal((len(noise), len(TRAITS)), "creature", "identity"))


def recognise(pictures: Tensor, poses: Creatures, gallery: Tensor) -> Tensor:
    """Return int64[B]: which identity of `gallery` [G, 12] each picture shows, in the pose (and ground) of `poses`.

    The one whose creature, painted in that pose, is nearest to the picture where it covers it.
    """
    errors: list[Tensor] = []
    for identity in gallery:
        guess = replace(poses, identity=identity.expand(len(poses), -1))
        where = silhouette(guess, pictures.shape[-1])
        error = (paint_creatures(guess, pictures.shape[-1]) - pictures).square().mean(1) * where
        errors.append(error.sum((1, 2)) / where.sum((1, 2)).clamp(min=1e-6))
    return torch.stack(errors, 1).argmin(1)


def _traits(identity: Tensor) -> dict[str, Tensor]:
    return {name: low + (high - low) * identity[:, k] for k, (name, low, high) in enumerate(TRAITS)}


def _parts(creatures: Creatures, side: int) -> list[tuple[Tensor, Tensor]]:
    """Return (coverage [B, S, S], colour [B, 3]) of each part, those behind first."""
    t = {name: value[:, None, None] for name, value in _traits(creatures.identity).items()}
    place = (torch.arange(side) + 0.5) / side
    x, y, radius, turn, yaw = (getattr(creatures, name)[:, None, None] for name in ("x", "y", "radius", "turn", "yaw"))
    across, down = (place[None, None, :] - x) / radius, (place[None, :, None] - y) / radius
    u, v = turn.cos() * across + turn.sin() * down, turn.cos() * down - turn.sin() * across
    either, face = u.abs(), u - _YAW * yaw  # features are mirrored about the middle of the face
    mirrored, pixels = face.abs(), radius * side

    def cover(distance: Tensor) -> Tensor:
        return (0.5 - distance * pixels).clamp(0, 1)

    bend = _MOUTH + t["mouth_curve"] * (face / t["mouth_width"]).square()
    mouth = torch.maximum((v - bend).abs() - 0.05, mirrored - t["mouth_width"])
    skin, fur, iris = (_hue(t[name][:, 0, 0], depth) for name, depth in (("skin", 0.28), ("fur", 0.45), ("iris", 0.4)))
    white, black = torch.full_like(skin, 0.95), torch.full_like(skin, -0.9)
    eye = mirrored - t["eye_apart"]
    crest = _ellipse(u, v + 0.95, 0.16 + 0 * u, t["crest"] + 0.02)
    return [
        (cover(_ellipse(either - 0.62 * t["width"], v + 0.85, t["ear_width"], t["ear_height"])), fur),
        (cover(crest), fur),
        (cover(_ellipse(u, v, t["width"], 1 + 0 * u)), skin),
        (cover(torch.hypot(eye, v - _EYES) - t["eye_size"]), white),
        (cover(torch.hypot(eye, v - _EYES) - 0.6 * t["eye_size"]), iris),
        (cover(_ellipse(face, v - _NOSE, 0.09 + 0 * u, t["nose"])), black),
        (cover(mouth), black),
    ]


def _ellipse(u: Tensor, v: Tensor, wide: Tensor, high: Tensor) -> Tensor:
    """Return about the signed distance from an ellipse: f (f - 1) / |grad f| with f = |(u / wide, v / high)|."""
    f = torch.hypot(u / wide, v / high)
    return f * (f - 1) / torch.hypot(u / wide.square(), v / high.square()).clamp(min=1e-6)


def _hue(hue: Tensor, depth: float) -> Tensor:
    """Return float32[B, 3] in [-1, 1], a colour of the given hues; `depth` says how strong, around a light grey."""
    phase = 2 * math.pi * (hue[:, None] + torch.tensor([0.0, 1 / 3, 2 / 3]))
    return 2 * (0.92 - depth + depth * phase.cos()) - 1


@register
@dataclass(frozen=True, kw_only=True)
class TableauCreatures(Painted):
    """`size` pictures of `characters` creatures: row i shows character i modulo `characters` in a pose of its own.

    `cond` holds `identity` float32[12], `landmarks` float32[5, 2] and `character` int64.
    """

    characters: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.characters < 1:
            raise InputError(f"TableauCreatures needs characters >= 1, got {self.characters}")

    def creatures(self, indices: Sequence[int]) -> Creatures:
        """Return the creatures of the rows `indices`."""
        who = identities([fold("TableauCreatures", "who", self.seed) + int(i) % self.characters for i in indices])
        return sample_creatures(self.noise(indices), who, self.law)

    def batch(self, indices: Sequence[int], noise: Noise) -> Batch:
        """Return the rows `indices`; nothing is drawn from `noise`."""
        made = self.creatures(indices)
        who = torch.tensor([int(i) % self.characters for i in indices], dtype=torch.int64)
        cond = {"identity": made.identity, "landmarks": made.landmarks(), "character": who}
        return Batch(paint_creatures(made, self.side), cond)
