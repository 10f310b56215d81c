"""Pictures before and after an edit, with the instruction: what an editor that follows instructions is trained on.

One thing changes, as the instruction says; everything else is the same scene, so that outside of the edited object
(where it was and where it is) the two pictures agree pixel for pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core import Batch, InputError, Noise, nearest, register
from ..labels import Captions
from . import shapes
from .captions import choices
from .claims import ATTRIBUTES, Claims, Mention
from .dataset import Painted
from .paint import covered, paint
from .sampling import Law, lawful, sample_scenes
from .scene import COLOURS, GROUND_COLOURS, MAX_OBJECTS, RADII, SHAPES, SIZES, TEXTURES, Scenes
from .wording import Draws, English

KINDS = ("colour", "texture", "shape", "size", "remove", "move", "add", "ground")
INSTRUCTION_WORDS = ("make", "it", "turn", "into", "remove", "move", "left", "right", "up", "down", "add")
_TRIES = 8
_WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_VOCABULARY = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES}

Row = dict[str, Any]  # one scene as lists and numbers


@dataclass(frozen=True, kw_only=True)
class Edited:
    """Scenes before and after, the instructions, and what was edited.

    `kind` is one of KINDS for each scene, `place` int64[B] the number of the edited object in `before` (in `after`
    for what was added), -1 for the ground.
    """

    before: Scenes
    after: Scenes
    instruction: list[str]
    kind: list[str]
    place: Tensor

    def mask(self, side: int = 64) -> Tensor:
        """Return bool[B, side, side]: pixels that the edited object touches before or after; all for the ground."""
        out = (self.place < 0)[:, None].expand(-1, side * side).clone()
        row, place = torch.arange(len(out)), self.place.clamp(min=0)
        added, removed = (torch.tensor([k == kind for k in self.kind]) for kind in ("add", "remove"))
        for scenes, here in ((self.before, ~added), (self.after, ~removed)):
            out |= (covered(scenes, side)[0][row, place] > 0) & here[:, None]
        return out.unflatten(1, (side, side))


def edit(scenes: Scenes, noise: Noise, kinds: Sequence[str] = KINDS, law: Law | None = None) -> Edited:
    """Return one edit of each scene, drawn from its row of `noise`, of a kind among `kinds` wherever one is possible.

    The scene afterwards keeps the promises of `sample_scenes` and the combinations of `law`. An object is called by the
    fewest words that mean it alone ("it" where there is one); where no edit of `kinds` is found, the ground changes.

    Raises `InputError` for a kind that does not exist.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"unknown kind of edit {kind!r}{nearest(kind, KINDS)}")
    allowed = {tuple(pair) for pair in (law or Law()).combinations().tolist()}
    arrays = {name: value.tolist() for name, value in scenes.arrays().items()}
    tried: list[tuple[Row, str, str, int]] = []
    for b, draws in enumerate(choices(noise)):
        row = {name: value[b] for name, value in arrays.items()}
        first, second = (draws.pick(tuple(kinds)) for _ in range(2))
        for k in range(_TRIES):
            tried.append(_attempt(row, first if k < _TRIES // 2 else second, allowed, draws))
        tried.append(_attempt(row, "ground", allowed, draws))
    after = _scenes([row for row, *_ in tried], scenes)
    made = torch.tensor([bool(text) for _, text, *_ in tried])
    good = (lawful(after) & made).view(len(scenes), _TRIES + 1)
    good[:, -1] = True
    taken = good.int().argmax(1) + (_TRIES + 1) * torch.arange(len(scenes))
    told = [tried[k] for k in taken.tolist()]
    return Edited(
        before=scenes,
        after=after[taken],
        instruction=[text for _, text, *_ in told],
        kind=[kind for *_, kind, _ in told],
        place=torch.tensor([place for *_, place in told]),
    )


def _attempt(row: Row, kind: str, allowed: set[tuple[int, ...]], draws: Draws) -> tuple[Row, str, str, int]:
    """Return (the scene afterwards, the instruction, the kind, the object); no instruction where it cannot be."""
    row = {name: list(value) if isinstance(value, list) else value for name, value in row.items()}
    count, nothing = row["count"], (row, "", kind, -1)
    if kind == "ground":
        shade = draws.pick([c for c in range(len(GROUND_COLOURS)) if c not in row["ground_colour"]])
        row["ground_colour"] = [shade, shade]
        row["ground"], row["ground_angle"] = (0, 0.0) if row["ground"] == 1 else (row["ground"], row["ground_angle"])
        plain = "plain " if row["ground"] == 0 else ""
        return row, f"make the background {plain}{GROUND_COLOURS[shade]}", kind, -1
    if kind == "add":
        return _add(row, allowed, draws) if count < MAX_OBJECTS else nothing
    j = int(draws.between(0, count))
    looks = [{a: _VOCABULARY[a][row[a][i]] for a in ATTRIBUTES} for i in range(count)]
    if looks.count(looks[j]) > 1 or (kind == "remove" and count == 1):
        return nothing
    the = English().again(Claims(mentions=tuple(Mention(**said) for said in looks)), j, draws) if count > 1 else "it"
    if kind == "remove":
        for name, value in row.items():
            if isinstance(value, list) and len(value) == MAX_OBJECTS:
                row[name] = [*value[:j], *value[j + 1 :], type(value[0])(0)]
        row["count"] -= 1
        return row, f"remove {the}", kind, j
    if kind == "move":
        way = draws.pick(tuple(_WAYS))
        far = draws.between(0.15, 0.45)
        row["x"][j] += far * _WAYS[way][0]
        row["y"][j] += far * _WAYS[way][1]
        return row, f"move {the} {way}", kind, j
    value = draws.pick([v for v in range(len(_VOCABULARY[kind])) if v != row[kind][j]])
    if kind == "size":
        row["radius"][j] *= RADII[value] / RADII[row["size"][j]]
    row[kind][j] = value
    if (row["shape"][j], row["colour"][j]) not in allowed:
        return nothing
    word = _VOCABULARY[kind][value]
    if kind != "shape":
        return row, f"make {the} {word}", kind, j
    order = shapes.SYMMETRY[value]
    row["turn"][j] = row["turn"][j] % (2 * math.pi / order) if order else 0.0
    return row, f"turn {the} into {English().noun(Mention(shape=word), draws)}", kind, j


def _add(row: Row, allowed: set[tuple[int, ...]], draws: Draws) -> tuple[Row, str, str, int]:
    """Add an object on top, and say its shape and some of the rest."""
    j = row["count"]
    shape, colour = draws.pick(sorted(allowed))
    size, texture = int(draws.between(0, len(SIZES))), int(draws.between(0, len(TEXTURES)))
    radius = RADII[size] * draws.between(0.95, 1.05)
    order = shapes.SYMMETRY[shape]
    new = {"shape": shape, "colour": colour, "size": size, "texture": texture, "radius": radius}
    new |= {"x": draws.between(0.72 * radius, 1 - 0.72 * radius), "y": draws.between(0.72 * radius, 1 - 0.72 * radius)}
    new["turn"] = draws.between(0, 2 * math.pi / order) if order else 0.0
    for name, value in new.items():
        row[name][j] = value
    row["count"] = j + 1
    keep = {"shape": 1.0, "colour": 0.7, "size": 0.3, "texture": 0.3}
    said: dict[str, Any] = {a: _VOCABULARY[a][int(new[a])] for a in ATTRIBUTES if draws.chance(keep[a])}
    return row, f"add {English().noun(Mention(**said), draws)}", "add", j


def _scenes(rows: Sequence[Row], like: Scenes) -> Scenes:
    return Scenes(
        **{name: torch.tensor([row[name] for row in rows], dtype=a.dtype) for name, a in like.arrays().items()}
    )


@register
@dataclass(frozen=True, kw_only=True)
class TableauEdits(Painted):
    """`size` edits: x_0 the picture afterwards, `cond["source"]` the one before, `cond["caption"]` the instruction.

    Words are those of captions and INSTRUCTION_WORDS.
    """

    kinds: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise InputError(f"TableauEdits needs kinds among {', '.join(KINDS)}; got {self.kinds}")

    def edits(self, indices: Sequence[int]) -> Edited:
        """Return the edits of the rows `indices`."""
        rows = self.noise(indices)
        return edit(sample_scenes(rows, self.law), rows, self.kinds, self.law)

    def batch(self, indices: Sequence[int], noise: Noise) -> Batch:
        """Return the rows `indices`; nothing is drawn from `noise`."""
        made = self.edits(indices)
        cond = {"source": paint(made.before, self.side)} | Captions().cond(made.instruction)
        return Batch(paint(made.after, self.side), cond)
