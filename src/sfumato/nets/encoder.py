"""A classifier of noisy pictures: the way down of a U-Net, pooled to class logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from ..core.config import register
from ..core.errors import InputError
from .blocks.conv import GroupNorm, arranged, initialised, raised, silu
from .unet import Stage, UNetConfig


@register
@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The way down and the middle of the U-Net `unet`, then norm, SiLU, the mean over all places and `classes` logits.

    ADM's classifier (Dhariwal & Nichol 2021, arXiv 2105.05233, section 4.3) with the plain mean in the place of its
    attention pool. `unet.out_channels` is not used. Raises `InputError` for a class-conditional `unet`: the class is
    what the network is asked for.
    """

    unet: UNetConfig
    classes: int

    def __post_init__(self) -> None:
        if self.unet.num_classes is not None:
            raise InputError("EncoderConfig.unet must have num_classes=None: a classifier is not told the class")
        if self.classes < 2:
            raise InputError(f"EncoderConfig.classes={self.classes}: a classifier needs at least 2")

    def build(self) -> Encoder:
        """Return the network, freshly initialised."""
        return Encoder(self)


class Encoder(nn.Module):
    """net(x [B, in, H, W], c_noise [B or 1]) -> logits [B, classes] for any H and W.

    forward = trunk(x, embed(c_noise)). It starts with all logits zero, that is without an opinion.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.cond: dict[str, Any] = {}
        half = config.unet.build()
        self.noise, self.conv_in, self.down, self.middle = half.noise, half.conv_in, half.down, half.middle
        # the projections of the blocks that are left: those of the way up come last
        blocks = sum(len(cast(Stage, stage).blocks) for stage in half.down) + len(half.middle)
        self.splits = half.splits[:blocks]
        self.time = nn.Linear(half.time.in_features, sum(self.splits))
        self.time.weight.data.copy_(half.time.weight.data[: sum(self.splits)])
        nn.init.zeros_(self.time.bias)
        width = config.unet.widths[-1]
        self.norm_out = GroupNorm(config.unet.groups, width, config.unet.eps)
        self.out = initialised(nn.Linear(width, config.classes), 0.0)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """Return trunk(x, embed(c_noise))."""
        return self.trunk(x, self.embed(c_noise))

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return what depends on the noise label alone: [N, 4 channels] for c_noise [N]."""
        return self.noise(c_noise)

    def trunk(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return the logits for x [B, in, H, W] and emb [B or 1, 4 channels]."""
        return self.out(silu(self.norm_out(raised(self.features(x, emb)))).to(x.dtype).mean((2, 3)))

    def features(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return what the U-Net's middle gives, [B, C, h, w]."""
        times = iter(self.time(nn.functional.silu(emb)).split(self.splits, dim=1))
        h = arranged(self.conv_in(x))
        for stage in cast("list[Stage]", list(self.down)):
            for block in stage.blocks:
                h = block(h, next(times))
            if stage.sample is not None:
                h = stage.sample(h)
        for block in self.middle:
            h = block(h, next(times))
        return h


def digits_classifier() -> EncoderConfig:
    """Return the classifier of noised 8x8 scans of digits: 0.13 M parameters, the way down of `unet.digits`."""
    from .unet import digits

    return EncoderConfig(unet=digits(num_classes=None), classes=10)
