"""Training pictures and texts towards one another: each should know its own among those of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import Batch, InputError, Noise, Preconditioned, per_row, register
from .time_laws import TimeLaw


@register
@dataclass(frozen=True, kw_only=True)
class Contrasting:
    """loss_i = (-log softmax_j(L_ij)[j = i] - log softmax_j(L_ji)[j = i]) / 2, L_ij: how well picture i fits text j.

    The symmetric InfoNCE of CLIP (Radford et al. 2021, arXiv 2103.00020, figure 3). The `denoiser` that is trained is a
    `Preconditioned` whose network puts out L [B, T] for pictures and `tokens`; its prediction is not used. Columns
    after the B-th are wrong texts (hard negatives, arXiv 2210.01936, section 4): they stand against pictures alone. A
    text that says the very same as a row's own is no negative of that row. With `time`, pictures are noised at its
    times, as guidance by a contrastive model needs (GLIDE, arXiv 2112.10741, section 2.4); None, the default: clean.

    The negatives of a row are those of its batch: with accumulation or several processes, of its part of it.
    Raises `InputError` for a batch without `tokens`, and for an output that is not one row a picture.
    """

    time: TimeLaw | None = None

    def __call__(self, denoiser: Preconditioned, batch: Batch, noise: Noise) -> Tensor:
        """Return the loss[B] of `batch` with the randomness of `noise`, one seed a row."""
        if "tokens" not in batch.cond:
            raise InputError("pictures are contrasted with texts: this batch has no condition 'tokens'")
        x, t = batch.x0, 0.0
        if self.time is not None:
            t = self.time(noise.uniform("time"), denoiser.schedule)
            alpha, sigma = denoiser.schedule(t)
            x = torch.addcmul(x * per_row(alpha, x), noise.like(x, "eps"), per_row(sigma, x))
        logits = denoiser.output(x, t, **batch.cond)[0].float()
        n = len(x)
        if logits.ndim != 2 or len(logits) != n or logits.shape[1] < n:
            raise InputError(f"the network must give [{n}, {n} or more] for {n} pictures, got {list(logits.shape)}")
        tokens = batch.cond["tokens"]
        same = (tokens[:, None] == tokens[None]).all(-1).fill_diagonal_(False)
        among = torch.cat((logits[:, :n].masked_fill(same, -torch.inf), logits[:, n:]), 1)
        own = torch.arange(n, device=x.device)
        of_pictures = F.cross_entropy(among, own, reduction="none")
        of_texts = F.cross_entropy(among[:, :n].T, own, reduction="none")
        return 0.5 * (of_pictures + of_texts)
