"""Weighted tokens: sections of pieces become chunks of one size, or one run of a greatest length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from .prompts import Section


class Token(NamedTuple):
    """The id of a token and its weight."""

    id: int
    weight: float = 1.0


Tokens = tuple[Token, ...]


class Cut(NamedTuple):
    """Parts of a prompt, and what was left out of it."""

    parts: tuple[Tokens, ...]
    left: Tokens = ()


def tokenised(sections: Sequence[Section], ids: Callable[[str], list[int]]) -> tuple[Tokens, ...]:
    """Return the tokens of each section; every piece of text is tokenised by itself."""
    return tuple(tuple(Token(i, p.weight) for p in section for i in ids(p.text)) for section in sections)


def chunked(sections: Sequence[Tokens], size: int, most: int) -> Cut:
    """Return a prompt in chunks of at most `size` tokens, each section from a new one on, at most `most` of them.

    This is how prompts that are longer than an encoder are read since the AUTOMATIC1111 web interface: every chunk is
    encoded as if it were a prompt, and the states follow each other. (Its search for a comma to cut at is left out.)
    """
    chunks = [
        section[at : at + size] for section in sections for at in (range(0, len(section), size) if section else (0,))
    ]
    if len(chunks) > 1 and not chunks[-1]:
        chunks.pop()
    return Cut(tuple(chunks[:most]), tuple(token for chunk in chunks[most:] for token in chunk))


def joined(sections: Sequence[Tokens], size: int) -> Cut:
    """Return a prompt as one run of at most `size` tokens."""
    run = tuple(token for section in sections for token in section)
    return Cut((run[:size],), run[size:])
