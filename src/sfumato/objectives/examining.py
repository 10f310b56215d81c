"""Training a reader of words by questions about what they say."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..core import Batch, InputError, Model, Noise, register


@register
@dataclass(frozen=True, kw_only=True)
class Examining:
    """loss = sum over kinds of questions of the mean of -log softmax(logits)[answer] over what they are asked of.

    The model's `net` is an `Exam`; x_0 int64[B, Q] are the answers in its order. Raises `InputError` where there are
    not as many answers as questions.
    """

    def __call__(self, model: Model, batch: Batch, noise: Noise) -> Tensor:
        """Return the loss[B] of `batch`; nothing is drawn from `noise`."""
        kinds = model.net(batch.cond["tokens"])
        asked = [logits.shape[1] for logits in kinds]
        if sum(asked) != batch.x0.shape[1]:
            raise InputError(f"{batch.x0.shape[1]} answers for {sum(asked)} questions: one for each")
        answers = batch.x0.split(asked, 1)
        parts = [
            F.cross_entropy(logits.float().transpose(1, 2), own, reduction="none").mean(1)
            for logits, own in zip(kinds, answers, strict=True)
        ]
        return sum(parts[1:], parts[0])
