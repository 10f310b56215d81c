"""The consistency decoder by itself: exact counts, and the identity of its preconditioning."""

import math

import pytest
import torch

import sfumato as sf
from sfumato.codecs.consistency_decoder import ConsistencyDecoderConfig, abar
from sfumato.pipeline.folder import empty


def test_the_published_numbers_of_parameters():
    config = ConsistencyDecoderConfig()
    codec = empty(config, torch.float32)
    assert sum(p.numel() for p in codec.unet.parameters()) == 621_277_702
    assert sum(p.numel() for p in codec.encoder.parameters()) == 34_163_592
    assert sf.from_config(sf.to_config(config)) == config


@torch.no_grad()
def test_the_preconditioning_has_unit_variance_and_its_boundary():
    """Karras et al. 2022, appendix B.6: c_in makes unit variance of data of deviation 0.5; at t = 0, x0 is x."""
    codec = ConsistencyDecoderConfig(widths=(8,), groups=8, unet_widths=(8,), unet_groups=8, layers=1).build()
    seen = []
    codec.unet.forward = lambda x, t: seen.append(x) or torch.zeros_like(x)
    for t in (16, 512, 1008):
        a = abar(t, 1024)
        g = torch.Generator().manual_seed(t)
        data, noise = torch.randn(2, 1, 3, 64, 64, generator=g)
        x = 0.5 * math.sqrt(a) * data + math.sqrt(1 - a) * noise
        codec._denoised(x, torch.zeros(1, 4, 64, 64), t)
        assert float(seen[-1][:, :3].var()) == pytest.approx(1.0, rel=0.05)
    x = torch.rand(1, 3, 4, 4) - 0.5
    codec.unet.forward = lambda x, t: torch.ones_like(x)
    assert torch.allclose(codec._denoised(x, torch.zeros(1, 4, 4, 4), 0), x, atol=0.01)
