"""The text of PixArt: T5 with a mask (arXiv 2310.00426 section 2.3, 2403.04692)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.config import register
from ..core.errors import InputError
from .conditioner import Encoded, Frame
from .states import read_sequence
from .text import Text, empty_for_none
from .tower import Tower


@register
@dataclass(frozen=True, kw_only=True)
class PixArtText:
    """context [n, length, 4096] = T5's last states, context_mask where they are of a token.

    `length` is 120 for PixArt-alpha, 300 for Sigma. `sizes`: the height, the width and their ratio too, as alpha for
    1024 pixels is told. Prompts are in lower case, as the captions that it was trained on;
    no prompt is "". (The pipelines of others also take HTML and addresses out of captions: give prompts without.)
    """

    length: int = 120
    sizes: bool = False
    needs: ClassVar[tuple[str, ...]] = ("t5",)
    may_lack: ClassVar[tuple[str, ...]] = ()

    def prepared(self, text: str) -> str:
        """Return the text in lower case."""
        return text.lower()

    def encode(
        self, towers: Mapping[str, Tower], texts: Sequence[Text], frame: Frame | None, negative: bool
    ) -> Encoded:
        """Return {"context", "context_mask"}, and "sizes"; raise `InputError` where it needs a frame."""
        read = read_sequence(towers["t5"], empty_for_none(texts), self.length)
        cond = {"context": read.tokens, "context_mask": read.mask}
        if self.sizes:
            if frame is None:
                raise InputError("this model is told a frame: give Frame(height=, width=)")
            numbers = (frame.height, frame.width, frame.height / frame.width)
            cond["sizes"] = torch.tensor([numbers] * len(texts), dtype=torch.float32, device=read.tokens.device)
        return Encoded(cond, read.notes)
