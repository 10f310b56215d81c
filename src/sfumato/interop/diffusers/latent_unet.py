"""`UNet2DConditionModel`: the U-Nets of Stable Diffusion 1, 2, XL and their relatives."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from ...core.errors import InputError
from ...nets.blocks.conv import AddTime, ScaleShiftTime
from ...nets.latent_unet import LatentUNet, LatentUNetConfig
from ..links import Link, Rules, flat, one, renamed
from .layout import Fields, Layout, OneOf

DOWN = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
UP = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}

RULES: Rules = (
    (r"^noise\.mlp\.0\.", "time_embedding.linear_1."),
    (r"^noise\.mlp\.2\.", "time_embedding.linear_2."),
    (r"^guidance\.", "time_embedding.cond_proj."),
    (r"^vector\.0\.", "add_embedding.linear_1."),
    (r"^vector\.2\.", "add_embedding.linear_2."),
    (r"^noise_level\.", "class_embedding."),
    (r"^norm_out\.", "conv_norm_out."),
    (r"^(down|up)\.(\d+)\.sample\.", r"\1_blocks.\2.\1samplers.0."),
    (r"^middle\.1\.", "middle.1.blocks.1."),
    (r"^middle\.0\.", "middle.0.blocks.0."),
    (r"^middle\.\d\.", "mid_block."),
    (r"^(down|up)\.(\d+)\.", r"\1_blocks.\2."),
    (r"block(s?)\.(?:(\d+)\.)?blocks\.(\d+)\.transformer\.blocks\.", r"block\1.\2.attentions.\3.transformer_blocks."),
    (r"block(s?)\.(?:(\d+)\.)?blocks\.(\d+)\.transformer\.", r"block\1.\2.attentions.\3."),
    (r"block(s?)\.(?:(\d+)\.)?blocks\.(\d+)\.", r"block\1.\2.resnets.\3."),
    (r"\.\.", "."),
    (r"\.res\.", "."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"(resnets\.\d+)\.time\.", r"\1.time_emb_proj."),
    (r"\.attn(\d)\.(q|k|v)\.", r".attn\1.to_\2."),
    (r"\.attn(\d)\.out\.", r".attn\1.to_out.0."),
    (r"\.ff\.fc1\.", ".ff.net.0.proj."),
    (r"\.ff\.fc2\.", ".ff.net.2."),
)


def links(net: nn.Module) -> list[Link]:
    """Return the links of a `LatentUNet`."""
    convolved = cast(LatentUNet, net).config.convolved
    return [
        (flat if convolved and name.endswith(("proj_in.weight", "proj_out.weight")) else one)(
            name, renamed(name, RULES)
        )
        for name in net.state_dict()
    ]


def read(fields: Fields) -> LatentUNetConfig:
    """Return our configuration of theirs."""
    take = fields.take
    widths = tuple(take("block_out_channels", (320, 640, 1280, 1280)))
    levels = len(widths)
    down = _blocks(fields, "down_block_types", DOWN, ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",))
    up = _blocks(fields, "up_block_types", UP, ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
    depth = _per_level(take("transformer_layers_per_block", 1), levels, "transformer_layers_per_block")
    if up != down[::-1] or len(down) != levels:
        raise InputError(f"UNet2DConditionModel whose blocks are not mirrored is not supported: {down} down, {up} up")
    # `attention_head_dim` holds the number of heads: an old misnomer of theirs that every released file has
    heads = take("num_attention_heads") or take("attention_head_dim", 8)
    take("attention_head_dim")
    cross = take("only_cross_attention", False)
    middle = take("mid_block_type", "UNetMidBlock2DCrossAttn")
    if middle not in (None, "UNetMidBlock2DCrossAttn", "UNetMidBlock2D"):
        raise InputError(f"UNet2DConditionModel with mid_block_type={middle!r} is not supported")
    layers = set(_per_level(take("layers_per_block", 2), levels, "layers_per_block"))
    if len(layers) != 1:
        raise InputError("UNet2DConditionModel with another number of layers a level is not supported")
    vector, sizes = _vector(fields)
    in_channels = int(take("in_channels", 4))
    out_channels = int(take("out_channels", 4))
    latent = min(in_channels, 4)
    time = take("resnet_time_scale_shift", "default")
    context = _per_level(take("cross_attention_dim", 1280), levels, "cross_attention_dim")
    if len(set(context)) != 1:
        raise InputError("UNet2DConditionModel with another width of text a level is not supported")
    config = LatentUNetConfig(
        in_channels=latent,
        extra=in_channels - latent,
        out_channels=out_channels,
        widths=widths,
        layers=layers.pop(),
        transformers=tuple(d if on else 0 for d, on in zip(depth, down, strict=True)),
        middle=None if middle is None else depth[-1] if middle == "UNetMidBlock2DCrossAttn" else 0,
        heads=_per_level(heads, levels, "attention_head_dim"),
        context=context[0],
        cross_only=tuple(cross) if isinstance(cross, (list, tuple)) else (True,) * levels if cross else (),
        upcast=bool(take("upcast_attention", False)),
        vector=vector,
        sizes=sizes,
        noise_levels=int(take("num_class_embeds") or 0),
        guidance_width=int(take("time_cond_proj_dim") or 0),
        convolved=not take("use_linear_projection", False),
        groups=int(take("norm_num_groups", 32)),
        eps=float(take("norm_eps", 1e-5)),
        dropout=float(take("dropout", 0.0)),
        time=ScaleShiftTime() if time == "scale_shift" else AddTime(),
    )
    fields.must(
        flip_sin_to_cos=True,
        freq_shift=0,
        downsample_padding=1,
        act_fn=OneOf("silu", "swish"),
        mid_block_scale_factor=1,
        resnet_out_scale_factor=1.0,
        time_embedding_type="positional",
        conv_in_kernel=3,
        conv_out_kernel=3,
        attention_type="default",
        addition_embed_type_num_heads=64,
    )
    fields.skip("sample_size")
    return config


def write(config: LatentUNetConfig) -> dict[str, Any]:
    """Return their configuration of ours; `InputError` for what it cannot say."""
    k = config
    if k.patch > 1:
        raise InputError(f"diffusers has no U-Net on squares of latents (patch={k.patch}): keep this layout")
    down = ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in k.transformers]
    depth = [d or 1 for d in k.transformers]
    if k.middle:
        depth[-1] = k.middle
    fields: dict[str, Any] = {
        "in_channels": k.in_channels + k.extra,
        "out_channels": k.out_channels,
        "block_out_channels": list(k.widths),
        "layers_per_block": k.layers,
        "down_block_types": down,
        "mid_block_type": None if k.middle is None else "UNetMidBlock2DCrossAttn" if k.middle else "UNetMidBlock2D",
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
        "transformer_layers_per_block": depth,
        "attention_head_dim": list(k.heads),
        "cross_attention_dim": k.context,
        "only_cross_attention": list(k.cross_only) if k.cross_only else False,
        "upcast_attention": k.upcast,
        "num_class_embeds": k.noise_levels or None,
        "time_cond_proj_dim": k.guidance_width or None,
        "use_linear_projection": not k.convolved,
        "norm_num_groups": k.groups,
        "norm_eps": k.eps,
        "dropout": k.dropout,
        "resnet_time_scale_shift": "scale_shift" if isinstance(k.time, ScaleShiftTime) else "default",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "downsample_padding": 1,
    }
    if k.sizes:
        fields |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": k.vector,
        }
    return fields


def _vector(fields: Fields) -> tuple[int, int]:
    """Return (width of the vector, how many sizes it holds)."""
    kind, each = fields.take("addition_embed_type"), fields.take("addition_time_embed_dim")
    width = fields.take("projection_class_embeddings_input_dim")
    if kind is None:
        return 0, 0
    if kind != "text_time" or each != 256 or not width:
        raise InputError(
            f"UNet2DConditionModel with addition_embed_type={kind!r} is not supported (known: 'text_time')"
        )
    # pooled texts are 1280 wide in every released model; tiny ones may be narrower, but hold six sizes or five
    for sizes in (6, 5):
        if (pooled := width - sizes * each) > 0 and (width == 2560) == (sizes == 5):
            return int(width), sizes if pooled > 0 else 0
    raise InputError(f"UNet2DConditionModel: no room for sizes in projection_class_embeddings_input_dim={width}")


def _blocks(fields: Fields, name: str, known: dict[str, bool], default: tuple[str, ...]) -> list[bool]:
    kinds = list(fields.take(name, default))
    for kind in kinds:
        if kind not in known:
            raise InputError(f"UNet2DConditionModel with {kind!r:.60} in {name} is not supported ({', '.join(known)})")
    return [known[kind] for kind in kinds]


def _per_level(value: Any, levels: int, name: str) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * levels
    if len(values) != levels or not all(isinstance(v, int) for v in values):
        raise InputError(
            f"UNet2DConditionModel: {name}={value!r:.60} is not a whole number for each of {levels} levels"
        )
    return values


LAYOUT = Layout("UNet2DConditionModel", read, write, links)
