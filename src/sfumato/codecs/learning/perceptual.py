"""A perceptual distance that needs no download: differences of features instead of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.config import register
from ...core.errors import InputError
from ...core.noise import Noise, fold


@register
@dataclass(frozen=True, kw_only=True)
class PerceptualConfig:
    """Features of random convolutions at several scales, for `Perceptual`.

    `widths`: channels of each scale, scale i on 1 / 2^i of the size; `floor`: the length below which
    features are nearly nothing, so that noise where a picture is flat is not taken for edges (those have about 1 and
    more); `seed`: of the weights. Random and not trained
    features, since they need neither labels nor a download and stay the same for every picture and run; their units
    answer to edges, colours and corners, which is where a mean of pixels blurs. Untrained networks are known to judge
    distortions better than pixels do, and trained ones better still (Zhang et al. 2018, arXiv 1801.03924, section 4).
    """

    in_channels: int = 3
    widths: tuple[int, ...] = (16, 32, 32)
    floor: float = 0.3
    seed: int = 0

    def build(self) -> Perceptual:
        """Return the distance."""
        return Perceptual(self)


class Perceptual(nn.Module):
    """d(x, y) = sum over layers of mean over places of |f(x) - f(y)|^2, f of unit length (arXiv 1801.03924, eq. 1).

    The layers' weights are 1. Weights are orthonormal filters of zero mean, so that flat parts say nothing; the three
    by three convolutions are followed by ReLU and halved by a mean of 2 x 2. Fixed: nothing here is trained.
    """

    def __init__(self, config: PerceptualConfig) -> None:
        super().__init__()
        self.config = config
        inputs = (config.in_channels, *config.widths[:-1])
        for i, (a, b) in enumerate(zip(inputs, config.widths, strict=True)):
            self.register_buffer(f"filter{i}", _filters(a, b, fold("perceptual", config.seed, i)))

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the features of pictures `x` [B, C, H, W], one [B, width, h, w] a scale, of unit length.

        Raises `InputError` for pictures that are too small for the scales.
        """
        scales = len(self.config.widths)
        least = 5 * 2 ** (scales - 1) - 2
        if min(x.shape[-2:]) < least:
            raise InputError(f"features at {scales} scales need pictures of {least} pixels: fewer widths")
        found: list[Tensor] = []
        for i in range(scales):
            x = F.relu(F.conv2d(x if i == 0 else F.avg_pool2d(x, 2), self.get_buffer(f"filter{i}")))
            found.append(x / (x.square().sum(1, keepdim=True) + self.config.floor**2).sqrt())
        return found

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return d[B] of pictures `x` and `y`, each [B, C, H, W]."""
        pairs = zip(self.features(x), self.features(y), strict=True)
        return torch.stack([(a - b).square().sum(1).flatten(1).mean(1) for a, b in pairs]).sum(0)


def _filters(inputs: int, outputs: int, seed: int) -> Tensor:
    """Return [outputs, inputs, 3, 3] filters of length 2, each of mean zero over its places."""
    w = Noise([seed]).normal((1, outputs * inputs * 9), "filters").reshape(outputs, inputs, 9)
    w = w - w.mean(2, keepdim=True)
    return (2 * w / w.flatten(1).norm(dim=1)[:, None, None]).reshape(outputs, inputs, 3, 3)
