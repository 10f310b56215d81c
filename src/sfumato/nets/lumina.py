"""Next-DiT, the transformer of Lumina-Next (Zhuo et al. 2024, arXiv 2406.18583)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.config import register
from ..core.errors import InputError
from .blocks.attend import attend, seen
from .blocks.attention import Keys
from .blocks.checks import check_counts
from .blocks.embedding import NoiseEmbedding, Sinusoidal
from .blocks.rotary import Rotation, frequencies, rotated, rotation
from .blocks.transformer import patchify, unpatchify
from .hooks import Hooks, passed

TIME = Sinusoidal(dim=256)


@register
@dataclass(frozen=True, kw_only=True)
class LuminaConfig:
    """The shape of a Next-DiT; the defaults are those of Lumina-Next (1,754,898,976 parameters).

    - `channels` of the latent, `patch` its patches' side; `variance`: whether the last matrix has rows for a variance,
      which were never trained and are not read.
    - `width`, `layers`, `heads`, and `kv_heads`: heads of keys and values, each read by heads / kv_heads queries.
    - `context`: the width of the text's tokens.
    - `multiple`, `ratio`: the feed-forward width is 8/3 width (times `ratio`), rounded up to the multiple.
    - `base`: the side of the grid of training, in patches. On n patches softmax gets sqrt(log n / log base^2) / sqrt(d)
      (proportional attention), and places are scaled by f = sqrt(n) / base: every frequency divided by f while the
      label (0 noise, 1 data) is below `watershed`, after it theta multiplied by f (section 2.3).
    Raises `InputError` for counts below 1, and sizes that do not divide.
    """

    channels: int = 4
    variance: bool = True
    patch: int = 2
    width: int = 2304
    layers: int = 24
    heads: int = 32
    kv_heads: int = 8
    context: int = 2048
    multiple: int = 256
    ratio: float | None = None
    eps: float = 1e-5
    base: int = 64
    watershed: float = 1.0

    def __post_init__(self) -> None:
        check_counts(self, "channels", "patch", "width", "layers", "heads", "kv_heads", "context", "multiple")
        if self.width % (4 * self.heads) or self.heads % self.kv_heads:
            raise InputError(
                f"LuminaConfig.width={self.width} must be a multiple of 4 heads={4 * self.heads}, and heads of "
                f"kv_heads={self.kv_heads}"
            )
        if self.base < 2:
            raise InputError(f"LuminaConfig.base must be at least 2 patches, got {self.base}")

    @property
    def hidden(self) -> int:
        """The feed-forward width."""
        inner = int(4 * 2 * self.width / 3)
        inner = inner if self.ratio is None else int(self.ratio * inner)
        return self.multiple * -(-inner // self.multiple)

    def build(self) -> Lumina:
        """Return the network, freshly initialised: its output is zero until it is trained."""
        return Lumina(self)


class Heads(nn.Module):
    """The heads of an attention, without its output matrix: queries and keys LayerNormed over all heads together.

    Keys and values have fewer heads, each read by several queries. A site: kind "self" or "cross", whose outputs are
    those of the heads [B, N, width], before the matrix that both share.
    """

    def __init__(self, width: int, heads: int, kv_heads: int, context: int | None = None) -> None:
        super().__init__()
        self.kind = "self" if context is None else "cross"
        self.heads, self.kv_heads = heads, kv_heads
        source, inner = width if context is None else context, width // heads * kv_heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(source, inner, bias=False)
        self.v = nn.Linear(source, inner, bias=False)
        self.norm_q = nn.LayerNorm(width, eps=1e-5)
        self.norm_k = nn.LayerNorm(inner, eps=1e-5)

    def keys(self, c: Tensor, turn: Rotation | None = None) -> Keys:
        """Return (k, v) [B, heads, T, d] of tokens `c`, the keys turned."""
        k, v = (u.unflatten(-1, (self.kv_heads, -1)).transpose(1, 2) for u in (self.norm_k(self.k(c)), self.v(c)))
        k = k if turn is None else rotated(k, turn)
        return k.repeat_interleave(self.heads // self.kv_heads, 1), v.repeat_interleave(self.heads // self.kv_heads, 1)

    def forward(
        self, x: Tensor, turn: Rotation, keys: Keys | None, mask: Tensor | None, scale: float, hooks: Hooks | None
    ) -> Tensor:
        """Return [B, N, heads, d] of `x` [B, N, width]; `scale` multiplies the logits beside 1 / sqrt(d)."""
        events = None if hooks is None else hooks.of(self)
        if events is not None:
            ready = events.before(x)
            if ready is not None:
                return events.out(ready).unflatten(-1, (self.heads, -1))
        q = rotated(self.norm_q(self.q(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2), turn)
        k, v = self.keys(x, turn) if keys is None else keys
        kernel = attend if events is None else events.attend
        y = kernel(q if scale == 1.0 else q * scale, k, v, mask).transpose(1, 2)
        return y if events is None else events.out(y.flatten(2)).unflatten(-1, (self.heads, -1))


class SwiGLU(nn.Module):
    """W_2 (SiLU(W_1 x) W_3 x), without biases (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, width, bias=False)
        self.fc3 = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., width] of `x` [..., width]."""
        return self.fc2(F.silu(self.fc1(x)) * self.fc3(x))


class Block(nn.Module):
    """x += tanh(g_1) R_2(W (S(u) + tanh(gate) C(u, text))); x += tanh(g_2) R_4(FFN(R_3(x)(1 + s_2))).

    u = R_1(x)(1 + s_1); R are RMS norms (a sandwich: before and after), S and C the heads over the grid and over the
    text, `gate` one number a head; s, g = W SiLU(c) + bias.
    """

    kind = "block"

    def __init__(self, config: LuminaConfig) -> None:
        super().__init__()
        k, d = config, config.width
        self.modulation = nn.Linear(min(d, 1024), 4 * d)
        self.norm1 = nn.RMSNorm(d, eps=k.eps)
        self.norm2 = nn.RMSNorm(d, eps=k.eps)
        self.norm3 = nn.RMSNorm(d, eps=k.eps)
        self.norm4 = nn.RMSNorm(d, eps=k.eps)
        self.norm_text = nn.RMSNorm(k.context, eps=k.eps)
        self.attn = Heads(d, k.heads, k.kv_heads)
        self.cross = Heads(d, k.heads, k.kv_heads, k.context)
        self.gate = nn.Parameter(torch.zeros(k.heads))
        self.out = nn.Linear(d, d, bias=False)
        self.mlp = SwiGLU(d, k.hidden)

    def keys(self, context: Tensor) -> Keys:
        """Return what the heads over the text read of it."""
        return self.cross.keys(self.norm_text(context))

    def forward(
        self,
        x: Tensor,
        steering: Tensor,
        turn: Rotation,
        keys: Keys,
        mask: Tensor | None,
        scale: float,
        hooks: Hooks | None,
    ) -> Tensor:
        """Return the next tokens [B, N, width] for `x` and the four vectors [B or 1, 4 width]."""
        scale_1, gate_1, scale_2, gate_2 = steering.unsqueeze(1).chunk(4, dim=-1)
        u = self.norm1(x) * (1 + scale_1)
        y = self.attn(u, turn, None, None, scale, hooks)
        y = y + self.cross(u, turn, keys, mask, 1.0, hooks) * torch.tanh(self.gate).unsqueeze(-1)
        x = x + torch.tanh(gate_1) * self.norm2(self.out(y.flatten(2)))
        x = x + torch.tanh(gate_2) * self.norm4(self.mlp(self.norm3(x) * (1 + scale_2)))
        return passed(self, x, hooks)


class Lumina(nn.Module):
    """net(x [B, C, H, W], c_noise [B or 1], context=[B, T, context], context_mask=[B, T]) -> [B, C, H, W].

    c_noise is 1 - sigma: 0 is noise, 1 data (`FlowTime(scale=-1, shift=1)`). The output is the velocity eps - x_0: the
    released last matrix gives x_0 - eps, and the trunk turns its sign. `context_mask` is 1 where a token is one.
    """

    once = ("time.*", "vector.*", "*modulation", "*.cross.k", "*.cross.v")  # for `packed`

    def __init__(self, config: LuminaConfig) -> None:
        super().__init__()
        self.config = config
        self.cond: dict[str, Any] = {"context": None, "context_mask": None}
        k, d, narrow = config, config.width, min(config.width, 1024)
        self.patches = nn.Linear(k.channels * k.patch**2, d)
        self.pad = nn.Parameter(torch.zeros(d))  # in released files; nothing reads it
        self.time = NoiseEmbedding(TIME, narrow)
        self.vector = nn.Sequential(nn.LayerNorm(k.context), nn.Linear(k.context, narrow))
        self.blocks = nn.ModuleList(Block(k) for _ in range(k.layers))
        self.modulation = nn.Linear(narrow, d)
        self.out = nn.Linear(d, k.patch**2 * k.channels * (2 if k.variance else 1))
        self._initialise()

    def _initialise(self) -> None:
        """Modulations, the text's vector and the last matrix start at zero, others Xavier-uniform, as in its code."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                zero = name in ("out", "vector.1") or name.endswith("modulation")
                (nn.init.zeros_ if zero else nn.init.xavier_uniform_)(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, c_noise: Tensor, hooks: Hooks | None = None, **cond: Any) -> Tensor:
        """Return trunk(x, embed(c_noise), **condition(**cond))."""
        return self.trunk(x, self.embed(c_noise), **self.condition(**cond), hooks=hooks)

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return [N, 1 + width]: 1 where the label is below the watershed, else 0, and the label's embedding."""
        emb = self.time(c_noise)
        return torch.cat(((c_noise < self.config.watershed).to(emb.dtype).unsqueeze(-1), emb), dim=-1)

    def condition(self, context: Tensor | None = None, context_mask: Tensor | None = None) -> dict[str, Any]:
        """Return what depends on the conditions alone, as the keyword arguments of `trunk`."""
        k, dtype = self.config, self.patches.weight.dtype
        if context is None or context.ndim != 3 or context.shape[-1] != k.context:
            got = "none" if context is None else str(list(context.shape))
            raise InputError(f"this network needs context [B, T, {k.context}] (the text's tokens), got {got}")
        context = context.to(dtype)
        if context_mask is None:
            mean = context.float().mean(1)
        else:
            here = context_mask.float().unsqueeze(-1)
            mean = (context * here).sum(1) / here.sum(1).clamp(min=1.0)
        return {
            "keys": [block.keys(context) for block in cast("Iterable[Block]", self.blocks)],
            "mask": seen(context_mask, dtype),
            "vector": self.vector(mean.to(dtype)),
        }

    def steer(self, emb: Tensor, *, vector: Tensor, **_: Any) -> tuple[list[Tensor], Tensor]:
        """Return what each block and the last norm read of the time and the vector: the trunk's `steering`."""
        silu_c = F.silu(emb[..., 1:] + vector)
        return [cast(Block, block).modulation(silu_c) for block in self.blocks], self.modulation(silu_c)

    def tables(self, x: Tensor) -> tuple[Rotation, Rotation | None]:
        """Return the rotations of the tokens before the watershed and after it, None where they are one.

        (cos, sin), each [tokens, d / 2]: pairs turn with the row and the column, by turns. The trunk's `tables`.
        """
        k = self.config
        rows, columns = (n // k.patch for n in x.shape[2:])
        f, pairs = math.sqrt(rows * columns) / k.base, k.width // k.heads // 4
        by_row = torch.arange(rows, device=x.device).repeat_interleave(columns)
        by_column = torch.arange(columns, device=x.device).repeat(rows)

        def turned(w: Tensor) -> Rotation:
            return rotation(torch.stack((torch.outer(by_row, w), torch.outer(by_column, w)), dim=-1).flatten(-2))

        early = turned(frequencies(pairs, device=x.device) / f)
        same = rows * columns == k.base**2
        return early, None if same else turned(frequencies(pairs, theta=10_000.0 * f, device=x.device))

    def trunk(
        self,
        x: Tensor,
        emb: Tensor,
        *,
        keys: list[Keys],
        vector: Tensor,
        mask: Tensor | None = None,
        steering: tuple[list[Tensor], Tensor] | None = None,
        tables: tuple[Rotation, Rotation | None] | None = None,
        hooks: Hooks | None = None,
    ) -> Tensor:
        """Return the output for x [B, C, H, W], `embed`'s emb [B or 1, ...] and what `condition` gave."""
        k, (height, width) = self.config, x.shape[-2:]
        if x.shape[1] != k.channels or height % k.patch or width % k.patch:
            raise InputError(f"patches of {k.patch} need [B, {k.channels}, H, W], H and W multiples: {list(x.shape)}")
        told, last = self.steer(emb, vector=vector) if steering is None else steering
        h = self.patches(patchify(x, k.patch))
        turn, late = self.tables(x) if tables is None else tables
        if late is not None:
            early = (emb[:, :1] > 0.5)[:, :, None, None]
            turn = torch.where(early, turn[0], late[0]), torch.where(early, turn[1], late[1])
        scale = math.sqrt(math.log(h.shape[1]) / math.log(k.base**2))
        for block, own, text in zip(self.blocks, told, keys, strict=True):
            h = block(h, own, turn, text, mask, scale, hooks)
        h = F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + last.unsqueeze(1))
        return -unpatchify(self.out(h), k.patch, height, width)[:, : k.channels]


def lumina_next() -> LuminaConfig:
    """Return Lumina-Next: 1,754,898,976 parameters."""
    return LuminaConfig()
