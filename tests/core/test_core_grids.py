"""Grids against published numbers."""

import math

import pytest
import torch

from sfumato.core import VE, InputError, Rectified, Table, VPCosine, VPLinear, ZeroTerminalSNR, grids

# Stable Diffusion's 1000 betas: scaled linear from 0.00085 to 0.012
SD = Table.from_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2)


def indices(grid):
    return [round(t * 1000 - 1, 9) for t in grid[:-1].tolist()]


def levels(schedule, grid):
    return [math.exp(-schedule.lam(t)) for t in grid[:-1].tolist()]


def test_leading_with_stable_diffusion():
    grid = grids.leading(SD, 4)
    assert indices(grid) == [751, 501, 251, 1]
    # printed to six digits, from float32
    assert levels(SD, grid) == pytest.approx([4.11670, 1.62369, 0.698399, 0.0413145], rel=4e-6)
    assert grid[-1] == 0


def test_trailing_with_stable_diffusion():
    assert indices(grids.trailing(SD, 1)) == [999]
    assert levels(SD, grids.trailing(SD, 1)) == pytest.approx([14.6146], rel=4e-6)
    assert indices(grids.trailing(SD, 4)) == [999, 749, 499, 249]


def test_the_indices_that_distilled_models_know():
    # printed by the released schedulers' set_timesteps
    assert indices(grids.lcm(SD, 1)) == [999]
    assert indices(grids.lcm(SD, 4)) == [999, 759, 499, 259]
    assert indices(grids.lcm(SD, 7)) == [999, 859, 719, 579, 439, 299, 159]


def test_linspace_is_improved_ddpms():
    """n indices from the last to 0 inclusive, as Nichol and Dhariwal stride; the one of DPM-Solver's released code
    spreads n + 1 and drops the last, so that 4 steps are 999, 749, 500, 250 there.
    """
    assert indices(grids.linspace(SD, 4)) == [999, 666, 333, 0]
    assert indices(grids.linspace(SD, 1000)) == list(range(999, -1, -1))
    assert indices(grids.linspace(SD, 5))[:4] == [999, 749, 500, 250]


def test_karras_is_equation_5():
    n, rho, low, high = 18, 7.0, 0.002, 80.0
    grid = grids.karras(VE(sigma_max=100.0), n)
    exact = [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)]
    assert levels(VE(sigma_max=100.0), grid) == pytest.approx(exact, rel=1e-9)
    assert len(grid) == n + 1
    assert grid[-1] == 0


def test_log_snr_has_equal_steps_of_lambda():
    schedule = VPCosine()
    grid = grids.log_snr(schedule, 12, sigma_min=0.01, sigma_max=50.0)
    lams = schedule.lam(grid[:-1])
    exact = torch.linspace(-math.log(50), -math.log(0.01), 12, dtype=torch.float64)
    torch.testing.assert_close(lams, exact, atol=1e-9, rtol=0)


def test_logistic_is_a_constant_and_a_logistic_density():
    n, centre, low, high = 15, 0.7, 0.01, 80.0
    made = levels(VPCosine(), grids.logistic(VPCosine(), n, centre=centre, floor=0.5, sigma_min=low))
    assert (made[0], made[-1]) == (pytest.approx(high), pytest.approx(low))
    span = math.log(high / low)
    even = [math.log(high / s) / span for s in made]
    of = [1 / (1 + s / centre) for s in made]
    bump = [(v - of[0]) / (of[-1] - of[0]) for v in of]
    count = [0.5 * span * e + (n - 1 - 0.5 * span) * b for e, b in zip(even, bump, strict=True)]
    assert count == pytest.approx(range(n), abs=1e-4)
    # of 3 steps at most 2 are the constant's; this case is symmetric about s = 1
    few = levels(VPCosine(), grids.logistic(VPCosine(), 4, centre=1.0, floor=9.0, sigma_min=1 / 80))
    assert few[1] * few[2] == pytest.approx(1.0, rel=1e-6)
    share = 2 / 3 * math.log(80 / few[1]) / math.log(6400) + (1 / (1 + few[1]) - 1 / 81) / (79 / 81) / 3
    assert share == pytest.approx(1 / 3, rel=1e-4)
    for n, last in ((4, 1 / 16), (16, 1 / 128), (100, 0.002)):
        assert levels(SD, grids.logistic(SD, n))[-1] == pytest.approx(last)


def test_uniform_and_quadratic():
    torch.testing.assert_close(grids.uniform(SD, 4), torch.tensor([1, 0.75, 0.5, 0.25, 0], dtype=torch.float64))
    torch.testing.assert_close(
        grids.quadratic(SD, 4),
        torch.tensor([1, 9, 4, 1, 0], dtype=torch.float64) ** 1 / torch.tensor([1, 16, 16, 16, 1]),
    )
    ends = grids.uniform(SD, 3, start=0.9, end=0.1)
    assert (ends[0], ends[-1]) == (pytest.approx(0.9), pytest.approx(0.1))


def test_align_your_steps_at_its_own_number_of_steps_and_between():
    assert levels(SD, grids.tabulated(SD, 10))[1:] == pytest.approx(grids.AYS_SD15[1:-1], rel=1e-9)
    assert levels(SD, grids.tabulated(SD, 10))[0] == pytest.approx(14.6146, rel=1e-4)  # the schedule's own end
    # the authors' interpolation runs to the end of the last step, 0.029, and then puts it at 0
    four = levels(SD, grids.tabulated(SD, 4))
    assert four[1:] == pytest.approx([3.22693616, 1.396, 0.51004706], rel=1e-7)
    between = levels(SD, grids.tabulated(SD, 20, levels=grids.AYS_SDXL))
    assert between[2::2] == pytest.approx(grids.AYS_SDXL[1:-1], rel=1e-9)
    assert between[3] == pytest.approx(math.sqrt(grids.AYS_SDXL[1] * grids.AYS_SDXL[2]), rel=1e-9)
    assert between[-1] == pytest.approx(math.sqrt(grids.AYS_SDXL[-2] * grids.AYS_SDXL[-1]), rel=1e-9)
    for table in (grids.AYS_SD15, grids.AYS_SDXL, grids.AYS_IF, grids.AYS_SVD):
        assert len(table) == 11


def test_levels_stop_at_the_schedules_own():
    assert levels(SD, grids.karras(SD, 5))[0] == pytest.approx(math.exp(-SD.lam(1.0)), rel=1e-9)
    for schedule in (Rectified(), ZeroTerminalSNR(base=VPLinear())):
        assert levels(schedule, grids.karras(schedule, 5))[0] == pytest.approx(80.0, rel=1e-9)


@pytest.mark.parametrize(
    "grid",
    [
        grids.uniform,
        grids.quadratic,
        grids.karras,
        grids.log_snr,
        grids.logistic,
        grids.leading,
        grids.linspace,
        grids.trailing,
        grids.lcm,
        grids.tabulated,
    ],
)
@pytest.mark.parametrize("n", [1, 2, 10, 50])
def test_every_grid_falls_from_noise_to_data(grid, n):
    made = grid(SD, n)
    assert made.shape == (n + 1,)
    assert made.dtype == torch.float64
    assert (made[:-1] > made[1:]).all()
    assert made[0] <= 1
    assert made[-1] == 0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: grids.uniform(SD, 0), "give at least 1"),
        (lambda: grids.leading(SD, 1001), "give at most 1000"),
        (lambda: grids.lcm(SD, 51), "give at most 50"),
        (lambda: grids.uniform(SD, 3, start=0.1, end=0.9), "fall strictly"),
        (lambda: grids.uniform(SD, 3, start=1.5), "fall strictly"),
        (lambda: grids.karras(SD, 3, sigma_min=20.0), "must lie between 0 and"),
        (lambda: grids.logistic(SD, 3, centre=0.0), "centre > 0"),
    ],
)
def test_refusals(make, said):
    with pytest.raises(InputError, match=said):
        make()
