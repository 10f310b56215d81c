"""What a caption says of a picture, and whether it holds of a scene.

`facts` puts scenes into words, `Claims` are what a text says, `true` compares the two. Which object a mention means is
left open: claims hold if some choice of different objects fits all mentions and their relations.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from ...core import InputError
from .relations import RELATIONS, SLACK, within
from .scene import COLOURS, GROUND_COLOURS, GROUNDS, SHAPES, SIZES, TEXTURES, Scenes

ATTRIBUTES = ("shape", "colour", "size", "texture")
KINDS = (*ATTRIBUTES, "relation", "count", "ground")  # of what can be right or wrong


@dataclass(frozen=True, kw_only=True)
class Mention:
    """An object by the attributes that are said, None for the others; `number` of them, exactly if more than one."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    texture: str | None = None
    number: int = 1

    @property
    def said(self) -> dict[str, str]:
        """The attributes that are said."""
        return {name: value for name in ATTRIBUTES if (value := getattr(self, name)) is not None}

    def fits(self, looks: dict[str, str]) -> bool:
        """Return whether an object that looks so (attributes by name) is as said."""
        return all(looks.get(name) == value for name, value in self.said.items())


@dataclass(frozen=True, kw_only=True)
class GroundClaim:
    """What is said of the ground: its kind, and its colours (none, one, or the two of a graded ground)."""

    kind: str | None = None
    colours: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Claims:
    """All that a caption says: `relations` are (relation, subject, object), the last two numbers into `mentions`.

    `number` is how many objects there are in all, if that is said. `unknown` are words that say nothing here; they do
    not count in a comparison.
    """

    mentions: tuple[Mention, ...] = ()
    relations: frozenset[tuple[str, int, int]] = frozenset()
    number: int | None = None
    ground: GroundClaim | None = None
    unknown: tuple[str, ...] = field(default=(), compare=False)

    @property
    def objects(self) -> int:
        """How many objects are mentioned."""
        return sum(m.number for m in self.mentions)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A scene in words: what each object looks like, the relations that hold and those that nearly do, the ground."""

    objects: tuple[dict[str, str], ...]
    relations: frozenset[tuple[str, int, int]]
    near: frozenset[tuple[str, int, int]]  # to within SLACK
    ground: GroundClaim


def facts(scenes: Scenes, slack: float = 0.0) -> list[Facts]:
    """Return each scene in words; relations to within `slack` (see `relations`)."""
    held: list[list[set[tuple[str, int, int]]]] = []
    for told in within(scenes, (slack, SLACK)):
        held.append([set() for _ in range(len(scenes))])
        for b, k, i, j in told.nonzero().tolist():
            held[-1][b].add((RELATIONS[k], i, j))
    columns = [getattr(scenes, name).tolist() for name in (*ATTRIBUTES, "count", "ground", "ground_colour")]
    out: list[Facts] = []
    for b, (shape, colour, size, texture, count, ground, shades) in enumerate(zip(*columns, strict=True)):
        looks = tuple(
            {"shape": SHAPES[s], "colour": COLOURS[c], "size": SIZES[z], "texture": TEXTURES[t]}
            for s, c, z, t in itertools.islice(zip(shape, colour, size, texture, strict=True), count)
        )
        colours = tuple(GROUND_COLOURS[c] for c in shades)[: 2 if GROUNDS[ground] == "graded" else 1]
        claim = GroundClaim(kind=GROUNDS[ground], colours=colours)
        out.append(Facts(objects=looks, relations=frozenset(held[0][b]), near=frozenset(held[1][b]), ground=claim))
    return out


def true(claims: Claims, known: Facts) -> bool:
    """Return whether everything that is claimed holds of one scene."""
    if claims.number is not None and claims.number != len(known.objects):
        return False
    if claims.ground is not None:
        said, seen = claims.ground, known.ground
        if said.kind not in (None, seen.kind) or said.colours not in ((), seen.colours):
            return False
    for mention in claims.mentions:
        if mention.number > 1 and sum(map(mention.fits, known.objects)) != mention.number:
            return False
    return next(matches(claims, known), None) is not None


def matches(claims: Claims, known: Facts) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Yield each way to choose objects, all different, for the mentions: those of each mention, in order."""
    slots = [k for k, mention in enumerate(claims.mentions) for _ in range(mention.number)]
    fitting = [[claims.mentions[k].fits(looks) for looks in known.objects] for k in range(len(claims.mentions))]
    for chosen in itertools.permutations(range(len(known.objects)), len(slots)):
        if not all(fitting[k][i] for k, i in zip(slots, chosen, strict=True)):
            continue
        meant = tuple(
            tuple(i for k, i in zip(slots, chosen, strict=True) if k == mention)
            for mention in range(len(claims.mentions))
        )
        if all((r, i, j) in known.relations for r, a, b in claims.relations for i in meant[a] for j in meant[b]):
            yield meant


def holds(claims: Sequence[Claims], scenes: Scenes, slack: float = 0.0) -> Tensor:
    """Return bool[B]: whether claims i hold of scene i; relations to within `slack`.

    Raises `InputError` where there is not one claim for each scene.
    """
    if len(claims) != len(scenes):
        raise InputError(f"{len(claims)} claims for {len(scenes)} scenes: give one for each")
    return torch.tensor([true(c, f) for c, f in zip(claims, facts(scenes, slack), strict=True)], dtype=torch.bool)


def describe(claims: Claims) -> dict[str, object]:
    """Return the claims as plain data that JSON can hold."""
    return {
        "mentions": [m.said | {"number": m.number} for m in claims.mentions],
        "relations": sorted([r, i, j] for r, i, j in claims.relations),
        "number": claims.number,
        "ground": claims.ground and {f.name: getattr(claims.ground, f.name) for f in fields(claims.ground)},
    }
