"""A captioned data set as a network that reads words takes it: the captions turned into numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..codecs import Codec
from ..conditioning import Words
from ..core import Batch, InputError, Noise, register, to_config
from .dataset import Dataset, Wrapping
from .labels import text


@register
@dataclass(frozen=True, kw_only=True)
class Worded(Wrapping[Dataset]):
    """The rows of `data`, with `cond["tokens"]` = `words` of `cond["caption"]` in its place; `wrong` likewise.

    A caption of a data set is its UTF-8 bytes (`Captions`). What the words do not know is UNKNOWN, what they are too
    short for is left out: `words` says so of prompts, and a data set says nothing. Raises `InputError` for data without
    captions.
    """

    data: Dataset
    words: Words

    def batch(self, indices: Sequence[int], noise: Noise) -> Batch:
        """Return the rows `indices`; what is random about them is the data's."""
        batch = self.data.batch(indices, noise)
        if "caption" not in batch.cond:
            raise InputError(f"words are read from captions, this data has {sorted(batch.cond) or 'no conditions'}")
        cond = dict(batch.cond)
        for old, new in (("caption", "tokens"), ("wrong", "wrong")):
            if old in cond:
                cond[new] = self.words.tokens(text(cond.pop(old)))
        return Batch(batch.x0, cond)

    def prepare(self, say: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Prepare the data."""
        self.data.prepare(say)

    @property
    def fingerprint(self) -> str:
        """A sha256 of the data's and of the words."""
        return hashlib.sha256(f"{self.data.fingerprint} {json.dumps(to_config(self.words))}".encode()).hexdigest()

    @property
    def conditioner(self) -> Words:
        """The words."""
        return self.words

    @property
    def codec(self) -> Codec | None:
        """That of the data."""
        return self.data.codec
