"""T2I-Adapter: features of a picture, made once, added on the way down of a U-Net (arXiv 2302.08453)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..core.config import register
from ..core.errors import InputError
from ..nets.blocks.conv import conv
from ..nets.hooks import Site


@register
@dataclass(frozen=True, kw_only=True)
class T2IAdapterConfig:
    """The shape of an adapter; the defaults are those for Stable Diffusion 1 (77,369,280 parameters).

    - `widths`: channels of each level's feature; `blocks` of a level; `halved`: the levels that start by halving.
    - `patch`: the side of the squares of pixels that are one place of the grid; `hint_channels` of the picture.
    Raises `InputError` for a first level that is halved, and levels that are not there.
    """

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2
    halved: tuple[int, ...] = (1, 2, 3)
    patch: int = 8
    hint_channels: int = 3

    def __post_init__(self) -> None:
        if not set(self.halved) <= set(range(1, len(self.widths))):
            raise InputError(f"T2IAdapterConfig.halved={self.halved} must name levels 1..{len(self.widths) - 1}")

    def build(self) -> T2IAdapter:
        """Return the network, freshly initialised."""
        first = conv(self.hint_channels * self.patch**2, self.widths[0])
        inputs = (self.widths[0], *self.widths[:-1])
        levels = [
            Level(i, w, self.blocks, halved=level in self.halved)
            for level, (i, w) in enumerate(zip(inputs, self.widths, strict=True))
        ]
        return T2IAdapter(self, first, levels)


@register
@dataclass(frozen=True, kw_only=True)
class LightT2IAdapterConfig:
    """The shape of a light adapter: every level but the first is halved, inside of it a quarter of the channels."""

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 4
    patch: int = 8
    hint_channels: int = 3

    def build(self) -> T2IAdapter:
        """Return the network, freshly initialised."""
        pairs = pairwise((self.hint_channels * self.patch**2, *self.widths))
        levels = [LightLevel(i, w, self.blocks, halved=level > 0) for level, (i, w) in enumerate(pairs)]
        return T2IAdapter(self, nn.Identity(), levels)


class Block(nn.Module):
    """x + conv2(ReLU(conv1(x)))."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = conv(width, width)
        self.conv2 = conv(width, width, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like `x`."""
        return x + self.conv2(F.relu(self.conv1(x)))


class Level(nn.Module):
    """Half the grid where it is `halved`, other channels where they differ, then blocks."""

    def __init__(self, inputs: int, outputs: int, blocks: int, *, halved: bool) -> None:
        super().__init__()
        self.halved = halved
        self.inward: nn.Module = nn.Identity() if inputs == outputs else conv(inputs, outputs, 1)
        self.blocks = nn.Sequential(*(Block(outputs, 1) for _ in range(blocks)))
        self.outward: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, outputs, H, W] or, halved, half of both (rounded up)."""
        x = F.avg_pool2d(x, 2, ceil_mode=True) if self.halved else x
        return self.outward(self.blocks(self.inward(x)))


class LightLevel(Level):
    """A level whose blocks have a quarter of its channels, and 3x3 convolutions twice."""

    def __init__(self, inputs: int, outputs: int, blocks: int, *, halved: bool) -> None:
        nn.Module.__init__(self)
        self.halved = halved
        self.inward = conv(inputs, outputs // 4, 1)
        self.blocks = nn.Sequential(*(Block(outputs // 4, 3) for _ in range(blocks)))
        self.outward = conv(outputs // 4, outputs, 1)


class T2IAdapter(nn.Module):
    """net(hint [B, C, H, W] in [0, 1]) -> one feature a level; for `Controlled`, a control network that sees no x.

    H and W are multiples of the patch. Its features do not depend on the step, so a run makes them once.
    """

    def __init__(
        self, config: T2IAdapterConfig | LightT2IAdapterConfig, first: nn.Module, levels: Sequence[Level]
    ) -> None:
        super().__init__()
        self.config = config
        self.cond: dict[str, Any] = {"hint": None}
        self.first = first
        self.levels = nn.ModuleList(levels)

    def forward(self, hint: Tensor) -> list[Tensor]:
        """Return the features."""
        k = self.config
        if hint.ndim != 4 or hint.shape[1] != k.hint_channels or hint.shape[2] % k.patch or hint.shape[3] % k.patch:
            raise InputError(
                f"this adapter needs a hint [B, {k.hint_channels}, H, W], H, W multiples of {k.patch}, "
                f"got {list(hint.shape)}"
            )
        weight = next(self.parameters())
        h = self.first(F.pixel_unshuffle(hint.to(weight.dtype), k.patch))
        found: list[Tensor] = []  # not list[Tensor](), which a compiler cannot trace
        for level in self.levels:
            h = level(h)
            found.append(h)
        return found

    def seen(self, host: nn.Module, x: Tensor) -> Tensor:
        """Return `x`, which it does not use."""
        return x

    def places(self, known: Sequence[Site]) -> list[tuple[Site, int]]:
        """Return (site of the host, number of the feature that is added there).

        On a level with cross-attention that is its last block; on another what leads to the next one, as the networks
        were trained; features that are left go after the middle.
        """
        down = [s for s in known if s.stage == "down"]
        found: list[Site] = []
        for level in range(1 + max((s.level for s in down), default=-1)):
            here = [s for s in down if s.level == level]
            reads = any(s.kind == "cross" for s in here)
            leads = [s for s in here if s.kind == "sample"]
            found.append(leads[-1] if leads and not reads else [s for s in here if s.kind == "residual"][-1])
        found += [s for s in known if s.kind == "residual" and s.stage == "middle"][-1:]
        if len(found) < len(self.levels):
            raise InputError(f"this adapter gives {len(self.levels)} features, its host takes {len(found)} at most")
        return [(found[i], i) for i in range(len(self.levels))]

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return the labels, which it does not use."""
        return c_noise

    def condition(self, hint: Tensor | None = None) -> dict[str, Any]:
        """Return the features of a hint, as the keyword argument of `trunk`."""
        if hint is None:
            raise InputError("this adapter needs a hint, a picture in [0, 1]")
        return {"features": self(hint)}

    def trunk(self, x: Tensor, emb: Tensor, *, features: list[Tensor]) -> list[Tensor]:
        """Return the features."""
        return features


def sdxl_adapter() -> T2IAdapterConfig:
    """Return the adapter of SDXL: one level is halved, patches of 16; 79,028,160 parameters."""
    return T2IAdapterConfig(halved=(2,), patch=16)
