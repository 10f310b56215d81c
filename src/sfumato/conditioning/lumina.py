"""The text of Lumina-Next: Gemma's states before its last layer (arXiv 2406.18583)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..core.config import register
from .conditioner import Encoded, Frame
from .states import read_sequence
from .text import Text, empty_for_none
from .tower import Tower


@register
@dataclass(frozen=True, kw_only=True)
class LuminaText:
    """context [n, T, 2048] = Gemma's states after all layers but the last, context_mask where they are of a token.

    T is the least multiple of 8 that holds the longest prompt, at most `length`; what fills it up stands on the left.
    Prompts are in lower case, as in its released pipeline, which adds no instruction to them; no prompt is "".
    """

    length: int = 256
    needs: ClassVar[tuple[str, ...]] = ("gemma",)
    may_lack: ClassVar[tuple[str, ...]] = ()

    def prepared(self, text: str) -> str:
        """Return the text in lower case."""
        return text.lower()

    def encode(
        self, towers: Mapping[str, Tower], texts: Sequence[Text], frame: Frame | None, negative: bool
    ) -> Encoded:
        """Return {"context", "context_mask"}."""
        prompts = empty_for_none(texts)
        read = read_sequence(towers["gemma"], prompts, self.length, skip=1, norm=False, multiple=8)
        return Encoded({"context": read.tokens, "context_mask": read.mask}, read.notes)
