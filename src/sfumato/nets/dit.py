"""DiT: a transformer on patches, and the four ways of telling it t and y (Peebles & Xie, arXiv 2212.09748)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.config import register
from ..core.errors import InputError
from .blocks.attention import Attention, Keys
from .blocks.embedding import LabelEmbedding, NoiseEmbedding, Sinusoidal, sincos_2d
from .blocks.kernels import gated_add
from .blocks.transformer import AdaptiveNorm, FeedForward, SelfAttention, gated, modulate, patchify, unpatchify
from .hooks import Hooks, passed

TIME = Sinusoidal(dim=256)


class Conditioning(ABC):
    """How the blocks are told the embeddings of the noise label t and of the class y (arXiv 2212.09748, section 3.2).

    `gather(t, y)` is what the blocks read; `enter` and `leave` put it among the tokens and take it out again, where it
    goes there; `block` and `final` build a block, and the norm before the last matrix. Both have `steer(c)`, what they
    make of it before they see a token: a run does that ahead.
    """

    @abstractmethod
    def gather(self, t: Tensor, y: Tensor | None) -> Tensor:
        """Return what the blocks read of t [..., B or 1, D] and y [B or 1, D], None without classes."""

    @abstractmethod
    def block(self, config: DiTConfig) -> nn.Module:
        """Return one block, called as `block(tokens, steer(c), hooks)`, which returns the next tokens."""

    @abstractmethod
    def final(self, width: int) -> nn.Module:
        """Return the norm before the last matrix, called as `norm(tokens, steer(c))`."""

    def enter(self, h: Tensor, c: Tensor) -> Tensor:
        """Return the tokens [B, N, D] as the first block takes them."""
        return h

    def leave(self, h: Tensor, n: int) -> Tensor:
        """Return the N = `n` tokens of the image after the last block."""
        return h


class Adaptive(Conditioning):
    """Norms that are steered by SiLU(t + y): the common part of adaLN and adaLN-Zero."""

    def gather(self, t: Tensor, y: Tensor | None) -> Tensor:
        """Return SiLU(t + y)."""
        return F.silu(t if y is None else t + y)

    def final(self, width: int) -> nn.Module:
        """Return the adaptive norm."""
        return AdaptiveNorm(width)


@register
@dataclass(frozen=True, kw_only=True)
class AdaLNZero(Adaptive):
    """Each block's norms are shifted and scaled and its branches gated, all by zero at first: the paper's best."""

    def block(self, config: DiTConfig) -> nn.Module:
        """Return a block with six vectors."""
        return Block(config)


@register
@dataclass(frozen=True, kw_only=True)
class AdaLN(Adaptive):
    """Each block's norms are shifted and scaled; no gates, and no zeros at first."""

    def block(self, config: DiTConfig) -> nn.Module:
        """Return a block with four vectors."""
        return UngatedBlock(config)


class Tokens(Conditioning):
    """t and y as tokens of their own: the common part of in-context conditioning and cross-attention."""

    def gather(self, t: Tensor, y: Tensor | None) -> Tensor:
        """Return [t, y] as tokens [..., B or 1, 2, D]; t alone without classes."""
        return t.unsqueeze(-2) if y is None else torch.stack(torch.broadcast_tensors(t, y), dim=-2)

    def final(self, width: int) -> nn.Module:
        """Return an ordinary norm."""
        return PlainNorm(width)


@register
@dataclass(frozen=True, kw_only=True)
class InContext(Tokens):
    """t and y stand at the end of the sequence, two tokens like all others, through ordinary transformer blocks."""

    def block(self, config: DiTConfig) -> nn.Module:
        """Return an ordinary block."""
        return TokenBlock(config, cross=False)

    def enter(self, h: Tensor, c: Tensor) -> Tensor:
        """Return the tokens with those of `c` after them."""
        return torch.cat((h, c.expand(len(h), -1, -1)), dim=1)

    def leave(self, h: Tensor, n: int) -> Tensor:
        """Return the first `n` tokens."""
        return h[:, :n]


@register
@dataclass(frozen=True, kw_only=True)
class CrossAttention(Tokens):
    """A second attention of every block reads t and y, a sequence of two tokens."""

    def block(self, config: DiTConfig) -> nn.Module:
        """Return a block with cross-attention."""
        return TokenBlock(config, cross=True)


@register
@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """A transformer on the patches of `size` x `size` images, steered by a noise label and a class.

    - `size`, `channels`: of the image, 32 and 4 for the latents of a 256 x 256 image.
    - `out_channels`: `channels` when None; the paper's networks have twice as many (a learned variance).
    - `patch`: side of a patch; `width`, `layers`, `heads` of the transformer; `mlp_ratio` the feed-forward width over
      `width`. The paper's sizes (table 1) are `dit_s`, `dit_b`, `dit_l` and `dit_xl`, to be changed by
      `dataclasses.replace`; the defaults are S/2's.
    - `num_classes`: None, or the number of classes.
    - `time`: the features of c_noise, the paper's 256 sinusoids of a label 0..1000.
    - `conditioning`: `AdaLNZero`, or one of the three that the paper compares it with.
    - `mlp_eps`: eps of the norm before the feed-forward layer; diffusers' files have 1e-5 there, the paper's code 1e-6.

    Raises `InputError` for sizes that do not divide.
    """

    size: int = 32
    channels: int = 4
    out_channels: int | None = None
    patch: int = 2
    width: int = 384
    layers: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    num_classes: int | None = None
    time: Sinusoidal = TIME
    conditioning: Conditioning = field(default_factory=AdaLNZero)
    mlp_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("size", "channels", "patch", "width", "layers", "heads"):
            if getattr(self, name) < 1:
                raise InputError(f"DiTConfig.{name} must be at least 1, got {getattr(self, name)}")
        if self.size % self.patch:
            raise InputError(f"DiTConfig.size={self.size} must be a multiple of patch={self.patch}")
        if self.width % self.heads or self.width % 4:
            raise InputError(f"DiTConfig.width={self.width} must be a multiple of 4 and of heads={self.heads}")

    @property
    def hidden(self) -> int:
        """Width of the feed-forward layers."""
        return int(self.width * self.mlp_ratio)

    def build(self) -> DiT:
        """Return the network, freshly initialised: its output is zero until it is trained."""
        return DiT(self)


class Block(nn.Module):
    """x += g_1 Attention(LN(x) (1 + s_1) + b_1); x += g_2 MLP(LN(x) (1 + s_2) + b_2); b, s, g = W SiLU(c) + bias."""

    kind = "block"

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.heads)
        self.mlp = FeedForward(config.width, config.hidden)
        self.modulation = nn.Linear(config.width, 6 * config.width)
        self.eps = config.mlp_eps

    def steer(self, c: Tensor) -> Tensor:
        """Return the six vectors for SiLU(t + y) [..., D]: [..., 6 D]."""
        return self.modulation(c)

    def forward(self, x: Tensor, steering: Tensor, hooks: Hooks | None = None) -> Tensor:
        """Return the next tokens [B, N, D] for tokens `x` and the six vectors [B or 1, 6 D]; `x` may be overwritten."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = steering.unsqueeze(1).chunk(6, dim=-1)
        x = gated(x, gate_1, self.attention(modulate(x, shift_1, scale_1), hooks), hooks)
        x = gated_add(x, gate_2, self.mlp(modulate(x, shift_2, scale_2, self.eps)))
        return passed(self, x, hooks)


class UngatedBlock(nn.Module):
    """x += Attention(LN(x) (1 + s_1) + b_1); x += MLP(LN(x) (1 + s_2) + b_2); b, s = W SiLU(c) + bias."""

    kind = "block"

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.heads)
        self.mlp = FeedForward(config.width, config.hidden)
        self.modulation = nn.Linear(config.width, 4 * config.width)
        self.eps = config.mlp_eps

    def steer(self, c: Tensor) -> Tensor:
        """Return the four vectors for SiLU(t + y) [..., D]: [..., 4 D]."""
        return self.modulation(c)

    def forward(self, x: Tensor, steering: Tensor, hooks: Hooks | None = None) -> Tensor:
        """Return the next tokens [B, N, D] for tokens `x` and the four vectors [B or 1, 4 D]."""
        shift_1, scale_1, shift_2, scale_2 = steering.unsqueeze(1).chunk(4, dim=-1)
        x = x + self.attention(modulate(x, shift_1, scale_1), hooks)
        x = x + self.mlp(modulate(x, shift_2, scale_2, self.eps))
        return passed(self, x, hooks)


class TokenBlock(nn.Module):
    """x += Attention(LN x); x += CrossAttention(LN x, c) with `cross`; x += MLP(LN x): learned norms, eps 1e-6."""

    kind = "block"

    def __init__(self, config: DiTConfig, *, cross: bool) -> None:
        super().__init__()
        d = config.width
        self.norm_1 = nn.LayerNorm(d, eps=1e-6)
        self.attention = SelfAttention(d, config.heads)
        self.norm_cross = nn.LayerNorm(d, eps=1e-6) if cross else None
        self.cross = Attention(d, config.heads, context=d, bias=True) if cross else None
        self.norm_2 = nn.LayerNorm(d, eps=config.mlp_eps)
        self.mlp = FeedForward(d, config.hidden)

    def steer(self, c: Tensor) -> Keys | None:
        """Return the keys and values of t and y [..., 2, D], None where they are among the tokens."""
        return None if self.cross is None else self.cross.keys(c)

    def forward(self, x: Tensor, steering: Keys | None, hooks: Hooks | None = None) -> Tensor:
        """Return the next tokens [B, N, D] for tokens `x` and keys and values [B or 1, heads, 2, d] of t and y."""
        x = x + self.attention(self.norm_1(x), hooks)
        if self.cross is not None and self.norm_cross is not None and steering is not None:
            k, v = (part.expand(len(x), -1, -1, -1) for part in steering)
            x = x + self.cross(self.norm_cross(x), (k, v), None, hooks)
        x = x + self.mlp(self.norm_2(x))
        return passed(self, x, hooks)


class PlainNorm(nn.Module):
    """LN(x) with its own shift and scale, whatever c."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def steer(self, c: Tensor) -> None:
        """Return nothing."""

    def forward(self, x: Tensor, steering: None) -> Tensor:
        """Return tokens like `x` [B, N, D]."""
        return self.norm(x)


class DiT(nn.Module):
    """net(x [B, C, size, size], c_noise [B] or [1], y=int[B]) -> [B, out_channels, size, size], y where it has classes.

    forward = trunk(x, embed(c_noise), **condition(y)). The adaLN matrices and the last matrix start at zero, so each
    block starts as the identity and the output as 0 (section 3.2); other matrices start Xavier-uniform, biases zero,
    the embeddings N(0, 0.02^2): the paper's code.
    """

    once = ("time.*", "label.*", "*modulation", "*.cross.k", "*.cross.v")  # for `packed`

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        d, p = config.width, config.patch
        out = config.channels if config.out_channels is None else config.out_channels
        self.patches = nn.Linear(config.channels * p * p, d)
        self.time = NoiseEmbedding(config.time, d)
        self.label = None if config.num_classes is None else LabelEmbedding(config.num_classes, d)
        self.cond: dict[str, Any] = {} if self.label is None else {"y": self.label.null}
        self.blocks = nn.ModuleList(config.conditioning.block(config) for _ in range(config.layers))
        self.norm_out = config.conditioning.final(d)
        self.out = nn.Linear(d, p * p * out)
        self._initialise()

    def _initialise(self) -> None:
        for name, module in self.named_modules():
            if not isinstance(module, nn.Linear):
                continue
            nn.init.zeros_(module.bias)
            if name.startswith("time."):
                nn.init.normal_(module.weight, std=0.02)
            elif name == "out" or (name.endswith("modulation") and not isinstance(self.config.conditioning, AdaLN)):
                nn.init.zeros_(module.weight)
            else:
                nn.init.xavier_uniform_(module.weight)

    def forward(self, x: Tensor, c_noise: Tensor, hooks: Hooks | None = None, **cond: Any) -> Tensor:
        """Return trunk(x, embed(c_noise), **condition(**cond))."""
        return self.trunk(x, self.embed(c_noise), **self.condition(**cond), hooks=hooks)

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return the embeddings [N, width] of noise labels [N]."""
        return self.time(c_noise)

    def condition(self, y: Tensor | int | None = None) -> dict[str, Any]:
        """Return the embedding [B, width] of class labels `y` (no class without them), an argument of `trunk`."""
        if self.label is not None:
            return {"label": self.label(y)}
        if y is not None:
            raise InputError("this DiT has no classes: leave y out, or set DiTConfig.num_classes")
        return {}

    def steer(self, emb: Tensor, *, label: Tensor | None = None) -> tuple[Tensor, list[Any], Any]:
        """Return what t and y are told as, what each block and the last norm make of it: the trunk's `steering`."""
        c = self.config.conditioning.gather(emb, label)
        return c, [cast(Block, block).steer(c) for block in self.blocks], cast(AdaptiveNorm, self.norm_out).steer(c)

    def tables(self, x: Tensor) -> Tensor:
        """Return the positions of the tokens, the trunk's `tables`."""
        side = self.config.size // self.config.patch
        return sincos_2d(self.config.width, side, side, device=x.device).to(self.out.weight.dtype)

    def trunk(
        self,
        x: Tensor,
        emb: Tensor,
        *,
        label: Tensor | None = None,
        steering: tuple[Tensor, list[Any], Any] | None = None,
        tables: Tensor | None = None,
        hooks: Hooks | None = None,
    ) -> Tensor:
        """Return the output for the embeddings `emb` and `label` of one row or of B."""
        k = self.config
        if x.shape[1:] != (k.channels, k.size, k.size):
            raise InputError(f"this DiT takes [B, {k.channels}, {k.size}, {k.size}], got {list(x.shape)}")
        c, told, last = self.steer(emb, label=label) if steering is None else steering
        h = self.patches(patchify(x, k.patch)) + (self.tables(x) if tables is None else tables)
        h = k.conditioning.enter(h, c)
        for block, own in zip(self.blocks, told, strict=True):
            h = block(h, own, hooks)
        h = k.conditioning.leave(h, (k.size // k.patch) ** 2)
        return unpatchify(self.out(self.norm_out(h, last)), k.patch, k.size, k.size)


def dit_s(patch: int = 2) -> DiTConfig:
    """Return DiT-S (table 1): 12 layers of width 384, 6 heads; 32.9 M parameters with patch 2 and 1000 classes."""
    return DiTConfig(patch=patch, layers=12, width=384, heads=6)


def dit_b(patch: int = 2) -> DiTConfig:
    """Return DiT-B (table 1): 12 layers of width 768, 12 heads; 130.3 M parameters with patch 2 and 1000 classes."""
    return DiTConfig(patch=patch, layers=12, width=768, heads=12)


def dit_l(patch: int = 2) -> DiTConfig:
    """Return DiT-L (table 1): 24 layers of width 1024, 16 heads; 457.8 M parameters with patch 2 and 1000 classes."""
    return DiTConfig(patch=patch, layers=24, width=1024, heads=16)


def dit_xl(patch: int = 2) -> DiTConfig:
    """Return DiT-XL (table 1): 28 layers of width 1152, 16 heads; 674.8 M parameters with patch 2 and 1000 classes."""
    return DiTConfig(patch=patch, layers=28, width=1152, heads=16)
