"""`HunyuanDiT2DModel`: Hunyuan-DiT 1.0, 1.1 and 1.2."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from ...core.errors import InputError
from ...nets.hunyuan_dit import HunyuanDiT, HunyuanDiTConfig
from ..links import Link, Rules, convolved, one, renamed, swapped
from .layout import Fields, Layout

RULES: Rules = (
    (r"^patches\.", "pos_embed.proj."),
    (r"^time\.mlp\.0\.", "time_extra_emb.timestep_embedder.linear_1."),
    (r"^time\.mlp\.2\.", "time_extra_emb.timestep_embedder.linear_2."),
    (r"^pool\.positions$", "time_extra_emb.pooler.positional_embedding"),
    (r"^pool\.out\.", "time_extra_emb.pooler.c_proj."),
    (r"^pool\.(q|k|v)\.", r"time_extra_emb.pooler.\1_proj."),
    (r"^style\.", "time_extra_emb.style_embedder."),
    (r"^vector\.0\.", "time_extra_emb.extra_embedder.linear_1."),
    (r"^vector\.2\.", "time_extra_emb.extra_embedder.linear_2."),
    (r"^text\.0\.", "text_embedder.linear_1."),
    (r"^text\.2\.", "text_embedder.linear_2."),
    (r"^padding$", "text_embedding_padding"),
    (r"^norm_out\.modulation\.", "norm_out.linear."),
    (r"^out\.", "proj_out."),
    (r"\.skip\.norm\.", ".skip_norm."),
    (r"\.skip\.matrix\.", ".skip_linear."),
    (r"\.modulation\.", ".norm1.linear."),
    (r"\.norm_1\.", ".norm1.norm."),
    (r"\.norm_cross\.", ".norm2."),
    (r"\.norm_2\.", ".norm3."),
    (r"\.attention\.", ".attn1."),
    (r"\.cross\.", ".attn2."),
    (r"\.(attn\d)\.(q|k|v)\.", r".\1.to_\2."),
    (r"\.(attn\d)\.out\.", r".\1.to_out.0."),
    (r"\.mlp\.fc1\.", ".ff.net.0.proj."),
    (r"\.mlp\.fc2\.", ".ff.net.2."),
)


def links(net: nn.Module) -> list[Link]:
    """Return the links of a `HunyuanDiT`; the last norm has its scale before its shift there."""
    patch = cast(HunyuanDiT, net).config.patch
    found: list[Link] = []
    for name in net.state_dict():
        theirs = renamed(name, RULES)
        if name == "patches.weight":
            found.append(convolved(name, theirs, patch))
        else:
            found.append((swapped if name.startswith("norm_out.") else one)(name, theirs))
    return found


def read(fields: Fields) -> HunyuanDiTConfig:
    """Return our configuration of theirs."""
    take = fields.take
    heads, channels = int(take("num_attention_heads", 16)), int(take("in_channels") or 4)
    width = heads * int(take("attention_head_dim", 88))
    config = HunyuanDiTConfig(
        channels=channels,
        out_channels=2 * channels if take("learn_sigma", True) else channels,
        patch=int(take("patch_size") or 2),
        width=width,
        layers=int(take("num_layers", 28)),
        heads=heads,
        hidden=int(width * float(take("mlp_ratio", 4.0))),
        context=int(take("cross_attention_dim", 1024)),
        tokens=int(take("text_len", 77)),
        context_2=int(take("cross_attention_dim_t5", 2048)),
        tokens_2=int(take("text_len_t5", 256)),
        pooled=int(take("pooled_projection_dim", 1024)),
        styles=1 if take("use_style_cond_and_image_meta_size", True) else 0,
    )
    fields.must(activation_fn="gelu-approximate", hidden_size=width, norm_type="layer_norm")
    fields.skip("sample_size")
    return config


def write(config: HunyuanDiTConfig) -> dict[str, Any]:
    """Return their configuration of ours; `InputError` for what their class cannot be."""
    k = config
    if k.styles > 1 or k.base != 32 or k.out_channels not in (k.channels, 2 * k.channels):
        raise InputError(
            "HunyuanDiT2DModel has one style, positions on 32 and once or twice the channels out: not "
            f"styles={k.styles}, base={k.base}, out_channels={k.out_channels}"
        )
    return {
        "in_channels": k.channels,
        "learn_sigma": k.out_channels == 2 * k.channels,
        "patch_size": k.patch,
        "num_attention_heads": k.heads,
        "attention_head_dim": k.width // k.heads,
        "hidden_size": k.width,
        "num_layers": k.layers,
        "mlp_ratio": (k.hidden + 0.5) / k.width,  # they cut off: half a unit more keeps the whole number
        "cross_attention_dim": k.context,
        "text_len": k.tokens,
        "cross_attention_dim_t5": k.context_2,
        "text_len_t5": k.tokens_2,
        "pooled_projection_dim": k.pooled,
        "use_style_cond_and_image_meta_size": bool(k.styles),
        "activation_fn": "gelu-approximate",
        "norm_type": "layer_norm",
    }


LAYOUT = Layout("HunyuanDiT2DModel", read, write, links)
