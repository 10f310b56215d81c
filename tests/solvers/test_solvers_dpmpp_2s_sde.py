"""DPM-Solver++(2S) with noise: its plain form, the order of its variance, its one path; (k-diffusion's own: peers)."""

import math

import pytest
import torch

from sfumato.core import VE, InputError, VPLinear, ZeroTerminalSNR, grids, sample
from sfumato.solvers import DDIM, DPMpp2S, DPMpp2SSDE
from sfumato.testing import Gaussian
from sfumato.testing.grids import uneven
from sfumato.testing.probe import moments
from sfumato.testing.table import CLASSES, DOT, LINE


@pytest.mark.parametrize(
    "schedule", [VE(), VPLinear(), ZeroTerminalSNR(base=VPLinear())], ids=lambda v: type(v).__name__
)
@pytest.mark.parametrize("r", [0.5, 0.3])
def test_eta_zero_is_the_ode(r, schedule):
    run = {"grid": grids.uniform(schedule, 7), "seeds": range(5), "dtype": torch.float64}
    noisy, plain = (
        sample(CLASSES.denoiser(schedule), (5, 2), solver=solver, **run)
        for solver in (DPMpp2SSDE(eta=0.0, r=r), DPMpp2S(r=r))
    )
    torch.testing.assert_close(noisy, plain, atol=1e-13, rtol=0)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_variance_is_of_second_order(eta):
    """With independent noises at the middle and at the end it would be of first."""
    schedule = VE()

    def error(n):
        grid = uneven(schedule, n)
        return (
            moments(DPMpp2SSDE(eta=eta), schedule, DOT, grid)[1]
            / float(DOT.marginal(schedule, float(grid[-1])).covariance)
            - 1
        )

    coarse, fine = error(80), error(320)
    assert math.log2(coarse / fine) / 2 == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("schedule", [VE(), VPLinear()], ids=lambda v: type(v).__name__)
def test_what_is_left_of_the_middles_noise_is_what_two_ancestral_steps_leave(schedule):
    """Where x0_hat is the same everywhere, a step with eta = 1 is two of DDIM on one path, by the middle."""
    d = Gaussian([0.7], 1e-14).denoiser(schedule)
    grid = grids.log_snr(schedule, 2, sigma_min=0.3, sigma_max=3.0)[:-1]
    middle = torch.tensor(
        [schedule.inverse(0.5 * (schedule.lam(float(grid[0])) + schedule.lam(float(grid[1]))))], dtype=torch.float64
    )
    run = {"seeds": range(50), "x": torch.ones(50, 1, dtype=torch.float64)}
    one = sample(d, solver=DPMpp2SSDE(), grid=grid, **run)
    two = sample(d, solver=DDIM(eta=1.0), grid=torch.cat([grid[:1], middle, grid[1:]]), **run)
    torch.testing.assert_close(one, two, atol=1e-6, rtol=0)


def test_a_finer_grid_refines_the_same_sample():
    schedule, x = VE(), torch.full((60, 1), 1.0, dtype=torch.float64)
    ends = [
        sample(
            LINE.denoiser(schedule),
            solver=DPMpp2SSDE(),
            grid=grids.log_snr(schedule, n, sigma_max=1.0)[:-1],
            seeds=seeds,
            x=x,
        )
        for n, seeds in ((30, range(60)), (60, range(60)), (60, range(1000, 1060)))
    ]
    assert (ends[0] - ends[1]).abs().mean() < 0.35 * (ends[2] - ends[1]).abs().mean()


@pytest.mark.parametrize("settings", [{"eta": 1.5}, {"eta": -0.1}, {"r": 0.0}, {"r": 1.0}], ids=str)
def test_settings_that_are_not_possible_are_refused(settings):
    with pytest.raises(InputError, match="not possible"):
        DPMpp2SSDE(**settings)
