"""The tiny autoencoder against diffusers' on the same weights."""

import pytest
import torch
from interop_parity import distance, halved, idle, ours, scrambled

from sfumato import InputError, Noise
from sfumato.interop.diffusers.tiny import LAYOUT

diffusers = pytest.importorskip("diffusers")

TINY = {
    "encoder_block_out_channels": (8,) * 3,
    "decoder_block_out_channels": (8,) * 3,
    "num_encoder_blocks": (1, 2, 1),
    "num_decoder_blocks": (2, 1, 1),
}
VARIANTS = {
    "sd": {},
    "sd3": {"latent_channels": 16, "shift_factor": 0.0},
    "published depth": {
        "encoder_block_out_channels": (8,) * 4,
        "decoder_block_out_channels": (8,) * 4,
        "num_encoder_blocks": (1, 3, 3, 3),
        "num_decoder_blocks": (3, 3, 3, 1),
    },
    "scaled": {"scaling_factor": 0.5, "shift_factor": 0.25},
}


def _models(name):
    theirs = scrambled(diffusers.AutoencoderTiny(**(TINY | VARIANTS[name])))
    return theirs, ours(LAYOUT, theirs)


def _inputs(codec):
    g = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 16, 24, generator=g) * 2 - 1, torch.randn(2, codec.channels, 4, 6, generator=g) * 3


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_same_latents_and_pixels_as_diffusers(name):
    theirs, codec = _models(name)
    x, latents = _inputs(codec)
    scale, shift = theirs.config.scaling_factor, theirs.config.shift_factor
    encoded = (theirs.encode(x).latents - shift) * scale
    decoded = theirs.decode(latents / scale + shift).sample
    assert distance(codec.encode(x), encoded) < 1e-5
    assert torch.equal(codec.encode(x, Noise([1, 2])), codec.encode(x))
    assert distance(codec.decode(latents), decoded) < 1e-5
    half, their_half = halved(codec), halved(theirs)
    other = (their_half.encode(x.bfloat16()).latents.float() - shift) * scale
    assert distance(half.encode(x), encoded) < max(1e-2, 1.5 * distance(other, encoded))
    other = their_half.decode((latents / scale + shift).bfloat16()).sample.float()
    assert distance(half.decode(latents).float(), decoded) < max(1e-2, 1.5 * distance(other, decoded))


def test_every_weight_shows():
    codec = _models("sd")[1]
    x, latents = _inputs(codec)
    decoder = [n for n, _ in codec.named_parameters() if n.startswith(("decoder", "pixels"))]
    encoder = [n for n, _ in codec.named_parameters() if n.startswith(("encoder", "latent"))]
    assert sorted(decoder + encoder) == sorted(n for n, _ in codec.named_parameters())
    assert [n for n in idle(codec, lambda c: c.decode(latents)) if n in decoder] == []
    assert [n for n in idle(codec, lambda c: c.encode(x)) if n in encoder] == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"act_fn": "gelu"}, "gelu"),
        ({"upsample_fn": "bilinear"}, "bilinear"),
        ({"latent_magnitude": 5}, "latent_magnitude"),
        ({"decoder_block_out_channels": (8, 8, 16)}, "several widths"),
        ({"num_decoder_blocks": (1, 1)}, "2 in decoder"),
        ({"a_setting_of_tomorrow": 3}, "a_setting_of_tomorrow"),
    ],
)
def test_a_setting_that_is_not_known_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        LAYOUT.config(TINY | change)
