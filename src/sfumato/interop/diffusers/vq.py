"""`VQModel`: latent diffusion's VQ models, MoVQ (Kandinsky) and the VQGANs of masked-token models."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...codecs.vq import VQModelConfig
from ...core.errors import InputError
from ..links import Link, Rules, one, renamed
from .kl import OLDER, TRUNK, levels, shape
from .layout import Fields, Layout, OneOf

RULES: Rules = (
    *TRUNK,
    (r"\.group_norm\.(norm|scale|shift)\.", r".spatial_norm.\1."),
    (r"norm(\d?|_out)\.norm\.", r"norm\1.norm_layer."),
    (r"norm(\d?|_out)\.scale\.", r"norm\1.conv_y."),
    (r"norm(\d?|_out)\.shift\.", r"norm\1.conv_b."),
    (r"^coded\.", "quant_conv."),
    (r"^decoded\.", "post_quant_conv."),
    (r"^codebook\.", "quantize.embedding."),
)


def links(net: nn.Module) -> list[Link]:
    """Return the links of a `VQModel`."""
    return [one(name, renamed(name, RULES)) for name in net.state_dict()]


def read(fields: Fields) -> VQModelConfig:
    """Return our configuration of theirs."""
    take = fields.take
    widths, attention = levels(fields, "")
    norm = take("norm_type", "group")
    if norm not in ("group", "spatial"):
        raise InputError(f"VQModel with norm_type={norm!r:.60} is not supported (known: 'group', 'spatial')")
    latent = int(take("latent_channels", 3))
    config = VQModelConfig(
        in_channels=int(take("in_channels", 3)),
        out_channels=int(take("out_channels", 3)),
        latent=latent,
        widths=widths,
        layers=int(take("layers_per_block", 1)),
        attention=attention,
        middle=bool(take("mid_block_add_attention", True)),
        groups=int(take("norm_num_groups", 32)),
        codes=int(take("num_vq_embeddings", 256)),
        code=int(take("vq_embed_dim") or latent),
        spatial=norm == "spatial",
        tokens=bool(take("lookup_from_codebook", False)),
        scale=float(take("scaling_factor", 0.18215)),  # what theirs takes where the file does not say
        upcast=bool(take("force_upcast", False)),
    )
    fields.must(act_fn=OneOf("silu", "swish"))
    fields.skip("sample_size")
    return config


def write(config: VQModelConfig) -> dict[str, Any]:
    """Return their configuration of ours; `InputError` for what theirs cannot say."""
    k = config
    if k.patch != 1 or not k.groups:
        raise InputError("diffusers' VQModel has norms and no patch: keep this one with save_codec")
    return shape(k.widths, k.attention) | {
        "in_channels": k.in_channels,
        "out_channels": k.out_channels,
        "latent_channels": k.latent,
        "layers_per_block": k.layers,
        "mid_block_add_attention": k.middle,
        "norm_num_groups": k.groups,
        "num_vq_embeddings": k.codes,
        "vq_embed_dim": k.code,
        "norm_type": "spatial" if k.spatial else "group",
        "lookup_from_codebook": k.tokens,
        "scaling_factor": k.scale,
        "force_upcast": k.upcast,
        "act_fn": "silu",
    }


LAYOUT = Layout("VQModel", read, write, links, older=OLDER)
