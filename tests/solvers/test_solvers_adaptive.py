"""Error control: the rules against scipy's and the paper's, the same steps on every schedule, and what is refused."""

import math

import pytest
import torch

from sfumato.core import (
    VE,
    InputError,
    Rectified,
    VPLinear,
    VPScaledLinear,
    ZeroTerminalSNR,
    evaluations,
    grids,
    sample,
)
from sfumato.solvers import RK45, DPMAdaptive, adaptive, rk45
from sfumato.solvers.adaptive import drive, rms
from sfumato.testing import Counted, Gaussian
from sfumato.testing.table import CLASSES, LINE, PLANE

SCHEDULES = [VPLinear(), VE(), Rectified(), ZeroTerminalSNR(base=VPScaledLinear())]
SOLVERS = [RK45(), DPMAdaptive(), DPMAdaptive(order=2)]
by_name = {"ids": lambda v: type(v).__name__ + str(getattr(v, "order", ""))}


def test_the_rule_is_dormand_and_princes():
    rule = pytest.importorskip("scipy.integrate").RK45
    assert pytest.approx([*rule.C[1:], 1.0], abs=1e-15) == rk45._NODES
    for own, theirs in zip(rk45._STAGES, [*rule.A[1:], rule.B], strict=True):
        assert list(own) == pytest.approx(list(theirs)[: len(own)], abs=1e-14)
    fifth = [*rk45._STAGES[-1], 0.0]
    assert [a - b for a, b in zip(fifth, rk45._FOURTH, strict=True)] == pytest.approx(list(-rule.E), abs=1e-14)


def paper(d, x, t, s, order):
    """DPM-Solver-12 and -23 of appendix C in the paper's letters: eps_hat, alpha, sigma and lambda, in x."""
    schedule = d.schedule
    lam_t, h = schedule.lam(t), schedule.lam(s) - schedule.lam(t)

    def at(r):
        time = schedule.inverse(lam_t + r * h)
        return time, *schedule(time)

    def eps(x, time):
        alpha, sigma = schedule(time)
        return (x - alpha * d(x, time)) / sigma

    (alpha, _), e, r1, r2 = schedule(t), eps(x, t), 1 / order, 2 / 3
    t1, a1, s1 = at(r1)
    _, a, s_ = at(1.0)
    d1 = eps(a1 / alpha * x - s1 * math.expm1(r1 * h) * e, t1) - e
    first = a / alpha * x - s_ * math.expm1(h) * e
    second = first - s_ / (2 * r1) * math.expm1(h) * d1
    if order == 2:
        return first, second
    t2, a2, s2 = at(r2)
    u2 = a2 / alpha * x - s2 * math.expm1(r2 * h) * e - s2 * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * d1
    return second, first - s_ / r2 * (math.expm1(h) / h - 1) * (eps(u2, t2) - e)


@pytest.mark.parametrize("schedule", SCHEDULES, **by_name)
@pytest.mark.parametrize("order", [2, 3])
def test_a_pair_of_dpm_solvers_is_the_papers(order, schedule):
    d, t, s = CLASSES.denoiser(schedule), schedule.inverse(-1.0), schedule.inverse(0.4)
    x = CLASSES.marginal(schedule, t).sample(6, 1, dtype=torch.float64)
    here, there = torch.full((6,), -1.0, dtype=torch.float64), torch.full((6,), 0.4, dtype=torch.float64)
    made = DPMAdaptive(order=order)._pair(d, x / schedule(t)[0], here, there, {})
    for own, exact in zip(made, paper(d, x, t, s, order), strict=True):
        torch.testing.assert_close(schedule(s)[0] * own, exact, atol=1e-12, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS, **by_name)
def test_steps_do_not_depend_on_the_schedule(solver):
    """The same noise levels, the same y: the same steps, evaluation for evaluation, and the same end."""
    ends, calls = [], []
    y = LINE.marginal(VE(), VE().inverse(-3.0)).sample(16, 2, dtype=torch.float64)
    for schedule in SCHEDULES:
        d = Counted(LINE.denoiser(schedule))
        grid = schedule.inverse(torch.tensor([-2.5, 4.0], dtype=torch.float64))
        alpha, end = (schedule(float(t))[0] for t in grid)
        ends.append(sample(d, solver=solver, grid=grid, seeds=range(16), x=alpha * y) / end)
        calls.append((d.calls, d.rows))
    assert len(set(calls)) == 1
    assert calls[0][1] < 16 * calls[0][0]  # some rows are done before others
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], atol=1e-8, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS, **by_name)
def test_a_smaller_tolerance_costs_more_and_evaluations_are_left_open(solver):
    costs = []
    grid = grids.karras(VE(), 2)
    for tolerance in (1e-2, 1e-4):
        d = Counted(PLANE.denoiser(VE()))
        own = type(solver)(**({} if solver.order == 5 else {"order": solver.order}), atol=tolerance, rtol=tolerance)
        sample(d, (4, 2), solver=own, grid=grid, seeds=range(4), dtype=torch.float64)
        costs.append(d.calls)
        assert evaluations(own, grid) is None
    assert costs[0] < costs[1] < 500


@pytest.mark.parametrize("order", [2, 3])
def test_the_error_of_dpm_solver_follows_its_tolerance(order):
    """At a hundredth of the tolerance the steps are 100^(1 / order) times smaller, and so is the error a hundredth."""
    schedule, errors, calls = VPLinear(), [], []
    grid = schedule.inverse(torch.tensor([-3.5, 3.5], dtype=torch.float64))
    x = LINE.marginal(schedule, float(grid[0])).sample(48, 1, dtype=torch.float64)
    for tolerance in (1e-2, 1e-4, 1e-6):
        d = Counted(LINE.denoiser(schedule))
        solver = DPMAdaptive(order=order, atol=tolerance, rtol=tolerance)
        made = sample(d, solver=solver, grid=grid, seeds=range(48), x=x)
        errors.append(float((made - LINE.flow(schedule, x, float(grid[0]), float(grid[1]))).abs().mean()))
        calls.append(d.rows)
    assert errors[2] < 5e-6
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert math.log(calls[2] / calls[1]) / math.log(100) == pytest.approx(1 / order, abs=0.1)


@pytest.mark.parametrize("schedule", SCHEDULES, **by_name)
def test_rk45_is_as_exact_as_it_is_told(schedule):
    end = schedule.inverse(6.0)
    grid = torch.tensor([1.0, end], dtype=torch.float64)
    x = PLANE.marginal(schedule, 1.0).sample(16, 1, dtype=torch.float64)
    for tolerance in (1e-5, 1e-9):
        solver = RK45(atol=tolerance, rtol=tolerance)
        made = sample(PLANE.denoiser(schedule), solver=solver, grid=grid, seeds=range(16), x=x)
        assert float((made - PLANE.flow(schedule, x, 1.0, end)).abs().max()) < 200 * tolerance


@pytest.mark.parametrize("solver", SOLVERS, **by_name)
def test_what_is_not_a_number_ends_and_is_seen(solver):
    class Broken:
        schedule, cond = VE(), {}

        def __call__(self, x, t):
            out = PLANE.denoiser(VE())(x, t)
            return torch.where(x[:, :1] > 0, math.nan, out)

    grid = grids.karras(VE(), 2)
    x = torch.tensor([[-80.0, 3.0], [80.0, 3.0]], dtype=torch.float64)
    end = sample(Broken(), solver=solver, grid=grid[:-1], seeds=range(2), x=x)
    assert end[1].isnan().all()


def test_a_tolerance_that_cannot_be_met_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(adaptive, "_MOST", 200)
    d, grid = Gaussian([0.3], 0.2).denoiser(VE()), grids.karras(VE(), 2)
    with pytest.raises(InputError, match=r"RK45\(atol=1e-12, rtol=0.0\) cannot be met in torch.float32") as refusal:
        sample(d, (2, 1), solver=RK45(atol=1e-12, rtol=0.0), grid=grid, seeds=range(2))
    assert "\n" not in str(refusal.value)
    for make in (
        lambda: RK45(atol=0.0),
        lambda: RK45(rtol=-1.0),
        lambda: DPMAdaptive(order=4),
        lambda: DPMAdaptive(atol=0.0),
    ):
        with pytest.raises(InputError) as refusal:
            make()
        assert "\n" not in str(refusal.value)


def test_a_rejected_step_is_taken_again_smaller():
    """The driver on dx/dp = 1 with an error of (step / 0.1)^2: steps settle under 0.1, both ways, and end exactly."""
    for start, end in ((0.0, 1.0), (1.0, -0.5)):
        taken = []

        def trial(x, here, there, cond, taken=taken):
            step = there - here
            taken.extend(zip(here.tolist(), there.tolist(), strict=True))
            return x + step[:, None], (step / 0.1) ** 2

        x, h = drive(trial, torch.zeros(1, 1).double(), (start, end), torch.tensor([0.5]).double(), 2, "it", {})
        assert float(x) == pytest.approx(end - start, abs=1e-12)
        good = [(a, b) for a, b in taken if abs(b - a) <= 0.1]
        assert [a for a, _ in good[1:]] == [b for _, b in good[:-1]]
        assert len(taken) > len(good) >= abs(end - start) / 0.1
        assert taken[-1][1] == end
        assert float(h) == pytest.approx(0.09, abs=0.02)


def test_the_norm_of_a_row_does_not_depend_on_the_batch():
    x = torch.randn(7, 3, 5, 11, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat([rms(x[i : i + 1]) for i in range(7)]), rms(x))
    torch.testing.assert_close(rms(x), x.double().flatten(1).square().mean(1).sqrt())
