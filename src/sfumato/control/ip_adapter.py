"""IP-Adapter: a picture as a prompt, by keys and values of its own at every cross-attention (arXiv 2308.06721)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.config import register
from ..core.errors import InputError
from ..nets.blocks.attend import attend
from ..nets.hooks import Branch, Moment, Row, Site, Subscriber, sites


class Tokens(Protocol):
    """The configuration of a projection of picture features to tokens."""

    @property
    def outputs(self) -> int:
        """The width of a token, that of the host's text."""
        ...

    def build(self) -> nn.Module:
        """Return the projection."""
        ...


@register
@dataclass(frozen=True, kw_only=True)
class LinearTokens:
    """`count` tokens LN(W x + b) of one vector x of `inputs` numbers: the base adapter, of CLIP's picture embedding."""

    inputs: int = 1024
    outputs: int = 768
    count: int = 4

    def build(self) -> nn.Module:
        """Return the projection, freshly initialised."""
        return LinearProjection(self)


@register
@dataclass(frozen=True, kw_only=True)
class MLPTokens:
    """`count` tokens LN(W_2 GELU(W_1 x + b_1) + b_2) of each vector x: "full" adapters (one of each of CLIP's states),
    and those of faces (four of a face's vector).
    """

    inputs: int = 1280
    hidden: int = 1280
    outputs: int = 768
    count: int = 1

    def build(self) -> nn.Module:
        """Return the projection, freshly initialised."""
        return MLPProjection(self)


@register
@dataclass(frozen=True, kw_only=True)
class ResampledTokens:
    """`count` learned queries that read the vectors x [B, T, inputs] through `depth` layers: "plus" adapters.

    Heads are 64 wide. InstantID's of a face's vector has inputs 512, width 1280, heads 20, outputs 2048.
    """

    inputs: int = 1280
    width: int = 768
    heads: int = 12
    depth: int = 4
    outputs: int = 768
    count: int = 16

    def build(self) -> nn.Module:
        """Return the projection, freshly initialised."""
        return Resampler(self)


class LinearProjection(nn.Module):
    """x [B, inputs] -> [B, count, outputs]."""

    def __init__(self, config: LinearTokens) -> None:
        super().__init__()
        self.count = config.count
        self.matrix = nn.Linear(config.inputs, config.count * config.outputs)
        self.norm = nn.LayerNorm(config.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens."""
        return self.norm(self.matrix(x).unflatten(-1, (self.count, -1)))


class MLPProjection(nn.Module):
    """x [B, inputs] or [B, T, inputs] -> [B, T count, outputs]."""

    def __init__(self, config: MLPTokens) -> None:
        super().__init__()
        self.count = config.count
        self.fc1 = nn.Linear(config.inputs, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.count * config.outputs)
        self.norm = nn.LayerNorm(config.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens."""
        h = self.fc2(F.gelu(self.fc1(x if x.ndim == 3 else x[:, None])))
        return self.norm(h.unflatten(-1, (self.count, -1)).flatten(1, 2))


class ResamplerLayer(nn.Module):
    """l += Attention(LN l, [LN x, LN l]); l += W_2 GELU(W_1 LN l), without biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, inner = heads, 64 * heads
        self.norm_x, self.norm_l = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q = nn.Linear(width, inner, bias=False)
        self.kv = nn.Linear(width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.norm_ff = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width, bias=False)
        self.fc2 = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        """Return the next latents [B, count, width] for x [B, T, width]."""
        asked = self.norm_l(latents)
        k, v = self.kv(torch.cat((self.norm_x(x), asked), dim=1)).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.q(asked), k, v))
        latents = latents + self.out(attend(q, k, v).transpose(1, 2).flatten(2))
        return latents + self.fc2(F.gelu(self.fc1(self.norm_ff(latents))))


class Resampler(nn.Module):
    """x [B, T, inputs] or [B, inputs] -> [B, count, outputs]."""

    def __init__(self, config: ResampledTokens) -> None:
        super().__init__()
        k = config
        self.latents = nn.Parameter(torch.randn(1, k.count, k.width) * k.width**-0.5)
        self.proj_in = nn.Linear(k.inputs, k.width)
        self.layers = nn.ModuleList(ResamplerLayer(k.width, k.heads) for _ in range(k.depth))
        self.proj_out = nn.Linear(k.width, k.outputs)
        self.norm_out = nn.LayerNorm(k.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens."""
        x = self.proj_in(x if x.ndim == 3 else x[:, None])
        latents = self.latents.expand(len(x), -1, -1)
        for layer in self.layers:
            latents = layer(x, latents)
        return self.norm_out(self.proj_out(latents))


@register
@dataclass(frozen=True, kw_only=True)
class IPAdapterConfig:
    """The shape of an adapter: its projection, and the width of each cross-attention of the host that it adds to, in
    the order in which they run.
    """

    tokens: Tokens
    widths: tuple[int, ...]

    def build(self) -> IPAdapter:
        """Return the adapter, freshly initialised."""
        return IPAdapter(self)


class IPAdapter(nn.Module):
    """features -> tokens, and k_i, v_i = W_k,i tokens, W_v,i tokens of each of the host's cross-attentions i."""

    def __init__(self, config: IPAdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.project = config.tokens.build()
        outputs = config.tokens.outputs
        self.k = nn.ModuleList(nn.Linear(outputs, width, bias=False) for width in config.widths)
        self.v = nn.ModuleList(nn.Linear(outputs, width, bias=False) for width in config.widths)

    def forward(self, features: Tensor) -> Tensor:
        """Return the tokens [B, T, outputs] of picture features."""
        return self.project(features.to(next(self.parameters())))


def reads_text(site: Site) -> bool:
    """Whether a site is one that image prompts join: a second attention of a transformer block."""
    return site.kind == "cross" and site.name.endswith("attn2")


class ImagePrompt(Subscriber):
    """Adds scale Attention(q, K tokens, V tokens) at each cross-attention (arXiv 2308.06721, eq. 5).

    Subscribe it to `reads_text`. `tokens` [1 or n, T, outputs] of the pictures, one for all or one a sample; rows
    of the role "null" get those of no picture, `null` [1, T', outputs] with T' = T. `scale`: a number, or a table from
    beginnings of sites' names ("up.0") to numbers, 0 elsewhere; 0 adds nothing. Keys and values are made once.

    Raises `InputError` for a host with other cross-attentions than the adapter was made for.
    """

    def __init__(
        self,
        adapter: IPAdapter,
        host: nn.Module,
        tokens: Tensor,
        null: Tensor,
        scale: float | Mapping[str, float] = 1.0,
    ) -> None:
        known = [s for s in sites(host) if reads_text(s)]
        widths = tuple(cast(nn.Linear, host.get_submodule(s.name).q).out_features for s in known)
        if widths != adapter.config.widths:
            raise InputError(
                f"this adapter is for {len(adapter.config.widths)} cross-attentions, {type(host).__name__} has "
                f"{len(widths)}, or of other widths: it was made for another model"
            )
        if null.shape[1:] != tokens.shape[1:] or len(null) != 1:
            raise InputError(f"null must be [1, {', '.join(map(str, tokens.shape[1:]))}], got {list(null.shape)}")
        self.count = len(tokens)
        both = torch.cat((tokens, null))
        self.table: dict[str, tuple[Tensor, Tensor, float]] = {}
        for site, k, v in zip(known, adapter.k, adapter.v, strict=True):
            strength = scale if isinstance(scale, (int, float)) else _of(scale, site.name)
            if strength != 0.0:
                parts = (m(both).unflatten(-1, (site.heads, -1)).transpose(1, 2) for m in (k, v))
                self.table[site.name] = (*cast("tuple[Tensor, Tensor]", tuple(parts)), strength)

    def branches(self, q: Tensor, site: Site, now: Moment) -> Sequence[Branch]:
        """Return the pictures' keys and values for the rows of `q`."""
        if site.name not in self.table:
            return ()
        k, v, scale = self.table[site.name]
        at = picked(now.rows, len(q), self.count).to(k.device)
        return (Branch(k[at], v[at], scale),)


def picked(rows: Sequence[Row], batch: int, count: int) -> Tensor:
    """Return for each row which of `count` pictures it gets; those of the role "null" get number `count`, none."""
    asked = rows or [Row("cond", i) for i in range(batch)]
    if count > 1 and max(row.sample for row in asked) >= count:
        raise InputError(f"{count} pictures for {1 + max(row.sample for row in asked)} samples: give one, or one each")
    return torch.tensor([count if row.role == "null" else row.sample % count for row in asked])


def _of(table: Mapping[str, float], name: str) -> float:
    hits = [start for start in table if name == start or name.startswith(start + ".")]
    return table[max(hits, key=len)] if hits else 0.0
