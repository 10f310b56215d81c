"""The text of Stable Diffusion XL: two CLIPs side by side, a pooled vector and six sizes (arXiv 2307.01952)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.config import register
from ..core.errors import InputError
from .conditioner import Encoded, Frame
from .states import cut_into_chunks, left_out, levelled, padded, read_chunks
from .text import Text, empty_for_none
from .tower import Tower


@register
@dataclass(frozen=True, kw_only=True)
class XLText:
    """context = [CLIP-L | OpenCLIP-bigG], each after all layers but the last, without the final norm (2048 wide).

    pooled = bigG's end token after all layers and the norm, projected; of a prompt in chunks, the first chunk's.
    sizes = (original height, width, crop top, left, height, width) of the frame, in pixels. `zeros`: whether no prompt
    is zeros for context and pooled, as the base model was trained, rather than the encoding of ""; `skip` leaves out
    more layers. `chunks` as in `ClipText`.
    """

    zeros: bool = True
    skip: int = 0
    chunks: int = 16
    needs: ClassVar[tuple[str, ...]] = ("clip_l", "clip_g")
    may_lack: ClassVar[tuple[str, ...]] = ()

    def prepared(self, text: str) -> str:
        """Return the text as it is."""
        return text

    def encode(
        self, towers: Mapping[str, Tower], texts: Sequence[Text], frame: Frame | None, negative: bool
    ) -> Encoded:
        """Return {"context", "pooled", "sizes"}; raise `InputError` without a frame."""
        if frame is None:
            raise InputError("this model is told a frame: give Frame(height=, width=)")
        sizes = (*(frame.original or (frame.height, frame.width)), *frame.crop, frame.height, frame.width)
        return paired([towers[name] for name in self.needs], texts, sizes, self.zeros, self.skip, self.chunks)


@register
@dataclass(frozen=True, kw_only=True)
class RefinerText:
    """The refiner's text: as `XLText`, of bigG alone (1280 wide); sizes = (original height, width, crop, score).

    The score is the frame's `aesthetic`, for prompts to avoid its `negative_aesthetic`.
    """

    zeros: bool = False
    skip: int = 0
    chunks: int = 16
    needs: ClassVar[tuple[str, ...]] = ("clip_g",)
    may_lack: ClassVar[tuple[str, ...]] = ()

    def prepared(self, text: str) -> str:
        """Return the text as it is."""
        return text

    def encode(
        self, towers: Mapping[str, Tower], texts: Sequence[Text], frame: Frame | None, negative: bool
    ) -> Encoded:
        """Return {"context", "pooled", "sizes"}; raise `InputError` without a frame."""
        if frame is None:
            raise InputError("this model is told a frame: give Frame(height=, width=)")
        score = frame.negative_aesthetic if negative else frame.aesthetic
        sizes = (*(frame.original or (frame.height, frame.width)), *frame.crop, score)
        return paired([towers["clip_g"]], texts, sizes, self.zeros, self.skip, self.chunks)


def paired(
    towers: Sequence[Tower], texts: Sequence[Text], sizes: Sequence[float], zeros: bool, skip: int, chunks: int
) -> Encoded:
    """Return the conditions of towers side by side, the pooled vector of the last, and sizes, one row a text."""
    prompts = empty_for_none(texts)
    cuts = levelled(*(cut_into_chunks(tower, prompts, chunks) for tower in towers))
    read = [read_chunks(tower, cut, skip=skip + 1, norm=False) for tower, cut in zip(towers, cuts, strict=True)]
    pooled = read[-1].pooled
    if pooled is None:
        raise InputError("the last text encoder of this model must have a projection: it is another model's")
    context: list[Tensor] = [torch.cat(parts, dim=-1) for parts in zip(*(r.tokens for r in read), strict=True)]
    if zeros:
        given = torch.tensor([text is not None for text in texts], device=pooled.device)
        context = [row if text is not None else torch.zeros_like(row) for row, text in zip(context, texts, strict=True)]
        pooled = torch.where(given[:, None], pooled, torch.zeros_like(pooled))
    cond = padded(context) | {
        "pooled": pooled,
        "sizes": torch.tensor([list(sizes)] * len(texts), dtype=torch.float32, device=pooled.device),
    }
    return Encoded(cond, left_out(towers[-1], cuts[-1], f"the first {chunks} chunks"))
