"""What each method's samples are worth: a correlated sequence continued, and a mixture seen through one number."""

import pytest
import torch

from sfumato.core import Noise, VPLinear, fold, grids, sample
from sfumato.inverse import DDNM, DPS, Mask, Matrix, MomentMatching, PiGDM, Replacement
from sfumato.measure import sliced_wasserstein
from sfumato.solvers import DDPM, DPMpp2M
from sfumato.testing import ExactDenoiser, Gaussian, GaussianMixture

SCHEDULE = VPLinear()
GRID, FEW = grids.uniform(SCHEDULE, 100), grids.karras(SCHEDULE, 30)


def seeds(key, n):
    return Noise([fold(key, i) for i in range(n)])


def drawn(denoiser, width, n):
    """By the ancestral sampler, with the variance that is right for Gaussian data, or by an ODE."""
    ode = isinstance(denoiser, (MomentMatching, PiGDM, ExactDenoiser))
    solver, grid = (DPMpp2M(), FEW) if ode else (DDPM(variance=1.0), GRID)
    return sample(denoiser, (n, width), solver=solver, grid=grid, seeds=seeds("draw", n), dtype=torch.float64)


# 16 frames of an AR(1) sequence of correlation 0.95, the first four known

FRAMES = torch.arange(16).double()
LAW = Gaussian(torch.zeros(16), 0.95 ** (FRAMES[:, None] - FRAMES).abs())
KNOWN = FRAMES < 4
OPERATOR = Mask(mask=KNOWN.double())
TRUTH = torch.tensor([[1.2, 1.5, 1.8, 2.0] + [0.0] * 12]).double()
BASE = {"denoiser": LAW.denoiser(SCHEDULE), "operator": OPERATOR, "y": OPERATOR.A(TRUTH)}


def sequence(denoiser, n):
    """(RMSE of the unknown frames' mean in units of its sampling error, ratio of their deviations, residual)."""
    c, k, u = LAW.covariance, KNOWN, ~KNOWN
    gain = c[u][:, k] @ torch.linalg.inv(c[k][:, k])
    mean, std = gain @ TRUTH[0, k], (c[u][:, u] - gain @ c[k][:, u]).diagonal().sqrt()
    x = drawn(denoiser, 16, n)
    error = (x[:, u].mean(0) - mean).square().mean().sqrt() / (std.square().mean() / n).sqrt()
    return float(error), float((x[:, u].std(0) / std).mean()), float((x[:, k] - TRUTH[:, k]).abs().max())


def test_moment_matching_continues_a_sequence_as_the_posterior_does():
    error, ratio, residual = sequence(MomentMatching(**BASE, iterations=4), 1000)
    assert error < 2
    assert ratio == pytest.approx(1.0, abs=0.05)
    assert residual < 1e-9


def test_the_others_are_biased():
    error, ratio, residual = sequence(Replacement(**BASE, noise=seeds("paste", 300)), 300)
    assert error > 4  # the known part is not felt while the noise is high
    assert ratio > 1.15
    assert residual < 1e-9
    error, ratio, residual = sequence(DDNM(**BASE), 300)
    assert error > 4
    assert ratio > 1.15
    assert residual < 1e-9
    error, _, _ = sequence(PiGDM(**BASE), 300)
    assert error > 4  # one variance for all is not this covariance
    _, _, residual = sequence(DPS(**BASE, grid=GRID), 300)
    assert residual > 0.2  # what is measured is not met


# three Gaussians in the plane, seen as x + y / 2 = 1 with an error of 0.2

MIX = GaussianMixture([[-1.2, -0.6], [0.9, 1.0], [1.1, -1.1]], [0.0625, 0.1225, 0.04], [0.3, 0.45, 0.25])
ROW, SIGMA, SEEN = torch.tensor([[1.0, 0.5]]).double(), 0.2, torch.tensor([[1.0]]).double()


def posterior():
    """Each component's own posterior, weighted by how well it explains y."""
    parts = []
    for m, c, w in zip(MIX.means, MIX.covariances, MIX.weights, strict=True):
        v = float(ROW @ c @ ROW.T) + SIGMA**2
        gain, gap = c @ ROW.T / v, SEEN - ROW @ m
        narrowed = c - gain @ ROW @ c
        weight = w * torch.exp(-(gap**2) / (2 * v)) / v**0.5
        parts.append((m + (gain @ gap.T).flatten(), (narrowed + narrowed.T) / 2, weight))
    means, covariances, weights = zip(*parts, strict=True)
    return GaussianMixture(torch.stack(means), torch.stack(covariances), torch.stack(weights).flatten())


def test_a_mixture_against_its_exact_posterior():
    """A mixture given x_t is no Gaussian, so no method here is exact; how far each is off is what is shown."""
    law, n = posterior(), 1500
    truth = law.sample(20_000, 1, dtype=torch.float64)
    base = {"denoiser": MIX.denoiser(SCHEDULE), "operator": Matrix(ROW), "y": SEEN}
    each = (law.denoiser(SCHEDULE), MomentMatching(**base, noise=SIGMA, iterations=2), DPS(**base, grid=GRID))
    exact, close, far = (float(sliced_wasserstein(drawn(d, 2, n), truth)) for d in each)
    assert exact < 0.04
    assert close < 0.1
    assert far > 0.3
