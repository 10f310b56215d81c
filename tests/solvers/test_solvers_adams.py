"""LMS, PLMS, PNDM and iPNDM against polynomials, the textbook's weights and the papers' formulas in their letters."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from sfumato.core import (
    VE,
    InputError,
    Rectified,
    SubVP,
    VPCosine,
    VPLinear,
    ZeroTerminalSNR,
    evaluations,
    grids,
    sample,
    steps,
)
from sfumato.solvers import DDIM, IPNDM, LMS, PLMS, PNDM, Euler, Heun
from sfumato.solvers.ipndm import SHARES
from sfumato.solvers.lms import bashforth
from sfumato.testing import Counted
from sfumato.testing.solver_checks import _error
from sfumato.testing.table import CLASSES, LINE

SCHEDULES = [VPLinear(), VPCosine(), SubVP(), VE(), Rectified(), Rectified(shift=3.0)]
by_name = {"ids": lambda v: type(v).__name__}


@dataclass
class Polynomial:
    """A denoiser whose eps_hat is a polynomial in s = sigma / alpha, whatever x is."""

    schedule: object
    powers: tuple[float, ...]
    cond = {}  # noqa: RUF012

    def __call__(self, x, t):
        alpha, sigma = self.schedule(t)
        return (x - sigma * sum(c * (sigma / alpha) ** i for i, c in enumerate(self.powers))) / alpha


@pytest.mark.parametrize("schedule", SCHEDULES, **by_name)
@pytest.mark.parametrize(
    ("order", "powers"), [(1, (0.3,)), (2, (0.3,)), (3, (0.3, -0.8, 0.5)), (4, (0.3, -0.8, 0.5, -0.2))]
)
def test_lms_is_exact_for_polynomials_below_its_order(order, powers, schedule):
    """On uneven steps. Orders 3 and 4 make good the short steps of their start; 1 and 2 start with Euler's step."""
    levels = torch.tensor([1.9, 1.5, 1.2, 0.8, 0.7, 0.4, 0.25], dtype=torch.float64)
    grid = schedule.inverse(-levels.log())
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    area = sum(c * (0.25 ** (i + 1) - 1.9 ** (i + 1)) / (i + 1) for i, c in enumerate(powers))
    exact = schedule(float(grid[-1]))[0] * (x / schedule(float(grid[0]))[0] + area)
    gaps = []
    for solver in (LMS(order=order), LMS(order=max(order - 1, 1))):
        made = sample(Polynomial(schedule, powers), solver=solver, grid=grid, seeds=range(5), x=x)
        gaps.append(float((made - exact).abs().max()))
    assert gaps[0] < 1e-12
    assert order <= 2 or gaps[1] > 1e-3  # and not for more


def test_weights_are_the_textbooks_on_equal_steps():
    for past, shares in enumerate(SHARES):
        weights = bashforth([-0.5 * i for i in range(past + 1)], 0.0, 0.5)
        assert weights == pytest.approx([0.5 * (1 - sum(shares)), *(0.5 * b for b in shares)], abs=1e-15)
    assert [round(24 * (1 - sum(SHARES[3]))), *(round(24 * b) for b in SHARES[3])] == [55, -59, 37, -9]
    assert [round(12 * (1 - sum(SHARES[2]))), *(round(12 * b) for b in SHARES[2])] == [23, -16, 5]


def reference_lms(d, x, plan, order):
    """In y and s, with polynomials fitted and integrated by numpy; the start as one integral from the first level."""
    s = [k.sigma_t / k.alpha_t for k in plan] + [plan[-1].sigma_s / plan[-1].alpha_s]
    y = y_first = x / plan[0].alpha_t
    slopes, starting = [], order > 2
    for i, k in enumerate(plan):
        slopes.append((y - d(k.alpha_t * y, k.t)) / s[i])
        starting = starting and s[i + 1] > s[i] / 2 and i < order
        first = 0 if starting else max(0, i + 1 - order)
        flat = torch.stack(slopes[first:]).flatten(1).numpy()
        fitted = np.polyfit(np.array(s[first : i + 1]), flat, i - first)
        area = [
            np.polyval(np.polyint(c), s[i + 1]) - np.polyval(np.polyint(c), s[0 if starting else i]) for c in fitted.T
        ]
        y = (y_first if starting else y) + torch.tensor(np.array(area)).reshape(y.shape)
    return plan[-1].alpha_s * y


def ddim(x, eps, t, s):
    """Equation 11 of PNDM's paper, phi(x, eps, t, s), for any alpha and sigma."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = t, s
    return alpha_s / alpha_t * x + (sigma_s - alpha_s * sigma_t / alpha_t) * eps


def reference_pndm(d, x, plan, start):
    """Algorithms 1 and 2 of PNDM's paper; `start` is how many of the first steps are Runge-Kutta's, or "euler"."""
    e, schedule = [], d.schedule

    def eps(x, t):
        alpha, sigma = schedule(t)
        return (x - alpha * d(x, t)) / sigma

    for i, k in enumerate(plan):
        t, s, m = schedule(k.t), schedule(k.s), schedule((k.t + k.s) / 2)
        e.append(eps(x, k.t))
        if start == "euler" and i == 0:
            mixed = (e[0] + eps(ddim(x, e[0], t, s), k.s)) / 2
        elif start != "euler" and i < start:
            e1 = e[-1]
            e2 = eps(ddim(x, e1, t, m), (k.t + k.s) / 2)
            e3 = eps(ddim(x, e2, t, m), (k.t + k.s) / 2)
            e4 = eps(ddim(x, e3, t, s), k.s)
            mixed = (e1 + 2 * e2 + 2 * e3 + e4) / 6
        elif len(e) == 1:
            mixed = e[-1]
        elif len(e) == 2:
            mixed = (3 * e[-1] - e[-2]) / 2
        elif len(e) == 3:
            mixed = (23 * e[-1] - 16 * e[-2] + 5 * e[-3]) / 12
        else:
            mixed = (55 * e[-1] - 59 * e[-2] + 37 * e[-3] - 9 * e[-4]) / 24
        x = ddim(x, mixed, t, s)
    return x


RUNS = {
    "LMS": (LMS(), lambda d, x, plan: reference_lms(d, x, plan, 4)),
    "LMS(order=3)": (LMS(order=3), lambda d, x, plan: reference_lms(d, x, plan, 3)),
    "LMS(order=2)": (LMS(order=2), lambda d, x, plan: reference_lms(d, x, plan, 2)),
    "PNDM": (PNDM(), lambda d, x, plan: reference_pndm(d, x, plan, 3)),
    "PLMS": (PLMS(), lambda d, x, plan: reference_pndm(d, x, plan, "euler")),
    "IPNDM": (IPNDM(), lambda d, x, plan: reference_pndm(d, x, plan, 0)),
}


@pytest.mark.parametrize("schedule", SCHEDULES, **by_name)
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("n", [7, 14])
def test_a_run_is_the_papers(name, schedule, n):
    solver, reference = RUNS[name]
    d, grid = CLASSES.denoiser(schedule), grids.karras(schedule, n, sigma_max=30.0, sigma_min=0.02)[:-1]
    x = CLASSES.marginal(schedule, float(grid[0])).sample(6, 1, dtype=torch.float64)
    made = sample(d, solver=solver, grid=grid, seeds=range(6), x=x)
    exact = reference(d, x, steps(schedule, grid))
    assert float((made - exact).abs().max()) < 1e-9


@pytest.mark.parametrize("schedule", [VPLinear(), VE()], **by_name)
@pytest.mark.parametrize("solver", [PNDM(), PLMS(), IPNDM()], **by_name)
def test_the_pseudo_methods_are_of_second_order_on_equal_steps_of_t(solver, schedule):
    coarse, fine = (_error(solver, schedule, LINE, grids.uniform(schedule, n, start=0.9, end=0.1)) for n in (40, 160))
    assert math.log2(coarse / fine) / 2 == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("schedule", [Rectified(), ZeroTerminalSNR(base=VPLinear())], **by_name)
def test_the_first_step_from_alpha_zero(schedule):
    """DDIM's for LMS and iPNDM; the trapezoid and Simpson's rule of x0_hat for the two starts of PNDM."""
    d, grid = CLASSES.denoiser(schedule), torch.tensor([1.0, 0.6], dtype=torch.float64)
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def run(solver):
        return sample(d, solver=solver, grid=grid, seeds=range(6), x=x)

    assert torch.equal(run(LMS()), run(DDIM()))
    assert torch.equal(run(IPNDM()), run(DDIM()))
    assert torch.equal(run(PLMS()), run(Heun()))
    (alpha, sigma), (alpha_m, sigma_m) = schedule(0.6), schedule(0.8)
    d1 = d(x, 1.0)
    d2 = d(sigma_m * x + alpha_m * d1, 0.8)
    d3 = d(sigma_m * x + alpha_m * d2, 0.8)
    d4 = d(sigma * x + alpha * d3, 0.6)
    torch.testing.assert_close(run(PNDM()), sigma * x + alpha * (d1 + 2 * d2 + 2 * d3 + d4) / 6, atol=1e-13, rtol=0)


def test_lms_of_order_one_is_euler_and_other_orders_are_refused():
    d, grid = CLASSES.denoiser(VE()), grids.karras(VE(), 6)
    runs = [sample(d, (4, 2), solver=s, grid=grid, seeds=range(4)) for s in (LMS(order=1), Euler())]
    assert torch.equal(*runs)
    for order in (0, 5):
        with pytest.raises(InputError, match=f"LMS.order={order} must be 1, 2, 3 or 4"):
            LMS(order=order)


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (2, 5), (3, 9), (4, 13), (10, 19)])
def test_evaluations_of_pndm(n, expected):
    grid = grids.uniform(VE(), n)
    counted = Counted(CLASSES.denoiser(VE()))
    sample(counted, (2, 2), solver=PNDM(), grid=grid, seeds=(0, 1))
    assert (counted.calls, evaluations(PNDM(), grid)) == (expected, expected)
    assert evaluations(PLMS(), grid) == (n + 1 if n > 1 else 1)
