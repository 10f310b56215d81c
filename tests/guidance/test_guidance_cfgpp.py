"""CFG++: exactly classifier-free guidance whose strength the grid decides; its laws are in the conformance suite."""

import math

import pytest
import torch

from sfumato.core import InputError, Noise, Rectified, VPLinear, grids, sample
from sfumato.guidance import CFGpp, ClassifierFree, DynamicThreshold
from sfumato.solvers import DDIM
from sfumato.testing import Counted
from sfumato.testing.table import CLASSES

Y = torch.tensor([0, 1, 1, 0])
OMEGA = 0.6


def made(schedule, grid, denoiser=None):
    return CFGpp(denoiser=denoiser or CLASSES.denoiser(schedule), omega=OMEGA, grid=grid)


@pytest.mark.parametrize("schedule", [VPLinear(), Rectified()], ids=lambda s: type(s).__name__)
def test_a_run_is_the_papers_algorithm(schedule):
    """Algorithm 2 written out: x_0 between the branches by omega, then the null branch's eps."""
    grid = grids.uniform(schedule, 10)
    base = CLASSES.denoiser(schedule)
    found = sample(made(schedule, grid), (4, 2), solver=DDIM(), grid=grid, seeds=range(4), cond={"y": Y})
    x = Noise(range(4)).normal((4, 2), "start").double() * schedule(1.0)[1]
    for t, s in zip(grid.tolist(), grid[1:].tolist(), strict=False):
        (a_t, s_t), (a_s, s_s) = schedule(t), schedule(s)
        null, conditional = base(x, t), base(x, t, y=Y)
        x = a_s * (null + OMEGA * (conditional - null)) + s_s * (x - a_t * null) / s_t
    torch.testing.assert_close(found.double(), x, atol=2e-5, rtol=0)


@pytest.mark.parametrize("schedule", [VPLinear(), Rectified()], ids=lambda s: type(s).__name__)
def test_each_step_is_classifier_free_guidance_with_a_weight_of_its_own(schedule):
    grid = grids.karras(schedule, 6)
    guided = made(schedule, grid)
    levels = [math.exp(-schedule.lam(t)) for t in grid[:-1].tolist()] + [0.0]
    x = CLASSES.sample(4, 1, dtype=torch.float64)
    for t, s, after in zip(grid.tolist(), levels, levels[1:], strict=False):
        w = OMEGA * s / (s - after)
        exact = ClassifierFree(denoiser=guided.denoiser, scale=w)(x, t, y=Y)
        torch.testing.assert_close(guided(x, t, y=Y), exact, atol=1e-11, rtol=1e-11)
    assert guided.scale(float(grid[-2])) == pytest.approx(OMEGA)


def test_between_and_beyond_the_times_of_the_grid():
    grid = torch.tensor([0.9, 0.5, 0.2, 0.0], dtype=torch.float64)
    guided = made(VPLinear(), grid)
    first, second, last = (guided.scale(t) for t in (0.9, 0.5, 0.2))
    assert len({first, second, last}) == 3
    assert [guided.scale(t) for t in (1.0, 0.51, 0.4999, 0.21, 0.1, 0.0)] == [first, first, second, second, last, last]
    rows = guided.scale(torch.tensor([0.95, 0.3, 0.1], dtype=torch.float64))
    assert rows.tolist() == [first, second, last]


def test_strength_grows_with_the_number_of_steps():
    few, many = (made(VPLinear(), grids.uniform(VPLinear(), n)).scale(0.5) for n in (10, 100))
    assert many / few > 7  # ten times the steps


def test_one_batched_evaluation():
    grid = grids.uniform(VPLinear(), 5)
    counted = Counted(CLASSES.denoiser(VPLinear()))
    made(VPLinear(), grid, counted)(CLASSES.sample(4, 1), 0.4, y=Y)
    assert (counted.calls, counted.rows) == (1, 8)


def test_refusals():
    grid = grids.uniform(VPLinear(), 10)
    guided = DynamicThreshold(denoiser=made(VPLinear(), grid))
    for other in (grids.uniform(VPLinear(), 11), grid[::2], grids.karras(VPLinear(), 10)):
        with pytest.raises(InputError, match="give CFGpp the grid of the run"):
            sample(guided, (4, 2), solver=DDIM(), grid=other, seeds=range(4), cond={"y": Y})
    sample(guided, (4, 2), solver=DDIM(), grid=grid[3:], seeds=range(4), cond={"y": Y})  # a stretch of its own grid
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        CFGpp(denoiser=CLASSES.denoiser(VPLinear()), omega=7.5, grid=grid)
