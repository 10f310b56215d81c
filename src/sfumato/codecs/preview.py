"""A look at latents while they are sampled: one matrix from their channels to colours, at next to no cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.config import register
from ..core.noise import Noise
from .codec import Codec


@register
@dataclass(frozen=True, kw_only=True)
class Preview:
    """pixels = matrix latents + offset at each place: [B, C, h, w] -> [B, 3, h, w], the picture in small."""

    matrix: tuple[tuple[float, ...], ...]
    offset: tuple[float, ...]

    def __call__(self, latents: Tensor) -> Tensor:
        """Return [B, 3, h, w], clamped to [-1, 1]."""
        matrix, offset = latents.new_tensor(self.matrix), latents.new_tensor(self.offset)
        return (torch.einsum("rc,bchw->brhw", matrix, latents) + offset[:, None, None]).clamp(-1.0, 1.0)


@torch.no_grad()
def fit_preview(codec: Codec, seeds: Iterable[int] = range(16), *, size: int = 16) -> Preview:
    """Return the least-squares preview of a codec: min over (M, o) of |M encode(p) + o - p in small|^2.

    The pictures p are `colours(noise, ...)`, one a seed, `size` latents on a side; "in small" is the mean over the
    places of a latent. Only the encoder runs. The result depends on the seeds alone; it is exact for a codec that is
    linear in that sense. By default 16 pictures of 16 x 16 latents: 4096 equations for 3 (C + 1) numbers.
    """
    weight = next(codec.parameters(), torch.zeros(()))
    noise = Noise(seeds)
    pixels = colours(noise, size * codec.factor).to(weight.device)
    latents = torch.cat([codec.encode(row[None]) for row in pixels]).double()
    small = F.avg_pool2d(pixels.double(), codec.factor)
    z = latents.movedim(1, -1).flatten(0, -2)
    inputs = torch.cat((z, torch.ones_like(z[:, :1])), dim=1).cpu()
    # by singular values: channels that say nothing, or the same, get the smallest of the equally good answers
    solved = torch.linalg.lstsq(inputs, small.movedim(1, -1).flatten(0, -2).cpu(), driver="gelsd").solution
    rows = [tuple(map(float, row)) for row in solved.T]
    return Preview(matrix=tuple(row[:-1] for row in rows), offset=tuple(row[-1] for row in rows))


def colours(noise: Noise, size: int) -> Tensor:
    """Return pictures [B, 3, size, size] in [-1, 1] with shapes at every scale: tanh of octaves of noise, equally loud.

    A mean colour of its own a picture, and fields of 2, 4, 8... cells on a side, enlarged smoothly.
    """
    count, total = len(noise), torch.zeros(len(noise), 3, size, size)
    cells = 1
    while cells <= size:
        field = noise.normal((count, 3, cells, cells), "octave", cells)
        total += F.interpolate(field, size=(size, size), mode="bilinear", align_corners=False)
        cells *= 2
    return torch.tanh(total / 2)
