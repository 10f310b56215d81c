"""Straightness and cost against the flow of a Gaussian, which is known."""

import math

import pytest
import torch

import sfumato as sf
from sfumato.core import InputError
from sfumato.measure import straightness
from sfumato.solvers import DDPM, Heun
from sfumato.testing import Empirical, Gaussian


def test_gaussian_flow_in_closed_form():
    """y_tau = r(tau) z, r^2 = (1 - tau)^2 c^2 + tau^2: S = int (1 - c - r')^2 dtau, cost (1 - c)^2, for unit noise."""
    c, n, count = 0.3, 400, 256
    law = Gaussian([0.0], c * c)
    found = straightness(
        law.denoiser(sf.Rectified()),
        (count, 1),
        solver=Heun(),
        grid=sf.grids.uniform(sf.Rectified(), n),
        seeds=range(count),
    )
    power = float(sf.Noise(range(count)).normal((count, 1), "start", dtype=torch.float64).square().mean())
    tau = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    rate = (tau - (1 - tau) * c * c) / ((1 - tau) ** 2 * c * c + tau**2).sqrt()
    exact = float((1 - c - rate).square().mean())
    assert found.straightness / power == pytest.approx(exact, rel=0.02)
    assert found.cost / power == pytest.approx((1 - c) ** 2, rel=1e-3)


def test_it_is_of_the_flow_and_not_of_the_schedule():
    """VE with alpha = 1 draws the same flow in other coordinates: same S, same cost."""
    law = Gaussian([0.4, 0.1], 0.2)
    found = []
    for schedule in (sf.Rectified(), sf.VE(sigma_max=500.0)):
        levels = torch.logspace(math.log10(499.0), -3, 600, dtype=torch.float64)
        grid = torch.cat([schedule.inverse(-levels.log()), torch.zeros(1, dtype=torch.float64)])
        found.append(straightness(law.denoiser(schedule), (64, 2), solver=Heun(), grid=grid, seeds=range(64)))
    assert found[0].straightness == pytest.approx(found[1].straightness, rel=0.02)
    assert found[0].cost == pytest.approx(found[1].cost, rel=0.01)


def test_a_single_point_is_reached_straight():
    law, schedule = Empirical([[0.3, -0.2]]), sf.Rectified()
    found = straightness(
        law.denoiser(schedule), (16, 2), solver=Heun(), grid=sf.grids.uniform(schedule, 7), seeds=range(16)
    )
    assert found.straightness == pytest.approx(0, abs=1e-20)
    assert found.cost > 0.5


def test_a_solver_that_draws_noise_is_refused():
    law, schedule = Empirical([[0.3, -0.2]]), sf.VPLinear()
    with pytest.raises(InputError, match="draws noise"):
        straightness(law.denoiser(schedule), (4, 2), solver=DDPM(), grid=sf.grids.uniform(schedule, 4), seeds=range(4))
