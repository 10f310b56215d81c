"""Captions with the answers to questions about what they say: nothing is painted."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core import Batch, InputError, Noise, register
from ..dataset import Dataset
from ..labels import Captions
from .claims import ATTRIBUTES, Claims
from .dataset import Tableau
from .relations import RELATIONS
from .scene import COLOURS, GROUND_COLOURS, GROUNDS, MAX_OBJECTS, SHAPES, SIZES, TEXTURES

_VALUES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES}
EACH = (*(1 + len(_VALUES[name]) for name in ATTRIBUTES), 1 + MAX_OBJECTS)  # answer 0: not said
PAIRS = (1 + 2 * len(RELATIONS),)  # of the first to the second, then of the second to the first
WHOLE = (1 + MAX_OBJECTS, 1 + len(GROUNDS), 1 + len(GROUND_COLOURS), 1 + len(GROUND_COLOURS))
_PAIRS = list(itertools.combinations(range(MAX_OBJECTS), 2))


@register
@dataclass(frozen=True, kw_only=True)
class Examined(Dataset):
    """The captions of `data`, x_0 int64[B, Q] what each says, in the order of `Exam` with EACH, PAIRS and WHOLE.

    Of each mention, in their order: shape, colour, size, texture, how many; of each two the relation; in all how many,
    the ground and its two colours. 0 is "not said". Raises `InputError` for data without captions.
    """

    data: Tableau

    def __post_init__(self) -> None:
        if not self.data.styles:
            raise InputError("questions are about captions: give the Tableau styles")

    def batch(self, indices: Sequence[int], noise: Noise) -> Batch:
        """Return the rows `indices`; nothing is drawn from `noise`."""
        captions = self.data.captions(indices)
        return Batch(answers([c.claims for c in captions]), Captions().cond([c.text for c in captions]))

    def __len__(self) -> int:
        return len(self.data)

    @property
    def shape(self) -> tuple[int, ...]:
        """How many questions there are."""
        return (len(EACH) * MAX_OBJECTS + len(PAIRS) * len(_PAIRS) + len(WHOLE),)

    @property
    def fingerprint(self) -> str:
        """A sha256 of the data's."""
        return hashlib.sha256(f"examined {self.data.fingerprint}".encode()).hexdigest()


def answers(claims: Sequence[Claims]) -> Tensor:
    """Return what each of `claims` says, int64[B, Q]; of two relations of two things the one that sorts first."""
    rows: list[list[int]] = []
    for said in claims:
        each = [[0] * MAX_OBJECTS for _ in EACH]
        for k, mention in enumerate(said.mentions):
            for column, name in zip(each, ATTRIBUTES, strict=False):
                column[k] = 1 + _VALUES[name].index(mention.said[name]) if name in mention.said else 0
            each[-1][k] = mention.number
        pairs = [0] * len(_PAIRS)
        for name, i, j in sorted(said.relations, reverse=True):
            pairs[_PAIRS.index((min(i, j), max(i, j)))] = 1 + RELATIONS.index(name) + len(RELATIONS) * (i > j)
        ground, whole = said.ground, [said.number or 0, 0, 0, 0]
        if ground is not None:
            whole[1] = 0 if ground.kind is None else 1 + GROUNDS.index(ground.kind)
            for k, colour in enumerate(ground.colours):
                whole[2 + k] = 1 + GROUND_COLOURS.index(colour)
        rows.append([*itertools.chain.from_iterable(each), *pairs, *whole])
    return torch.tensor(rows, dtype=torch.int64)
