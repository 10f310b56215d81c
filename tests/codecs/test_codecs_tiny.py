"""The tiny autoencoder by itself: exact counts, ranges, exact tiles, compilation."""

import pytest
import torch
from test_codecs_kl import normal, scrambled

import sfumato as sf
from sfumato.codecs import Tiled
from sfumato.codecs.tiny import AutoencoderTinyConfig, taesd, taesd3
from sfumato.pipeline.folder import empty

TINY = AutoencoderTinyConfig(width=8, encoder=(1, 1), decoder=(1, 1))


@pytest.mark.parametrize(("config", "count"), [(taesd(), 2_445_063), (taesd3(), 2_458_899)])
def test_the_published_numbers_of_parameters(config, count):
    codec = empty(config, torch.float32)
    assert sum(p.numel() for p in codec.parameters()) == count
    assert codec.factor == 8
    assert sf.from_config(sf.to_config(config)) == config


def test_the_decoder_has_its_published_size():
    codec = empty(taesd(), torch.float32)
    assert sum(p.numel() for m in (codec.decoder, codec.pixels) for p in m.parameters()) == 1_222_531


@torch.no_grad()
def test_inside_pixels_are_in_0_to_1_and_latents_are_bounded():
    codec, seen = scrambled(TINY.build()), []
    codec.encoder[0].lead.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    codec.decoder[0].lead.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    codec.encode(torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4))
    assert torch.equal(seen[0][0, :, 0, 0], torch.tensor([0.0, 0.5, 1.0]))
    codec.decode(torch.tensor([-1e3, 0.0, 3.0, 1e3]).reshape(1, 4, 1, 1).expand(1, 4, 2, 2))
    expected = torch.tensor([-3.0, 0.0, 3 * torch.tanh(torch.tensor(1.0)), 3.0])
    assert torch.allclose(seen[1][0, :, 0, 0], expected)
    codec.pixels.weight.zero_()
    codec.pixels.bias.copy_(torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(codec.decode(normal(1, 4, 2, 2))[0, :, 0, 0], torch.tensor([-1.0, 0.0, 1.0]))


@torch.no_grad()
def test_tiles_are_exact():
    # to both sides a pixel depends on 1 + 3 latents and 1 + 3 + 1 half latents: 6.5
    codec, z = scrambled(TINY.build()), normal(1, 4, 40, 33)
    whole = codec.decode(z)
    error = lambda overlap: float((Tiled(codec, 32, overlap).decode(z) - whole).norm() / whole.norm())
    assert error(28) < 1e-6
    assert error(4) > 1e-6


@torch.no_grad()
def test_compiles_without_a_break():
    codec = scrambled(TINY.build())
    x, z = normal(1, 3, 8, 8), normal(1, 4, 2, 2)
    whole = lambda x, z: (codec.posterior(x)[0], codec.decode(z))
    for got, expected in zip(torch.compile(whole, backend="eager", fullgraph=True)(x, z), whole(x, z), strict=True):
        assert torch.allclose(got, expected, atol=1e-6)
