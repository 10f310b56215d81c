"""Hunyuan-DiT: a transformer with long skips and 2-D rotary positions that reads two texts (arXiv 2405.08748)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.config import register
from ..core.errors import InputError
from .blocks.attend import attend
from .blocks.attention import Keys
from .blocks.embedding import NoiseEmbedding, Sinusoidal, sinusoidal
from .blocks.rotary import Rotation, rotated, rotation_2d
from .blocks.transformer import AdaptiveNorm, FeedForward, patchify, unpatchify
from .hooks import Hooks, Tap, passed

TIME = Sinusoidal(dim=256)
SIZES = 6
POOL_HEADS = 8


@register
@dataclass(frozen=True, kw_only=True)
class HunyuanDiTConfig:
    """The shape of a Hunyuan-DiT; the defaults are those of versions 1.0 and 1.1 (1,516,534,048 parameters).

    - `channels`, `out_channels`, `patch`, `width`, `layers` (an even number), `heads`; `hidden`: of the feed-forward
      layers.
    - `context`, `tokens`: width and number of the first text's tokens (a bilingual CLIP, 77); `context_2`, `tokens_2`:
      of the second's (mT5, 256). `pooled`: width of what is pooled of the second.
    - `styles`: rows of a table of styles, told together with six sizes; 0 (version 1.2): told neither.
    - `base`: the side, in tokens, of the square that all shapes are fitted into for their positions.
    Raises `InputError` for an odd number of layers and for widths that do not divide.
    """

    channels: int = 4
    out_channels: int = 8
    patch: int = 2
    width: int = 1408
    layers: int = 40
    heads: int = 16
    hidden: int = 6144
    context: int = 1024
    tokens: int = 77
    context_2: int = 2048
    tokens_2: int = 256
    pooled: int = 1024
    styles: int = 1
    base: int = 32

    def __post_init__(self) -> None:
        if self.layers < 2 or self.layers % 2:
            raise InputError(f"HunyuanDiTConfig.layers must be even, got {self.layers}: the skips go in pairs")
        if self.width % (4 * self.heads):
            raise InputError(f"HunyuanDiTConfig.width={self.width} must be a multiple of 4 heads={4 * self.heads}")
        if self.context_2 % POOL_HEADS:
            raise InputError(f"HunyuanDiTConfig.context_2={self.context_2} must be a multiple of {POOL_HEADS}")

    def build(self) -> HunyuanDiT:
        """Return the network, freshly initialised: its output is zero until it is trained."""
        return HunyuanDiT(self)


class TurnedAttention(nn.Module):
    """out(softmax(q k^T / sqrt(d)) v), q = R LN(W_q x), k = R LN(W_k x) a head, R the rotation of its place.

    With a `context` width it reads a text instead, whose keys LN(W_k c) have no place and are not turned.
    """

    def __init__(self, width: int, heads: int, context: int | None = None) -> None:
        super().__init__()
        self.kind = "self" if context is None else "cross"
        self.heads = heads
        source = width if context is None else context
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(source, width)
        self.v = nn.Linear(source, width)
        self.norm_q = nn.LayerNorm(width // heads, eps=1e-6)
        self.norm_k = nn.LayerNorm(width // heads, eps=1e-6)
        self.out = nn.Linear(width, width)

    def split(self, tokens: Tensor) -> Tensor:
        """Return [B, N, heads d] as [B, heads, N, d]."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys(self, context: Tensor) -> Keys:
        """Return (k, v) [B, heads, T, d] of tokens [B, T, width of the context], not turned."""
        return self.norm_k(self.split(self.k(context))), self.split(self.v(context))

    def forward(self, x: Tensor, turn: Rotation, keys: Keys | None = None, hooks: Hooks | None = None) -> Tensor:
        """Return [B, N, width] of tokens `x` [B, N, width]; `keys` of a text, None to attend to `x` itself."""
        events = None if hooks is None else hooks.of(self)
        if events is not None:
            ready = events.before(x)
            if ready is not None:
                return events.out(ready)
        q = rotated(self.norm_q(self.split(self.q(x))), turn)
        if keys is None:
            k, v = self.keys(x)
            k = rotated(k, turn)
        else:
            k, v = keys
        y = attend(q, k, v) if events is None else events.attend(q, k, v, None)
        y = self.out(y.transpose(1, 2).flatten(2))
        return y if events is None else events.out(y)


class AttentionPool(nn.Module):
    """One vector of T tokens: the attention of their mean to it and to them, all with learned positions."""

    def __init__(self, width: int, tokens: int, outputs: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(tokens + 1, width).normal_(std=width**-0.5))
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [B, outputs] of `tokens` [B, T, width]."""
        x = torch.cat((tokens.mean(dim=1, keepdim=True), tokens), dim=1) + self.positions
        parts = (self.q(x[:, :1]), self.k(x), self.v(x))
        q, k, v = (part.unflatten(-1, (POOL_HEADS, -1)).transpose(1, 2) for part in parts)
        return self.out(attend(q, k, v).transpose(1, 2).flatten(1))


class LongSkip(nn.Module):
    """W LN([x, s]) + b: a block's input x joined with the output s of its partner on the way in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * width, eps=1e-6)
        self.matrix = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """Return [B, N, width] of two like it."""
        return self.matrix(self.norm(torch.cat((x, s), dim=-1)))


class Block(nn.Module):
    """x += SelfAttention(LN(x) + W SiLU(c)); x += CrossAttention(LN x, text); x += MLP(LN x): learned norms."""

    kind = "block"

    def __init__(self, config: HunyuanDiTConfig, *, skip: bool) -> None:
        super().__init__()
        d, heads = config.width, config.heads
        self.skip = LongSkip(d) if skip else None
        self.modulation = nn.Linear(d, d)
        self.norm_1 = nn.LayerNorm(d, eps=1e-6)
        self.attention = TurnedAttention(d, heads)
        self.norm_cross = nn.LayerNorm(d, eps=1e-6)
        self.cross = TurnedAttention(d, heads, config.context)
        self.norm_2 = nn.LayerNorm(d, eps=1e-6)
        self.mlp = FeedForward(d, config.hidden)

    def forward(
        self, x: Tensor, shift: Tensor, keys: Keys, turn: Rotation, skip: Tensor | None, hooks: Hooks | None = None
    ) -> Tensor:
        """Return the next tokens [B, N, D] for `x`, W SiLU(c) [B or 1, D], a text's keys and a partner's output."""
        if self.skip is not None and skip is not None:
            x = self.skip(x, skip)
        x = x + self.attention(self.norm_1(x) + shift.unsqueeze(1), turn, None, hooks)
        x = x + self.cross(self.norm_cross(x), turn, keys, hooks)
        x = x + self.mlp(self.norm_2(x))
        return passed(self, x, hooks)


class HunyuanDiT(nn.Module):
    """net(x [B, C, H, W], c_noise [B or 1], context=[B, 77, 1024], context_2=[B, 256, 2048], ...) -> [B, out, H, W].

    Conditions: `context`, `context_2`, their masks `context_mask`, `context_2_mask` (1 where a token is one: the others
    are replaced by learned vectors, and attended to), and where the configuration has styles, `sizes` [B, 6] (original
    height and width, target height and width, crop top and left) and `style` int[B], 0 by default. forward =
    trunk(x, embed(c_noise), **condition(**cond)): a run computes the pooled text and all keys and values of it once.
    """

    # for `packed`
    once = ("time.*", "pool.*", "vector.*", "text.*", "style", "*modulation", "*.cross.k", "*.cross.v")

    def __init__(self, config: HunyuanDiTConfig) -> None:
        super().__init__()
        self.config = config
        k, d = config, config.width
        names = ["context", "context_mask", "context_2", "context_2_mask", *(["sizes", "style"] if k.styles else [])]
        self.cond: dict[str, Any] = dict.fromkeys(names)
        self.patches = nn.Linear(k.channels * k.patch**2, d)
        self.time = NoiseEmbedding(TIME, d)
        self.pool = AttentionPool(k.context_2, k.tokens_2, k.pooled)
        self.style = nn.Embedding(k.styles, d) if k.styles else None
        told = k.pooled + (256 * SIZES + d if k.styles else 0)
        self.vector = nn.Sequential(nn.Linear(told, 4 * d), nn.SiLU(), nn.Linear(4 * d, d))
        self.text = nn.Sequential(
            nn.Linear(k.context_2, 4 * k.context_2), nn.SiLU(), nn.Linear(4 * k.context_2, k.context)
        )
        self.padding = nn.Parameter(torch.randn(k.tokens + k.tokens_2, k.context))
        half = k.layers // 2
        self.blocks = nn.ModuleList(Block(k, skip=i > half) for i in range(k.layers))
        self.skips = nn.ModuleList(Tap("skip") for _ in range(half - 1))
        self.norm_out = AdaptiveNorm(d)
        self.out = nn.Linear(d, k.patch**2 * k.out_channels)
        self._initialise()

    def _initialise(self) -> None:
        for name, module in self.named_modules():
            if not isinstance(module, nn.Linear):
                continue
            nn.init.zeros_(module.bias)
            if name == "out" or name.endswith("modulation"):
                nn.init.zeros_(module.weight)
            elif name.startswith(("time.", "vector.", "text.")):
                nn.init.normal_(module.weight, std=0.02)
            else:
                nn.init.xavier_uniform_(module.weight)

    def place(self, name: str) -> tuple[str, int]:
        """Return ("trunk", how many blocks come before) of a module's path."""
        return "trunk", int(name.split(".")[1])

    def forward(self, x: Tensor, c_noise: Tensor, hooks: Hooks | None = None, **cond: Any) -> Tensor:
        """Return trunk(x, embed(c_noise), **condition(**cond))."""
        return self.trunk(x, self.embed(c_noise), **self.condition(**cond), hooks=hooks)

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return the embeddings [N, width] of noise labels [N]."""
        return self.time(c_noise)

    def condition(
        self,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        context_2: Tensor | None = None,
        context_2_mask: Tensor | None = None,
        sizes: Tensor | None = None,
        style: Tensor | int | None = None,
    ) -> dict[str, Any]:
        """Return what depends on the conditions alone, as the keyword arguments of `trunk`."""
        k, dtype = self.config, self.out.weight.dtype
        first = _tokens("context", context, (k.tokens, k.context)).to(dtype)
        second = _tokens("context_2", context_2, (k.tokens_2, k.context_2)).to(dtype)
        told = [self.pool(second)]
        if self.style is not None:
            if sizes is None or sizes.shape[-1] != SIZES:
                raise InputError("this Hunyuan-DiT needs sizes [B, 6]: original h, w, target h, w, crop top, left")
            told.append(sinusoidal(sizes.float(), 256).flatten(1).to(dtype))
            index = style if isinstance(style, Tensor) else torch.tensor([style or 0], device=first.device)
            told.append(self.style(index).expand(len(first), -1))
        masks = ((context_mask, first), (context_2_mask, second))
        here = torch.cat([_mask(mask, tokens) for mask, tokens in masks], dim=1)
        text = torch.where(here.unsqueeze(-1), torch.cat((first, self.text(second)), dim=1), self.padding)
        keys = [block.cross.keys(text) for block in cast("Iterator[Block]", self.blocks)]
        return {"keys": keys, "vector": self.vector(torch.cat(told, dim=-1))}

    def steer(self, emb: Tensor, *, vector: Tensor, **_: Any) -> tuple[list[Tensor], Tensor]:
        """Return what each block and the last norm read of the time and the vector: the trunk's `steering`."""
        c = F.silu(emb + vector)
        return [cast(Block, block).modulation(c) for block in self.blocks], self.norm_out.steer(c)

    def tables(self, x: Tensor) -> Rotation:
        """Return the rotation of the tokens, the trunk's `tables`."""
        k = self.config
        rows, columns = (n // k.patch for n in x.shape[2:])
        return positions(rows, columns, k.base, k.width // k.heads, x.device)

    def trunk(
        self,
        x: Tensor,
        emb: Tensor,
        *,
        keys: list[Keys],
        vector: Tensor,
        steering: tuple[list[Tensor], Tensor] | None = None,
        tables: Rotation | None = None,
        hooks: Hooks | None = None,
    ) -> Tensor:
        """Return the output for x [B, C, H, W], `embed`'s emb [B or 1, width] and what `condition` gave."""
        k, (height, width) = self.config, x.shape[2:]
        if x.shape[1] != k.channels or height % k.patch or width % k.patch:
            raise InputError(
                f"this Hunyuan-DiT takes [B, {k.channels}, H, W], H and W multiples of {k.patch}, got {list(x.shape)}"
            )
        turn = self.tables(x) if tables is None else tables
        shifts, last = self.steer(emb, vector=vector) if steering is None else steering
        h = self.patches(patchify(x, k.patch))
        skips: list[Tensor] = []
        for i, (block, shift, seen) in enumerate(zip(self.blocks, shifts, keys, strict=True)):
            h = block(h, shift, seen, turn, skips.pop() if i > k.layers // 2 else None, hooks)
            if i < k.layers // 2 - 1:
                skips.append(self.skips[i](h, hooks))
        return unpatchify(self.out(self.norm_out(h, last)), k.patch, height, width)


def positions(rows: int, columns: int, base: int, width: int, device: torch.device | None = None) -> Rotation:
    """Return the rotation of a grid's tokens: the grid is fitted into a square of side `base`, in its middle.

    The longer side covers 0 .. base, the shorter one a part of it, rounded to whole numbers (arXiv 2405.08748, section
    2.1, and its code).
    """
    longer = max(rows, columns)

    def places(count: int) -> Tensor:
        covered = base if count == longer else round(base / longer * count)
        start = round((base - covered) / 2)
        return start + torch.arange(count, dtype=torch.float32, device=device) * (covered / count)

    return rotation_2d(places(rows), places(columns), width)


def _tokens(name: str, tokens: Tensor | None, shape: tuple[int, int]) -> Tensor:
    if tokens is None or tokens.ndim != 3 or tuple(tokens.shape[1:]) != shape:
        got = "none" if tokens is None else str(list(tokens.shape))
        raise InputError(f"this Hunyuan-DiT needs {name} [B, {shape[0]}, {shape[1]}] (a text's tokens), got {got}")
    return tokens


def _mask(mask: Tensor | None, tokens: Tensor) -> Tensor:
    return torch.ones_like(tokens[..., 0], dtype=torch.bool) if mask is None else mask.bool()


def hunyuan_dit_1() -> HunyuanDiTConfig:
    """Return Hunyuan-DiT 1.0 and 1.1 (DiT-g/2): 1,516,534,048 parameters."""
    return HunyuanDiTConfig()


def hunyuan_dit_1_2() -> HunyuanDiTConfig:
    """Return Hunyuan-DiT 1.2, which is told no style and no sizes: 1,499,952,032 parameters."""
    return HunyuanDiTConfig(styles=0)
