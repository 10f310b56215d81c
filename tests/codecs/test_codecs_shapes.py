"""Shapes of KL and VQ codecs beyond the released ones: squares of pixels, no norms, waves of the pixels."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_codecs_kl import normal, scrambled

import sfumato as sf
from sfumato.codecs import AutoencoderKLConfig, Strips, VQModelConfig
from sfumato.codecs.kl import lifted
from sfumato.interop.diffusers import kl as theirs
from sfumato.interop.diffusers import vq as theirs_vq

BARE = AutoencoderKLConfig(widths=(8, 12), layers=1, groups=0, middle=False, scale=1.0)


@torch.no_grad()
def test_a_patch_is_a_rearrangement():
    codec = scrambled(AutoencoderKLConfig(widths=(8,), layers=1, groups=4, patch=2, scale=1.0).build(), scale=0.05)
    assert (codec.factor, codec.channels) == (2, 4)
    x = torch.tanh(normal(2, 3, 8, 12))
    inner = AutoencoderKLConfig(in_channels=12, out_channels=12, widths=(8,), layers=1, groups=4, scale=1.0).build()
    inner.load_state_dict(codec.state_dict())
    z = codec.encode(x)
    assert z.shape == (2, 4, 4, 6)
    assert torch.allclose(z, inner.encode(F.pixel_unshuffle(x, 2)))
    assert torch.allclose(codec.decode(z), F.pixel_shuffle(inner.decode(z), 2))
    with pytest.raises(sf.InputError, match="multiples of 2"):
        codec.encode(normal(1, 3, 7, 8))


@torch.no_grad()
@pytest.mark.parametrize("config", [BARE, VQModelConfig(widths=(8, 12), layers=1, groups=0, middle=False, patch=2)])
def test_without_norms_nothing_is_overwritten_and_strips_are_the_whole(config):
    codec, x = scrambled(config.build(), scale=0.1), torch.tanh(normal(1, 3, 24, 16))
    kept = x.clone()
    z = codec.encode(x)
    with torch.enable_grad():  # where nothing is written in place
        assert torch.allclose(z, codec.encode(x).detach(), atol=1e-6)
        whole = codec.decode(z).detach()
    assert torch.equal(x, kept)
    assert torch.allclose(codec.decode(z), whole, atol=1e-6)
    strips = Strips(codec, 4)
    assert torch.allclose(strips.encode(x), z, atol=1e-5)
    assert torch.allclose(strips.decode(z), whole, atol=1e-5)
    assert not any(isinstance(m, torch.nn.GroupNorm) for m in codec.modules())


@torch.no_grad()
def test_the_encoder_sees_waves_of_the_pixels():
    x = torch.tanh(normal(2, 3, 8, 8))
    found = lifted(x, (0, 2))
    expected = [x, (math.pi * x).sin(), (math.pi * x).cos(), (4 * math.pi * x).sin(), (4 * math.pi * x).cos()]
    assert torch.allclose(found, torch.cat(expected, 1), atol=1e-5)
    codec = AutoencoderKLConfig(widths=(8,), layers=1, groups=4, lift=(0, 1, 2), latent=16).build()
    assert codec.encoder.conv_in.in_channels == 21
    assert codec.encode(x).shape == (2, 16, 8, 8)


def test_files_of_others_cannot_say_this():
    for change in ({"groups": 0}, {"patch": 2}, {"lift": (1,)}):
        with pytest.raises(sf.InputError, match="save_codec"):
            theirs.write(AutoencoderKLConfig(widths=(8,), **({"groups": 4} | change)))
    with pytest.raises(sf.InputError, match="save_codec"):
        theirs_vq.write(VQModelConfig(widths=(8,), groups=4, patch=2))
    for kind in (AutoencoderKLConfig, VQModelConfig):
        with pytest.raises(sf.InputError, match="patch=0 must be at least 1"):
            kind(widths=(8,), groups=4, patch=0)
