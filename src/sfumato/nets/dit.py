"""DiT with adaLN-Zero (Peebles & Xie 2022, arXiv 2212.09748)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..core.config import register
from ..core.errors import InputError
from .blocks.embedding import LabelEmbedding, NoiseEmbedding, Sinusoidal, sincos_2d
from .blocks.kernels import gated_add
from .blocks.transformer import FeedForward, SelfAttention, modulate, patchify, unpatchify

TIME = Sinusoidal(dim=256)


@register
@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """A transformer on the patches of `size` x `size` images, steered by c = embed(c_noise) + label(y).

    - `size`, `channels`: of the image, 32 and 4 for the latents of a 256 x 256 image.
    - `out_channels`: `channels` when None; the paper's networks have twice as many (a learned variance).
    - `patch`: side of a patch; `width`, `layers`, `heads` of the transformer; `mlp_ratio` the feed-forward width over
      `width`. The paper's sizes (table 1) are `dit_s`, `dit_b`, `dit_l` and `dit_xl`, to be changed by
      `dataclasses.replace`; the defaults are S/2's.
    - `num_classes`: None, or the number of classes.
    - `time`: the features of c_noise, the paper's 256 sinusoids of a label 0..1000.

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

    def __post_init__(self) -> None:
        for name in ("size", "channels", "patch", "width", "layers", "heads"):
            if getattr(self, name) < 1:
                raise InputError(f"DiTConfig.{name} must be at least 1, got {getattr(self, name)}")
        if self.size % self.patch:
            raise InputError(f"DiTConfig.size={self.size} must be a multiple of patch={self.patch}")
        if self.width % self.heads or self.width % 4:
            raise InputError(f"DiTConfig.width={self.width} must be a multiple of 4 and of heads={self.heads}")

    def build(self) -> DiT:
        """Return the network, freshly initialised: its output is zero until it is trained."""
        return DiT(self)


class Block(nn.Module):
    """x += g_1 Attention(LN(x) (1 + s_1) + b_1); x += g_2 MLP(LN(x) (1 + s_2) + b_2); b, s, g = W SiLU(c) + bias."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.mlp = FeedForward(width, hidden)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, silu_c: Tensor) -> Tensor:
        """Return the next tokens [B, N, D] for tokens `x` and SiLU(c) [B or 1, D]; `x` may be overwritten."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(silu_c).unsqueeze(1).chunk(6, dim=-1)
        x = gated_add(x, gate_1, self.attention(modulate(x, shift_1, scale_1)))
        return gated_add(x, gate_2, self.mlp(modulate(x, shift_2, scale_2)))


class DiT(nn.Module):
    """net(x [B, C, size, size], c_noise [B] or [1], y=int[B]) -> [B, out_channels, size, size], y where it has classes.

    The adaLN matrices and the last matrix start at zero, so each block starts as the identity and the output as 0
    (section 3.2); other matrices start Xavier-uniform, biases zero, the embeddings N(0, 0.02^2): the paper's code.
    """

    positions: Tensor

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        d, p = config.width, config.patch
        out = config.channels if config.out_channels is None else config.out_channels
        self.patches = nn.Linear(config.channels * p * p, d)
        self.register_buffer("positions", sincos_2d(d, config.size // p, config.size // p))
        self.time = NoiseEmbedding(config.time, d)
        self.label = None if config.num_classes is None else LabelEmbedding(config.num_classes, d)
        self.cond: dict[str, Any] = {} if self.label is None else {"y": self.label.null}
        hidden = int(d * config.mlp_ratio)
        self.blocks = nn.ModuleList(Block(d, config.heads, hidden) for _ in range(config.layers))
        self.modulation = nn.Linear(d, 2 * d)
        self.out = nn.Linear(d, p * p * out)
        self._initialise()

    def _initialise(self) -> None:
        for name, module in self.named_modules():
            if not isinstance(module, nn.Linear):
                continue
            nn.init.zeros_(module.bias)
            if name.startswith("time."):
                nn.init.normal_(module.weight, std=0.02)
            elif name == "out" or name.endswith("modulation"):
                nn.init.zeros_(module.weight)
            else:
                nn.init.xavier_uniform_(module.weight)

    def forward(self, x: Tensor, c_noise: Tensor, y: Tensor | int | None = None) -> Tensor:
        """Return the output for class labels `y` (no class without them)."""
        return self.trunk(x, self.embed(c_noise), y)

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return the embeddings [N, width] of noise labels [N]."""
        return self.time(c_noise)

    def trunk(self, x: Tensor, emb: Tensor, y: Tensor | int | None = None) -> Tensor:
        """Return the output for the embeddings `emb` of one row or of B."""
        size = self.config.size
        if x.shape[1:] != (self.config.channels, size, size):
            raise InputError(f"this DiT takes [B, {self.config.channels}, {size}, {size}], got {list(x.shape)}")
        if self.label is not None:
            emb = emb + self.label(y)
        elif y is not None:
            raise InputError("this DiT has no classes: leave y out, or set DiTConfig.num_classes")
        silu_c = F.silu(emb)
        h = self.patches(patchify(x, self.config.patch)) + self.positions
        for block in self.blocks:
            h = block(h, silu_c)
        shift, scale = self.modulation(silu_c).unsqueeze(1).chunk(2, dim=-1)
        return unpatchify(self.out(modulate(h, shift, scale)), self.config.patch, size, size)


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
