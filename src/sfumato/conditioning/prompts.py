r"""What a prompt says before any encoder reads it: pieces of text with weights, in sections.

Verbatim()  the text as it stands: brackets are brackets, as the pipelines that models are released with read it.
Weighted()  the common syntax: (x) is x with weight 1.1, [x] with 1/1.1, (x:1.3) with 1.3; brackets nest and their
            weights multiply; \( is a bracket; BREAK starts a new section, whose tokens start a new chunk.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from ..core.config import register
from ..core.errors import InputError

MOST = 10_000  # characters of a prompt; 512 tokens of T5 are about 2,500
STEP = 1.1  # the weight of a pair of brackets
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_TOKEN = re.compile(
    rf"\\(?P<escaped>.)|(?P<open>[(\[])|:\s*(?P<weight>{_NUMBER})\s*\)|(?P<close>[)\]])|(?P<text>.)", re.S
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_SPECIAL = re.compile(r"[\\()\[\]]")
_SYNTAX = re.compile(rf"\([^()]*:\s*{_NUMBER}\s*\)|\bBREAK\b")


class Piece(NamedTuple):
    """Some text and its weight."""

    text: str
    weight: float = 1.0


Section = tuple[Piece, ...]


class Read(NamedTuple):
    """A prompt as read: sections of pieces, and what a person should know of it."""

    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()


@runtime_checkable
class Syntax(Protocol):
    """text -> sections of weighted pieces."""

    def read(self, prompt: str) -> Read:
        """Return what a prompt says; raise `InputError` for one that cannot be read."""
        ...


@register
@dataclass(frozen=True, kw_only=True)
class Verbatim:
    """The text as it stands, with weight 1."""

    def read(self, prompt: str) -> Read:
        """Return one section of one piece."""
        found = _SYNTAX.search(checked(prompt))
        remedy = "give syntax=Weighted(), or --weighted, to read weights"
        return Read(((Piece(prompt),),), (f"{found.group()[:40]!r} is read as text: {remedy}",) if found else ())


@register
@dataclass(frozen=True, kw_only=True)
class Weighted:
    """(x), [x], (x:1.3), BREAK: the syntax of the AUTOMATIC1111 web interface (its wiki, "Attention/emphasis").

    As there, a bracket that is never closed holds to the end, and one that was never opened is text; neighbours of one
    weight are one piece, so that weights of 1 change nothing.
    """

    def read(self, prompt: str) -> Read:
        """Return the sections; raise `InputError` for a weight that is not finite."""
        pieces: list[Piece | None] = []  # None is a BREAK
        opened: list[tuple[str, int]] = []

        def scale(start: int, by: float) -> None:
            pieces[start:] = [p and Piece(p.text, p.weight * by) for p in pieces[start:]]

        def shut(bracket: str, by: float) -> bool:
            at = next((i for i in reversed(range(len(opened))) if opened[i][0] == bracket), None)
            if at is not None:
                scale(opened.pop(at)[1], by)
            return at is not None

        for kind, text in _tokens(checked(prompt)):
            if kind == "open":
                opened.append((text, len(pieces)))
            elif kind == "break":
                pieces.append(None)
            elif kind == "text" or not shut(*_closing(text)):
                pieces.append(Piece(text))
        for bracket, start in opened:
            scale(start, STEP if bracket == "(" else 1 / STEP)
        sections = _sections(pieces)
        if not all(math.isfinite(p.weight) for s in sections for p in s):
            raise InputError("the weights of this prompt multiply to more than a number holds: use fewer brackets")
        return Read(sections)


def _closing(text: str) -> tuple[str, float]:
    """Return the bracket that `)`, `]` or `:1.3)` closes, and the weight that it gives."""
    if text == "]":
        return "[", 1 / STEP
    return "(", STEP if text == ")" else float(text[1:-1])


def written(sections: Sequence[Section]) -> str:
    """Return a prompt that `Weighted` reads as `sections`."""

    def piece(p: Piece) -> str:
        text = _SPECIAL.sub(lambda m: "\\" + m.group(), p.text)
        text = re.sub(r"\bBREAK\b", r"BREA\\K", text)
        return text if p.weight == 1 else f"({text}:{_decimal(p.weight)})"

    return " BREAK ".join("".join(map(piece, section)) for section in sections)


def checked(prompt: str) -> str:
    """Return `prompt`; raise `InputError` for one that is too long or holds what no tokenizer reads."""
    if len(prompt) > MOST:
        raise InputError(f"a prompt of {len(prompt)} characters: at most {MOST} are read, give a shorter one")
    if any(0xD800 <= ord(c) <= 0xDFFF or c == "\0" for c in prompt):
        raise InputError(f"the prompt {ascii(prompt)[:60]} holds a character that is no text: leave it out")
    return prompt


def _tokens(prompt: str) -> list[tuple[str, str]]:
    """Return (kind, text) of the pieces of a prompt: texts are as long as they can be."""
    tokens: list[tuple[str, str]] = []
    run = ""

    def flush() -> None:
        nonlocal run
        parts = _BREAK.split(run)
        for i, part in enumerate(parts):
            if i:
                tokens.append(("break", ""))
            if part:
                tokens.append(("text", part))
        run = ""

    for found in _TOKEN.finditer(prompt):
        kind = found.lastgroup
        if kind == "text":
            run += found.group()
            continue
        flush()
        tokens.append(("text", found.group("escaped")) if kind == "escaped" else (str(kind), found.group()))
    flush()
    return tokens


def _sections(pieces: Sequence[Piece | None]) -> tuple[Section, ...]:
    sections: list[list[Piece]] = [[]]
    for p in pieces:
        if p is None:
            sections.append([])
        elif sections[-1] and sections[-1][-1].weight == p.weight:
            sections[-1][-1] = Piece(sections[-1][-1].text + p.text, p.weight)
        else:
            sections[-1].append(p)
    return tuple(tuple(section) or (Piece(""),) for section in sections)


def _decimal(weight: float) -> str:
    text = repr(weight)
    return text if "e" not in text else f"{weight:.20f}"
