"""The U-Net of latent diffusion: residual blocks, transformers that read a text (Rombach et al., arXiv 2112.10752)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.config import register
from ..core.errors import InputError
from .blocks.attend import seen
from .blocks.attention import Attention, GatedFeedForward, Keys
from .blocks.conv import (
    ALMOST_ZERO,
    AddTime,
    Downsample,
    GroupNorm,
    ResBlock,
    TimeInjection,
    Upsample,
    arranged,
    conv,
    initialised,
    raised,
    silu,
)
from .blocks.embedding import NoiseEmbedding, Sinusoidal, sinusoidal
from .hooks import Hooks, Tap, passed

Part = TypeVar("Part", bound=nn.Module)


@register
@dataclass(frozen=True, kw_only=True)
class LatentUNetConfig:
    """The shape of a latent diffusion U-Net; the defaults are those of Stable Diffusion 1 (859,520,964 parameters).

    - `widths`: channels of each level, level i on 1 / 2^i of the size; `layers`: residual blocks of a level on the way
      down, one more on the way up. `transformers`: the depth of the transformer after each of them (0: none), a level;
      `middle`: its depth in the middle, between two residual blocks; 0 is one block alone (small ControlNets), None no
      middle at all (the pruned networks).
    - `heads` a level; `context`: the width of the text's tokens. `cross_only`: levels whose first attention reads the
      text too instead of the grid. `upcast`: attention logits in float32.
    - `vector`: the width of a vector that joins the time: the pooled text, then `sizes` numbers as sinusoids of width
      256 each (six in SDXL, five in its refiner).
    - `noise_levels`: rows of a table for the noise of a low-resolution input, as in the x4 up-scaler.
    - `guidance_width`: sinusoids of a guidance scale that join those of the time, as in latent consistency models.
    - `extra`: channels that stand beside the latent: 5 of in-painting (mask, masked picture), 4 of InstructPix2Pix,
      1 of depth, 3 of the up-scaler.
    - `patch`: squares of so many latents a side are one place of the first level, side by side in its channels.
    - `convolved`: whether files hold the matrices around a transformer as 1x1 convolutions, as those of Stable
      Diffusion 1 do; the numbers are the same.
    Raises `InputError` for lists that are not one entry a level, and widths that do not divide.
    """

    in_channels: int = 4
    out_channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    layers: int = 2
    transformers: tuple[int, ...] = (1, 1, 1, 0)
    middle: int | None = 1
    heads: tuple[int, ...] = (8, 8, 8, 8)
    context: int = 768
    cross_only: tuple[bool, ...] = ()
    upcast: bool = False
    vector: int = 0
    sizes: int = 0
    noise_levels: int = 0
    guidance_width: int = 0
    extra: int = 0
    patch: int = 1
    convolved: bool = True
    groups: int = 32
    eps: float = 1e-5
    dropout: float = 0.0
    time: TimeInjection = field(default_factory=AddTime)

    def __post_init__(self) -> None:
        levels = len(self.widths)
        for name in ("transformers", "heads"):
            if len(getattr(self, name)) != levels:
                raise InputError(f"LatentUNetConfig.{name} needs {levels} entries, one a level: {getattr(self, name)}")
        if self.cross_only and len(self.cross_only) != levels:
            raise InputError(f"LatentUNetConfig.cross_only needs {levels} entries or none, got {self.cross_only}")
        for level, (width, heads) in enumerate(zip(self.widths, self.heads, strict=True)):
            if width % self.groups or width % heads:
                raise InputError(
                    f"level {level} has {width} channels: not a multiple of groups={self.groups} and heads={heads}"
                )
        if self.sizes and self.vector <= 256 * self.sizes:
            raise InputError(f"vector={self.vector} must hold a pooled text and {self.sizes} sizes of width 256")

    def build(self) -> LatentUNet:
        """Return the network, freshly initialised."""
        return LatentUNet(self)


class TransformerBlock(nn.Module):
    """x += SelfAttention(LN x); x += CrossAttention(LN x, text); x += GEGLU(LN x)."""

    def __init__(self, width: int, heads: int, context: int, *, cross_only: bool, upcast: bool) -> None:
        super().__init__()
        self.cross_only = cross_only
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads, context=context if cross_only else None, upcast=upcast)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, heads, context=context, upcast=upcast)
        self.norm3 = nn.LayerNorm(width)
        self.ff = GatedFeedForward(width, 4 * width)

    def keys(self, context: Tensor) -> list[Keys | None]:
        """Return what the two attentions read of the text."""
        return [self.attn1.keys(context) if self.cross_only else None, self.attn2.keys(context)]

    def forward(self, x: Tensor, keys: Iterator[Keys | None], mask: Tensor | None, hooks: Hooks | None) -> Tensor:
        """Return the next tokens [B, N, width]."""
        x = x + self.attn1(self.norm1(x), next(keys), mask if self.cross_only else None, hooks)
        x = x + self.attn2(self.norm2(x), next(keys), mask, hooks)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """x -> x + proj_out(blocks(proj_in(GN x))) over the places of a grid: GN with eps 1e-6."""

    def __init__(self, width: int, heads: int, depth: int, config: LatentUNetConfig, *, cross_only: bool) -> None:
        super().__init__()
        self.norm = GroupNorm(config.groups, width, 1e-6)
        self.proj_in = nn.Linear(width, width)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, config.context, cross_only=cross_only, upcast=config.upcast)
            for _ in range(depth)
        )
        self.proj_out = initialised(nn.Linear(width, width), ALMOST_ZERO)

    def forward(self, x: Tensor, keys: Iterator[Keys | None], mask: Tensor | None, hooks: Hooks | None) -> Tensor:
        """Return [B, width, H, W] of `x` [B, width, H, W]."""
        h = self.proj_in(self.norm(raised(x)).to(x.dtype).flatten(2).transpose(1, 2))
        for block in self.blocks:
            h = block(h, keys, mask, hooks)
        return x + self.proj_out(h).transpose(1, 2).reshape(x.shape)


class Block(nn.Module):
    """A residual block with a time projection of its own, and a transformer after it where its level has one."""

    kind = "residual"

    def __init__(self, inputs: int, outputs: int, config: LatentUNetConfig, level: int, depth: int) -> None:
        super().__init__()
        k = config
        self.res = ResBlock(inputs, outputs, time=k.time, groups=k.groups, eps=k.eps, dropout=k.dropout)
        self.time = nn.Linear(4 * k.widths[0], k.time.width(outputs))
        cross = bool(k.cross_only and k.cross_only[level])
        self.transformer = SpatialTransformer(outputs, k.heads[level], depth, k, cross_only=cross) if depth else None

    def forward(
        self,
        x: Tensor,
        steering: Iterator[Tensor],
        keys: Iterator[Keys | None],
        mask: Tensor | None,
        hooks: Hooks | None,
    ) -> Tensor:
        """Return [B, outputs, H, W] of `x` [B, inputs, H, W]; takes its share of `steering` and `keys`."""
        h = self.res(x, next(steering))
        h = h if self.transformer is None else self.transformer(h, keys, mask, hooks)
        return passed(self, h, hooks)


class Halving(Downsample):
    """The way to the next level, a site whose output goes on and is kept as a skip."""

    kind = "sample"


class Stage(nn.Module):
    """The blocks of one level, and what leads to the next: `sample`, None at the end."""

    def __init__(self, blocks: Iterable[Block], sample: Downsample | Upsample | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.sample = sample


class DownUNet(nn.Module):
    """The half of a `LatentUNet` that goes down, its middle, and all that its conditions are made into.

    `saved`: the channels of each skip. A ControlNet is a copy of this half.
    """

    once = ("noise.*", "guidance", "vector.*", "*.time", "*.attn2.k", "*.attn2.v")  # for `packed`

    def __init__(self, config: LatentUNetConfig) -> None:
        super().__init__()
        self.config = config
        k, widths = config, config.widths
        optional = {
            "pooled": k.vector,
            "sizes": k.sizes,
            "noise_level": k.noise_levels,
            "guidance": k.guidance_width,
            "extra": k.extra,
        }
        names = ["context", "context_mask", *(name for name, value in optional.items() if value)]
        self.cond: dict[str, Any] = dict.fromkeys(names)
        dim = 4 * widths[0]
        self.noise = NoiseEmbedding(Sinusoidal(dim=widths[0]), dim)
        self.guidance = nn.Linear(k.guidance_width, widths[0], bias=False) if k.guidance_width else None
        self.vector = nn.Sequential(nn.Linear(k.vector, dim), nn.SiLU(), nn.Linear(dim, dim)) if k.vector else None
        self.noise_level = nn.Embedding(k.noise_levels, dim) if k.noise_levels else None

        self.conv_in = conv((k.in_channels + k.extra) * k.patch**2, widths[0])
        skips, width = [widths[0]], widths[0]
        self.down = nn.ModuleList()
        for level, outputs in enumerate(widths):
            last = level == len(widths) - 1
            inputs = [width] + [outputs] * (k.layers - 1)
            blocks = [Block(i, outputs, k, level, k.transformers[level]) for i in inputs]
            self.down.append(Stage(blocks, None if last else Halving(outputs, (1, 1))))
            skips += [outputs] * (k.layers + (not last))
            width = outputs
        self.saved = tuple(skips)
        self.skips = nn.ModuleList(Tap("skip") for _ in skips)
        top = len(widths) - 1
        depths = () if k.middle is None else (k.middle, 0) if k.middle else (0,)
        self.middle = nn.ModuleList(Block(width, width, k, top, depth) for depth in depths)

    def place(self, name: str) -> tuple[str, int]:
        """Return (stage, level) of a module's path."""
        parts, levels = name.split("."), len(self.config.widths)
        if parts[0] == "skips":
            return "down", min(max(int(parts[1]) - 1, 0) // (self.config.layers + 1), levels - 1)
        if parts[0] == "middle":
            return "middle", levels - 1
        return (parts[0], int(parts[1])) if parts[0] == "down" else ("up", levels - 1 - int(parts[1]))

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return what depends on the noise label alone: the time vector [N, 4 widths[0]], or its features where a
        guidance scale joins them.
        """
        return self.noise(c_noise) if self.guidance is None else self.noise.features(c_noise.unsqueeze(-1))

    def condition(
        self,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        pooled: Tensor | None = None,
        sizes: Tensor | None = None,
        noise_level: Tensor | None = None,
        guidance: Tensor | None = None,
        extra: Tensor | None = None,
    ) -> dict[str, Any]:
        """Return what depends on the conditions alone, as the keyword arguments of `trunk`."""
        k, weight = self.config, self.conv_in.weight
        if context is None or context.shape[-1] != k.context:
            got = "none" if context is None else str(list(context.shape))
            raise InputError(f"this U-Net needs a context [B, T, {k.context}] (the text's tokens), got {got}")
        context = context.to(weight.dtype)
        keys = [key for block in self._parts(TransformerBlock) for key in block.keys(context)]
        vector: Tensor | None = None
        if self.vector is not None:
            width = k.vector - 256 * k.sizes
            if pooled is None or pooled.shape[-1] != width or (k.sizes and sizes is None):
                raise InputError(f"this U-Net needs pooled [B, {width}]" + f" and sizes [B, {k.sizes}]" * bool(k.sizes))
            parts = [pooled.to(weight.dtype)]
            if sizes is not None:
                parts.append(sinusoidal(sizes.float(), 256).flatten(1).to(weight.dtype))
            vector = self.vector(torch.cat(parts, dim=-1))
        if self.noise_level is not None:
            if noise_level is None:
                raise InputError(f"this U-Net needs a noise_level int[B] in 0..{k.noise_levels - 1}")
            level = self.noise_level(noise_level)
            vector = level if vector is None else vector + level
        scale: Tensor | None = None
        if self.guidance is not None and guidance is not None:
            # their scale counts from the conditional, ours (w = 1 is off) from the unconditional (arXiv 2310.04378)
            features = sinusoidal(1000.0 * (guidance.float() - 1.0), k.guidance_width, sin_first=True, shift=1)
            scale = self.guidance(features.to(weight.dtype))
        if k.extra and (extra is None or extra.shape[1] != k.extra):
            raise InputError(f"this U-Net needs extra [B, {k.extra}, H, W] beside the latent")
        return {
            "keys": keys,
            "mask": seen(context_mask, weight.dtype),
            "vector": vector,
            "scale": scale,
            "extra": None if extra is None else extra.to(weight.dtype),
        }

    def steer(
        self, emb: Tensor, *, vector: Tensor | None = None, scale: Tensor | None = None, **_: Any
    ) -> list[Tensor]:
        """Return each block's own time vector [..., N, channels], in the order in which they run: `steering`."""
        if self.guidance is not None:
            emb = emb.to(self.conv_in.weight.dtype)
            emb = self.noise.mlp(emb if scale is None else emb + scale)
        e = F.silu(emb if vector is None else emb + vector)
        return [block.time(e) for block in self._parts(Block)]

    def begun(self, x: Tensor, extra: Tensor | None) -> Tensor:
        """Return the first features."""
        x = x if extra is None else torch.cat((x, extra), dim=1)
        return arranged(self.conv_in(F.pixel_unshuffle(x, self.config.patch) if self.config.patch > 1 else x))

    def downward(
        self,
        h: Tensor,
        steering: Iterator[Tensor],
        keys: Iterator[Keys | None],
        mask: Tensor | None,
        hooks: Hooks | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return (the middle's output, skips) of the first features; takes its share of `steering` and `keys`."""
        tap = iter(self.skips)
        skips = [next(tap)(h, hooks)]
        for stage in cast("Iterable[Stage]", self.down):
            for block in stage.blocks:
                h = block(h, steering, keys, mask, hooks)
                skips.append(next(tap)(h, hooks))
            if stage.sample is not None:
                h = passed(stage.sample, stage.sample(h), hooks)
                skips.append(next(tap)(h, hooks))
        for block in self.middle:
            h = block(h, steering, keys, mask, hooks)
        return h, skips

    def _parts(self, kind: type[Part]) -> Iterator[Part]:
        """Yield the modules of a kind in the order in which they run."""
        parts = (self.down, self.middle, getattr(self, "up", nn.ModuleList()))
        return (m for part in parts for m in part.modules() if isinstance(m, kind))


class LatentUNet(DownUNet):
    """net(x [B, C, H, W], c_noise [B or 1], context=[B, T, width], ...) -> [B, out, H, W] for any H and W.

    Conditions, where the configuration has them: `context` (the text's tokens), `context_mask` [B, T] (1 where a token
    is one), `pooled` [B, vector - 256 sizes], `sizes` [B, sizes], `noise_level` int[B], `guidance` [B], `extra`
    [B, extra, H, W]. forward = trunk(x, embed(c_noise), **condition(**cond)): `condition` is what does not depend on x
    and the time (keys and values of the text, the vector), once a run.
    """

    def __init__(self, config: LatentUNetConfig) -> None:
        super().__init__(config)
        k, saved, width = config, list(self.saved), config.widths[-1]
        self.up = nn.ModuleList()
        for level, outputs in reversed(list(enumerate(k.widths))):
            inputs = [h + saved.pop() for h in [width] + [outputs] * k.layers]
            blocks = [Block(i, outputs, k, level, k.transformers[level]) for i in inputs]
            self.up.append(Stage(blocks, Upsample(outputs) if level > 0 else None))
            width = outputs
        self.norm_out = GroupNorm(k.groups, width, k.eps)
        self.conv_out = conv(width, k.out_channels * k.patch**2, scale=ALMOST_ZERO)

    def forward(self, x: Tensor, c_noise: Tensor, hooks: Hooks | None = None, **cond: Any) -> Tensor:
        """Return trunk(x, embed(c_noise), **condition(**cond))."""
        return self.trunk(x, self.embed(c_noise), **self.condition(**cond), hooks=hooks)

    def trunk(
        self,
        x: Tensor,
        emb: Tensor,
        *,
        keys: list[Keys | None],
        mask: Tensor | None = None,
        vector: Tensor | None = None,
        scale: Tensor | None = None,
        extra: Tensor | None = None,
        steering: list[Tensor] | None = None,
        hooks: Hooks | None = None,
    ) -> Tensor:
        """Return the output for x [B, in, H, W], `embed`'s emb [B or 1, ...] and what `condition` gave."""
        told = iter(self.steer(emb, vector=vector, scale=scale) if steering is None else steering)
        left = iter(keys)
        h, skips = self.downward(self.begun(x, extra), told, left, mask, hooks)
        for stage in cast("Iterable[Stage]", self.up):
            for block in stage.blocks:
                h = block(torch.cat((h, skips.pop()), dim=1), told, left, mask, hooks)
            if stage.sample is not None:
                h = stage.sample(h, skips[-1].shape[-2:])
        out = self.conv_out(silu(self.norm_out(raised(h))).to(h.dtype)).contiguous()
        return F.pixel_shuffle(out, self.config.patch) if self.config.patch > 1 else out


def sd1() -> LatentUNetConfig:
    """Return the U-Net of Stable Diffusion 1: 859,520,964 parameters."""
    return LatentUNetConfig()


def sd2() -> LatentUNetConfig:
    """Return the U-Net of Stable Diffusion 2: heads of 64, a context of 1024; 865,910,724 parameters."""
    return LatentUNetConfig(heads=(5, 10, 20, 20), context=1024, convolved=False)


def sdxl() -> LatentUNetConfig:
    """Return the U-Net of SDXL (arXiv 2307.01952, table 1): 2,567,463,684 parameters."""
    return LatentUNetConfig(
        widths=(320, 640, 1280),
        transformers=(0, 2, 10),
        middle=10,
        heads=(5, 10, 20),
        context=2048,
        vector=2816,
        sizes=6,
        convolved=False,
    )


def sdxl_refiner() -> LatentUNetConfig:
    """Return the U-Net of SDXL's refiner: 2,259,526,660 parameters."""
    return LatentUNetConfig(
        widths=(384, 768, 1536, 1536),
        transformers=(0, 4, 4, 0),
        middle=4,
        heads=(6, 12, 24, 24),
        context=1280,
        vector=2560,
        sizes=5,
        convolved=False,
    )
