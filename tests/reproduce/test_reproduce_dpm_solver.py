"""The rows of dpm-solver that are cheap, and the classical methods that it compares with."""

import math

import pytest
import torch

from sfumato.core import VE, Noise, Rectified, VPLinear, grids, sample
from sfumato.reproduce import beds, dpm_solver
from sfumato.reproduce.classical import MidpointInLambda, MidpointInTime, velocity
from sfumato.solvers import DDIM
from sfumato.testing import Gaussian


def test_first_order_is_ddim():
    assert dpm_solver.first() < 1e-12


def test_the_grids_share_their_ends():
    schedule = VPLinear()
    for grid in (dpm_solver.even, dpm_solver.uniform):
        times = grid(schedule, 7)
        assert len(times) == 8
        assert float(times[0]) == pytest.approx(1.0)
        assert math.exp(-schedule.lam(float(times[-1]))) == pytest.approx(dpm_solver.LAST)
    for grid in (dpm_solver._levels, dpm_solver._times):
        times = grid(schedule, 6)
        assert len(times) == 7
        assert float(times[-1]) == 0.0
        assert math.exp(-schedule.lam(float(times[-2]))) == pytest.approx(dpm_solver.LAST)


@pytest.mark.parametrize("schedule", [VPLinear(), VE(), Rectified()], ids=lambda s: type(s).__name__)
def test_velocity_is_the_exact_flows(schedule):
    law, t, h = Gaussian([0.3, -0.2], [[0.5, 0.1], [0.1, 0.2]]), 0.6, 1e-5
    x = law.sample(8, 1, dtype=torch.float64)
    found = velocity(law.denoiser(schedule), x, t, {})
    exact = (law.flow(schedule, x, t, t + h) - law.flow(schedule, x, t, t - h)) / (2 * h)
    torch.testing.assert_close(found, exact, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("solver", [MidpointInTime(), MidpointInLambda()], ids=lambda s: type(s).__name__)
def test_midpoint_rules_are_of_second_order(solver):
    law, schedule = Gaussian([0.3, -0.2], [[0.5, 0.1], [0.1, 0.2]]), VPLinear()
    x = law.sample(32, 1, dtype=torch.float64)
    errors = []
    for n in (20, 40, 80):
        grid = grids.uniform(schedule, n, start=0.8, end=0.1)
        end = sample(law.denoiser(schedule), solver=solver, grid=grid, seeds=Noise(range(32)), x=x)
        errors.append(beds.rms(end - law.flow(schedule, x, 0.8, 0.1)))
    assert 1.9 < beds.slope((20, 40, 80), errors) < 2.1


def test_the_bed_finds_a_wrong_solver():
    class Boast(DDIM):
        nfe = 2

    bed = dpm_solver.bed()
    assert bed.error(DDIM(), 24) == pytest.approx(bed.error(Boast(), 48))
    assert bed.error(DDIM(), 48) < 0.6 * bed.error(DDIM(), 24)
