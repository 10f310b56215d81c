"""The text of Stable Diffusion 1 and 2: one CLIP, its last states (arXiv 2112.10752 and its code)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..core.config import register
from .conditioner import Encoded, Frame
from .states import cut_into_chunks, left_out, padded, read_chunks
from .text import Text, empty_for_none
from .tower import Tower


@register
@dataclass(frozen=True, kw_only=True)
class ClipText:
    """context [n, 77 k, width] = the final norm of CLIP's states after all layers but the last `skip`.

    Version 2 was trained on the states before the last layer of OpenCLIP-H: its released towers leave that layer out,
    so its `skip` is 0 too. "Clip skip 2" of web interfaces is `skip=1`; it holds for prompts to avoid as well.
    `chunks`: how many chunks of 75 tokens a prompt may have (1: cut at 75, as diffusers does).
    """

    skip: int = 0
    chunks: int = 16
    needs: ClassVar[tuple[str, ...]] = ("clip",)
    may_lack: ClassVar[tuple[str, ...]] = ()

    def prepared(self, text: str) -> str:
        """Return the text as it is."""
        return text

    def encode(
        self, towers: Mapping[str, Tower], texts: Sequence[Text], frame: Frame | None, negative: bool
    ) -> Encoded:
        """Return {"context"}, and "context_mask" where prompts have different numbers of chunks."""
        tower = towers["clip"]
        cuts = cut_into_chunks(tower, empty_for_none(texts), self.chunks)
        rows = read_chunks(tower, cuts, skip=self.skip, norm=True)
        return Encoded(padded(rows.tokens), left_out(tower, cuts, f"the first {self.chunks} chunks"))
