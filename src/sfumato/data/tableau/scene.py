"""The vocabulary of the world, and scenes as a structure of arrays.

A scene is one to four objects on a ground. Places are in units of the side, x to the right and y downwards, so that one
scene can be painted at any size; object j is painted over object i < j.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ...core import InputError, nearest
from . import shapes

MAX_OBJECTS = 4
SHAPES = shapes.NAMES
SIZES = ("small", "medium", "large")
RADII = (0.13, 0.19, 0.26)  # of the side; each object's own is within 5 % of its size's
TEXTURES = ("plain", "striped", "dotted", "checked")
GROUNDS = ("plain", "graded", "textured")

# name -> (the colour, the second tone of its textures), red green blue in [0, 1]. Colours are far apart, and a tone is
# far from every other colour
_COLOURS = {
    "red": ((0.86, 0.02, 0.12), (0.42, 0.00, 0.06)),
    "orange": ((1.00, 0.48, 0.00), (1.00, 0.80, 0.52)),
    "yellow": ((1.00, 0.97, 0.15), (0.68, 0.60, 0.00)),
    "green": ((0.10, 0.72, 0.16), (0.00, 0.30, 0.06)),
    "cyan": ((0.05, 0.90, 0.92), (0.00, 0.52, 0.58)),
    "blue": ((0.05, 0.22, 1.00), (0.45, 0.60, 1.00)),
    "purple": ((0.56, 0.00, 0.70), (0.26, 0.00, 0.34)),
    "pink": ((1.00, 0.50, 0.80), (0.80, 0.18, 0.50)),
    "black": ((0.03, 0.03, 0.03), (0.36, 0.36, 0.36)),
    "white": ((0.98, 0.98, 0.98), (0.70, 0.70, 0.70)),
}
COLOURS = tuple(_COLOURS)

# muted, so that no ground passes for an object
_GROUND_COLOURS = {
    "beige": (0.84, 0.76, 0.58),
    "grey": (0.58, 0.60, 0.58),
    "slate": (0.33, 0.41, 0.52),
    "sage": (0.48, 0.65, 0.45),
    "mauve": (0.66, 0.46, 0.66),
    "clay": (0.62, 0.41, 0.31),
}
GROUND_COLOURS = tuple(_GROUND_COLOURS)


def palette() -> tuple[Tensor, Tensor]:
    """Return float32[colours, 2, 3] and float32[ground colours, 3] in [-1, 1]: base and tone, and the grounds."""
    return 2 * torch.tensor(tuple(_COLOURS.values())) - 1, 2 * torch.tensor(tuple(_GROUND_COLOURS.values())) - 1


@dataclass(frozen=True)
class Scenes:
    """B scenes of at most M objects; what lies beyond `count` is 0.

    Attributes are numbers into the tuples of this module. `turn` is in radians, clockwise, in [0, 2 pi / order) of the
    shape's symmetry (0 where every turn looks the same). `ground_colour` holds two colours, of which a graded ground
    runs from the first to the second in the direction `ground_angle`, in [0, pi), since half a turn more with the
    colours swapped is the same picture; elsewhere both are the same and the angle is 0. `ground_seed` draws the texture
    of a textured ground and is 0 elsewhere.
    """

    count: Tensor  # int64[B]
    shape: Tensor  # int64[B, M], like colour, size and texture
    colour: Tensor
    size: Tensor
    texture: Tensor
    x: Tensor  # float32[B, M], like y, radius and turn
    y: Tensor
    radius: Tensor
    turn: Tensor
    ground: Tensor  # int64[B]
    ground_colour: Tensor  # int64[B, 2]
    ground_angle: Tensor  # float32[B]
    ground_seed: Tensor  # int64[B]

    def __len__(self) -> int:
        return len(self.count)

    def __iter__(self) -> Iterator[Scenes]:
        return (self[i : i + 1] for i in range(len(self)))

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Scenes:
        """Return some of the scenes, always as a batch."""
        if isinstance(index, int):
            index = slice(index, index + 1 or None)
        return Scenes(**{name: value[index] for name, value in self.arrays().items()})

    def arrays(self) -> dict[str, Tensor]:
        """Return the arrays by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def to(self, device: torch.device | str) -> Scenes:
        """Return the scenes on `device`."""
        return Scenes(**{name: value.to(device) for name, value in self.arrays().items()})

    @property
    def present(self) -> Tensor:
        """bool[B, M]: which places hold an object."""
        return torch.arange(self.shape.shape[1], device=self.count.device) < self.count[:, None]

    def describe(self, i: int) -> dict[str, Any]:
        """Return scene `i` in words and numbers: a dictionary that JSON can hold, and that `scene` reads back."""
        ground = GROUNDS[int(self.ground[i])]
        out: dict[str, Any] = {
            "ground": {
                "kind": ground,
                "colours": [GROUND_COLOURS[c] for c in self.ground_colour[i].tolist()][: 1 + (ground == "graded")],
                "angle": self.ground_angle[i].item(),
                "seed": int(self.ground_seed[i]),
            }
        }
        out["objects"] = [
            {
                "shape": SHAPES[int(self.shape[i, j])],
                "colour": COLOURS[int(self.colour[i, j])],
                "size": SIZES[int(self.size[i, j])],
                "texture": TEXTURES[int(self.texture[i, j])],
            }
            | {name: getattr(self, name)[i, j].item() for name in ("x", "y", "radius", "turn")}
            for j in range(int(self.count[i]))
        ]
        return out


def cat(parts: Iterable[Scenes]) -> Scenes:
    """Return all the scenes of `parts` in one batch."""
    arrays = [part.arrays() for part in parts]
    if not arrays:
        raise InputError("no scenes to join: give at least one batch")
    return Scenes(**{name: torch.cat([a[name] for a in arrays]) for name in arrays[0]})


def scene(objects: Sequence[dict[str, Any]], ground: dict[str, Any] | None = None) -> Scenes:
    """Return one scene written by hand, in the words of `Scenes.describe`.

    An object needs shape, colour, x and y; size is medium, texture plain, radius its size's and turn 0 unless given.
    The ground is plain grey unless given.

    Raises `InputError` for a word that is not in the vocabulary and for more than four objects.
    """
    if not 0 < len(objects) <= MAX_OBJECTS:
        raise InputError(f"a scene has 1 to {MAX_OBJECTS} objects, got {len(objects)}")
    numbers: dict[str, list[float]] = {
        name: [0] * MAX_OBJECTS for name in ("shape", "colour", "size", "texture", "x", "y", "radius", "turn")
    }
    words = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES}
    for j, given in enumerate(objects):
        full: dict[str, Any] = {"size": "medium", "texture": "plain", "turn": 0.0} | given
        for name in ("shape", "colour", "x", "y"):
            if name not in full:
                raise InputError(f"object {j} has no {name}: give it")
        for name, value in full.items():
            if name not in numbers:
                raise InputError(f"an object has no {name!r}{nearest(name, numbers)}")
            numbers[name][j] = number(words[name], value, name) if name in words else float(value)
        numbers["radius"][j] = full.get("radius", RADII[int(numbers["size"][j])])
    back: dict[str, Any] = {"kind": "plain", "colours": ["grey"], "angle": 0.0, "seed": 0} | (ground or {})
    shades = [number(GROUND_COLOURS, c, "ground colour") for c in back["colours"]]
    arrays = {
        name: torch.tensor([value], dtype=torch.int64 if name in words else torch.float32)
        for name, value in numbers.items()
    }
    return Scenes(
        count=torch.tensor([len(objects)]),
        ground=torch.tensor([number(GROUNDS, back["kind"], "ground")]),
        ground_colour=torch.tensor([[shades[0], shades[-1]]]),
        ground_angle=torch.tensor([float(back["angle"])]),
        ground_seed=torch.tensor([int(back["seed"])]),
        **arrays,
    )


def number(words: Sequence[str], word: str, what: str) -> int:
    """Return the place of `word` in the vocabulary `words`; `what` is its name in the error."""
    if word not in words:
        raise InputError(f"unknown {what} {word!r}{nearest(word, words)}")
    return words.index(word)


def held_out(shape: Tensor, colour: Tensor) -> Tensor:
    """Return whether the combination is kept out of training: colour = 3 shape + 1 (mod 10), one colour a shape."""
    return colour == (3 * shape + 1) % len(COLOURS)
