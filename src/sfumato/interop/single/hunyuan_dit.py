"""Hunyuan-DiT in one file, as its authors released it: the links, and the configuration from the shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import nn

from ...nets.hunyuan_dit import HunyuanDiT, HunyuanDiTConfig
from ..links import Link, Rules, convolved, one, renamed, split

# theirs has the norm of the feed-forward layer second and that of the cross-attention third
RULES: Rules = (
    (r"^patches\.", "x_embedder.proj."),
    (r"^time\.", "t_embedder."),
    (r"^pool\.positions$", "pooler.positional_embedding"),
    (r"^pool\.out\.", "pooler.c_proj."),
    (r"^pool\.(q|k|v)\.", r"pooler.\1_proj."),
    (r"^style\.", "style_embedder."),
    (r"^vector\.", "extra_embedder."),
    (r"^text\.", "mlp_t5."),
    (r"^padding$", "text_embedding_padding"),
    (r"^norm_out\.modulation\.", "final_layer.adaLN_modulation.1."),
    (r"^out\.", "final_layer.linear."),
    (r"\.skip\.norm\.", ".skip_norm."),
    (r"\.skip\.matrix\.", ".skip_linear."),
    (r"\.modulation\.", ".default_modulation.1."),
    (r"\.norm_(\d)\.", r".norm\1."),
    (r"\.norm_cross\.", ".norm3."),
    (r"\.attention\.q\.", ".attn1.Wqkv."),
    (r"\.cross\.q\.", ".attn2.q_proj."),
    (r"\.cross\.k\.", ".attn2.kv_proj."),
    (r"\.attention\.", ".attn1."),
    (r"\.cross\.", ".attn2."),
    (r"\.norm_(q|k)\.", r".\1_norm."),
    (r"(attn\d)\.out\.", r"\1.out_proj."),
)


def links(net: nn.Module) -> list[Link]:
    """Return the links of a `HunyuanDiT`, whose separate queries, keys and values are parts of one matrix there."""
    patch = cast(HunyuanDiT, net).config.patch
    found: list[Link] = []
    for name in net.state_dict():
        theirs = renamed(name, RULES)
        if name == "patches.weight":
            found.append(convolved(name, theirs, patch))
        elif ".attention.q." in name:
            found.append(split([name.replace(".q.", f".{part}.") for part in "qkv"], theirs))
        elif ".cross.k." in name:
            found.append(split([name, name.replace(".k.", ".v.")], theirs))
        elif not any(part in name for part in (".attention.k.", ".attention.v.", ".cross.v.")):
            found.append(one(name, theirs))
    return found


def config(shapes: Mapping[str, Sequence[int]]) -> HunyuanDiTConfig:
    """Return the configuration that a file's tensors of these shapes have."""
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    pooled, context_2 = shapes["pooler.c_proj.weight"]
    both, context = shapes["text_embedding_padding"]
    tokens_2 = shapes["pooler.positional_embedding"][0] - 1
    return HunyuanDiTConfig(
        channels=channels,
        out_channels=shapes["final_layer.linear.weight"][0] // patch**2,
        patch=patch,
        width=width,
        layers=sum(name.endswith(".attn1.Wqkv.weight") for name in shapes),
        heads=width // shapes["blocks.0.attn1.q_norm.weight"][0],
        hidden=shapes["blocks.0.mlp.fc1.weight"][0],
        context=context,
        tokens=both - tokens_2,
        context_2=context_2,
        tokens_2=tokens_2,
        pooled=pooled,
        styles=shapes["style_embedder.weight"][0] if "style_embedder.weight" in shapes else 0,
    )
