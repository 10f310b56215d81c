"""The preview is exact for a codec that is linear, deterministic, and small."""

import pytest
import torch
import torch.nn.functional as F
from test_codecs_kl import normal, scrambled

import sfumato as sf
from sfumato import Noise
from sfumato.codecs import AutoencoderKLConfig, Codec, Identity, Preview, fit_preview
from sfumato.codecs.preview import colours


class Mixed(Codec):
    """latents = A (pixels in small) + b."""

    factor, channels = 4, 5

    def __init__(self):
        super().__init__()
        self.register_buffer("a", normal(5, 3))
        self.register_buffer("b", normal(5, seed=2))

    def posterior(self, pixels):
        return torch.einsum("cr,brhw->bchw", self.a, F.avg_pool2d(pixels, 4)) + self.b[:, None, None], None

    def decode(self, latents, noise=None):
        z = latents - self.b[:, None, None]
        return F.interpolate(torch.einsum("rc,bchw->brhw", torch.linalg.pinv(self.a), z), scale_factor=4.0)


def test_a_linear_codec_is_fitted_exactly():
    codec, x = Mixed(), colours(Noise([70, 71]), 24)
    preview = fit_preview(codec)
    small = F.avg_pool2d(x, 4)
    latents = codec.encode(x)
    assert torch.allclose(preview(latents), small, atol=1e-5)
    assert torch.allclose(preview(latents), F.avg_pool2d(codec.decode(latents), 4), atol=1e-5)


def test_pixels_are_their_own_preview():
    preview = fit_preview(Identity())
    assert torch.allclose(torch.tensor(preview.matrix), torch.eye(3), atol=1e-6)
    assert torch.allclose(torch.tensor(preview.offset), torch.zeros(3), atol=1e-6)


def test_the_fit_is_the_least_of_squares_and_depends_on_the_seeds_alone():
    codec = scrambled(AutoencoderKLConfig(widths=(8, 16), layers=1, groups=4).build())
    preview = fit_preview(codec, range(4), size=8)
    assert preview == fit_preview(codec, [0, 1, 2, 3], size=8)
    assert preview != fit_preview(codec, range(4, 8), size=8)
    assert sf.from_config(sf.to_config(preview)) == preview
    x = colours(Noise(range(4)), 16)
    with torch.no_grad():
        z, small = codec.encode(x), F.avg_pool2d(x, 2)
    matrix, offset = torch.tensor(preview.matrix), torch.tensor(preview.offset)
    left = torch.einsum("rc,bchw->brhw", matrix, z) + offset[:, None, None] - small
    # at the least of squares what is left is at right angles to the latents and to a constant
    assert torch.einsum("brhw,bchw->rc", left, z).abs().max() < 1e-3 * small.norm() * z.norm()
    assert left.mean((0, 2, 3)).abs().max() < 1e-4


def test_a_preview_is_clamped_and_small():
    preview = Preview(matrix=((1.0, 0.0), (0.0, 2.0), (1.0, 1.0)), offset=(0.0, 0.5, -3.0))
    latents = torch.tensor([[0.5, 0.25]]).reshape(1, 2, 1, 1).expand(1, 2, 3, 2)
    assert preview(latents).shape == (1, 3, 3, 2)
    assert preview(latents)[0, :, 0, 0].tolist() == pytest.approx([0.5, 1.0, -1.0])


def test_pictures_have_all_colours_at_all_scales():
    x = colours(Noise(range(64)), 32)
    assert x.abs().max() <= 1
    assert x.std() == pytest.approx(0.6, abs=0.15)
    power = (torch.fft.rfft2(x).abs() ** 2).mean((0, 1))
    assert power[0, 0] > power[0, 2] > power[0, 8] > power[0, 15] > 0
    assert torch.equal(colours(Noise([7]), 32)[0], x[7])
