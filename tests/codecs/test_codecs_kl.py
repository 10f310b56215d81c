"""The KL autoencoder by itself: exact counts, what noise depends on, strips, compilation."""

import pytest
import torch
import torch.nn.functional as F

import sfumato as sf
from sfumato import InputError, Noise
from sfumato.codecs import AutoencoderKLConfig, Identity, IdentityConfig
from sfumato.codecs.kl import sd, sd3, sdxl, upscaler
from sfumato.codecs.trunk import Norm
from sfumato.pipeline.folder import empty

TINY = AutoencoderKLConfig(widths=(8, 16, 16), layers=1, groups=4)


def scrambled(codec, seed=0, scale=0.2):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in codec.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * scale + (p.ndim == 1))
    return codec.eval()


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("config", "all_of_it", "encoder", "decoder"),
    [
        (sd(), 83_653_863, 34_163_592, 49_490_179),
        (sdxl(), 83_653_863, 34_163_592, 49_490_179),
        (sd3(), 83_819_683, 34_274_208, 49_545_475),
    ],
)
def test_the_published_numbers_of_parameters(config, all_of_it, encoder, decoder):
    codec = empty(config, torch.float32)
    count = lambda net: sum(p.numel() for p in net.parameters())
    assert count(codec) == all_of_it
    assert count(codec.encoder) == encoder
    assert count(codec.decoder) == decoder
    assert (codec.factor, codec.channels) == (8, config.latent)
    assert sf.from_config(sf.to_config(config)) == config


def test_the_upscaler_s_has_a_level_less():
    codec = empty(upscaler(), torch.float32)
    assert sum(p.numel() for p in codec.parameters()) == 55_325_927
    assert codec.factor == 4


@torch.no_grad()
def test_a_sample_depends_on_the_seed_of_its_row_alone():
    codec, x = scrambled(TINY.build()), normal(3, 3, 8, 8)
    all_three = codec.encode(x, Noise([3, 4, 5]))
    assert torch.allclose(codec.encode(x[1:2], Noise([4])), all_three[1:2], atol=1e-5)
    assert not torch.allclose(all_three, codec.encode(x), atol=1e-2)


@torch.no_grad()
def test_samples_have_the_moments_of_the_posterior():
    codec, x = scrambled(TINY.build(), scale=0.05), normal(1, 3, 8, 8)
    mean, deviation = codec.posterior(x)
    drawn = (codec.encode(x.expand(4000, -1, -1, -1), Noise(range(4000))) - mean) / deviation
    assert drawn.mean().abs() < 4 / (drawn.numel() ** 0.5)
    assert abs(drawn.var() - 1) < 4 * (2 / drawn.numel()) ** 0.5


@torch.no_grad()
def test_the_variance_is_clamped_as_in_the_paper_s_code():
    codec = scrambled(TINY.build())
    for logvar, clamped in ((-1000.0, -30.0), (1000.0, 20.0), (1.0, 1.0)):
        codec.moments.weight.zero_()
        codec.moments.bias.copy_(torch.tensor([0.5] * 4 + [logvar] * 4))
        mean, deviation = codec.posterior(normal(1, 3, 8, 8))
        assert torch.allclose(mean, torch.tensor(0.5 * 0.18215))
        assert torch.allclose(deviation, 0.18215 * torch.exp(torch.tensor(clamped / 2)))


def test_sides_that_do_not_fill_the_latents_are_refused():
    with pytest.raises(InputError, match=r"30x16.*multiples of 4"):
        TINY.build().encode(normal(1, 3, 16, 30))
    with pytest.raises(InputError, match="groups=5"):
        AutoencoderKLConfig(groups=5)
    with pytest.raises(InputError, match="level 7"):
        AutoencoderKLConfig(attention=(7,))


@torch.no_grad()
@torch.no_grad()
def test_norms_of_large_grids_are_exact():
    """PyTorch's own kernel loses three digits there."""
    g, norm = torch.Generator().manual_seed(0), Norm(2, 8, 1e-6)
    norm.weight.copy_(torch.randn(8, generator=g))
    norm.bias.copy_(torch.randn(8, generator=g))
    x = (3 + 2 * torch.randn(2, 8, 512, 300, generator=g)).contiguous(memory_format=torch.channels_last)
    exact = F.group_norm(x.double(), 2, norm.weight.double(), norm.bias.double(), 1e-6)
    own = F.group_norm(x, 2, norm.weight, norm.bias, 1e-6)
    assert (norm(x) - exact).norm() < 2e-6 * exact.norm()
    assert (own - exact).norm() > 1e-5 * exact.norm()


def test_compiles_without_a_break():
    codec = scrambled(TINY.build())
    x, z = normal(1, 3, 8, 8), normal(1, 4, 2, 2)
    whole = lambda x, z: (codec.posterior(x)[0], codec.decode(z))
    for got, expected in zip(torch.compile(whole, backend="eager", fullgraph=True)(x, z), whole(x, z), strict=True):
        assert torch.allclose(got, expected, atol=1e-6)


def test_gradients_reach_pixels_and_latents():
    config = AutoencoderKLConfig(widths=(4, 8), layers=1, groups=2, latent=2)
    codec = scrambled(config.build()).double()
    z = normal(1, 2, 2, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(codec.decode, z)
    x = normal(1, 3, 4, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(codec.encode, x)


def test_pixels_are_their_own_latents():
    x = normal(2, 3, 5, 7)
    for codec in (Identity(), IdentityConfig(channels=3).build()):
        assert codec.factor == 1
        assert codec.encode(x, Noise([1, 2])) is x
        assert codec.decode(x) is x
