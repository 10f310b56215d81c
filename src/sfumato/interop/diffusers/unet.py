"""`UNet2DModel`: the pixel-space U-Nets of DDPM, ADM and consistency models."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ...core.errors import InputError
from ...nets.blocks.conv import AddTime, ResBlock, ScaleShiftTime
from ...nets.blocks.embedding import Sinusoidal
from ...nets.unet import Convolved, Residual, UNet, UNetConfig
from ..links import Link, Rules, one, renamed, stacked
from .layout import Fields, Layout, OneOf

# their block's name without its direction -> (attention, residual resampling), None where other fields say
BLOCKS: dict[str, tuple[bool, bool | None]] = {
    "DownBlock2D": (False, False),
    "AttnDownBlock2D": (True, None),
    "ResnetDownsampleBlock2D": (False, True),
}
UP = {
    "UpBlock2D": "DownBlock2D",
    "AttnUpBlock2D": "AttnDownBlock2D",
    "ResnetUpsampleBlock2D": "ResnetDownsampleBlock2D",
}

RULES: Rules = (
    (r"^noise\.mlp\.0\.", "time_embedding.linear_1."),
    (r"^noise\.mlp\.2\.", "time_embedding.linear_2."),
    (r"^label\.table\.", "class_embedding."),
    (r"^norm_out\.", "conv_norm_out."),
    (r"^(down|up)\.(\d+)\.sample", r"\1_blocks.\2.\1samplers.0"),
    (r"^middle\.(\d)\.res", r"mid_block.resnets.\1"),
    (r"^middle\.(\d)\.attention\.", r"mid_block.attentions.\1."),
    (r"^(down|up)\.(\d+)\.blocks\.(\d+)\.res", r"\1_blocks.\2.resnets.\3"),
    (r"^(down|up)\.(\d+)\.blocks\.(\d+)\.attention\.", r"\1_blocks.\2.attentions.\3."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.out\.", r"\1.to_out.0."),
)


def links(net: nn.Module) -> list[Link]:
    """Return the links of a `UNet`: its queries, keys and values stand in one matrix, and all time projections too."""
    whole = cast(UNet, net)
    found: list[Link] = []
    for name in whole.state_dict():
        if name.startswith("time."):
            continue
        if ".qkv." in name:
            stem, kind = name.rsplit(".qkv.", 1)
            stem = renamed(stem + ".", RULES)
            found.append(stacked(name, [f"{stem}to_{part}.{kind}" for part in "qkv"]))
        else:
            found.append(one(name, renamed(name, RULES)))
    blocks = [renamed(name, RULES) for name, m in whole.named_modules() if isinstance(m, ResBlock)]
    for kind in ("weight", "bias"):
        names = tuple(f"{block}.time_emb_proj.{kind}" for block in blocks)
        found.append(Link((f"time.{kind}",), names, _below, lambda t: list(t[0].split(whole.splits))))
    return found


def _below(tensors: list[Tensor]) -> list[Tensor]:
    return [torch.cat(tensors)]


def read(fields: Fields) -> UNetConfig:
    """Return our configuration of theirs."""
    take = fields.take
    widths = tuple(take("block_out_channels", (224, 448, 672, 896)))
    down = list(take("down_block_types", ("DownBlock2D",) + ("AttnDownBlock2D",) * 3))
    up = [UP.get(kind, kind) for kind in take("up_block_types", ("AttnUpBlock2D",) * 3 + ("UpBlock2D",))]
    for kind in (*down, *up):
        if kind not in BLOCKS:
            raise InputError(f"UNet2DModel with the block {kind!r:.60} is not supported ({', '.join(BLOCKS)})")
    if up != down[::-1] or len(down) != len(widths):
        raise InputError("UNet2DModel whose blocks are not mirrored, one a level, is not supported")
    sampling = {take("downsample_type", "conv") == "resnet", take("upsample_type", "conv") == "resnet"}
    # a level's own kind says for plain blocks, the two settings for those with attention; the last level has none
    said = {BLOCKS[kind][1] for kind in down[:-1]} | {BLOCKS[kind][1] for kind in down[1:]}
    attended = any(BLOCKS[kind][0] for kind in down)
    known = (said - {None}) | (sampling if attended else set())
    if len(known) != 1:
        raise InputError("UNet2DModel that resamples by both kinds of blocks is not supported")
    groups = int(take("norm_num_groups", 32))
    given = take("attn_norm_num_groups")
    if given not in (None, groups):
        raise InputError(
            f"UNet2DModel with attn_norm_num_groups={given} beside norm_num_groups={groups} is not supported"
        )
    scaled = take("resnet_time_scale_shift", "default") == "scale_shift"
    if scaled and given is None:  # their class then leaves out the middle attention's norm, which no released file does
        raise InputError("UNet2DModel with scale_shift needs attn_norm_num_groups: it has no middle norm without it")
    head = take("attention_head_dim", 8)
    classes = take("num_class_embeds")
    width = int(widths[0])
    config = UNetConfig(
        in_channels=int(take("in_channels", 3)),
        out_channels=int(take("out_channels", 3)),
        channels=width,
        multipliers=tuple(w / width for w in widths),
        layers=int(take("layers_per_block", 2)),
        attention=tuple(i for i, kind in enumerate(down) if BLOCKS[kind][0]),
        head_width=None if head is None else int(head),
        dropout=float(take("dropout", 0.0)),
        groups=groups,
        eps=float(take("norm_eps", 1e-5)),
        time=ScaleShiftTime() if scaled else AddTime(),
        embedding=Sinusoidal(
            dim=width, sin_first=not take("flip_sin_to_cos", True), shift=float(take("freq_shift", 0))
        ),
        padding=(1, 1) if take("downsample_padding", 1) == 1 else (0, 1),
        resampling=Residual() if known.pop() else Convolved(),
        num_classes=None if classes is None else int(classes),
        nothing=False,
    )
    fields.must(
        mid_block_type=OneOf("UNetMidBlock2D"),
        mid_block_scale_factor=1,
        act_fn=OneOf("silu", "swish"),
        add_attention=True,
        time_embedding_type="positional",
    )
    fields.skip("sample_size", "num_train_timesteps")
    return config


def write(config: UNetConfig) -> dict[str, Any]:
    """Return their configuration of ours; `InputError` for features of the noise label that they do not have."""
    k = config
    features = k.embedding or Sinusoidal(dim=k.channels)
    if not isinstance(features, Sinusoidal) or features != Sinusoidal(
        dim=k.channels, sin_first=features.sin_first, shift=features.shift
    ):
        raise InputError(f"a U-Net whose noise label has {features} cannot be written as a UNet2DModel")
    residual = isinstance(k.resampling, Residual)
    plain = "ResnetDownsampleBlock2D" if residual else "DownBlock2D"
    down = ["AttnDownBlock2D" if i in k.attention else plain for i in range(len(k.multipliers))]
    back = {theirs: name for name, theirs in UP.items()}
    return {
        "in_channels": k.in_channels,
        "out_channels": k.out_channels,
        "block_out_channels": list(k.widths),
        "layers_per_block": k.layers,
        "down_block_types": down,
        "up_block_types": [back[kind] for kind in reversed(down)],
        "downsample_type": "resnet" if residual else "conv",
        "upsample_type": "resnet" if residual else "conv",
        "attention_head_dim": k.head_width,
        "dropout": k.dropout,
        "norm_num_groups": k.groups,
        "attn_norm_num_groups": k.groups,
        "norm_eps": k.eps,
        "resnet_time_scale_shift": "scale_shift" if isinstance(k.time, ScaleShiftTime) else "default",
        "flip_sin_to_cos": not features.sin_first,
        "freq_shift": features.shift,
        "downsample_padding": k.padding[0],
        "num_class_embeds": None if k.num_classes is None else k.num_classes + k.nothing,
    }


LAYOUT = Layout("UNet2DModel", read, write, links)
