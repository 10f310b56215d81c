"""The statistics of a trained codec's latents, and the codec with latents of zero mean and unit variance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError
from ..codec import Codec


@torch.no_grad()
def latent_statistics(codec: Codec, pictures: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return (mean, standard deviation) of the latents z ~ q of `pictures` (batches [B, C, H, W]), float64[channels].

    Exact moments of the posterior's mixture: the mean of the means, and the variance of the means plus the mean
    variance; nothing is drawn. Raises `InputError` without a picture.
    """
    count, total, squares = 0, torch.zeros(codec.channels, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for batch in pictures:
        mean, deviation = codec.posterior(batch)
        z = mean.double().cpu()
        second = z.square() if deviation is None else z.square() + deviation.double().cpu().square()
        count += z.numel() // codec.channels
        total = total + z.sum((0, 2, 3))
        squares = squares + second.sum((0, 2, 3))
    if not count:
        raise InputError("the statistics of latents need at least one picture")
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0).sqrt()


def normalised(codec: Codec, pictures: Iterable[Tensor]) -> Codec:
    """Return `codec` with the normalisation (z - mean) / std of its `latent_statistics`: what a denoiser should see.

    The weights are shared. Raises `InputError` for a codec that has no such fields, or already scales.
    """
    from .kl import bare

    bare(codec)
    config: Any = getattr(codec, "config", None)
    if not hasattr(config, "mean") or not hasattr(config, "std"):
        raise InputError(f"{type(codec).__name__} has no mean and std of its latents to set")
    mean, std = latent_statistics(codec, pictures)
    twin = replace(config, mean=tuple(mean.tolist()), std=tuple(std.tolist())).build()
    twin.load_state_dict(codec.state_dict(), assign=True)
    return twin.train(codec.training)
