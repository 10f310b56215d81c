"""The SDE of a schedule: closed forms, moment equations, the exact flow of Gaussians, a simulated path."""

import math
from itertools import pairwise

import pytest
import torch

from sfumato.core import VE, InputError, Noise, Rectified, SubVP, VPLinear, per_row, sde
from sfumato.testing import Gaussian
from sfumato.testing.table import PLANE, SCHEDULES

T = torch.tensor([1e-6, 0.01, 0.2, 0.5, 0.9, 0.999], dtype=torch.float64)


def test_closed_forms_of_the_paper():
    """Equations 9, 11 and 12: VE, VP and sub-VP."""
    beta = 0.1 + 19.9 * T
    f, g2 = sde.rates(VPLinear(), T)
    torch.testing.assert_close(f, -beta / 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(g2, beta, rtol=1e-12, atol=0)
    f, g2 = sde.rates(SubVP(), T)
    torch.testing.assert_close(f, -beta / 2, rtol=1e-12, atol=0)
    alpha = torch.exp(-0.25 * 19.9 * T**2 - 0.05 * T)
    torch.testing.assert_close(g2, beta * (1 - alpha**4), rtol=1e-9, atol=1e-14)
    f, g2 = sde.rates(VE(sigma_min=0.01, sigma_max=50.0), T)
    assert torch.equal(f, torch.zeros_like(T))
    ladder = (0.01 * 5000**T) ** 2
    torch.testing.assert_close(g2, 2 * math.log(5000) * ladder, rtol=1e-12, atol=0)


def test_rates_have_their_limits_at_the_data():
    f, g2 = sde.rates(VPLinear(), 0.0)
    assert (float(f), float(g2)) == pytest.approx((-0.05, 0.1), rel=1e-9)
    assert float(sde.rates(SubVP(), 0.0)[1]) == pytest.approx(0.0, abs=1e-12)
    assert float(sde.rates(VE(), 0.0)[1]) == pytest.approx(2 * math.log(40_000) * 0.002**2, rel=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_moment_equations(name):
    """d alpha = f alpha dt and d sigma^2 = (2 f sigma^2 + g^2) dt: the Fokker-Planck equation of a Gaussian kernel."""
    schedule = SCHEDULES[name]
    t = torch.tensor([0.0503, 0.3004, 0.6007, 0.9001], dtype=torch.float64)
    f, g2 = sde.rates(schedule, t)
    h = 1e-6
    (a0, s0), (a1, s1) = schedule(t - h), schedule(t + h)
    alpha, sigma = schedule(t)
    torch.testing.assert_close((a1 - a0) / (2 * h), f * alpha, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close((s1**2 - s0**2) / (2 * h), 2 * f * sigma**2 + g2, rtol=1e-6, atol=1e-7)
    h_lam = (schedule.lam(t + h) - schedule.lam(t - h)) / (2 * h)
    torch.testing.assert_close(g2, -2 * sigma**2 * h_lam, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", SCHEDULES)
def test_flow_is_the_exact_flow_of_a_gaussian(name):
    schedule, t, h = SCHEDULES[name], 0.4004, 1e-6
    x = PLANE.sample(5, 3, dtype=torch.float64) * 2
    moved = PLANE.flow(schedule, x, t, t + h) - PLANE.flow(schedule, x, t, t - h)
    torch.testing.assert_close(sde.flow(PLANE.denoiser(schedule), x, t), moved / (2 * h), rtol=1e-5, atol=1e-6)


def test_reverse_sde_is_flow_minus_half_the_score_term():
    denoiser = PLANE.denoiser(SubVP())
    x, t = PLANE.sample(4, 1, dtype=torch.float64), torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=torch.float64)
    drift, g = sde.reverse(denoiser, x, t)
    assert g.shape == (4, 1)
    torch.testing.assert_close(drift, sde.flow(denoiser, x, t) - 0.5 * g**2 * sde.score(denoiser, x, t))
    free, again = sde.forward(denoiser.schedule, x, t)
    torch.testing.assert_close(again, g)
    torch.testing.assert_close(drift, free - g**2 * sde.score(denoiser, x, t))


def test_score_is_the_gradient_of_the_marginal():
    law, schedule = Gaussian([0.7, -0.1], [[0.5, 0.2], [0.2, 0.3]]), VPLinear()
    x = law.sample(6, 2, dtype=torch.float64).requires_grad_()
    (exact,) = torch.autograd.grad(law.marginal(schedule, 0.3).log_prob(x).sum(), x)
    torch.testing.assert_close(sde.score(law.denoiser(schedule), x.detach(), 0.3), exact)


@pytest.mark.parametrize(
    "schedule", [VE(sigma_min=0.01, sigma_max=5.0), VPLinear(), SubVP()], ids=["VE", "VP", "subVP"]
)
def test_simulated_forward_sde_has_the_schedules_moments(schedule):
    """Euler-Maruyama from one point: mean alpha x_0 and deviation sigma, within five standard errors."""
    n, steps = 4000, 400
    noise = Noise(range(n))
    x = torch.full((n, 1), 1.5, dtype=torch.float64)
    for i in range(steps):
        drift, g = sde.forward(schedule, x, (i + 0.5) / steps)
        x = x + drift / steps + g * steps**-0.5 * noise.like(x, "w", i)
    alpha, sigma = schedule(1.0)
    assert float(x.mean()) == pytest.approx(1.5 * alpha, abs=5 * sigma / n**0.5)
    assert float(x.std()) == pytest.approx(sigma, rel=5 / (2 * n) ** 0.5)


def test_reverse_sde_simulates_the_data():
    """From the prior back to the data of a line of known mean and deviation, with the exact denoiser."""
    law, schedule, n, steps = Gaussian([0.4], 0.25), VPLinear(), 4000, 400
    denoiser, noise = law.denoiser(schedule), Noise(range(n))
    x = noise.normal((n, 1), "start", dtype=torch.float64)
    edges = torch.linspace(1, 0.03, steps + 1, dtype=torch.float64).square().tolist()  # finer near the data
    for i, (t, s) in enumerate(pairwise(edges)):
        drift, g = sde.reverse(denoiser, x, 0.5 * (t + s))
        x = x - (t - s) * drift + g * (t - s) ** 0.5 * noise.like(x, "w", i)
    assert float(x.mean()) == pytest.approx(0.4, abs=0.04)
    assert float(x.std()) == pytest.approx(0.5, rel=0.05)


def test_what_has_no_rates_is_refused():
    x = PLANE.sample(2, 1)
    with pytest.raises(InputError, match="keep t below 1"):
        sde.rates(Rectified(), 1.0)
    with pytest.raises(InputError, match="above 0"):
        sde.score(PLANE.denoiser(VPLinear()), x, 0.0)
    end = sde.flow(PLANE.denoiser(Rectified()), x, 1.0)  # eps - E[x_0], finite where alpha = 0
    torch.testing.assert_close(end, x - per_row(torch.ones(2), x) * PLANE.denoiser(Rectified())(x, 1.0))
