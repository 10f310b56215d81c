"""Captioned pictures with a caption beside each that is not true: what a contrastive model learns to tell apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...core import Batch, InputError, Noise, register
from ..dataset import Wrapping
from ..labels import Captions
from .captions import Wrong
from .dataset import Tableau


@register
@dataclass(frozen=True, kw_only=True)
class Contrasted(Wrapping[Tableau]):
    """The rows of `data` with `cond["wrong"]` uint8[B, L]: the row's own caption with one claim changed (`Wrong`).

    Both are in the same style, so that how a caption is written does not tell whether it is true. Raises `InputError`
    for data without captions.
    """

    data: Tableau

    def __post_init__(self) -> None:
        if not self.data.styles:
            raise InputError("wrong captions are changed ones: give the Tableau styles")

    def batch(self, indices: Sequence[int], noise: Noise) -> Batch:
        """Return the rows `indices`."""
        batch = self.data.batch(indices, noise)
        return Batch(batch.x0, batch.cond | {"wrong": Captions().cond(self.wrong(indices))["caption"]})

    def wrong(self, indices: Sequence[int]) -> list[str]:
        """Return the wrong captions of the rows `indices`."""
        spoilt = replace(self.data, styles=tuple(Wrong(of=style) for style in self.data.styles))
        return [caption.text for caption in spoilt.captions(indices)]

    @property
    def fingerprint(self) -> str:
        """A sha256 of the data's."""
        return hashlib.sha256(f"contrasted {self.data.fingerprint}".encode()).hexdigest()
