"""`SD3Transformer2DModel`: Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from ...core.errors import InputError
from ...nets.mmdit import MMDiT, MMDiTConfig
from ..links import Link, Rules, one, renamed, swapped
from .layout import Fields, Layout

RULES: Rules = (
    (r"^patches\.matrix\.", "pos_embed.proj."),
    (r"^patches\.table$", "pos_embed.pos_embed"),
    (r"^time\.mlp\.0\.", "time_text_embed.timestep_embedder.linear_1."),
    (r"^time\.mlp\.2\.", "time_text_embed.timestep_embedder.linear_2."),
    (r"^vector\.0\.", "time_text_embed.text_embedder.linear_1."),
    (r"^vector\.2\.", "time_text_embed.text_embedder.linear_2."),
    (r"^text\.", "context_embedder."),
    (r"^modulation\.", "norm_out.linear."),
    (r"^out\.", "proj_out."),
    (r"^blocks\.", "transformer_blocks."),
    (r"\.text_modulation\.", ".norm1_context.linear."),
    (r"\.modulation\.", ".norm1.linear."),
    (r"\.text_mlp\.", ".ff_context."),
    (r"\.mlp\.", ".ff."),
    (r"\.fc1\.", ".net.0.proj."),
    (r"\.fc2\.", ".net.2."),
    (r"\.(attn2?)\.image\.(q|k|v)\.", r".\1.to_\2."),
    (r"\.(attn2?)\.image\.out\.", r".\1.to_out.0."),
    (r"\.(attn2?)\.image\.norm_", r".\1.norm_"),
    (r"\.attn\.text\.(q|k|v)\.", r".attn.add_\1_proj."),
    (r"\.attn\.text\.out\.", ".attn.to_add_out."),
    (r"\.attn\.text\.norm_", ".attn.norm_added_"),
)


def convolution(ours: str, theirs: str, patch: int) -> Link:
    """Return the link of a matrix [D, C p p] to the weight of a convolution [D, C, p, p]."""

    def write(tensors: list[Tensor]) -> list[Tensor]:
        return [tensors[0].unflatten(1, (-1, patch, patch))]

    return Link((ours,), (theirs,), lambda t: [t[0].flatten(1)], write)


def table(ours: str, theirs: str) -> Link:
    """Return the link of a table of positions [side, side, D] to theirs, [1, side side, D]."""

    def read(tensors: list[Tensor]) -> list[Tensor]:
        side = round(tensors[0].shape[1] ** 0.5)
        return [tensors[0][0].unflatten(0, (side, -1))]

    return Link((ours,), (theirs,), read, lambda t: [t[0].flatten(0, 1)[None]])


def links(net: nn.Module) -> list[Link]:
    """Return the links of an `MMDiT`: the two modulations of a shift and a scale have them the other way round."""
    k = cast(MMDiT, net).config
    found: list[Link] = []
    for name in net.state_dict():
        theirs = renamed(name, RULES)
        if name == "patches.matrix.weight":
            found.append(convolution(name, theirs, k.patch))
        elif name == "patches.table":
            found.append(table(name, theirs))
        elif name.startswith(("modulation.", f"blocks.{k.layers - 1}.text_modulation.")):
            found.append(swapped(name, theirs))
        else:
            found.append(one(name, theirs))
    return found


def read(fields: Fields) -> MMDiTConfig:
    """Return our configuration of theirs."""
    take = fields.take
    patch, channels = int(take("patch_size", 2)), int(take("in_channels", 16))
    side, positions = int(take("sample_size", 128)), int(take("pos_embed_max_size", 96) or 0)
    if not positions:
        raise InputError(f"{fields.kind} without pos_embed_max_size is not supported")
    config = MMDiTConfig(
        channels=channels,
        out_channels=int(take("out_channels", 16) or channels),
        patch=patch,
        layers=int(take("num_layers", 18)),
        heads=int(take("num_attention_heads", 18)),
        head_width=int(take("attention_head_dim", 64)),
        context=int(take("joint_attention_dim", 4096)),
        pooled=int(take("pooled_projection_dim", 2048)),
        positions=positions,
        base=side // max(patch, 1),
        normed=normed(fields),
        dual=tuple(take("dual_attention_layers", ())),
    )
    if (width := take("caption_projection_dim", 1152)) != config.width:
        raise InputError(f"{fields.kind}: caption_projection_dim={width!r:.60} is not the width {config.width}")
    return config


def normed(fields: Fields) -> bool:
    """Return whether queries and keys are normalised."""
    kind = fields.take("qk_norm")
    if kind not in (None, "rms_norm"):
        raise InputError(f"{fields.kind} with qk_norm={kind!r:.60} is not supported (known: None, 'rms_norm')")
    return kind is not None


def write(config: MMDiTConfig) -> dict[str, Any]:
    """Return their configuration of ours."""
    k = config
    return {
        "sample_size": k.base * k.patch,
        "patch_size": k.patch,
        "in_channels": k.channels,
        "out_channels": k.out_channels,
        "num_layers": k.layers,
        "num_attention_heads": k.heads,
        "attention_head_dim": k.head_width,
        "joint_attention_dim": k.context,
        "caption_projection_dim": k.width,
        "pooled_projection_dim": k.pooled,
        "pos_embed_max_size": k.positions,
        "qk_norm": "rms_norm" if k.normed else None,
        "dual_attention_layers": list(k.dual),
    }


LAYOUT = Layout("SD3Transformer2DModel", read, write, links)
