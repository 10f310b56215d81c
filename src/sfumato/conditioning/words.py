"""Texts of a closed list of words, turned into numbers: the conditioner of networks that read them themselves."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from ..core.config import register
from ..core.errors import InputError
from ..nets.words import PAD
from .conditioner import Encoded, Frame, Prompt

UNKNOWN = PAD + 1
FIRST = UNKNOWN + 1  # the number of the first word
MOST = 10_000  # characters of a text


class Spelled(NamedTuple):
    """The numbers of a text's words, all of them; the words that are not in the list; how each word was written."""

    ids: tuple[int, ...]
    unknown: tuple[str, ...]
    words: tuple[str, ...]


@register
@dataclass(frozen=True, kw_only=True)
class Words:
    """tokens int64[n, length]: the number of each word in `vocabulary` plus 2, 1 for a word that is not there, then 0.

    Words are runs of letters, digits, hyphens and apostrophes in lower case. Where a language is written without
    spaces (Chinese, Japanese kana), the longest word of the list that stands there is taken (forward maximum matching).
    Other signs are words where the list has them, and else no words. The words after the first `length` are left out;
    notes say which these are, and which are unknown. No prompt is the empty text.

    Raises `InputError` for words that no text can give, or that stand in the list twice.
    """

    vocabulary: tuple[str, ...]
    length: int = 40

    def __post_init__(self) -> None:
        if self.length < 1 or not self.vocabulary:
            raise InputError(f"Words needs a word and a length of at least 1, got length={self.length}")
        if len(self.numbers) < len(self.vocabulary):
            twice = next(w for i, w in enumerate(self.vocabulary) if w in self.vocabulary[:i])
            raise InputError(f"the word {twice!r:.60} stands in the vocabulary twice: give it once")
        for word in self.vocabulary:
            if self.spell(word).words != (word,):
                raise InputError(f"{word!r:.60} is not one word as texts are read: give words in lower case, one each")

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each word."""
        return {word: FIRST + i for i, word in enumerate(self.vocabulary)}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.vocabulary))

    @property
    def count(self) -> int:
        """How many numbers there are: those of the words, of no word and of an unknown one."""
        return FIRST + len(self.vocabulary)

    def spell(self, text: str) -> Spelled:
        """Return the words of `text`; raise `InputError` for one of more than 10,000 characters."""
        if len(text) > MOST:
            raise InputError(f"a text of {len(text)} characters is too long: give at most {MOST}")
        text = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
        words: list[str] = []
        at = 0
        while at < len(text):
            word = self._word(text, at)
            at += len(word)
            if _letter(word[0]) or word in self.numbers:
                words.append(word)
        ids = tuple(self.numbers.get(word, UNKNOWN) for word in words)
        return Spelled(ids, tuple(w for w, i in zip(words, ids, strict=True) if i == UNKNOWN), tuple(words))

    def _word(self, text: str, at: int) -> str:
        """Return the word, the sign or the space that stands at `at`."""
        if _unspaced(text[at]):
            for size in range(min(self._longest, len(text) - at), 1, -1):
                if text[at : at + size] in self.numbers:
                    return text[at : at + size]
            return text[at]
        end = at
        while end < len(text) and _letter(text[end]) and not _unspaced(text[end]):
            end += 1
        return text[at : max(end, at + 1)]

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """Return int64[n, length] of `texts`, without notes: what a data set hands to a network."""
        rows = [self.spell(text).ids[: self.length] for text in texts]
        return torch.tensor([row + (PAD,) * (self.length - len(row)) for row in rows], dtype=torch.int64)

    def __call__(self, prompts: Sequence[Prompt], frame: Frame | None = None, *, negative: bool = False) -> Encoded:
        """Return {"tokens"} of `prompts`; see `Conditioner`."""
        texts = [self.described(prompt) or "" for prompt in prompts]
        notes: list[str] = []
        for text in dict.fromkeys(texts):
            read = self.spell(text)
            if read.unknown:
                notes.append(f"not among the words that this model knows: {_listed(read.unknown)}")
            if len(read.words) > self.length:
                notes.append(
                    f"only the first {self.length} words are read, left out: {_listed(read.words[self.length :])}"
                )
        return Encoded({"tokens": self.tokens(texts)}, tuple(dict.fromkeys(notes)))

    def described(self, prompt: Prompt) -> str | None:
        """Return the prompt; raise `InputError` for one that is not a text."""
        if prompt is not None and not isinstance(prompt, str):
            raise InputError(f"this model reads a text, got {prompt!r:.60}: give the prompt in words")
        return prompt


def _listed(words: Sequence[str]) -> str:
    """Return the first words, each once, shortened where somebody typed a wall."""
    distinct = list(dict.fromkeys(words))
    return ", ".join(w[:30] for w in distinct[:8]) + (f" and {len(distinct) - 8} more" if len(distinct) > 8 else "")


def _letter(sign: str) -> bool:
    return sign.isalnum() or sign in "-'" or unicodedata.category(sign) == "Mn"


def _unspaced(sign: str) -> bool:
    """Return whether a sign is of a script that is written without spaces: Han, kana."""
    return "\u3040" <= sign <= "\u30ff" or "\u3400" <= sign <= "\u9fff" or "\U00020000" <= sign <= "\U0003ffff"
