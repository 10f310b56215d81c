"""The VQ model against diffusers' on the same weights: plain, with spatial norms, and for tokens."""

import pytest
import torch
from interop_parity import distance, halved, idle, ours, scrambled

from sfumato import InputError
from sfumato.codecs import Strips
from sfumato.codecs.vq import codebook_loss
from sfumato.interop.diffusers.vq import LAYOUT

diffusers = pytest.importorskip("diffusers")

TINY = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "num_vq_embeddings": 40,
    "latent_channels": 3,
}
VARIANTS = {
    "plain": {"scaling_factor": 1.0},
    "attention at a level": {
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        "vq_embed_dim": 5,
    },
    "movq": {
        "norm_type": "spatial",
        "block_out_channels": (64, 64),
        "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    },
    "tokens": {"lookup_from_codebook": True, "mid_block_add_attention": False, "vq_embed_dim": 6},
}


def _models(name):
    theirs = scrambled(diffusers.VQModel(**(TINY | VARIANTS[name])))
    return theirs, ours(LAYOUT, theirs)


def _pixels():
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_same_latents_codes_and_pixels_as_diffusers(name):
    theirs, codec = _models(name)
    x, scale = _pixels(), theirs.config.scaling_factor
    z = theirs.encode(x).latents
    latents = codec.encode(x)
    assert distance(latents, z * scale) < 1e-5
    quantised, _, (_, _, indices) = theirs.quantize(z)
    assert torch.equal(codec.indices(z * scale).flatten(), indices)
    assert len(indices.unique()) > 5
    assert distance(codec.quantise(latents), quantised * scale) < 1e-5
    pixels = theirs.decode(z).sample
    assert distance(codec.decode(latents), pixels) < 1e-5
    assert distance(Strips(codec, 3).decode(latents), pixels) < 1e-5
    if not codec.config.tokens:
        assert distance(codec.render(latents), theirs.decode(z, force_not_quantize=True).sample) < 1e-5
    half, their_half = halved(codec), halved(theirs)
    other = their_half.encode(x.bfloat16()).latents.float()
    assert distance(half.encode(x), z * scale) < max(1e-2, 1.5 * distance(other, z))
    # codes may differ where two are as near, so both decode the same codes
    other = their_half.decode(quantised.bfloat16()).sample.float()
    got = half.render(quantised * scale).float()
    assert distance(got, pixels) < max(1e-2, 1.5 * distance(other, pixels))


@torch.no_grad()
def test_tokens_are_decoded_as_theirs():
    theirs, codec = _models("tokens")
    indices = torch.randint(40, (2, 4, 6), generator=torch.Generator().manual_seed(0))
    expected = theirs.decode(indices, force_not_quantize=True, shape=(2, 4, 6, 6)).sample
    latents = codec.lookup(indices)
    assert distance(codec.decode(latents), expected) < 1e-5
    assert distance(codec.render(latents), expected) < 1e-5
    assert torch.equal(codec.indices(latents), indices)


@pytest.mark.parametrize("name", ["plain", "movq"])
def test_every_weight_shows(name):
    codec = _models(name)[1]
    x = _pixels()
    # with detached codes the codebook would show nowhere: the codes themselves, not straight through
    names = idle(codec, lambda c: c.render(c.encode(x) + c.lookup(c.indices(c.encode(x)))))
    # a bias of keys shifts all logits of a query alike: softmax does not see it
    assert [n for n in names if not n.endswith("attention.k.bias")] == []


def test_the_loss_is_theirs_with_beta_on_the_codes():
    theirs, codec = _models("plain")
    z = theirs.encode(_pixels()).latents
    their_loss = theirs.quantize(z)[1]
    nearest = codec.lookup(codec.indices(z))
    loss = codebook_loss(z, nearest, codebook=0.25, commitment=1.0)
    assert loss.shape == (2,)
    assert torch.allclose(loss.mean(), their_loss, rtol=1e-5)
    theirs.quantize.legacy = False
    assert torch.allclose(codebook_loss(z, nearest).mean(), theirs.quantize(z)[1], rtol=1e-5)
    book = codec.codebook.weight
    expected = torch.autograd.grad(theirs.quantize(z)[1], theirs.quantize.embedding.weight)[0]
    assert torch.allclose(torch.autograd.grad(codebook_loss(z, nearest).mean(), book)[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"norm_type": "layer"}, "layer"),
        ({"norm_type": "spatial"}, "groups=32"),
        ({"act_fn": "relu"}, "relu"),
        ({"up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")}, "same levels"),
        ({"a_setting_of_tomorrow": 3}, "a_setting_of_tomorrow"),
    ],
)
def test_a_setting_that_is_not_known_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        LAYOUT.config(TINY | change)
