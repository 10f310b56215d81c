"""The variational bound: closed forms for Gaussians, tightness, the samplers that it belongs to."""

import math

import pytest
import torch
from torch import nn

from sfumato.core import InputError, LearnedVariance, Noise, Preconditioned, VPLinear, grids, steps
from sfumato.measure import variational_bound
from sfumato.testing import Gaussian, GaussianMixture
from sfumato.testing.table import PLANE, SCHEDULES


@pytest.mark.parametrize("name", SCHEDULES)
def test_narrow_gaussian_in_closed_form(name):
    """Data N(0, c^2): E (x_0 - D)^2 = c^2 sigma^2 / (alpha^2 c^2 + sigma^2), so every term is a sum of logarithms."""
    c2, n, schedule = 0.09, 20_000, SCHEDULES[name]
    law = Gaussian([0.0], c2)
    plan = steps(schedule, grids.uniform(schedule, 6))
    exact = 0.5 * c2 * (plan[0].alpha_t / plan[0].sigma_t) ** 2
    for k in plan:
        error = c2 * k.sigma_t**2 / (k.alpha_t**2 * c2 + k.sigma_t**2)
        beta = k.sigma_t**2 - (k.alpha_t / k.alpha_s) ** 2 * k.sigma_s**2
        if k.s == 0.0:
            exact += 0.5 * (error / beta + math.log(2 * math.pi * beta))
        else:
            tilde = beta * k.sigma_s**2 / k.sigma_t**2
            gain = k.alpha_s * beta / k.sigma_t**2
            exact += 0.5 * (tilde / beta - 1 + math.log(beta / tilde) + gain**2 * error / beta)
    x0 = law.sample(n, 1, dtype=torch.float64)
    found = variational_bound(law.denoiser(schedule), x0, grid=grids.uniform(schedule, 6), seeds=range(n))
    assert abs(found.mean - exact) < 4 * found.error
    assert found.error < 0.02 * max(1.0, abs(exact))


def test_bound_is_tight_for_a_standard_gaussian_with_beta_and_not_with_tilde():
    law, n = Gaussian([0.0, 0.0], 1.0), 4000
    x0, grid = law.sample(n, 1, dtype=torch.float64), grids.uniform(VPLinear(), 12)
    excess = {}
    for variance in (1.0, 0.5):
        found = variational_bound(law.denoiser(VPLinear()), x0, grid=grid, seeds=range(n), variance=variance)
        values = found.values + law.log_prob(x0)
        excess[variance] = float(values.mean()), float(values.std()) / n**0.5
    assert abs(excess[1.0][0]) < 4 * excess[1.0][1]
    assert excess[0.5][0] > 6 * excess[0.5][1]


def test_decoder_with_beta_tilde_has_that_of_the_second_step():
    c2, n, schedule = 0.09, 20_000, VPLinear()
    law, grid = Gaussian([0.0], c2), grids.uniform(schedule, 5)
    second, first = steps(schedule, grid)[-2:]
    bar_t, bar_s = second.alpha_t**2, second.alpha_s**2
    tilde = (1 - bar_t / bar_s) * (1 - bar_s) / (1 - bar_t)
    error = c2 * first.sigma_t**2 / (first.alpha_t**2 * c2 + first.sigma_t**2)
    x0 = law.sample(n, 1, dtype=torch.float64)
    found = variational_bound(law.denoiser(schedule), x0, grid=grid, seeds=range(n), variance=0.0).decoder
    exact = 0.5 * (error / tilde + math.log(2 * math.pi * tilde))
    assert float(found.mean()) == pytest.approx(exact, abs=4 * float(found.std()) / n**0.5)


def test_bound_is_above_the_entropy_and_falls_with_steps():
    law = GaussianMixture([[-1.0], [1.0]], 0.04)
    x0, gaps = law.sample(4000, 2, dtype=torch.float64), []
    for count in (6, 20, 80):
        grid = grids.uniform(VPLinear(), count)
        found = variational_bound(law.denoiser(VPLinear()), x0, grid=grid, seeds=range(4000))
        gaps.append(float((found.values + law.log_prob(x0)).mean()))
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > -0.05


class Net(nn.Module):
    def __init__(self, share):
        super().__init__()
        self.share = share
        self.mark = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.cond = {}

    def embed(self, c_noise):
        return c_noise.double()[:, None]

    def trunk(self, x, emb):
        schedule = VPLinear()
        t = emb.expand(len(x), 1)[:, 0] / 1000
        alpha, sigma = (v[:, None] for v in schedule(t))
        eps = (x - alpha * PLANE.denoiser(schedule)(x, t)) / sigma
        return torch.cat([eps, torch.full_like(eps, 2 * self.share - 1)], 1)

    def forward(self, x, c_noise):
        return self.trunk(x, self.embed(c_noise))


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_learned_variance_interpolates_as_the_fixed_ones(share):
    """A network that says v for everything has the bound of the fixed variance v, on a strided grid too."""
    x0 = PLANE.sample(50, 3, dtype=torch.float64)
    network = Preconditioned(Net(share), VPLinear(), LearnedVariance())
    grid = grids.linspace(VPLinear(), 8, T=64)  # times that the float32 label holds
    said = variational_bound(network, x0, grid=grid, seeds=range(50), variance=None, bin=0.1)
    fixed = variational_bound(PLANE.denoiser(VPLinear()), x0, grid=grid, seeds=range(50), variance=share, bin=0.1)
    torch.testing.assert_close(said.values, fixed.values, rtol=1e-5, atol=1e-4)
    assert said.steps.shape == (7, 50)
    assert "bins of 0.1" in str(said)


def test_decoder_of_levels_is_below_that_of_their_density():
    """-ln of a bin's mass is about the density's less ln bin: the bits of both differ by log2 bin."""
    x0 = (PLANE.sample(500, 5, dtype=torch.float64) * 16).round() / 16
    x0 = x0[(x0.abs() < 0.9).all(1)]
    grid = grids.uniform(VPLinear(), 10)
    bounds = [
        variational_bound(PLANE.denoiser(VPLinear()), x0, grid=grid, seeds=range(len(x0)), bin=bin)
        for bin in (None, 1 / 16)
    ]
    assert torch.equal(bounds[0].steps, bounds[1].steps)
    assert bounds[1].bits_per_dim - bounds[0].bits_per_dim == pytest.approx(4.0, abs=0.02)


def test_rows_belong_to_their_seeds_and_progress_is_told():
    x0, seen = PLANE.sample(6, 3), []
    grid = grids.uniform(VPLinear(), 5)
    told = {"callback": lambda done, of: seen.append((done, of))}
    whole = variational_bound(PLANE.denoiser(VPLinear()), x0, grid=grid, seeds=range(6), **told)
    part = variational_bound(PLANE.denoiser(VPLinear()), x0[2:4], grid=grid, seeds=Noise([2, 3]))
    assert torch.equal(whole.values[2:4], part.values)
    assert seen == [(i, 5) for i in range(1, 6)]


def test_what_cannot_be_is_refused():
    x0, denoiser = PLANE.sample(2, 1), PLANE.denoiser(VPLinear())
    with pytest.raises(InputError, match="ends at the data"):
        variational_bound(denoiser, x0, grid=grids.uniform(VPLinear(), 5, end=0.1), seeds=range(2))
    with pytest.raises(InputError, match=r"variance=1\.5"):
        variational_bound(denoiser, x0, grid=grids.uniform(VPLinear(), 5), seeds=range(2), variance=1.5)
    with pytest.raises(InputError, match="LearnedVariance"):
        variational_bound(denoiser, x0, grid=grids.uniform(VPLinear(), 5), seeds=range(2), variance=None)
