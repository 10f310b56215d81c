"""DiffiT for pictures: a U-Net of convolutions and transformers that know the time (arXiv 2312.02139, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..core.config import register
from ..core.errors import InputError
from .blocks.checks import check_counts
from .blocks.conv import ALMOST_ZERO, Downsample, GroupNorm, Upsample, arranged, conv, initialised, raised, silu
from .blocks.embedding import Fourier, LabelEmbedding, NoiseEmbedding, Sinusoidal
from .blocks.tmsa import TimeBlock, differences, unwindowed, windowed
from .hooks import Hooks, Tap, passed


@register
@dataclass(frozen=True, kw_only=True)
class DiffiTUNetConfig:
    """The shape of a DiffiT on pictures.

    Level i works on 1 / 2^i of the size with `channels` * `multipliers[i]` channels: `layers` blocks on the way down,
    one more on the way up, one in the middle. `windows`: the side of the windows of attention, a level; the whole grid
    where it is as large. `head_width` of attention; `mlp_ratio` of the feed-forward width over the channels.
    `embedding`: features of the noise label, `Sinusoidal(dim=channels)` if None; `num_classes` as elsewhere.
    The paper gives the parts and not their sizes: windows of 8, heads of 32 and the rest are choices of ours.

    Raises `InputError` for counts below 1, lists that are not one entry a level, and channels that do not divide.
    """

    in_channels: int = 3
    out_channels: int = 3
    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2)
    layers: int = 2
    windows: tuple[int, ...] = (8, 8, 8)
    head_width: int = 32
    mlp_ratio: float = 4.0
    groups: int = 32
    eps: float = 1e-5
    embedding: Sinusoidal | Fourier | None = None
    num_classes: int | None = None

    def __post_init__(self) -> None:
        check_counts(self, "in_channels", "out_channels", "channels", "layers", "head_width", "groups")
        if len(self.windows) != len(self.multipliers):
            raise InputError(
                f"DiffiTUNetConfig.windows needs {len(self.multipliers)} entries, one a level: {self.windows}"
            )
        for level, width in enumerate(self.widths):
            if width % self.groups or width % self.head_width:
                raise InputError(
                    f"level {level} has {width} channels: not a multiple of groups={self.groups} and "
                    f"head_width={self.head_width}"
                )

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of channels of each level."""
        return tuple(self.channels * m for m in self.multipliers)

    def build(self) -> DiffiTUNet:
        """Return the network, freshly initialised."""
        return DiffiTUNet(self)


class Block(nn.Module):
    """x -> shortcut(x) + T(conv(SiLU(GN(x))), c), T a transformer's block in windows (equations 9 and 10).

    The shortcut is a 1x1 convolution where the channels differ. A site of kind "residual".
    """

    kind = "residual"

    def __init__(self, inputs: int, outputs: int, config: DiffiTUNetConfig, level: int) -> None:
        super().__init__()
        k = config
        self.window = k.windows[level]
        self.norm = GroupNorm(k.groups, inputs, k.eps)
        self.conv = conv(inputs, outputs)
        hidden = int(k.mlp_ratio * outputs)
        self.block = TimeBlock(outputs, outputs // k.head_width, self.window, 4 * k.channels, hidden)
        for layer in (m for m in self.block.modules() if isinstance(m, nn.Linear)):
            initialised(layer)
        self.shortcut = nn.Identity() if inputs == outputs else conv(inputs, outputs, 1)

    def forward(
        self, x: Tensor, steering: Iterator[Tensor], tables: dict[int, Tensor], hooks: Hooks | None = None
    ) -> Tensor:
        """Return [B, outputs, H, W] of `x` [B, inputs, H, W]; takes its share of `steering`."""
        h = self.conv(silu(self.norm(raised(x))).to(x.dtype))
        h = self.block(windowed(h, self.window), next(steering), tables[self.window], hooks)
        return passed(self, self.shortcut(x) + unwindowed(h, self.window, *x.shape[2:]), hooks)


class Stage(nn.Module):
    """The blocks of one level, and what leads to the next: `sample`, None at the end."""

    def __init__(self, blocks: Iterable[Block], sample: Downsample | Upsample | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.sample = sample


class DiffiTUNet(nn.Module):
    """net(x [B, in, H, W], c_noise [B or 1], y=int[B]) -> [B, out, H, W]; each level's grid: whole windows."""

    once = ("noise.*", "label.*", "*.attn.time")  # for `packed`

    def __init__(self, config: DiffiTUNetConfig) -> None:
        super().__init__()
        self.config = config
        k, widths = config, config.widths
        dim = 4 * k.channels
        self.noise = NoiseEmbedding(k.embedding or Sinusoidal(dim=k.channels), dim)
        self.label = None if k.num_classes is None else LabelEmbedding(k.num_classes, dim)
        self.cond: dict[str, Any] = {} if self.label is None else {"y": self.label.null}
        self.conv_in = conv(k.in_channels, widths[0])
        skips, width = [widths[0]], widths[0]
        self.down = nn.ModuleList()
        for level, outputs in enumerate(widths):
            last = level == len(widths) - 1
            blocks = [Block(i, outputs, k, level) for i in [width] + [outputs] * (k.layers - 1)]
            self.down.append(Stage(blocks, None if last else Downsample(outputs, (1, 1))))
            skips += [outputs] * (k.layers + (not last))
            width = outputs
        self.skips = nn.ModuleList(Tap("skip") for _ in skips)
        self.middle = Block(width, width, k, len(widths) - 1)
        self.up = nn.ModuleList()
        for level, outputs in reversed(list(enumerate(widths))):
            blocks = [Block(h + skips.pop(), outputs, k, level) for h in [width] + [outputs] * k.layers]
            self.up.append(Stage(blocks, Upsample(outputs) if level > 0 else None))
            width = outputs
        self.norm_out = GroupNorm(k.groups, width, k.eps)
        self.conv_out = conv(width, k.out_channels, scale=ALMOST_ZERO)

    def place(self, name: str) -> tuple[str, int]:
        """Return (stage, level) of a module's path."""
        parts, levels = name.split("."), len(self.config.widths)
        if parts[0] == "skips":
            return "down", min(max(int(parts[1]) - 1, 0) // (self.config.layers + 1), levels - 1)
        if parts[0] == "middle":
            return "middle", levels - 1
        return (parts[0], int(parts[1])) if parts[0] == "down" else ("up", levels - 1 - int(parts[1]))

    def forward(self, x: Tensor, c_noise: Tensor, hooks: Hooks | None = None, **cond: Any) -> Tensor:
        """Return trunk(x, embed(c_noise), **condition(**cond))."""
        return self.trunk(x, self.embed(c_noise), **self.condition(**cond), hooks=hooks)

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return what depends on the noise label alone: [N, 4 channels] for c_noise [N]."""
        return self.noise(c_noise)

    def condition(self, y: Tensor | int | None = None) -> dict[str, Any]:
        """Return the embeddings of the class labels `y`, of no class without them."""
        if self.label is None and y is not None:
            raise InputError("this DiffiT has no classes: leave y out, or set DiffiTUNetConfig.num_classes")
        return {"label": None if self.label is None else self.label(y)}

    def steer(self, emb: Tensor, *, label: Tensor | None = None) -> list[Tensor]:
        """Return what each block reads of the time and the class, in the order in which they run: `steering`."""
        c = emb if label is None else emb + label
        parts = (self.down, self.middle, self.up)
        return [m.block.steer(c) for part in parts for m in part.modules() if isinstance(m, Block)]

    def tables(self, x: Tensor) -> dict[int, Tensor]:
        """Return the differences of places in windows of each size, the trunk's `tables`."""
        return {window: differences(window, x.device) for window in set(self.config.windows)}

    def trunk(
        self,
        x: Tensor,
        emb: Tensor,
        *,
        label: Tensor | None = None,
        steering: list[Tensor] | None = None,
        tables: dict[int, Tensor] | None = None,
        hooks: Hooks | None = None,
    ) -> Tensor:
        """Return the output for x [B, in, H, W], emb [B or 1, 4 channels] and what `condition` gave."""
        told, tap = iter(self.steer(emb, label=label) if steering is None else steering), iter(self.skips)
        places = self.tables(x) if tables is None else tables
        h = arranged(self.conv_in(x))
        skips = [next(tap)(h, hooks)]
        for stage in cast("Iterable[Stage]", self.down):
            for block in stage.blocks:
                h = block(h, told, places, hooks)
                skips.append(next(tap)(h, hooks))
            if stage.sample is not None:
                h = stage.sample(h)
                skips.append(next(tap)(h, hooks))
        h = self.middle(h, told, places, hooks)
        for stage in cast("Iterable[Stage]", self.up):
            for block in stage.blocks:
                h = block(torch.cat((h, skips.pop()), dim=1), told, places, hooks)
            if stage.sample is not None:
                h = stage.sample(h, skips[-1].shape[-2:])
        return self.conv_out(silu(self.norm_out(raised(h))).to(h.dtype)).contiguous()
