"""`ConsistencyDecoderVAE`: the consistency decoder of DALL-E 3 with the encoder of Stable Diffusion."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...codecs.consistency_decoder import ConsistencyDecoder, ConsistencyDecoderConfig
from ...core.errors import InputError
from ..links import Link, Rules, one, renamed
from .kl import OLDER, TRUNK, shape
from .layout import Fields, Layout, OneOf

UNET: Rules = (
    (r"^unet\.times\.", "unet.time_proj."),
    (r"^unet\.mlp\.0\.", "unet.time_embedding.linear_1."),
    (r"^unet\.mlp\.2\.", "unet.time_embedding.linear_2."),
    (r"^unet\.middle\.", "unet.mid_block.resnets."),
    (r"^unet\.(down|up)\.(\d+)\.(\d+)\.", r"unet.\1_blocks.\2.resnets.\3."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"\.time\.", ".time_emb_proj."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"^unet\.", "decoder_unet."),
)
RULES: Rules = (*TRUNK, (r"^moments\.", "quant_conv."))


def links(net: nn.Module) -> list[Link]:
    """Return the links of a `ConsistencyDecoder`."""
    assert isinstance(net, ConsistencyDecoder)
    layers = {"down": net.config.unet_layers, "up": net.config.unet_layers + 1}

    def theirs(name: str) -> str:
        if not name.startswith("unet."):
            return renamed(name, RULES)
        parts = name.split(".")
        # the last block of a stage, which changes the size, stands apart in theirs
        if parts[1] in layers and int(parts[3]) == layers[parts[1]]:
            return renamed(
                f"decoder_unet.{parts[1]}_blocks.{parts[2]}.{parts[1]}samplers.0." + ".".join(parts[4:]), UNET
            )
        return renamed(name, UNET)

    return [one(name, theirs(name)) for name in net.state_dict()]


def read(fields: Fields) -> ConsistencyDecoderConfig:
    """Return our configuration of theirs."""
    take = fields.take
    widths = tuple(take("encoder_block_out_channels", (128, 256, 512, 512)))
    unet = tuple(take("decoder_block_out_channels", (320, 640, 1024, 1024)))
    latent = int(take("latent_channels", 4))
    _same(fields, "encoder_down_block_types", "DownEncoderBlock2D", len(widths))
    _same(fields, "decoder_down_block_types", "ResnetDownsampleBlock2D", len(unet))
    _same(fields, "decoder_up_block_types", "ResnetUpsampleBlock2D", len(unet))
    in_channels = int(take("encoder_in_channels", 3))
    config = ConsistencyDecoderConfig(
        in_channels=in_channels,
        latent=latent,
        widths=widths,
        layers=int(take("encoder_layers_per_block", 2)),
        groups=int(take("encoder_norm_num_groups", 32)),
        scale=float(take("scaling_factor", 0.18215)),
        unet_out=int(take("decoder_out_channels", 6)),
        unet_widths=unet,
        unet_layers=int(take("decoder_layers_per_block", 3)),
        unet_groups=int(take("decoder_norm_num_groups", 32)),
        unet_eps=float(take("decoder_norm_eps", 1e-5)),
        times=int(take("decoder_num_train_timesteps", 1024)),
    )
    fields.must(
        encoder_act_fn=OneOf("silu", "swish"),
        encoder_double_z=True,
        encoder_out_channels=latent,
        decoder_in_channels=in_channels + latent,
        decoder_add_attention=False,
        decoder_resnet_time_scale_shift="scale_shift",
        decoder_time_embedding_type="learned",
    )
    # the padding is that of convolutions that these blocks do not have
    fields.skip("sample_size", "decoder_downsample_padding", "block_out_channels", "force_upcast")
    return config


def write(config: ConsistencyDecoderConfig) -> dict[str, Any]:
    """Return their configuration of ours."""
    k = config
    return {
        "scaling_factor": k.scale,
        "latent_channels": k.latent,
        "encoder_block_out_channels": list(k.widths),
        "encoder_down_block_types": shape(k.widths, ())["down_block_types"],
        "encoder_in_channels": k.in_channels,
        "encoder_out_channels": k.latent,
        "encoder_layers_per_block": k.layers,
        "encoder_norm_num_groups": k.groups,
        "decoder_block_out_channels": list(k.unet_widths),
        "decoder_down_block_types": ["ResnetDownsampleBlock2D"] * len(k.unet_widths),
        "decoder_up_block_types": ["ResnetUpsampleBlock2D"] * len(k.unet_widths),
        "decoder_in_channels": k.in_channels + k.latent,
        "decoder_layers_per_block": k.unet_layers,
        "decoder_norm_eps": k.unet_eps,
        "decoder_norm_num_groups": k.unet_groups,
        "decoder_num_train_timesteps": k.times,
        "decoder_out_channels": k.unet_out,
    }


def _same(fields: Fields, name: str, kind: str, count: int) -> None:
    got = list(fields.take(name, (kind,) * count))
    if got != [kind] * count:
        raise InputError(f"{fields.kind} with {name}={got!r:.60} is not supported (known: {kind}, {count} times)")


LAYOUT = Layout("ConsistencyDecoderVAE", read, write, links, older=OLDER)
