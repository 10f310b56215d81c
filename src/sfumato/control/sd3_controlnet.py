"""ControlNets of Stable Diffusion 3 and 3.5: a copy of the first blocks, whose outputs go to the host's blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.config import register
from ..core.errors import InputError
from ..nets.blocks.checks import check_counts
from ..nets.blocks.embedding import NoiseEmbedding
from ..nets.blocks.joint import JointBlock, PatchEmbedding, initialised_as_dit
from ..nets.hooks import Site
from ..nets.mmdit import TIME, MMDiT, needed


@register
@dataclass(frozen=True, kw_only=True)
class SD3ControlNetConfig:
    """The shape of a ControlNet for an `MMDiT`; the defaults are those of InstantX's for Stable Diffusion 3 medium
    (538,805,760 parameters).

    - `channels` of the latent and of the hint's, which has `extra` more (a mask, for in-painting).
    - `layers`: its blocks, n; the host's block i of L gets residual floor(i n / L).
    - `context`: the width of the text's tokens; 0: it sees no text, and its blocks are those of the image alone.
    - `positions`: the side of its own table of positions; 0: it has no patches of its own and sees the host's tokens.
    - `pooled`: the width of the pooled text; `ignores_pooled`: zeros stand for it, as these were trained.
    The rest is as in `MMDiTConfig`. Raises `InputError` for counts below 1, and for `normed` and `dual` where there is
    no text stream: no released network has them.
    """

    channels: int = 16
    extra: int = 0
    patch: int = 2
    layers: int = 6
    heads: int = 24
    head_width: int = 64
    context: int = 4096
    pooled: int = 2048
    ignores_pooled: bool = True
    positions: int = 192
    base: int = 64
    normed: bool = False
    dual: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_counts(self, "channels", "patch", "layers", "heads", "head_width", "pooled", "base")
        if not self.context and (self.normed or self.dual):
            raise InputError("SD3ControlNetConfig without a context has neither normed nor dual blocks")

    @property
    def width(self) -> int:
        """The width of a token."""
        return self.heads * self.head_width

    def build(self) -> SD3ControlNet:
        """Return the network, freshly initialised: its residuals are zero until it is trained."""
        return SD3ControlNet(self)


class SD3ControlNet(nn.Module):
    """net(x, c_noise [B or 1], hint=[B, channels + extra, H, W], context=..., pooled=...) -> n residuals [B, N, width].

    x is the host's input [B, channels, H, W], or its tokens [B, N, width] where `positions` is 0. Used by `Controlled`.
    """

    once = ("hint.*", "text", *MMDiT.once)

    def __init__(self, config: SD3ControlNetConfig) -> None:
        super().__init__()
        self.config = config
        k, d = config, config.width
        self.cond: dict[str, Any] = {"hint": None, "pooled": None} | ({"context": None} if k.context else {})
        self.patches = PatchEmbedding(k.channels, k.patch, d, side=k.positions, base=k.base) if k.positions else None
        self.hint = PatchEmbedding(k.channels + k.extra, k.patch, d)
        self.time = NoiseEmbedding(TIME, d)
        self.vector = nn.Sequential(nn.Linear(k.pooled, d), nn.SiLU(), nn.Linear(d, d))
        self.text = nn.Linear(k.context, d) if k.context else None
        self.blocks = nn.ModuleList(
            JointBlock(d, k.heads, normed=k.normed, dual=i in k.dual, text=k.context > 0) for i in range(k.layers)
        )
        self.outs = nn.ModuleList(nn.Linear(d, d) for _ in range(k.layers))
        initialised_as_dit(self)
        for layer in (self.hint.matrix, *cast("list[nn.Linear]", list(self.outs))):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, c_noise: Tensor, **cond: Any) -> list[Tensor]:
        """Return trunk(x, embed(c_noise), **condition(**cond))."""
        return self.trunk(x, self.embed(c_noise), **self.condition(**cond))

    def seen(self, host: nn.Module, x: Tensor) -> Tensor:
        """Return `x`, or the host's tokens of it."""
        return x if self.patches is not None else cast(MMDiT, host).patches(x)

    def places(self, known: Sequence[Site]) -> list[tuple[Site, int]]:
        """Return (block of the host, number of its residual): every block but the last one."""
        blocks = [site for site in known if site.kind == "block"]
        if len(blocks) < 2:
            raise InputError("a ControlNet of Stable Diffusion 3 needs an MMDiT for a host")
        return [(site, i * self.config.layers // len(blocks)) for i, site in enumerate(blocks[:-1])]

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return the embeddings [N, width] of noise labels [N]."""
        return self.time(c_noise)

    def condition(
        self, hint: Tensor | None = None, context: Tensor | None = None, pooled: Tensor | None = None
    ) -> dict[str, Any]:
        """Return what depends on the conditions alone, as the keyword arguments of `trunk`."""
        k, weight = self.config, self.hint.matrix.weight
        if hint is None:
            raise InputError(f"this ControlNet needs a hint [B, {k.channels + k.extra}, H, W], the latent of a picture")
        if k.ignores_pooled:
            pooled = torch.zeros(1, k.pooled, device=weight.device)
        text = None
        if self.text is not None:
            text = self.text(needed("context", context, k.context, 3).to(weight.dtype))
        return {
            "hint": self.hint(hint.to(weight.dtype)),
            "vector": self.vector(needed("pooled", pooled, k.pooled, 2).to(weight.dtype)),
            "text": text,
        }

    def steer(self, emb: Tensor, *, vector: Tensor, **_: Any) -> list[tuple[Tensor, Tensor | None]]:
        """Return what each block reads of the time and the vector, the trunk's `steering`."""
        silu_c = F.silu(emb + vector)
        return [cast(JointBlock, block).steer(silu_c) for block in self.blocks]

    def trunk(
        self,
        x: Tensor,
        emb: Tensor,
        *,
        hint: Tensor,
        vector: Tensor,
        text: Tensor | None = None,
        steering: list[tuple[Tensor, Tensor | None]] | None = None,
    ) -> list[Tensor]:
        """Return the residuals for `x`, `embed`'s emb [B or 1, width] and what `condition` gave."""
        told = self.steer(emb, vector=vector) if steering is None else steering
        h = (x if self.patches is None else self.patches(x)) + hint
        found: list[Tensor] = []
        for block, own, out in zip(self.blocks, told, self.outs, strict=True):
            h, text = block(h, text, own)
            found.append(out(h))
        return found


def copied(host: MMDiT, layers: int, extra: int = 0) -> SD3ControlNet:
    """Return a ControlNet that starts as a copy of the host's first blocks, its residuals zero (arXiv 2302.05543)."""
    shared = {k: v for k, v in asdict(host.config).items() if k not in ("out_channels", "layers", "dual")}
    dual = tuple(i for i in host.config.dual if i < layers)
    net = SD3ControlNetConfig(**shared, layers=layers, extra=extra, dual=dual).build()
    own = net.state_dict()
    net.load_state_dict(
        {k: v for k, v in host.state_dict().items() if k in own and own[k].shape == v.shape}, strict=False
    )
    return net


def sd3_instantx() -> SD3ControlNetConfig:
    """Return InstantX's for Stable Diffusion 3 medium: 6 blocks; 538,805,760 parameters."""
    return SD3ControlNetConfig()


def sd35_large_stability() -> SD3ControlNetConfig:
    """Return Stability's for Stable Diffusion 3.5 large (blur, canny, depth): 19 blocks of the image alone."""
    return SD3ControlNetConfig(layers=19, heads=38, context=0, positions=0)
