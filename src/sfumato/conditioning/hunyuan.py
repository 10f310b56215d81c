"""The text of Hunyuan-DiT: BERT and mT5, each a sequence with its mask, and six sizes (arXiv 2405.08748, section 2)."""

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
class HunyuanText:
    """context [n, 77, 1024] of BERT, context_2 [n, 256, 2048] of mT5, their last states and masks.

    sizes = (original height, width, height, width, crop top, left), of networks before 1.2 (`sizes`); the original is
    `original` where the frame does not say: what its code was trained to be told of a good picture.
    """

    sizes: bool = True
    original: tuple[int, int] = (1024, 1024)
    lengths: tuple[int, int] = (77, 256)
    needs: ClassVar[tuple[str, ...]] = ("bert", "t5")
    may_lack: ClassVar[tuple[str, ...]] = ()

    def prepared(self, text: str) -> str:
        """Return the text as it is."""
        return text

    def encode(
        self, towers: Mapping[str, Tower], texts: Sequence[Text], frame: Frame | None, negative: bool
    ) -> Encoded:
        """Return {"context", "context_2"} with their masks, and "sizes"; raise `InputError` without a frame."""
        prompts = empty_for_none(texts)
        first = read_sequence(towers["bert"], prompts, self.lengths[0])
        second = read_sequence(towers["t5"], prompts, self.lengths[1])
        cond = {
            "context": first.tokens,
            "context_mask": first.mask,
            "context_2": second.tokens,
            "context_2_mask": second.mask,
        }
        if self.sizes:
            if frame is None:
                raise InputError("this model is told a frame: give Frame(height=, width=)")
            numbers = (*(frame.original or self.original), frame.height, frame.width, *frame.crop)
            sizes = torch.tensor([numbers] * len(texts), dtype=torch.float32, device=first.tokens.device)
            cond["sizes"] = sizes
        return Encoded(cond, (*first.notes, *second.notes))
