"""The same U-Net twice: `diffusers.UNet2DModel` and ours on its weights. Shared by the benchmarks and the tests."""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.nets.unet import UNet, UNetConfig


def peer(config: UNetConfig):
    """Return the freshly initialised `diffusers.UNet2DModel` of `config`, whose head width must be a number or None."""
    from diffusers import UNet2DModel

    levels = range(len(config.multipliers))
    kinds = ["Attn" if level in config.attention else "" for level in levels]
    embedding = config.embedding
    return UNet2DModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=config.widths,
        layers_per_block=config.layers,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        attention_head_dim=config.head_width,
        norm_num_groups=config.groups,
        attn_norm_num_groups=config.groups,
        norm_eps=config.eps,
        dropout=config.dropout,
        downsample_padding=config.padding[0],
        resnet_time_scale_shift={"AddTime": "default", "ScaleShiftTime": "scale_shift"}[type(config.time).__name__],
        flip_sin_to_cos=embedding is None or not embedding.sin_first,
        freq_shift=0 if embedding is None else embedding.shift,
        num_class_embeds=None if config.num_classes is None else config.num_classes + 1,
    )


def ours(config: UNetConfig, state: dict[str, Tensor]) -> UNet:
    """Return our network of `config` with the weights `state` of its `peer`."""
    net = config.build()
    net.load_state_dict(converted(config, state))
    return net


def converted(config: UNetConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of a `peer` under our names; q, k, v and all time projections are packed."""
    state, out = dict(state), {}
    projections: list[dict[str, Tensor]] = []

    def take(source: str, target: str) -> None:
        for kind in ("weight", "bias"):
            out[f"{target}.{kind}"] = state.pop(f"{source}.{kind}")

    def block(resnet: str, attention: str, target: str) -> None:
        for name in ("norm1", "conv1", "norm2", "conv2"):
            take(f"{resnet}.{name}", f"{target}.res.{name}")
        if f"{resnet}.conv_shortcut.weight" in state:
            take(f"{resnet}.conv_shortcut", f"{target}.res.shortcut")
        projections.append({kind: state.pop(f"{resnet}.time_emb_proj.{kind}") for kind in ("weight", "bias")})
        if f"{attention}.to_q.weight" in state:
            take(f"{attention}.group_norm", f"{target}.attention.norm")
            take(f"{attention}.to_out.0", f"{target}.attention.out")
            for kind in ("weight", "bias"):
                parts = [state.pop(f"{attention}.to_{name}.{kind}") for name in "qkv"]
                out[f"{target}.attention.qkv.{kind}"] = torch.cat(parts)

    take("time_embedding.linear_1", "noise.mlp.0")
    take("time_embedding.linear_2", "noise.mlp.2")
    if config.num_classes is not None:
        out["label.table.weight"] = state.pop("class_embedding.weight")
    take("conv_in", "conv_in")
    last = len(config.multipliers) - 1
    for level in range(last + 1):
        for j in range(config.layers):
            stem = f"down_blocks.{level}"
            block(f"{stem}.resnets.{j}", f"{stem}.attentions.{j}", f"down.{level}.blocks.{j}")
        if level < last:
            take(f"down_blocks.{level}.downsamplers.0.conv", f"down.{level}.sample.conv")
    block("mid_block.resnets.0", "mid_block.attentions.0", "middle.0")
    block("mid_block.resnets.1", "", "middle.1")
    for level in range(last + 1):
        for j in range(config.layers + 1):
            stem = f"up_blocks.{level}"
            block(f"{stem}.resnets.{j}", f"{stem}.attentions.{j}", f"up.{level}.blocks.{j}")
        if level < last:
            take(f"up_blocks.{level}.upsamplers.0.conv", f"up.{level}.sample.conv")
    take("conv_norm_out", "norm_out")
    take("conv_out", "conv_out")
    for kind in ("weight", "bias"):
        out[f"time.{kind}"] = torch.cat([p[kind] for p in projections])
    if state:
        raise ValueError(f"weights of the peer that have no place in ours: {sorted(state)}")
    return out
