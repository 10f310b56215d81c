"""MMDiT, the transformer of Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from ..core.config import register
from ..core.errors import InputError
from .blocks.checks import check_counts
from .blocks.embedding import NoiseEmbedding, Sinusoidal
from .blocks.joint import JointBlock, PatchEmbedding, initialised_as_dit
from .blocks.transformer import modulate, unpatchify
from .hooks import Hooks

TIME = Sinusoidal(dim=256)


@register
@dataclass(frozen=True, kw_only=True)
class MMDiTConfig:
    """The shape of an MMDiT; the defaults are those of Stable Diffusion 3 medium (2,028,328,000 parameters).

    - `channels`, `out_channels` of the latent, `patch` its patches' side.
    - `layers`, `heads`, `head_width`: the width is heads x head_width; one number d sets layers and heads in the paper.
    - `context`: the width of the text's tokens; `pooled`: of the text's vector.
    - `positions`: the side of the stored table of positions, whose centre is used; `base`: the grid it was made for.
    - `normed`: queries and keys RMS-normalised a head (3.5). `dual`: the blocks with a second attention over the image
      (3.5 medium).
    Raises `InputError` for counts below 1, a width that is not a multiple of 4, and dual blocks that are not there.
    """

    channels: int = 16
    out_channels: int = 16
    patch: int = 2
    layers: int = 24
    heads: int = 24
    head_width: int = 64
    context: int = 4096
    pooled: int = 2048
    positions: int = 192
    base: int = 64
    normed: bool = False
    dual: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_counts(self, "channels", "out_channels", "patch", "layers", "heads", "head_width", "context", "pooled")
        check_counts(self, "positions", "base")
        if self.width % 4:
            raise InputError(f"MMDiTConfig: heads x head_width = {self.width} must be a multiple of 4")
        wrong = [i for i in self.dual if not 0 <= i < self.layers]
        if wrong:
            raise InputError(f"MMDiTConfig.dual names block {wrong[0]}, there are 0..{self.layers - 1}")

    @property
    def width(self) -> int:
        """The width of a token."""
        return self.heads * self.head_width

    def build(self) -> MMDiT:
        """Return the network, freshly initialised: its output is zero until it is trained."""
        return MMDiT(self)


class MMDiT(nn.Module):
    """net(x [B, C, H, W], c_noise [B or 1], context=[B, T, context], pooled=[B, pooled]) -> [B, out, H, W].

    c_noise is 1000 sigma (`FlowTime`), the output the velocity eps - x_0. H and W are multiples of the patch, their
    grids at most the table's. Nothing of the text is masked. `condition` is what does not depend on x and the time: the
    text's tokens in the network's width, and the vector that joins the time.
    """

    once = ("time.*", "vector.*", "text", "*modulation")  # for `packed`

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.config = config
        self.cond: dict[str, Any] = {"context": None, "pooled": None}
        k, d = config, config.width
        self.patches = PatchEmbedding(k.channels, k.patch, d, side=k.positions, base=k.base)
        self.time = NoiseEmbedding(TIME, d)
        self.vector = nn.Sequential(nn.Linear(k.pooled, d), nn.SiLU(), nn.Linear(d, d))
        self.text = nn.Linear(k.context, d)
        self.blocks = nn.ModuleList(
            JointBlock(d, k.heads, normed=k.normed, dual=i in k.dual, last=i == k.layers - 1) for i in range(k.layers)
        )
        self.modulation = nn.Linear(d, 2 * d)
        self.out = nn.Linear(d, k.patch**2 * k.out_channels)
        initialised_as_dit(self)

    def forward(self, x: Tensor, c_noise: Tensor, hooks: Hooks | None = None, **cond: Any) -> Tensor:
        """Return trunk(x, embed(c_noise), **condition(**cond))."""
        return self.trunk(x, self.embed(c_noise), **self.condition(**cond), hooks=hooks)

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return the embeddings [N, width] of noise labels [N]."""
        return self.time(c_noise)

    def condition(self, context: Tensor | None = None, pooled: Tensor | None = None) -> dict[str, Any]:
        """Return what depends on the conditions alone, as the keyword arguments of `trunk`."""
        k, dtype = self.config, self.text.weight.dtype
        return {
            "text": self.text(needed("context", context, k.context, 3).to(dtype)),
            "vector": self.vector(needed("pooled", pooled, k.pooled, 2).to(dtype)),
        }

    def steer(self, emb: Tensor, *, vector: Tensor, **_: Any) -> tuple[list[tuple[Tensor, Tensor | None]], Tensor]:
        """Return what each block and the last norm read of the time and the vector: the trunk's `steering`."""
        silu_c = F.silu(emb + vector)
        return [cast(JointBlock, block).steer(silu_c) for block in self.blocks], self.modulation(silu_c)

    def trunk(
        self,
        x: Tensor,
        emb: Tensor,
        *,
        text: Tensor,
        vector: Tensor,
        steering: tuple[list[tuple[Tensor, Tensor | None]], Tensor] | None = None,
        hooks: Hooks | None = None,
    ) -> Tensor:
        """Return the output for x [B, C, H, W], `embed`'s emb [B or 1, width] and what `condition` gave."""
        told, last = self.steer(emb, vector=vector) if steering is None else steering
        h, tokens = self.patches(x), cast("Tensor | None", text)
        for block, own in zip(self.blocks, told, strict=True):
            h, tokens = block(h, tokens, own, hooks)
        shift, scale = last.unsqueeze(1).chunk(2, dim=-1)
        return unpatchify(self.out(modulate(h, shift, scale)), self.config.patch, x.shape[2], x.shape[3])


def needed(name: str, value: Tensor | None, width: int, rank: int) -> Tensor:
    """Return the condition `name`, or raise `InputError` where it is missing or of another width."""
    if value is None or value.ndim != rank or value.shape[-1] != width:
        got = "none" if value is None else str(list(value.shape))
        raise InputError(f"this network needs {name} [B, {'T, ' * (rank - 2)}{width}], got {got}")
    return value


def sd3_medium() -> MMDiTConfig:
    """Return Stable Diffusion 3 medium: 2,028,328,000 parameters."""
    return MMDiTConfig()


def sd35_medium() -> MMDiTConfig:
    """Return Stable Diffusion 3.5 medium: normed, 13 dual blocks, a table of 384; 2,243,171,520 parameters."""
    return MMDiTConfig(positions=384, normed=True, dual=tuple(range(13)))


def sd35_large() -> MMDiTConfig:
    """Return Stable Diffusion 3.5 large: d = 38, normed; 8,056,627,520 parameters."""
    return MMDiTConfig(layers=38, heads=38, normed=True)
