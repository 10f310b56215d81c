"""PixArt: DiT that reads a text, with one modulation for all blocks (arXiv 2310.00426; Sigma: 2403.04692)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.config import register
from ..core.errors import InputError
from .blocks.attend import seen
from .blocks.attention import Attention, Keys
from .blocks.embedding import NoiseEmbedding, Sinusoidal, sincos_2d
from .blocks.kernels import gated_add, linear_gelu
from .blocks.transformer import FeedForward, gated, modulate, patchify, unpatchify
from .hooks import Hooks, passed

TIME = Sinusoidal(dim=256)


@register
@dataclass(frozen=True, kw_only=True)
class KVCompression:
    """Self-attention of some `layers` reads its keys and values from windows of `factor` x `factor` tokens.

    k, v -> LN(windows(k)), LN(windows(v)), one learned convolution of each channel alone, which starts as the mean of a
    window (PixArt-Sigma, arXiv 2403.04692, section 3.3). Layers 14 to 27 by factors of 2, the defaults, are Sigma's.
    """

    layers: tuple[int, ...] = tuple(range(14, 28))
    factor: int = 2

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise InputError(f"KVCompression.factor must be at least 2, got {self.factor}")


@register
@dataclass(frozen=True, kw_only=True)
class PixArtConfig:
    """A transformer on patches that reads a text; the defaults are PixArt-alpha's for 512 x 512 (610,856,096 weights).

    - `size`: the side of latents whose tokens stand at the places 0, 1, 2 ... / `scale`; other sizes are stretched to
      the same places. `scale`: 0.5, 1, 2, 4 in the networks for pictures of 256, 512, 1024, 2048 (Sigma's; alpha has 1
      for 256).
    - `context`: width of the text's tokens. `null_tokens`: rows of a learned text that stands for none, which its
      authors' files have (120 in alpha, 300 in Sigma), and diffusers' not.
    - `sizes`: whether it is told the height, the width and their ratio, as alpha for 1024 is.
    - `compression`: of keys and values, in Sigma's networks for 2048.
    - `eps` of the norms in the blocks.
    Raises `InputError` for widths that do not divide.
    """

    size: int = 64
    scale: float = 1.0
    channels: int = 4
    out_channels: int = 8
    patch: int = 2
    width: int = 1152
    layers: int = 28
    heads: int = 16
    context: int = 4096
    null_tokens: int = 0
    sizes: bool = False
    compression: KVCompression | None = None
    eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("size", "channels", "out_channels", "patch", "width", "layers", "heads", "context"):
            if getattr(self, name) < 1:
                raise InputError(f"PixArtConfig.{name} must be at least 1, got {getattr(self, name)}")
        if self.width % self.heads or self.width % 4:
            raise InputError(f"PixArtConfig.width={self.width} must be a multiple of 4 and of heads={self.heads}")
        if self.sizes and self.width % 3:
            raise InputError(f"PixArtConfig.width={self.width} must be a multiple of 3: a third for each size")
        if self.compression is not None and not set(self.compression.layers) <= set(range(self.layers)):
            raise InputError(f"KVCompression.layers={self.compression.layers} are not all below layers={self.layers}")

    def build(self) -> PixArt:
        """Return the network, freshly initialised: its output is zero until it is trained."""
        return PixArt(self)


class Compression(nn.Module):
    """LN(windows(x)): a convolution of each channel alone, `factor` wide and strided, then a learned norm."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.windows = nn.Conv2d(width, width, factor, stride=factor, groups=width)
        self.norm = nn.LayerNorm(width)
        nn.init.constant_(self.windows.weight, factor**-2)
        nn.init.constant_(cast(Tensor, self.windows.bias), 0.0)

    def forward(self, x: Tensor, height: int) -> Tensor:
        """Return [B, N / factor^2, D] of tokens `x` [B, N, D] of a grid of `height` rows."""
        grid = x.transpose(1, 2).unflatten(2, (height, -1))
        return self.norm(self.windows(grid).flatten(2).transpose(1, 2))


class Block(nn.Module):
    """x += g_1 Attention(mod_1 x); x += CrossAttention(x, text); x += g_2 MLP(mod_2 x), mod x = LN(x) (1 + s) + b.

    (b_1, s_1, g_1, b_2, s_2, g_2) = table + the six vectors that all blocks share.
    """

    kind = "block"

    def __init__(self, config: PixArtConfig, layer: int) -> None:
        super().__init__()
        d, compression = config.width, config.compression
        self.eps = config.eps
        self.table = nn.Parameter(torch.empty(6, d).normal_(std=d**-0.5))
        self.attention = Attention(d, config.heads, bias=True)
        narrow = compression is not None and layer in compression.layers
        self.compression = Compression(d, compression.factor) if compression is not None and narrow else None
        self.cross = Attention(d, config.heads, context=d, bias=True)
        self.mlp = FeedForward(d, 4 * d)

    def forward(
        self, x: Tensor, six: Tensor, keys: Keys, mask: Tensor | None, height: int, hooks: Hooks | None = None
    ) -> Tensor:
        """Return the next tokens [B, N, D] for `x`, six vectors [B or 1, 6, D] and a text's keys; `x` may be lost."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = (self.table + six).unsqueeze(2).unbind(1)
        h = modulate(x, shift_1, scale_1, self.eps)
        x = gated(x, gate_1, self.attention(h, self._compressed(h, height), None, hooks), hooks)
        x = x + self.cross(x, keys, mask, hooks)
        x = gated_add(x, gate_2, self.mlp(modulate(x, shift_2, scale_2, self.eps)))
        return passed(self, x, hooks)

    def _compressed(self, h: Tensor, height: int) -> Keys | None:
        if self.compression is None:
            return None
        k, v = (self.compression(part(h), height) for part in (self.attention.k, self.attention.v))
        return self.attention.split(k), self.attention.split(v)


class TextProjection(nn.Module):
    """W_2 GELU(W_1 x + b_1) + b_2, GELU in its tanh form, from the width of the text to that of the network."""

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(context, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, T, width] of `x` [B, T, context]."""
        return self.fc2(linear_gelu(self.fc1, x))


class PixArt(nn.Module):
    """net(x [B, C, H, W], c_noise [B or 1], context=[B, T, width], ...) -> [B, out_channels, H, W].

    Conditions: `context`, `context_mask` [B, T] (1 where a token is one), and `sizes` [B, 3] where the configuration
    has them: height and width of the picture in pixels, and height / width. forward =
    trunk(x, embed(c_noise), **condition(**cond)): a run computes keys and values of the text, and the modulation of all
    blocks, once. H and W are multiples of the patch (and of the compression's factor times it).
    """

    null: Tensor

    # for `packed`
    once = ("time.*", "resolution.*", "ratio.*", "modulation", "text.*", "*.cross.k", "*.cross.v")

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        self.config = config
        k, d = config, config.width
        self.patches = nn.Linear(k.channels * k.patch**2, d)
        self.time = NoiseEmbedding(TIME, d)
        self.resolution = NoiseEmbedding(TIME, d // 3) if k.sizes else None
        self.ratio = NoiseEmbedding(TIME, d // 3) if k.sizes else None
        self.modulation = nn.Linear(d, 6 * d)
        self.text = TextProjection(k.context, d)
        if k.null_tokens:
            self.register_buffer("null", torch.empty(k.null_tokens, k.context).normal_(std=k.context**-0.5))
        self.blocks = nn.ModuleList(Block(k, layer) for layer in range(k.layers))
        self.table = nn.Parameter(torch.empty(2, d).normal_(std=d**-0.5))
        self.out = nn.Linear(d, k.patch**2 * k.out_channels)
        self._initialise()

    def _initialise(self) -> None:
        small = ("time.", "resolution.", "ratio.", "modulation", "text.")
        for name, module in self.named_modules():
            if not isinstance(module, nn.Linear):
                continue
            nn.init.zeros_(module.bias)
            if name == "out" or name.endswith("cross.out"):
                nn.init.zeros_(module.weight)
            elif name.startswith(small):
                nn.init.normal_(module.weight, std=0.02)
            else:
                nn.init.xavier_uniform_(module.weight)

    @property
    def cond(self) -> dict[str, Any]:
        """The condition keys with their null values: that of the text is learned, where there is one."""
        known: dict[str, Any] = {"context": self.null if self.config.null_tokens else None, "context_mask": None}
        return known | ({"sizes": None} if self.config.sizes else {})

    def forward(self, x: Tensor, c_noise: Tensor, hooks: Hooks | None = None, **cond: Any) -> Tensor:
        """Return trunk(x, embed(c_noise), **condition(**cond))."""
        return self.trunk(x, self.embed(c_noise), **self.condition(**cond), hooks=hooks)

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return what depends on noise labels [N] alone: [N, 7 width], the embedding e and the six vectors of it, or
        only e where sizes join it.
        """
        e = self.time(c_noise)
        return e if self.config.sizes else self._steering(e)

    def _steering(self, e: Tensor) -> Tensor:
        return torch.cat((e, self.modulation(F.silu(e))), dim=-1)

    def condition(
        self, context: Tensor | None = None, context_mask: Tensor | None = None, sizes: Tensor | None = None
    ) -> dict[str, Any]:
        """Return what depends on the conditions alone, as the keyword arguments of `trunk`."""
        k, dtype = self.config, self.out.weight.dtype
        if context is None or context.ndim != 3 or context.shape[-1] != k.context:
            got = "none" if context is None else str(list(context.shape))
            raise InputError(f"this PixArt needs a context [B, T, {k.context}] (the text's tokens), got {got}")
        if k.sizes and (sizes is None or sizes.shape[-1] != 3):
            raise InputError("this PixArt needs sizes [B, 3]: height and width in pixels, and height / width")
        text = self.text(context.to(dtype))
        vector: Tensor | None = None
        if sizes is not None and self.resolution is not None and self.ratio is not None:
            place = self.resolution(sizes[:, :2].flatten()).unflatten(0, (-1, 2)).flatten(1)
            vector = torch.cat((place, self.ratio(sizes[:, 2])), dim=-1)
        keys = [block.cross.keys(text) for block in self.blocks]  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        return {"keys": keys, "mask": seen(context_mask, dtype), "vector": vector}

    def steer(self, emb: Tensor, *, vector: Tensor | None = None, **_: Any) -> Tensor:
        """Return [..., N, 7, width], the embedding and the six vectors of it: the trunk's `steering`."""
        return (emb if vector is None else self._steering(emb + vector)).unflatten(-1, (7, -1))

    def tables(self, x: Tensor) -> Tensor:
        """Return the positions of the tokens, the trunk's `tables`."""
        k = self.config
        rows, columns = (n // k.patch for n in x.shape[2:])
        places = sincos_2d(k.width, rows, columns, base=k.size // k.patch, scale=k.scale, device=x.device)
        return places.to(self.out.weight.dtype)

    def trunk(
        self,
        x: Tensor,
        emb: Tensor,
        *,
        keys: list[Keys],
        mask: Tensor | None = None,
        vector: Tensor | None = None,
        steering: Tensor | None = None,
        tables: Tensor | None = None,
        hooks: Hooks | None = None,
    ) -> Tensor:
        """Return the output for x [B, C, H, W], `embed`'s emb [B or 1, ...] and what `condition` gave."""
        k, (height, width) = self.config, x.shape[2:]
        step = k.patch if k.compression is None else k.patch * k.compression.factor
        if x.shape[1] != k.channels or height % step or width % step:
            raise InputError(f"this PixArt takes [B, {k.channels}, H, W], H, W multiples of {step}: {list(x.shape)}")
        steering = self.steer(emb, vector=vector) if steering is None else steering
        e, six = steering[:, :1], steering[:, 1:]
        h = self.patches(patchify(x, k.patch)) + (self.tables(x) if tables is None else tables)
        for block, seen_keys in zip(self.blocks, keys, strict=True):
            h = block(h, six, seen_keys, mask, height // k.patch, hooks)
        shift, scale = (self.table + e).unsqueeze(2).unbind(1)
        return unpatchify(self.out(modulate(h, shift, scale)), k.patch, height, width)


def pixart_alpha(picture: int = 512) -> PixArtConfig:
    """Return PixArt-alpha for pictures of 256, 512 (610,856,096 parameters) or 1024 (611,349,152) pixels."""
    return PixArtConfig(size=picture // 8, scale=max(picture / 512, 1.0), sizes=picture == 1024)


def pixart_sigma(picture: int = 1024) -> PixArtConfig:
    """Return PixArt-Sigma for pictures of 256, 512, 1024 (610,856,096 parameters) or 2048 (keys compressed) pixels."""
    compression = KVCompression() if picture == 2048 else None
    return PixArtConfig(size=picture // 8, scale=picture / 512, compression=compression)
