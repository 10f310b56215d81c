"""`AutoencoderTiny`: TAESD, TAESDXL, TAESD3 and TAEF1."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from ...codecs.tiny import AutoencoderTiny, AutoencoderTinyConfig
from ...core.errors import InputError
from ..links import Link, one
from .layout import Fields, Layout


def links(net: nn.Module) -> list[Link]:
    """Return the links of an `AutoencoderTiny`: theirs are numbered through, counting what has no weights."""
    k = cast(AutoencoderTiny, net).config
    places: dict[str, str] = {}
    for half, counts, ahead, between in (("encoder", k.encoder, 0, 0), ("decoder", k.decoder, 1, 1)):
        index = 0
        for stage, blocks in enumerate(counts):
            index += between if stage else 0  # the up-sampling
            places[f"{half}.{stage}.lead"] = f"{half}.layers.{index}"
            index += 1 + (0 if stage else ahead)  # the activation after the first convolution
            for block in range(blocks):
                for conv in range(3):
                    ours = f"{half}.{stage}.blocks.{block}.conv{conv + 1}"
                    places[ours] = f"{half}.layers.{index}.conv.{2 * conv}"
                index += 1
        places["latent" if half == "encoder" else "pixels"] = f"{half}.layers.{index}"
    return [one(f"{ours}.{kind}", f"{places[ours]}.{kind}") for ours, kind in _tensors(net)]


def _tensors(net: nn.Module) -> list[tuple[str, str]]:
    return [(name.rpartition(".")[0], name.rpartition(".")[2]) for name in net.state_dict()]


def read(fields: Fields) -> AutoencoderTinyConfig:
    """Return our configuration of theirs."""
    take = fields.take
    encoder, decoder = tuple(take("num_encoder_blocks", (1, 3, 3, 3))), tuple(take("num_decoder_blocks", (3, 3, 3, 1)))
    widths = {*take("encoder_block_out_channels", (64,) * 4), *take("decoder_block_out_channels", (64,) * 4)}
    if len(widths) != 1:
        raise InputError(f"AutoencoderTiny with several widths is not supported: {sorted(widths)}")
    config = AutoencoderTinyConfig(
        in_channels=int(take("in_channels", 3)),
        out_channels=int(take("out_channels", 3)),
        latent=int(take("latent_channels", 4)),
        width=widths.pop(),
        encoder=encoder,
        decoder=decoder,
        scale=float(take("scaling_factor", 1.0)),
        shift=float(take("shift_factor") or 0.0),
    )
    fields.must(act_fn="relu", upsample_fn="nearest", upsampling_scaling_factor=2)
    # how latents are stored in eight bits; neither encode nor decode does that
    fields.must(latent_magnitude=3, latent_shift=0.5)
    fields.skip("block_out_channels", "force_upcast")
    return config


def write(config: AutoencoderTinyConfig) -> dict[str, Any]:
    """Return their configuration of ours."""
    k = config
    return {
        "in_channels": k.in_channels,
        "out_channels": k.out_channels,
        "latent_channels": k.latent,
        "encoder_block_out_channels": [k.width] * len(k.encoder),
        "decoder_block_out_channels": [k.width] * len(k.decoder),
        "num_encoder_blocks": list(k.encoder),
        "num_decoder_blocks": list(k.decoder),
        "scaling_factor": k.scale,
        "shift_factor": k.shift,
        "act_fn": "relu",
    }


LAYOUT = Layout("AutoencoderTiny", read, write, links)
