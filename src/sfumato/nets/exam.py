"""A reader of words that is examined: what does a text say of each thing, of each two of them, and of all?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.config import register
from ..core.errors import InputError
from .blocks.checks import check_counts
from .words import PAD, WordEncoderConfig


@register
@dataclass(frozen=True, kw_only=True)
class ExamConfig:
    """An encoder of words, `text`, and the questions that it is asked; a question is the number of its answers.

    `each` are asked of every one of `things` things that a text may mention, `pairs` of every two of them, `whole` of
    the text. Raises `InputError` for counts below 1 and questions with less than two answers.
    """

    text: WordEncoderConfig
    things: int
    each: tuple[int, ...]
    pairs: tuple[int, ...] = ()
    whole: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_counts(self, "things")
        if min(self.questions, default=0) < 2:
            raise InputError(f"a question has at least two answers, and there is one at least: {self.questions}")

    @property
    def two(self) -> tuple[Tensor, Tensor]:
        """The first and the second of every two things: int64[P] each."""
        first, second = torch.triu_indices(self.things, self.things, 1)
        return first, second

    @property
    def questions(self) -> tuple[int, ...]:
        """The number of answers of every question, in the order in which `Exam` answers and rows of data hold them.

        The first of `each` of all things, the second of all, ...; those of `pairs` likewise; those of `whole`.
        """
        pairs = self.things * (self.things - 1) // 2
        asked = ((self.each, self.things), (self.pairs, pairs), (self.whole, 1))
        return tuple(n for kind, times in asked for n in kind for _ in range(times))

    def build(self) -> Exam:
        """Return the network, freshly initialised."""
        return Exam(self)


class Exam(nn.Module):
    """net(tokens int[B, T]) -> a tensor of logits [B, K, n] for each kind of question, K times asked of n answers.

    A thing is what one learned query finds among the states of the text, by one softmax: so that what belongs to it
    has to stand at the words of it. Width of the middle layer of `pairs`: the text's.
    """

    def __init__(self, config: ExamConfig) -> None:
        super().__init__()
        self.config = k = config
        self.cond: dict[str, Any] = {"tokens": PAD}
        width = k.text.width
        self.text = k.text.build()
        self.queries = nn.Parameter(torch.empty(k.things + 1, width).normal_(std=width**-0.5))
        self.keys = nn.Linear(width, width)
        self.each = nn.ModuleList(nn.Linear(width, n) for n in k.each)
        self.both = nn.Linear(2 * width, width)
        self.pairs = nn.ModuleList(nn.Linear(width, n) for n in k.pairs)
        self.whole = nn.ModuleList(nn.Linear(width, n) for n in k.whole)

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """Return the logits."""
        states, mask = self.text(tokens)
        fit = self.queries @ self.keys(states).transpose(1, 2)
        found = fit.masked_fill(mask[:, None] == 0, -torch.inf).softmax(-1) @ states
        things, rest = found[:, :-1], found[:, -1:]
        first, second = self.config.two
        two = F.gelu(self.both(torch.cat((things[:, first], things[:, second]), -1)))
        asked = ((self.each, things), (self.pairs, two), (self.whole, rest))
        return [answer(h) for kind, h in asked for answer in kind]
