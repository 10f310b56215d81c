"""`DiTTransformer2DModel`: DiT, with a copy of the embedders in every block."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from ...core.errors import InputError
from ...nets.blocks.embedding import Sinusoidal
from ...nets.dit import AdaLNZero, DiT, DiTConfig
from ..links import Link, Rules, convolved, one, renamed, repeated, stacked
from .layout import Fields, Layout

# their class has other frequencies than the paper's code, which the released weights still run with there
TIME = Sinusoidal(dim=256, shift=1)

RULES: Rules = (
    (r"^patches\.", "pos_embed.proj."),
    (r"^norm_out\.modulation\.", "proj_out_1."),
    (r"^out\.", "proj_out_2."),
    (r"^blocks\.", "transformer_blocks."),
    (r"\.modulation\.", ".norm1.linear."),
    (r"\.attention\.proj\.", ".attn1.to_out.0."),
    (r"\.attention\.qkv\.", ".attn1.to_{}."),
    (r"\.mlp\.fc1\.", ".ff.net.0.proj."),
    (r"\.mlp\.fc2\.", ".ff.net.2."),
    (r"^time\.mlp\.0\.", "transformer_blocks.{}.norm1.emb.timestep_embedder.linear_1."),
    (r"^time\.mlp\.2\.", "transformer_blocks.{}.norm1.emb.timestep_embedder.linear_2."),
    (r"^label\.table\.", "transformer_blocks.{}.norm1.emb.class_embedder.embedding_table."),
)


def links(net: nn.Module) -> list[Link]:
    """Return the links of a `DiT`: its one time and label embedding stand in every block of theirs."""
    k = cast(DiT, net).config
    found: list[Link] = []
    for name in net.state_dict():
        theirs = renamed(name, RULES)
        if name == "patches.weight":
            found.append(convolved(name, theirs, k.patch))
        elif name.startswith(("time.", "label.")):
            found.append(repeated(name, [theirs.format(i) for i in range(k.layers)]))
        elif ".qkv." in name:
            found.append(stacked(name, [theirs.format(part) for part in "qkv"]))
        else:
            found.append(one(name, theirs))
    return found


def read(fields: Fields) -> DiTConfig:
    """Return our configuration of theirs."""
    take = fields.take
    heads = int(take("num_attention_heads", 16))
    config = DiTConfig(
        size=int(take("sample_size", 32)),
        channels=int(take("in_channels", 4)),
        out_channels=take("out_channels"),
        patch=int(take("patch_size", 2)),
        width=heads * int(take("attention_head_dim", 72)),
        layers=int(take("num_layers", 28)),
        heads=heads,
        num_classes=int(take("num_embeds_ada_norm", 1000)),
        time=TIME,
        mlp_eps=float(take("norm_eps", 1e-5)),
    )
    fields.must(
        activation_fn="gelu-approximate",
        attention_bias=True,
        dropout=0.0,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    fields.skip("norm_num_groups", "upcast_attention")
    return config


def write(config: DiTConfig) -> dict[str, Any]:
    """Return their configuration of ours; `InputError` for what their class cannot be."""
    k = config
    for name, wanted in (("conditioning", AdaLNZero()), ("time", TIME), ("mlp_ratio", 4.0)):
        if getattr(k, name) != wanted:
            raise InputError(f"DiTTransformer2DModel has no {name}={getattr(k, name)}: it needs {wanted}")
    if k.num_classes is None:
        raise InputError("DiTTransformer2DModel needs classes: this DiT has none")
    return {
        "sample_size": k.size,
        "in_channels": k.channels,
        "out_channels": k.out_channels,
        "patch_size": k.patch,
        "num_attention_heads": k.heads,
        "attention_head_dim": k.width // k.heads,
        "num_layers": k.layers,
        "num_embeds_ada_norm": k.num_classes,
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "dropout": 0.0,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "norm_eps": k.mlp_eps,
    }


LAYOUT = Layout("DiTTransformer2DModel", read, write, links)
