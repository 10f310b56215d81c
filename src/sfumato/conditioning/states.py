"""Prompts through a tower: chunks of CLIP, or one sequence with a mask; weights, and what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.errors import InputError
from .prompts import Section
from .tokens import Cut, Token, Tokens, chunked, joined, tokenised
from .tower import Tower

Prompts = Sequence[Sequence[Section]]


class Rows(NamedTuple):
    """For each prompt its states [T_i, width] and its pooled vector [n, P]."""

    tokens: list[Tensor]
    pooled: Tensor | None


class Sequences(NamedTuple):
    """The states [n, T, width] of prompts, and where they are of a token: mask [n, T], 1 or 0."""

    tokens: Tensor
    mask: Tensor
    notes: tuple[str, ...]


def cut_into_chunks(tower: Tower, prompts: Prompts, most: int) -> list[Cut]:
    """Return the chunks of each prompt, of as many tokens as the tower has places beside the start and end."""
    before, after = tower.around
    size = tower.limit - len(before) - len(after)
    return [chunked(tokenised(prompt, tower.tokens), size, most) for prompt in prompts]


def levelled(*towers: list[Cut]) -> list[list[Cut]]:
    """Return the same prompts as cut for several towers with as many chunks in each: empty ones are added."""

    def padded(cut: Cut, count: int) -> Cut:
        return Cut(cut.parts + ((),) * (count - len(cut.parts)), cut.left)

    counts = [max(len(cut.parts) for cut in row) for row in zip(*towers, strict=True)]
    return [[padded(cut, count) for cut, count in zip(cuts, counts, strict=True)] for cuts in towers]


def read_chunks(tower: Tower, cuts: Sequence[Cut], *, skip: int, norm: bool) -> Rows:
    """Return the states of prompts in chunks: those of the chunks after each other, the first chunk's pooled vector."""
    parts = [part for cut in cuts for part in cut.parts]
    ids, mask, weights = filled(tower, [around(tower, part) for part in parts], tower.limit)
    states = tower(ids, skip=skip, norm=norm)
    tokens = weighted(states.tokens, weights, torch.ones_like(mask))
    counts = [len(cut.parts) for cut in cuts]
    starts = [sum(counts[:i]) for i in range(len(counts))]
    rows = [chunk.flatten(0, 1) for chunk in tokens.split(counts)]
    return Rows(rows, None if states.pooled is None else states.pooled[starts])


def read_sequence(
    tower: Tower,
    prompts: Prompts,
    length: int,
    *,
    skip: int = 0,
    norm: bool = True,
    multiple: int | None = None,
    masked: bool = True,
) -> Sequences:
    """Return the states of prompts as one sequence each, cut at `length` tokens and filled up to it.

    With `multiple` they are filled up to a multiple of it that holds the longest. `masked`: the encoder does not see
    what fills them up; a tower may have been trained to see it.
    """
    before, after = tower.around
    size = length - len(before) - len(after)
    cuts = [joined(tokenised(prompt, tower.tokens), size) for prompt in prompts]
    rows = [around(tower, cut.parts[0]) for cut in cuts]
    if multiple is not None:
        length = min(length, -(-max(map(len, rows)) // multiple) * multiple)
    ids, mask, weights = filled(tower, rows, length)
    states = tower(ids, mask if masked else None, skip=skip, norm=norm).tokens
    notes = left_out(tower, cuts, f"the first {size} tokens")
    return Sequences(
        weighted(states, weights, mask if masked else torch.ones_like(mask)), mask.to(states.device), notes
    )


def weighted(states: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """Return z' = w z mean(z) / mean(w z): states [n, T, width] times weights [n, T], each row's mean kept.

    The mean is over what `mask` [n, T] shows, tokens and widths alike. This is the rule of the AUTOMATIC1111 web
    interface, a row at a time, so that a prompt does not depend on those beside it; weights of 1 change no bit. Raises
    `InputError` where weights cancel the mean.
    """
    if bool((weights == 1).all()):
        return states
    w, m = weights.to(states.device).float()[..., None], mask.to(states.device)[..., None]
    z = states.float()
    scaled = z * w
    ratio = (z * m).sum((1, 2), keepdim=True) / (scaled * m).sum((1, 2), keepdim=True)
    rows = (weights == 1).all(1).to(states.device)[:, None, None]
    if not bool(torch.isfinite(ratio.masked_fill(rows, 1.0)).all()):
        raise InputError("the weights of this prompt cancel the mean of its states: give others")
    return torch.where(rows, states, (scaled * ratio).to(states.dtype))


def left_out(tower: Tower, cuts: Sequence[Cut], read: str) -> tuple[str, ...]:
    """Return a note for each prompt of which something was left out."""
    notes: list[str] = []
    for cut in cuts:
        if cut.left:
            text = tower.text([token.id for token in cut.left])
            text = text if len(text) <= 60 else text[:57] + "..."
            notes.append(f"{type(tower.model).__name__} reads {read} of a prompt; left out, {len(cut.left)}: {text!r}")
    return tuple(notes)


def around(tower: Tower, part: Tokens) -> Tokens:
    """Return tokens with those that start and end a text."""
    before, after = tower.around
    return (*map(Token, before), *part, *map(Token, after))


def filled(tower: Tower, rows: Sequence[Tokens], length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids int[n, length], mask int[n, length] and weights [n, length] of rows, filled up on the tower's side."""
    ids, mask, weights = [], [], []
    for row in rows:
        gap = length - len(row)
        sides = (gap, 0) if tower.tokenizer.padding_side == "left" else (0, gap)
        for out, values, fill in (
            (ids, [t.id for t in row], tower.pad),
            (mask, [1] * len(row), 0),
            (weights, [t.weight for t in row], 1.0),
        ):
            out.append([fill] * sides[0] + values + [fill] * sides[1])
    return torch.tensor(ids), torch.tensor(mask), torch.tensor(weights)


def padded(rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return {"context": [n, T, width]} of rows [T_i, width], and "context_mask" where they are not of one length."""
    longest = max(row.shape[0] for row in rows)
    context = torch.stack([torch.nn.functional.pad(row, (0, 0, 0, longest - row.shape[0])) for row in rows])
    if all(row.shape[0] == longest for row in rows):
        return {"context": context}
    mask = torch.tensor([[1] * row.shape[0] + [0] * (longest - row.shape[0]) for row in rows], device=context.device)
    return {"context": context, "context_mask": mask}
