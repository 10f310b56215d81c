"""`AutoencoderKL`: the autoencoders of Stable Diffusion 1, 2, XL and 3 and their relatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ...codecs.kl import AutoencoderKLConfig
from ...core.errors import InputError
from ..links import Link, Rules, one, renamed
from .layout import Fields, Layout, OneOf

DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}

# the two halves, shared with VQModel and ConsistencyDecoderVAE
TRUNK: Rules = (
    (r"coder\.down\.(\d+)\.blocks\.(\d+)\.", r"coder.down_blocks.\1.\2."),
    (r"coder\.down\.(\d+)\.sample\.", r"coder.down_blocks.\1.downsamplers.0.conv."),
    (r"coder\.up\.(\d+)\.blocks\.(\d+)\.", r"coder.up_blocks.\1.\2."),
    (r"coder\.up\.(\d+)\.sample\.", r"coder.up_blocks.\1.upsamplers.0.conv."),
    (r"coder\.middle\.(\d+)\.", r"coder.mid_block.\1."),
    (r"\.(\d+)\.res\.step(\d)\.", r".resnets.\1.step\2."),
    (r"\.step(\d)\.(norm|conv)\.", r".\2\1."),
    (r"\.(\d+)\.res\.shortcut\.", r".resnets.\1.conv_shortcut."),
    (r"\.(\d+)\.attention\.norm\.", r".attentions.\1.group_norm."),
    (r"\.(\d+)\.attention\.(q|k|v)\.", r".attentions.\1.to_\2."),
    (r"\.(\d+)\.attention\.out\.", r".attentions.\1.to_out.0."),
    (r"coder\.out\.norm\.", "coder.conv_norm_out."),
    (r"coder\.out\.conv\.", "coder.conv_out."),
)
RULES: Rules = (*TRUNK, (r"^moments\.", "quant_conv."), (r"^decoded\.", "post_quant_conv."))

# attention as it was called before version 0.12 of theirs
OLDER: Rules = (
    (r"(attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)


def links(net: nn.Module) -> list[Link]:
    """Return the links of an `AutoencoderKL`."""
    return [one(name, renamed(name, RULES)) for name in net.state_dict()]


def read(fields: Fields) -> AutoencoderKLConfig:
    """Return our configuration of theirs."""
    take = fields.take
    widths, attention = levels(fields, "")
    fields.must(act_fn=OneOf("silu", "swish"))
    fields.skip("sample_size")
    return AutoencoderKLConfig(
        in_channels=int(take("in_channels", 3)),
        out_channels=int(take("out_channels", 3)),
        latent=int(take("latent_channels", 4)),
        widths=widths,
        layers=int(take("layers_per_block", 1)),
        attention=attention,
        middle=bool(take("mid_block_add_attention", True)),
        groups=int(take("norm_num_groups", 32)),
        moments=bool(take("use_quant_conv", True)),
        decoded=bool(take("use_post_quant_conv", True)),
        scale=float(take("scaling_factor", 0.18215)),
        shift=float(take("shift_factor") or 0.0),
        mean=tuple(map(float, take("latents_mean") or ())),
        std=tuple(map(float, take("latents_std") or ())),
        # absent from the files of Stable Diffusion 1 and 2, which do not overflow
        upcast=bool(take("force_upcast", False)),
    )


def write(config: AutoencoderKLConfig) -> dict[str, Any]:
    """Return their configuration of ours; `InputError` for what theirs cannot say."""
    k = config
    if k.lift or k.patch != 1 or not k.groups:
        raise InputError("diffusers' AutoencoderKL has norms, no patch and no lift: keep this one with save_codec")
    return shape(k.widths, k.attention) | {
        "in_channels": k.in_channels,
        "out_channels": k.out_channels,
        "latent_channels": k.latent,
        "layers_per_block": k.layers,
        "mid_block_add_attention": k.middle,
        "norm_num_groups": k.groups,
        "use_quant_conv": k.moments,
        "use_post_quant_conv": k.decoded,
        "scaling_factor": k.scale,
        "shift_factor": k.shift or None,
        "latents_mean": list(k.mean) or None,
        "latents_std": list(k.std) or None,
        "force_upcast": k.upcast,
        "act_fn": "silu",
    }


def shaped(shapes: Mapping[str, tuple[int, ...]], **latents: Any) -> AutoencoderKLConfig | None:
    """Return the configuration that the shapes of a file's tensors say, with 32 groups as in every released file.

    None for tensors under other names; `latents` are the fields that stand in no file: `scale`, `shift`, `upcast`.
    """
    first = "encoder.down_blocks.{}.resnets.{}.conv1.weight"
    if first.format(0, 0) not in shapes or "decoder.conv_in.weight" not in shapes:
        return None
    count = lambda stem: next(i for i in range(len(shapes) + 1) if stem(i) not in shapes)
    levels = range(count(lambda i: first.format(i, 0)))
    return AutoencoderKLConfig(
        in_channels=shapes["encoder.conv_in.weight"][1],
        out_channels=shapes["decoder.conv_out.weight"][0],
        latent=shapes["decoder.conv_in.weight"][1],
        widths=tuple(shapes[first.format(i, 0)][0] for i in levels),
        layers=count(lambda i: first.format(0, i)),
        attention=tuple(i for i in levels if f"encoder.down_blocks.{i}.attentions.0.to_q.weight" in shapes),
        middle="encoder.mid_block.attentions.0.to_q.weight" in shapes,
        moments="quant_conv.weight" in shapes,
        decoded="post_quant_conv.weight" in shapes,
        **latents,
    )


def levels(fields: Fields, prefix: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (channels of each level, levels with attention) of both halves, which must mirror each other."""
    widths = tuple(fields.take(f"{prefix}block_out_channels", (64,)))
    kinds = {"down": DOWN, "up": UP}
    has: dict[str, list[bool]] = {}
    for half, known in kinds.items():
        names = list(fields.take(f"{half}_block_types", (next(iter(known)),)))
        if len(names) != len(widths):
            raise InputError(f"{fields.kind}: {half}_block_types has {len(names)} entries for {len(widths)} levels")
        has[half] = [_known(fields.kind, name, known) for name in names]
    if has["up"] != has["down"][::-1]:
        raise InputError(f"{fields.kind} whose attention is not at the same levels up and down is not supported")
    return widths, tuple(level for level, attends in enumerate(has["down"]) if attends)


def shape(widths: tuple[int, ...], attention: tuple[int, ...]) -> dict[str, Any]:
    """Return the fields that `levels` reads."""
    kinds = ["Attn" * (level in attention) for level in range(len(widths))]
    return {
        "block_out_channels": list(widths),
        "down_block_types": [f"{kind}DownEncoderBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpDecoderBlock2D" for kind in reversed(kinds)],
    }


def _known(kind: str, name: str, known: Mapping[str, bool]) -> bool:
    if name not in known:
        raise InputError(f"{kind} with {name!r:.60} is not supported ({', '.join(known)})")
    return known[name]


LAYOUT = Layout("AutoencoderKL", read, write, links, older=OLDER)
