"""The search against grids that are known to be best, and against an optimiser of another kind."""

import math

import pytest
import torch
from scipy.optimize import minimize

import sfumato as sf
from sfumato.align import Aligned, SampleDistance, Search, align, guesses, optimise, refined, times, total
from sfumato.core import InputError
from sfumato.reproduce.beds import plane
from sfumato.solvers import DDIM, DPMpp2M

FINE = Search(tolerance=1e-4, rounds=3000, patience=3000, reach=0.5)


def euler(c):
    """Return what Euler's method loses of a Gaussian's deviation in a step, -ln of the factor on (x / sd): additive."""

    def cost(high, low):
        factor = (high * low + c * c) / ((high**2 + c * c) * (low**2 + c * c)).sqrt()
        return -factor.log()

    return cost


def klub(c):
    """Return the bound of a one-dimensional Gaussian in closed form."""

    def cost(high, low):
        r = (high**2 - low**2) / (low**2 * (high**2 + c * c))
        return 0.5 * (c * c * r - torch.log1p(c * c * r))

    return cost


@pytest.mark.parametrize("c", [0.1, 0.5, 3.0])
def test_finds_the_theorems_grid(c):
    """For Gaussian data the best grid of Euler's method is linear in arctan(s / c) (theorem 3.1)."""
    n, high, low = 8, 80.0, 0.002
    cost = euler(c)
    best = guesses(n, high, low, c)["arctan"]
    angle = (math.atan(high / c) - math.atan(low / c)) / n
    assert total(cost)(best) == pytest.approx(-n * math.log(math.cos(angle)), rel=1e-9)
    *_, found = align(guesses(n, high, low, c)["log"], n, cost, total(cost), FINE)
    got = torch.atan(torch.tensor(found.levels, dtype=torch.float64) / c)
    torch.testing.assert_close(got, torch.atan(best / c), rtol=0, atol=2e-3)
    assert found.cost == pytest.approx(total(cost)(best), rel=1e-5)


def test_finds_what_another_optimiser_finds():
    cost, start = klub(0.5), guesses(6, 10.0, 0.05, 0.5)["karras"]

    def objective(raw):
        gaps = torch.softmax(torch.tensor(raw), 0).cumsum(0)
        s = torch.exp(start[0].log() + torch.cat([gaps.new_zeros(1), gaps]) * (start[-1] / start[0]).log())
        return total(cost)(s)

    other = minimize(objective, [0.0] * 6, method="BFGS")
    *_, found = align(start, 6, cost, total(cost), FINE)
    assert found.cost == pytest.approx(other.fun, rel=1e-4)
    assert found.cost < found.start


def test_doubling_moves_new_levels_only_and_each_to_its_best():
    cost = klub(0.5)
    *_, coarse = align(guesses(4, 10.0, 0.05, 0.5)["log"], 4, cost, total(cost), FINE)
    *_, fine = align(torch.tensor(coarse.levels, dtype=torch.float64), 8, cost, total(cost), FINE)
    assert len(fine.levels) == 9
    torch.testing.assert_close(torch.tensor(fine.levels[::2]), torch.tensor(coarse.levels), rtol=1e-12, atol=0)
    for high, middle, low in zip(fine.levels[:-2:2], fine.levels[1:-1:2], fine.levels[2::2], strict=True):
        tried = torch.linspace(math.log(high), math.log(low), 4001, dtype=torch.float64)[1:-1].exp()
        both = cost(torch.full_like(tried, high), tried) + cost(tried, torch.full_like(tried, low))
        assert middle == pytest.approx(float(tried[both.argmin()]), rel=2e-3)
    levels, free = refined([4.0, 1.0, 0.25])
    assert levels.tolist() == [4.0, 2.0, 1.0, 0.5, 0.25]
    assert free.tolist() == [False, True, False, True, False]


def test_stops_early_with_the_best_by_the_held_out_score():
    """The cost pulls levels down, the score wants the second one at 2: the result is where the path passes it."""
    cost = klub(0.5)
    score = lambda s: abs(float(s[1]) - 2.0)
    path = list(align(guesses(5, 10.0, 0.05, 1.0)["arctan"], 5, cost, score))
    assert path[-1].held_out == min(a.held_out for a in path) < path[0].held_out
    *_, free = align(guesses(5, 10.0, 0.05, 1.0)["arctan"], 5, cost, total(cost))
    assert free.cost < path[-1].cost < path[0].cost


def test_times_interpolate_log_linearly():
    levels = (8.0, 2.0, 0.5, 0.125)
    own = times(sf.VE(), levels)
    s = torch.exp(-sf.VE().lam(own[:-1]))
    torch.testing.assert_close(s, torch.tensor([8.0, 2.0, 0.5], dtype=torch.float64))
    assert float(own[-1]) == 0.0
    double = torch.exp(-sf.VPLinear().lam(times(sf.VPLinear(), levels, 6)[:-1]))
    torch.testing.assert_close(double, torch.tensor([8, 4, 2, 1, 0.5, 0.25], dtype=torch.float64))
    found = Aligned(levels=levels, cost=0.0, held_out=0.0, start=0.0)
    assert torch.equal(found.grid(sf.VE(), 6), times(sf.VE(), levels, 6))
    with pytest.raises(InputError, match="beyond this schedule"):
        times(sf.VPCosine(alpha_end=0.5), (80.0, 40.0, 1.0))


@pytest.mark.parametrize("solver", [DDIM(eta=1.0), DPMpp2M()], ids=["sde", "2m"])
def test_beats_the_usual_grids_on_a_mixture(solver):
    law, schedule, n = plane(), sf.VE(), 6
    denoiser = law.denoiser(schedule)
    data = sf.Batch(law.sample(4000, 1, dtype=torch.float64), {})
    *_, found = optimise(denoiser, data, n, solver=solver, samples=500)
    truth = sf.Batch(law.sample(2000, 9, dtype=torch.float64), {})
    score = SampleDistance(denoiser=denoiser, solver=solver, data=truth, n=2000, seed=9)
    ours = score(torch.tensor(found.levels, dtype=torch.float64))
    for grid in (sf.grids.uniform, sf.grids.karras, sf.grids.log_snr):
        levels = torch.exp(-schedule.lam(grid(schedule, n)[:-1]))
        # the score ends at the data after its last level but one
        assert ours < 0.7 * score(torch.cat([levels, levels[-1:] / 2]))


def test_too_little_is_refused():
    law = plane()
    data = sf.Batch(law.sample(3), {})
    with pytest.raises(InputError, match="too few"):
        next(optimise(law.denoiser(sf.VE()), data, 4, solver=DDIM()))
    data = sf.Batch(law.sample(8), {})
    with pytest.raises(InputError, match="nothing to move"):
        next(optimise(law.denoiser(sf.VE()), data, 1, solver=DDIM()))
    with pytest.raises(InputError, match="sigma_min"):
        next(optimise(law.denoiser(sf.VE()), data, 4, solver=DDIM(), sigma_min=90.0))
    with pytest.raises(InputError, match="reach"):
        Search(reach=1.5)
