"""PSNR and SSIM against torchmetrics, and where they are known."""

import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

import sfumato as sf
from sfumato.measure import block_means, psnr, ssim


def pictures(seed):
    return torch.tanh(torch.randn(4, 3, 24, 20, generator=torch.Generator().manual_seed(seed)))


def test_they_are_those_of_torchmetrics():
    x, y = pictures(0), 0.7 * pictures(0) + 0.3 * pictures(1)
    for a, b, p, s in zip(x, y, psnr(x, y), ssim(x, y), strict=True):
        a, b = a[None].double(), b[None].double()
        assert math.isclose(p, peak_signal_noise_ratio(b, a, data_range=2.0), rel_tol=1e-6)
        # theirs is the mean over a picture that was enlarged by its reflection: here over the places of the window
        _, full = structural_similarity_index_measure(b, a, data_range=2.0, return_full_image=True)
        assert math.isclose(s, full[..., 5:-5, 5:-5].mean(), rel_tol=1e-5)


def test_where_they_are_known():
    x = torch.zeros(1, 1, 16, 16)
    assert math.isclose(psnr(x, x + 0.2), 20.0, abs_tol=1e-4)  # 10 log10(4 / 0.04)
    assert torch.isinf(psnr(x, x)).all()
    assert torch.equal(ssim(pictures(0), pictures(0)), torch.ones(4, dtype=torch.float64))
    flat = (2 * 0.5 * 0.3 + 4e-4) / (0.25 + 0.09 + 4e-4)  # no variance: the term of the means alone
    assert math.isclose(ssim(x + 0.5, x + 0.3), flat, rel_tol=1e-5)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(sf.InputError, match="cannot be compared"):
        psnr(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9))
    with pytest.raises(sf.InputError, match="11 x 11"):
        ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))


def test_the_means_of_blocks_are_a_codec_of_one_number_a_block():
    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    made = block_means(x, 2)
    assert made[0, 0].tolist() == [[2.5, 2.5, 4.5, 4.5]] * 2 + [[10.5, 10.5, 12.5, 12.5]] * 2
    assert torch.equal(made[0, 1], made[0, 0] + 16)
    with pytest.raises(sf.InputError, match="give a divisor"):
        block_means(x, 3)
