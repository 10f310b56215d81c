"""Inversion against the exact flow: at the solver's order, to both ends, and the round trip's published behaviour."""

import math

import pytest
import torch

from sfumato.core import VE, InputError, Rectified, VPLinear, VPScaledLinear, ZeroTerminalSNR, grids, invert, round_trip
from sfumato.solvers import DDIM, DDPM, LMS, PNDM, RK45, DPMAdaptive, DPMpp2M, DPMpp3S, Heun, UniPC
from sfumato.testing import Counted, GaussianMixture
from sfumato.testing.grids import uneven
from sfumato.testing.table import CLASSES, LINE, PLANE

SCHEDULES = [VPLinear(), VE(), Rectified(), ZeroTerminalSNR(base=VPScaledLinear())]
by_name = {"ids": lambda v: type(v).__name__}


def missed(solver, schedule, model, grid):
    """The mean distance of the inverted from where the exact flow comes from, in units of the noise there."""
    start = float(grid[-1])
    x = model.marginal(schedule, start).sample(48, 11, dtype=torch.float64)
    made = invert(model.denoiser(schedule), x, solver=solver, grid=grid)
    exact = model.flow(schedule, x, start, float(grid[0]))
    return float((made - exact).abs().mean()) / schedule(float(grid[0]))[1]


@pytest.mark.parametrize("schedule", SCHEDULES[:3], **by_name)
@pytest.mark.parametrize("solver", [DDIM(), Heun(), DPMpp2M(), LMS(order=3), DPMpp3S(), UniPC()], **by_name)
def test_at_the_order_of_the_solver(solver, schedule):
    coarse, fine = (missed(solver, schedule, LINE, uneven(schedule, n)) for n in (40, 160))
    assert math.log2(coarse / fine) / 2 == pytest.approx(solver.order, abs=0.25)


@pytest.mark.parametrize("schedule", SCHEDULES, **by_name)
@pytest.mark.parametrize("solver", [DDIM(), Heun(), PNDM(), LMS(), RK45(), DPMAdaptive()], **by_name)
def test_from_the_data_to_pure_noise(solver, schedule):
    """Both ends belong to inversion: sigma = 0 where it starts, alpha = 0 where it ends on two of the schedules."""
    coarse, fine = (missed(solver, schedule, PLANE, grids.uniform(schedule, n)) for n in (32, 128))
    assert fine < 0.02
    assert fine < 0.5 * coarse


@pytest.mark.parametrize("level", [0.1, 0.05])
def test_the_first_step_from_the_data_is_of_fourth_order_in_its_level(level):
    schedule = VE()
    errors = []
    for s in (level, level / 2):
        grid = torch.tensor([schedule.inverse(-math.log(s)), 0.0], dtype=torch.float64)
        errors.append(missed(DDIM(), schedule, LINE, grid) * s)
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.3)


def test_the_round_trip_of_ddim_halves_with_twice_the_steps():
    """Song et al. 2021, table 2, and its cause; measured 0.54, 0.29, 0.12, 0.05, 0.02 at 10 to 200 steps."""
    schedule = VE()
    bed = GaussianMixture([[-1.2, -0.6], [0.9, 1], [1.1, -1.1]], [0.0625, 0.1225, 0.04], [0.3, 0.45, 0.25])
    d, x0 = bed.denoiser(schedule), bed.sample(200, dtype=torch.float64)
    trips = [round_trip(d, x0, solver=DDIM(), grid=grids.log_snr(schedule, n)) for n in (10, 20, 50, 100, 200)]
    errors = [float(trip.error.square().mean().sqrt()) for trip in trips]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.08
    assert errors[4] == pytest.approx(errors[3] / 2, rel=0.3)
    # too few steps leave the noise too narrow
    assert 0.6 < float(trips[0].x.std()) / 80 < 0.85
    assert 0.92 < float(trips[3].x.std()) / 80 < 1.0
    assert float(round_trip(d, x0, solver=Heun(), grid=grids.log_snr(schedule, 100)).error.max()) < 2e-3


def test_the_round_trip_is_what_it_says():
    d, x0, grid = CLASSES.denoiser(VE()), CLASSES.sample(5, 1), grids.karras(VE(), 8)
    before, cond = x0.clone(), {"y": torch.tensor([0, 1, 1, 0, 1])}
    counted = Counted(d)
    trip = round_trip(counted, x0, solver=Heun(), grid=grid, cond=cond)
    assert counted.calls == 2 * (7 * 2 + 1)
    assert torch.equal(trip.x, invert(d, x0, solver=Heun(), grid=grid, cond=cond))
    torch.testing.assert_close(trip.error, (trip.back - x0).double().square().mean(1).sqrt())
    assert torch.equal(x0, before)
    assert trip.x.dtype == x0.dtype
    alone = invert(d, x0[2:3], solver=Heun(), grid=grid, cond={"y": cond["y"][2:3]})
    assert torch.equal(alone[0], trip.x[2])
    assert not torch.equal(trip.x, invert(d, x0, solver=Heun(), grid=grid))


def test_refusals():
    d, x0, grid = CLASSES.denoiser(VE()), CLASSES.sample(2, 1), grids.karras(VE(), 3)
    with pytest.raises(InputError, match=r"DDPM draws noise and cannot be inverted; use DDIM\(\)"):
        invert(d, x0, solver=DDPM(), grid=grid)
    with pytest.raises(InputError, match="no condition 'z'"):
        invert(d, x0, solver=DDIM(), grid=grid, cond={"z": 1})
