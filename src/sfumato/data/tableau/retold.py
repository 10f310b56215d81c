"""Rows of the world whose captions are written anew each time that they are read: one picture is told in many ways."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ...codecs import Codec
from ...core import Batch, InputError, Noise, register
from ..dataset import Dataset, Wrapping
from ..labels import Captions
from ..latents import Latents
from .dataset import Tableau


@register
@dataclass(frozen=True, kw_only=True)
class Retold(Wrapping[Dataset]):
    """The rows of `data`, a `Tableau` or its `Latents`, each with a caption drawn by the noise of the batch.

    So a few pictures, encoded once, are seen with captions without end: scenes are pure functions of their number, and
    what is true of them is known. `weights`: of the styles, the data's where none are given. Raises `InputError` for
    other data, for a Tableau without styles, and for weights that are not one a style.
    """

    data: Dataset
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.world.styles:
            raise InputError("captions are written in styles: give the Tableau some")
        self._teller()  # which refuses weights that do not fit the styles

    @property
    def world(self) -> Tableau:
        """The scenes."""
        inner = self.data.data if isinstance(self.data, Latents) else self.data
        if not isinstance(inner, Tableau):
            raise InputError(f"only scenes can be told anew: give a Tableau or its Latents, not {type(inner).__name__}")
        return inner

    def batch(self, indices: Sequence[int], noise: Noise) -> Batch:
        """Return the rows `indices`, row i told by row i of `noise`."""
        batch = self.data.batch(indices, noise)
        told = self._teller().tell(self.world.scenes(indices), noise)
        return Batch(batch.x0, Captions().cond([caption.text for caption in told]))

    def _teller(self) -> Tableau:
        return self.world if self.weights is None else replace(self.world, weights=self.weights)

    def prepare(self, say: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Encode the latents that are not on the disk yet."""
        if isinstance(self.data, Latents):
            self.data.write(say)

    @property
    def codec(self) -> Codec | None:
        """That of the data."""
        return self.data.codec

    @property
    def fingerprint(self) -> str:
        """A sha256 of the data's."""
        weights = "" if self.weights is None else f" {self.weights}"
        return hashlib.sha256(f"retold {self.data.fingerprint}{weights}".encode()).hexdigest()
