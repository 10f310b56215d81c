"""The VQ model by itself: exact counts, the nearest code, gradients straight through, compilation."""

import pytest
import torch
from test_codecs_kl import normal, scrambled

import sfumato as sf
from sfumato import InputError
from sfumato.codecs import vq
from sfumato.codecs.vq import VQModelConfig, codebook_loss, vq_f4, vq_f8, vq_f16
from sfumato.pipeline.folder import empty

TINY = VQModelConfig(widths=(8, 16), layers=1, groups=4, codes=50, scale=0.5)


def test_the_numbers_of_parameters():
    assert sum(p.numel() for p in empty(vq_f4(), torch.float32).parameters()) == 55_322_782
    for config, factor, channels in ((vq_f4(), 4, 3), (vq_f8(), 8, 4), (vq_f16(), 16, 8)):
        codec = empty(config, torch.float32)
        assert (codec.factor, codec.channels) == (factor, channels)
        assert sf.from_config(sf.to_config(config)) == config


@torch.no_grad()
def test_the_code_is_the_nearest(monkeypatch):
    codec, latents = scrambled(TINY.build()), normal(2, 3, 5, 7)
    far = (latents[:, None] / 0.5 - codec.codebook.weight[None, :, :, None, None]).square().sum(2)
    assert torch.equal(codec.indices(latents), far.argmin(1))
    monkeypatch.setattr(vq, "_DISTANCES", 200)  # four places at a time
    assert torch.equal(codec.indices(latents), far.argmin(1))
    assert torch.equal(codec.indices(codec.quantise(latents)), far.argmin(1))


def test_gradients_go_straight_through():
    codec, latents = scrambled(TINY.build()), normal(1, 3, 4, 4).requires_grad_()
    nearest = codec.lookup(codec.indices(latents)).detach().requires_grad_()
    through = torch.autograd.grad(codec.decode(latents).square().sum(), latents)[0]
    assert torch.allclose(through, torch.autograd.grad(codec.render(nearest).square().sum(), nearest)[0], rtol=1e-4)


def test_each_term_of_the_loss_moves_its_own():
    z, e = normal(2, 3, 4, 4).requires_grad_(), normal(2, 3, 4, 4, seed=2).requires_grad_()
    to_z, to_e = torch.autograd.grad(codebook_loss(z, e, codebook=2.0, commitment=3.0).sum(), (z, e))
    assert torch.allclose(to_z, 3 * 2 * (z - e) / 48)
    assert torch.allclose(to_e, 2 * 2 * (e - z) / 48)


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="groups=32"):
        VQModelConfig(widths=(16,), groups=8, spatial=True)
    with pytest.raises(InputError, match="code = latent"):
        VQModelConfig(spatial=True, code=4)


@pytest.mark.parametrize("spatial", [False, True])
@torch.no_grad()
def test_compiles_without_a_break(spatial):
    config = VQModelConfig(widths=(32, 32), layers=1, codes=20, spatial=spatial)
    codec = scrambled(config.build())
    x, z = normal(1, 3, 4, 4), normal(1, 3, 2, 2)
    whole = lambda x, z: (codec.posterior(x)[0], codec.decode(z))
    for got, expected in zip(torch.compile(whole, backend="eager", fullgraph=True)(x, z), whole(x, z), strict=True):
        assert torch.allclose(got, expected, atol=1e-6)
