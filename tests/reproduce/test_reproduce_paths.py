"""Grids, flows, blurs and ladders: the parts of these systems that rest on closed forms."""

import math

import pytest
import torch

from sfumato.align import guesses
from sfumato.core import VE
from sfumato.reproduce import align_your_steps, beds, cold_diffusion, ncsn, rectified_flow
from sfumato.solvers import AnnealedLangevin


def bar(system, key):
    return next(claim for claim in system.claims if claim.key == key)


@pytest.mark.parametrize("c", [0.1, 1.0])
def test_share_kept_by_euler_in_closed_form(c):
    """A step from u to a multiplies x by (c^2 + u a) / (c^2 + u^2), its law by sqrt((c^2 + a^2) / (c^2 + u^2))."""
    levels = guesses(7, 80.0, 0.002, c)["karras"]
    exact = 1.0
    for u, a in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        exact *= (c * c + u * a) / math.sqrt((c * c + u * u) * (c * c + a * a))
    assert align_your_steps.kept(c, levels) == pytest.approx(exact, rel=1e-6)


def test_theorem_rows():
    found = {m.key: m for m in align_your_steps._theorem()}
    for key, measured in found.items():
        assert bar(align_your_steps.SYSTEM, key).judge(measured).status == "pass", key


def test_cost_of_independent_pairs():
    n = 40_000
    x = beds.plane().sample(n, 1, dtype=torch.float64)
    z = beds.seeds(n, "pairs").normal((n, 2), dtype=torch.float64)
    squares = (x - z).square().sum(1)
    assert rectified_flow.independent_cost() == pytest.approx(
        float(squares.mean()), abs=4 * float(squares.std()) / n**0.5
    )


def test_first_flow_is_not_straight_and_carries_less_far():
    found = rectified_flow.paths(rectified_flow.exact(), 50)
    assert found.straightness > 0.5
    assert found.cost < 0.5 * rectified_flow.independent_cost()
    one = rectified_flow.ends(rectified_flow.exact(), 1)
    torch.testing.assert_close(one, beds.plane().mean.expand_as(one), msg="one step of the exact flow ends at the mean")


def test_cold_row_that_is_exact():
    exact, naive = cold_diffusion.linear_errors(16)
    assert bar(cold_diffusion.SYSTEM, "linear").judge(cold_diffusion.Measured("linear", exact)).status == "pass"
    assert naive > 1.0


def test_fitted_start_has_the_mean_and_covariance_of_the_blurred():
    x = beds.seeds(500, "x").normal((500, 1, 2, 2)) * torch.tensor([1.0, 2.0, 0.5, 0.1]).reshape(1, 2, 2) + 3
    drawn = cold_diffusion.fitted(x, 20_000).flatten(1)
    torch.testing.assert_close(drawn.mean(0), x.flatten(1).mean(0), rtol=0, atol=0.06)
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(x.flatten(1).T), rtol=0.05, atol=0.05)


def test_ncsn_grid_visits_the_ladder_and_then_the_data():
    schedule = VE(sigma_min=0.1, sigma_max=20.02)
    t = ncsn.grid(schedule, ncsn.TOY)
    s = torch.exp(-schedule.lam(t[:-1]))
    torch.testing.assert_close(s[1:], ncsn.TOY.levels())
    assert float(t[-1]) == 0.0
    assert AnnealedLangevin(steps=ncsn.UPDATES, rate=ncsn.RATE).nfe == 100


def test_ncsn_rows_without_training():
    """sigma s = -E[eps | x] has the size sqrt(2) far out and 1 at sigma = 1 for unit modes: a factor of sqrt(2)."""
    weighted, raw = ncsn.spread(ncsn.modes(), ncsn.TOY, 1000)
    assert weighted == pytest.approx(2**0.5, abs=0.08)
    assert raw > 10
    found = ncsn.heavy(ncsn.unannealed(ncsn.exact(ncsn.modes(), ncsn.TOY), ncsn.TOY, 100))
    assert 0.3 < found < 0.7, "the uniform start is cut in halves, and the chains stay where they are"
