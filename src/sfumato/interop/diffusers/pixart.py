"""`PixArtTransformer2DModel`: PixArt-alpha and Sigma; older folders call it `Transformer2DModel`."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from ...core.errors import InputError
from ...nets.pixart import PixArt, PixArtConfig
from ..links import Link, Rules, convolved, one, renamed
from .layout import Fields, Layout

RULES: Rules = (
    (r"^patches\.", "pos_embed.proj."),
    (r"^time\.", "adaln_single.emb.timestep_embedder."),
    (r"^resolution\.", "adaln_single.emb.resolution_embedder."),
    (r"^ratio\.", "adaln_single.emb.aspect_ratio_embedder."),
    (r"\.mlp\.0\.", ".linear_1."),
    (r"\.mlp\.2\.", ".linear_2."),
    (r"^modulation\.", "adaln_single.linear."),
    (r"^text\.fc(\d)\.", r"caption_projection.linear_\1."),
    (r"^blocks\.", "transformer_blocks."),
    (r"(^|\.)table$", r"\1scale_shift_table"),
    (r"^out\.", "proj_out."),
    (r"\.attention\.", ".attn1."),
    (r"\.cross\.", ".attn2."),
    (r"\.(attn\d)\.(q|k|v)\.", r".\1.to_\2."),
    (r"\.(attn\d)\.out\.", r".\1.to_out.0."),
    (r"\.mlp\.fc1\.", ".ff.net.0.proj."),
    (r"\.mlp\.fc2\.", ".ff.net.2."),
)


def links(net: nn.Module) -> list[Link]:
    """Return the links of a `PixArt`; theirs has no learned null text."""
    patch = cast(PixArt, net).config.patch
    names = ((name, renamed(name, RULES)) for name in net.state_dict() if name != "null")
    return [convolved(*pair, patch) if pair[0] == "patches.weight" else one(*pair) for pair in names]


def read(fields: Fields) -> PixArtConfig:
    """Return our configuration of theirs."""
    take = fields.take
    heads, size = int(take("num_attention_heads", 16)), int(take("sample_size", 128))
    width, channels = heads * int(take("attention_head_dim", 72)), int(take("in_channels", 4))
    context, sizes = take("caption_channels"), take("use_additional_conditions")
    if context is None:
        raise InputError(f"{fields.kind} without caption_channels is not supported: give the width of the text")
    config = PixArtConfig(
        size=size,
        scale=float(take("interpolation_scale") or max(size // 64, 1)),
        channels=channels,
        out_channels=int(take("out_channels", 8) or channels),
        patch=int(take("patch_size", 2)),
        width=width,
        layers=int(take("num_layers", 28)),
        heads=heads,
        context=int(context),
        sizes=size == 128 if sizes is None else bool(sizes),
        eps=float(take("norm_eps", 1e-6)),
    )
    fields.must(
        activation_fn="gelu-approximate",
        attention_bias=True,
        attention_type="default",
        cross_attention_dim=width,
        dropout=0.0,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
    )
    fields.skip("norm_num_groups", "upcast_attention", "num_embeds_ada_norm")
    return config


def write(config: PixArtConfig) -> dict[str, Any]:
    """Return their configuration of ours; `InputError` for what their class cannot be."""
    k = config
    for name in ("compression", "null_tokens"):
        if getattr(k, name):
            raise InputError(f"PixArtTransformer2DModel has no {name}={getattr(k, name)}: it cannot be written there")
    return {
        "sample_size": k.size,
        "interpolation_scale": k.scale,
        "in_channels": k.channels,
        "out_channels": k.out_channels,
        "patch_size": k.patch,
        "num_attention_heads": k.heads,
        "attention_head_dim": k.width // k.heads,
        "cross_attention_dim": k.width,
        "caption_channels": k.context,
        "num_layers": k.layers,
        "use_additional_conditions": k.sizes,
        "num_embeds_ada_norm": 1000,
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_type": "default",
        "dropout": 0.0,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": k.eps,
    }


LAYOUT = Layout("PixArtTransformer2DModel", read, write, links, aliases=("Transformer2DModel",))
