"""The consistency decoder against diffusers' on the same weights and noise, with the clamp that theirs leaves out."""

import pytest
import torch
from interop_parity import distance, halved, idle, ours, scrambled

from sfumato import InputError, Noise
from sfumato.codecs import Tiled
from sfumato.codecs.consistency_decoder import ConsistencyDecoder, abar
from sfumato.interop.diffusers.consistency_decoder import LAYOUT

diffusers = pytest.importorskip("diffusers")

TINY = {
    "encoder_block_out_channels": (16, 32),
    "encoder_down_block_types": ("DownEncoderBlock2D",) * 2,
    "encoder_layers_per_block": 1,
    "encoder_norm_num_groups": 8,
    "decoder_block_out_channels": (16, 32),
    "decoder_down_block_types": ("ResnetDownsampleBlock2D",) * 2,
    "decoder_up_block_types": ("ResnetUpsampleBlock2D",) * 2,
    "decoder_layers_per_block": 2,
    "decoder_norm_num_groups": 8,
}


def _models(scale=0.2):
    theirs = scrambled(diffusers.ConsistencyDecoderVAE(**TINY), scale=scale)
    return theirs, ours(LAYOUT, theirs)


def _latents():
    return torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))


def _theirs_decoded(theirs, latents, monkeypatch, *, clamped):
    """Their decode with our draws, and the clamp of the published code where asked for."""
    draws = [Noise([5, 6]).normal((2, 3, 12, 16), "decode", t) for t in ConsistencyDecoder.TIMES]
    fake = lambda shape, **_: draws.pop(0)
    from diffusers.models.autoencoders import consistency_decoder_vae
    from diffusers.schedulers import scheduling_consistency_decoder

    monkeypatch.setattr(consistency_decoder_vae, "randn_tensor", fake)
    monkeypatch.setattr(scheduling_consistency_decoder, "randn_tensor", fake)
    if clamped:
        scheduler, net = theirs.decoder_scheduler, theirs.decoder_unet
        forward = net.forward

        def clamping(x, t):
            """The output whose x0 is the clamped one."""
            out = forward(x, t)
            noisy = x[:, :3] / scheduler.c_in[t]
            x0 = scheduler.c_out[t] * out.sample[:, :3] + scheduler.c_skip[t] * noisy
            out.sample[:, :3] = (x0.clamp(-1, 1) - scheduler.c_skip[t] * noisy) / scheduler.c_out[t]
            return out

        monkeypatch.setattr(net, "forward", clamping)
    return theirs.decode(latents / theirs.config.scaling_factor).sample


@torch.no_grad()
def test_the_same_latents_as_diffusers():
    theirs, codec = _models()
    x = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    posterior = theirs.encode(x).latent_dist
    assert distance(codec.encode(x), posterior.mean * 0.18215) < 1e-5
    drawn = Noise([1, 2]).like(posterior.mean, "posterior")
    assert distance(codec.encode(x, Noise([1, 2])), 0.18215 * (posterior.mean + posterior.std * drawn)) < 1e-5


@torch.no_grad()
def test_the_same_pixels_as_diffusers_clamped_as_published(monkeypatch):
    theirs, codec = _models()
    got = codec.decode(_latents(), Noise([5, 6]))
    assert got.abs().max() == 1.0
    with monkeypatch.context() as patch:
        expected = _theirs_decoded(theirs, _latents(), patch, clamped=True)
    assert distance(got, expected) < 1e-4
    with monkeypatch.context() as patch:
        loose = _theirs_decoded(theirs, _latents(), patch, clamped=False)
    assert loose.abs().max() > 1.0
    assert distance(got, loose) > 1e-2


@torch.no_grad()
def test_without_anything_to_clamp_it_is_diffusers_own(monkeypatch):
    theirs, codec = _models(scale=0.03)
    for net in (theirs.decoder_unet.conv_out, codec.unet.conv_out):
        net.weight.data *= 0.3
    monkeypatch.setattr(torch.Tensor, "clamp", lambda x, low, high: x)
    got = codec.decode(_latents(), Noise([5, 6]))
    assert distance(got, _theirs_decoded(theirs, _latents(), monkeypatch, clamped=False)) < 1e-5


@torch.no_grad()
def test_the_unet_in_both_precisions():
    theirs, codec = _models()
    x = torch.randn(2, 7, 12, 16, generator=torch.Generator().manual_seed(0))
    for t in (512, 1008):
        expected = theirs.decoder_unet(x, t).sample
        assert distance(codec.unet(x, t), expected) < 1e-5
        other = halved(theirs.decoder_unet)(x.bfloat16(), t).sample.float()
        got = halved(codec.unet)(x.bfloat16(), t).float()
        assert distance(got, expected) < max(1e-2, 1.5 * distance(other, expected))


def test_the_schedule_is_theirs():
    scheduler = _models()[0].decoder_scheduler
    for t in (0, 16, 512, 1008, 1022):
        assert abar(t, 1024) == pytest.approx(float(scheduler.sqrt_alphas_cumprod[t]) ** 2, rel=2e-4)


def test_every_weight_shows():
    codec = _models()[1]
    x = torch.randn(2, 7, 12, 16, generator=torch.Generator().manual_seed(0))
    assert idle(codec.unet, lambda net: net(x, 512) + net(x, 1008)) == []
    # a bias of keys shifts all logits of a query alike: softmax does not see it
    others = ("unet.", "encoder.middle.0.attention.k.bias")
    assert [n for n in idle(codec, lambda c: c.encode(x[:, :3], Noise([1, 2]))) if not n.startswith(others)] == []


@torch.no_grad()
def test_a_row_depends_on_its_seed_alone():
    codec, z = _models()[1], _latents()
    both = codec.decode(z, Noise([5, 6]))
    assert torch.allclose(codec.decode(z[1:], Noise([6])), both[1:], atol=1e-4)
    assert (codec.decode(z, Noise([5, 7]))[1] - both[1]).abs().max() > 1e-2


def test_what_cannot_be_is_refused():
    codec = _models()[1]
    with pytest.raises(InputError, match="give decode a Noise"):
        codec.decode(_latents())
    with pytest.raises(InputError, match="draws noise"):
        Tiled(codec)


@torch.no_grad()
def test_compiles_without_a_break():
    codec, x = _models()[1], torch.randn(1, 7, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = lambda x: codec.unet(x, 512)
    assert torch.allclose(torch.compile(whole, backend="eager", fullgraph=True)(x), whole(x), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"decoder_add_attention": True}, "decoder_add_attention"),
        ({"decoder_resnet_time_scale_shift": "default"}, "scale_shift"),
        ({"decoder_time_embedding_type": "positional"}, "learned"),
        ({"decoder_up_block_types": ("UpBlock2D",) * 2}, "UpBlock2D"),
        ({"latent_channels": 16, "encoder_out_channels": 16, "decoder_in_channels": 19}, "latent = 4"),
        ({"a_setting_of_tomorrow": 3}, "a_setting_of_tomorrow"),
    ],
)
def test_a_setting_that_is_not_known_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        LAYOUT.config(TINY | change)
