"""`SD3ControlNetModel`: ControlNets of Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from ...control.sd3_controlnet import SD3ControlNet, SD3ControlNetConfig
from ...core.errors import InputError
from ..links import Link, Rules, one, renamed
from . import mmdit
from .layout import Fields, Layout

RULES: Rules = (
    (r"^hint\.matrix\.", "pos_embed_input.proj."),
    (r"^outs\.", "controlnet_blocks."),
    *mmdit.RULES,
)


def links(net: nn.Module) -> list[Link]:
    """Return the links of an `SD3ControlNet`."""
    patch = cast(SD3ControlNet, net).config.patch
    found: list[Link] = []
    for name in net.state_dict():
        theirs = renamed(name, RULES)
        if name.endswith("matrix.weight"):
            found.append(mmdit.convolution(name, theirs, patch))
        elif name == "patches.table":
            found.append(mmdit.table(name, theirs))
        else:
            found.append(one(name, theirs))
    return found


def read(fields: Fields) -> SD3ControlNetConfig:
    """Return our configuration of theirs."""
    take = fields.take
    patch = int(take("patch_size", 2))
    own = bool(take("use_pos_embed", True))
    side = int(take("pos_embed_max_size", 96))
    context = int(take("joint_attention_dim", 4096) or 0)
    normed, dual = mmdit.normed(fields), tuple(take("dual_attention_layers", ()))
    config = SD3ControlNetConfig(
        channels=int(take("in_channels", 16)),
        extra=int(take("extra_conditioning_channels", 0)),
        patch=patch,
        layers=int(take("num_layers", 18)),
        heads=int(take("num_attention_heads", 18)),
        head_width=int(take("attention_head_dim", 64)),
        context=context,
        pooled=int(take("pooled_projection_dim", 2048)),
        ignores_pooled=bool(take("force_zeros_for_pooled_projection", True)),
        positions=side if own else 0,
        base=int(take("sample_size", 128)) // max(patch, 1),
        # their blocks without a text have neither, whatever the file says
        normed=normed and context > 0,
        dual=dual if context else (),
    )
    if (width := take("caption_projection_dim", 1152)) != config.width and context:
        raise InputError(f"{fields.kind}: caption_projection_dim={width!r:.60} is not the width {config.width}")
    fields.must(pos_embed_type="sincos")
    fields.skip("out_channels")
    return config


def write(config: SD3ControlNetConfig) -> dict[str, Any]:
    """Return their configuration of ours."""
    k = config
    return {
        "sample_size": k.base * k.patch,
        "patch_size": k.patch,
        "in_channels": k.channels,
        "out_channels": k.channels,
        "extra_conditioning_channels": k.extra,
        "num_layers": k.layers,
        "num_attention_heads": k.heads,
        "attention_head_dim": k.head_width,
        "joint_attention_dim": k.context or None,
        "caption_projection_dim": k.width,
        "pooled_projection_dim": k.pooled,
        "force_zeros_for_pooled_projection": k.ignores_pooled,
        "pos_embed_max_size": k.positions or 192,
        "use_pos_embed": k.positions > 0,
        "qk_norm": "rms_norm" if k.normed else None,
        "dual_attention_layers": list(k.dual),
    }


# InstantX's files carry an older name
LAYOUT = Layout("SD3ControlNetModel", read, write, links, aliases=("ControlNetSD3Model",))
