"""The text of Stable Diffusion 3: two CLIPs and T5 after each other (arXiv 2403.03206, figure 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..core.config import register
from ..core.errors import InputError
from .conditioner import Encoded, Frame
from .states import cut_into_chunks, left_out, read_chunks, read_sequence
from .text import Text, empty_for_none
from .tower import Tower

PLACES = 77  # of CLIP


@register
@dataclass(frozen=True, kw_only=True)
class SD3Text:
    """context = [CLIP-L | bigG | 0] then T5, [n, 77 + length, width]; pooled = [CLIP-L's | bigG's].

    The CLIPs' states are those before the last layer, without the final norm; their pooled vectors are projected
    (CLIP-L's projection is the identity in released files). T5's are its last, and it sees what fills a prompt up.
    Any tower may be missing: its states are zeros, of the widths `pooled` and `width`. The network has no mask for the
    text, so CLIP reads the first 75 tokens alone; T5 reads `length` (256, as diffusers does).
    """

    length: int = 256
    width: int = 4096
    pooled: tuple[int, int] = (768, 1280)
    skip: int = 0
    needs: ClassVar[tuple[str, ...]] = ("clip_l", "clip_g", "t5")
    may_lack: ClassVar[tuple[str, ...]] = needs

    def prepared(self, text: str) -> str:
        """Return the text as it is."""
        return text

    def encode(
        self, towers: Mapping[str, Tower], texts: Sequence[Text], frame: Frame | None, negative: bool
    ) -> Encoded:
        """Return {"context", "pooled"}; raise `InputError` for towers that are too wide or have no projection."""
        prompts, count = empty_for_none(texts), len(texts)
        any_model = next(iter(towers.values())).model
        like = next(any_model.parameters()).new_zeros(())
        notes: list[str] = []
        states: list[Tensor] = []
        pooled: list[Tensor] = []
        for name, width in zip(("clip_l", "clip_g"), self.pooled, strict=True):
            if (tower := towers.get(name)) is None:
                states.append(like.new_zeros(count, PLACES, width))
                pooled.append(like.new_zeros(count, width))
                continue
            cuts = cut_into_chunks(tower, prompts, most=1)
            rows = read_chunks(tower, cuts, skip=self.skip + 1, norm=False)
            if rows.pooled is None or (tower.width, rows.pooled.shape[-1]) != (width, width):
                raise InputError(f"{name} must be {width} wide with a projection of that width: it is another model's")
            states.append(torch.stack(rows.tokens))
            pooled.append(rows.pooled)
            notes += left_out(tower, cuts, "the first 75 tokens")
        if (t5 := towers.get("t5")) is None:
            last = like.new_zeros(count, self.length, self.width)
        else:
            read = read_sequence(t5, prompts, self.length, masked=False)
            last = read.tokens
            notes += read.notes
        clip = torch.cat(states, dim=-1)
        if last.shape[-1] != self.width or clip.shape[-1] > self.width:
            raise InputError(
                f"this model reads texts {self.width} wide; T5 gave {last.shape[-1]}, CLIP {clip.shape[-1]}"
            )
        context = torch.cat((pad(clip, (0, self.width - clip.shape[-1])), last.to(clip)), dim=1)
        return Encoded({"context": context, "pooled": torch.cat(pooled, dim=-1)}, tuple(notes))
