"""NCSN as a composition: its loss term by term, its ladder, and its weighting."""

import pytest
import torch

import sfumato as sf
from sfumato.core import Batch, InputError, Noise
from sfumato.nets import MLPConfig
from sfumato.objectives import SNR, Denoising, Ladder


def test_loss_is_the_papers_term_by_term():
    """l = 1/2 sigma_i^2 |s(x + sigma_i z, sigma_i) + z / sigma_i|^2 (eq. 5 and 6); ours is a mean over coordinates."""
    d, n = 3, 64
    ladder, schedule = Ladder(count=5, high=3.0, low=0.1), sf.VE(sigma_min=0.001, sigma_max=5.0)
    denoiser = sf.Preconditioned(MLPConfig(inputs=d, width=8, layers=1).build().double(), schedule, sf.Score())
    x, noise = Noise(range(n)).normal((n, d), "x", dtype=torch.float64), Noise(range(n))
    found = Denoising(time=ladder, weighting=SNR())(denoiser, Batch(x, {}), noise)
    z, u = noise.like(x, "eps"), noise.uniform("time")
    sigmas = [3.0 * (0.1 / 3.0) ** (i / 4) for i in range(5)]
    for row in range(n):
        sigma = sigmas[int(u[row] * 5)]
        noisy = x[row : row + 1] + sigma * z[row]
        label = torch.tensor([1000 * float(schedule.inverse(-torch.tensor(sigma).double().log()))])
        score = denoiser.net(noisy, label.float())
        paper = 0.5 * sigma**2 * (score + z[row] / sigma).square().sum()
        assert 0.5 * d * float(found[row].detach()) == pytest.approx(float(paper.detach()), rel=1e-5)


def test_ladder_is_geometric_and_even():
    ladder, schedule = Ladder(), sf.VE(sigma_min=1e-4, sigma_max=1.0)
    t = ladder((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000, schedule)
    s, counts = torch.exp(-schedule.lam(t)).unique(return_counts=True)
    assert len(s) == 10
    assert counts.tolist() == [100] * 10
    torch.testing.assert_close(s[1:] / s[:-1], torch.full((9,), 100 ** (1 / 9), dtype=torch.float64))
    assert [float(s[0]), float(s[-1])] == pytest.approx([0.01, 1.0])
    with pytest.raises(InputError, match="beyond the schedule"):
        Ladder(high=2.0)(torch.tensor([0.5]).double(), schedule)
    with pytest.raises(InputError, match="at least 2"):
        Ladder(low=2.0)
