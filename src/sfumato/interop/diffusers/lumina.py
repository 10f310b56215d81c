"""`LuminaNextDiT2DModel`: Lumina-Next."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...nets.lumina import LuminaConfig
from ..links import Link, Rules, one, renamed
from .layout import Fields, Layout

RULES: Rules = (
    (r"^patches\.", "patch_embedder.proj."),
    (r"^pad$", "pad_token"),
    (r"^time\.mlp\.0\.", "time_caption_embed.timestep_embedder.linear_1."),
    (r"^time\.mlp\.2\.", "time_caption_embed.timestep_embedder.linear_2."),
    (r"^vector\.", "time_caption_embed.caption_embedder."),
    (r"^modulation\.", "norm_out.linear_1."),
    (r"^out\.", "norm_out.linear_2."),
    (r"^blocks\.", "layers."),
    (r"\.modulation\.", ".norm1.linear."),
    (r"\.norm1\.weight", ".norm1.norm.weight"),
    (r"\.norm3\.", ".ffn_norm1."),
    (r"\.norm4\.", ".ffn_norm2."),
    (r"\.norm_text\.", ".norm1_context."),
    (r"\.attn\.", ".attn1."),
    (r"\.cross\.", ".attn2."),
    (r"\.(q|k|v)\.weight", r".to_\1.weight"),
    (r"^(layers\.\d+)\.out\.", r"\1.attn2.to_out.0."),
    (r"\.mlp\.fc", ".feed_forward.linear_"),
)


def links(net: nn.Module) -> list[Link]:
    """Return the links of a `Lumina`."""
    return [one(name, renamed(name, RULES)) for name in net.state_dict()]


def read(fields: Fields) -> LuminaConfig:
    """Return our configuration of theirs; the watershed is a setting of their pipeline, 1 by default."""
    take = fields.take
    patch, heads = int(take("patch_size", 2)), int(take("num_attention_heads", 32))
    ratio = take("ffn_dim_multiplier")
    config = LuminaConfig(
        channels=int(take("in_channels", 4)),
        variance=bool(take("learn_sigma", True)),
        patch=patch,
        width=int(take("hidden_size", 2304)),
        layers=int(take("num_layers", 32)),
        heads=heads,
        kv_heads=int(take("num_kv_heads") or heads),
        context=int(take("cross_attention_dim", 2048)),
        multiple=int(take("multiple_of", 256)),
        ratio=None if ratio is None else float(ratio),
        eps=float(take("norm_eps", 1e-5)),
        base=int(take("sample_size", 128)) // max(patch, 1),
    )
    fields.must(qk_norm=True)
    fields.skip("scaling_factor")
    return config


def write(config: LuminaConfig) -> dict[str, Any]:
    """Return their configuration of ours."""
    k = config
    return {
        "sample_size": k.base * k.patch,
        "patch_size": k.patch,
        "in_channels": k.channels,
        "hidden_size": k.width,
        "num_layers": k.layers,
        "num_attention_heads": k.heads,
        "num_kv_heads": k.kv_heads,
        "multiple_of": k.multiple,
        "ffn_dim_multiplier": k.ratio,
        "norm_eps": k.eps,
        "learn_sigma": k.variance,
        "qk_norm": True,
        "cross_attention_dim": k.context,
    }


LAYOUT = Layout("LuminaNextDiT2DModel", read, write, links)
