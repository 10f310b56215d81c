"""Latent DiffiT: a vision transformer whose attention knows the time (Hatamizadeh et al. 2023, arXiv 2312.02139)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from ..core.config import register
from ..core.errors import InputError
from .blocks.checks import check_counts
from .blocks.embedding import LabelEmbedding, NoiseEmbedding, Sinusoidal, sincos_2d
from .blocks.tmsa import TimeBlock, differences
from .blocks.transformer import patchify, unpatchify
from .hooks import Hooks, passed

TIME = Sinusoidal(dim=256)


@register
@dataclass(frozen=True, kw_only=True)
class DiffiTConfig:
    """The shape of a latent DiffiT; the defaults are those of ImageNet at 256 (561,035,232 parameters).

    - `size`, `channels` of the latent; `out_channels`: twice as many, for a learned variance.
    - `patch`: side of a patch; `width`, `layers`, `heads`, `mlp_ratio` of the transformer.
    - `num_classes`: None, or the number of classes, whose embedding is added to the time's.
    Raises `InputError` for counts below 1, and sizes that do not divide.
    """

    size: int = 32
    channels: int = 4
    out_channels: int = 8
    patch: int = 2
    width: int = 1152
    layers: int = 28
    heads: int = 16
    mlp_ratio: float = 4.0
    num_classes: int | None = 1000

    def __post_init__(self) -> None:
        check_counts(self, "size", "channels", "out_channels", "patch", "width", "layers", "heads")
        if self.size % self.patch:
            raise InputError(f"DiffiTConfig.size={self.size} must be a multiple of patch={self.patch}")
        if self.width % self.heads or self.width % 4:
            raise InputError(f"DiffiTConfig.width={self.width} must be a multiple of 4 and of heads={self.heads}")

    def build(self) -> DiffiT:
        """Return the network, freshly initialised: its output is zero until it is trained."""
        return DiffiT(self)


class Block(TimeBlock):
    """A block of the trunk: a site of kind "block"."""

    kind = "block"

    def forward(self, x: Tensor, told: Tensor, index: Tensor, hooks: Hooks | None = None) -> Tensor:
        """Return the next tokens [B, 1, N, width]."""
        return passed(self, super().forward(x, told, index, hooks), hooks)


class DiffiT(nn.Module):
    """net(x [B, C, size, size], c_noise [B or 1], y=int[B]) -> [B, out_channels, size, size].

    The only window is the whole grid. Matrices start Xavier-uniform, embeddings N(0, 0.02^2), the last matrix zero.
    """

    positions: Tensor

    once = ("time.*", "label.*", "*.attn.time")  # for `packed`

    def __init__(self, config: DiffiTConfig) -> None:
        super().__init__()
        self.config = config
        k, d, side = config, config.width, config.size // config.patch
        self.patches = nn.Linear(k.channels * k.patch**2, d)
        self.register_buffer("positions", sincos_2d(d, side, side))
        self.time = NoiseEmbedding(TIME, d)
        self.label = None if k.num_classes is None else LabelEmbedding(k.num_classes, d)
        self.cond: dict[str, Any] = {} if self.label is None else {"y": self.label.null}
        self.blocks = nn.ModuleList(Block(d, k.heads, side, d, int(d * k.mlp_ratio)) for _ in range(k.layers))
        self.out = nn.Linear(d, k.patch**2 * k.out_channels)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
                if name.startswith("time."):
                    nn.init.normal_(module.weight, std=0.02)
                else:
                    (nn.init.zeros_ if name == "out" else nn.init.xavier_uniform_)(module.weight)

    def forward(self, x: Tensor, c_noise: Tensor, hooks: Hooks | None = None, **cond: Any) -> Tensor:
        """Return trunk(x, embed(c_noise), **condition(**cond))."""
        return self.trunk(x, self.embed(c_noise), **self.condition(**cond), hooks=hooks)

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return the embeddings [N, width] of noise labels [N]."""
        return self.time(c_noise)

    def condition(self, y: Tensor | int | None = None) -> dict[str, Any]:
        """Return the embeddings of the class labels `y`, of no class without them."""
        if self.label is None and y is not None:
            raise InputError("this DiffiT has no classes: leave y out, or set DiffiTConfig.num_classes")
        return {"label": None if self.label is None else self.label(y)}

    def steer(self, emb: Tensor, *, label: Tensor | None = None) -> list[Tensor]:
        """Return what each block reads of the time and the class: the trunk's `steering`."""
        c = emb if label is None else emb + label
        return [cast(Block, block).steer(c) for block in self.blocks]

    def tables(self, x: Tensor) -> Tensor:
        """Return the differences of places, the trunk's `tables`."""
        return differences(self.config.size // self.config.patch, x.device)

    def trunk(
        self,
        x: Tensor,
        emb: Tensor,
        *,
        label: Tensor | None = None,
        steering: list[Tensor] | None = None,
        tables: Tensor | None = None,
        hooks: Hooks | None = None,
    ) -> Tensor:
        """Return the output for x [B, C, size, size], emb [B or 1, width] and what `condition` gave."""
        k = self.config
        if x.shape[1:] != (k.channels, k.size, k.size):
            raise InputError(f"this DiffiT takes [B, {k.channels}, {k.size}, {k.size}], got {list(x.shape)}")
        told = self.steer(emb, label=label) if steering is None else steering
        index = self.tables(x) if tables is None else tables
        h = (self.patches(patchify(x, k.patch)) + self.positions).unsqueeze(1)
        for block, own in zip(self.blocks, told, strict=True):
            h = block(h, own, index, hooks)
        h = F.silu(F.layer_norm(h.squeeze(1), h.shape[-1:], eps=1e-6))
        return unpatchify(self.out(h), k.patch, k.size, k.size)


def diffit_xl(size: int = 32) -> DiffiTConfig:
    """Return the latent DiffiT of ImageNet at 8 `size` pixels: 561 M parameters at 256."""
    return DiffiTConfig(size=size)
