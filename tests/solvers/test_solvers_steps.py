"""Every solver's step against the paper's formula, written here in other variables, and the identities between them."""

import math

import pytest
import torch

from sfumato.core import VE, VP, Noise, Rectified, SubVP, VPCosine, VPLinear, ZeroTerminalSNR, grids, sample, steps
from sfumato.solvers import DDIM, DDPM, DPMpp2M, Euler, Heun
from sfumato.solvers.churn import Churn
from sfumato.testing import Empirical, Gaussian, GaussianMixture, moments
from sfumato.testing.table import CLASSES

SCHEDULES = [VPLinear(), VPCosine(), SubVP(), VE(), Rectified(), Rectified(shift=3.0), ZeroTerminalSNR(base=VPLinear())]
CHURN = Churn(amount=3.0, low=0.05, high=30.0, noise=1.1)


def y_and_s(x, alpha, sigma):
    """EDM's coordinates: y = x / alpha at the noise level s = sigma / alpha."""
    return x / alpha, sigma / alpha


def reference_ddpm(d, x, k, noise, variance):
    """q(x_s | x_t, x_0) by Bayes' rule: a product of two Gaussians in x_s."""
    x0, r = d(x, k.t), k.alpha_t / k.alpha_s
    forward = k.sigma_t**2 - r**2 * k.sigma_s**2  # Var(x_t | x_s)
    precision = 1 / k.sigma_s**2 + r**2 / forward
    mean = (k.alpha_s * x0 / k.sigma_s**2 + r * x / forward) / precision
    low, high = math.log(1 / precision), math.log(forward)
    return mean + math.exp((variance * high + (1 - variance) * low) / 2) * noise.increment(x, k.t, k.s)


def reference_ddim(d, x, k, noise, eta):
    """Equation 12 with equation 16's sigma, in the paper's letters (there alpha is our alpha squared on VP)."""
    x0 = d(x, k.t)
    eps = (x - k.alpha_t * x0) / k.sigma_t
    spread = eta * k.sigma_s / k.sigma_t * math.sqrt(k.sigma_t**2 - (k.alpha_t / k.alpha_s) ** 2 * k.sigma_s**2)
    direction = math.sqrt(k.sigma_s**2 - spread**2) * eps
    return k.alpha_s * x0 + direction + (spread * noise.increment(x, k.t, k.s) if eta else 0)


def churned(d, x, k, noise, churn):
    """Algorithm 2, lines 4 to 6, in y and s; the level may not pass the schedule's end."""
    y, s = y_and_s(x, k.alpha_t, k.sigma_t)
    gamma = min(churn.amount / k.n, math.sqrt(2) - 1) if churn.low <= s <= churn.high else 0.0
    top = math.exp(-d.schedule.lam(1.0))
    s_hat = min(s * (1 + gamma), top)
    if s_hat <= s:
        return y, s, k.t
    t_hat = d.schedule.inverse(-math.log(s_hat))
    z = noise.like(x, "churn", f"{k.t:.17g}")
    return y + math.sqrt(s_hat**2 - s**2) * churn.noise * z, s_hat, t_hat


def reference_heun(d, x, k, noise, churn, second=True):
    """Algorithm 2 as printed: d = (y - D) / s, an Euler step, and the average of two slopes."""
    y, s, t = churned(d, x, k, noise, churn) if churn else (*y_and_s(x, k.alpha_t, k.sigma_t), k.t)
    s_next = k.sigma_s / k.alpha_s
    slope = (y - d(d.schedule(t)[0] * y, t)) / s
    euler = y + (s_next - s) * slope
    if second:
        slope = (slope + (euler - d(k.alpha_s * euler, k.s)) / s_next) / 2
    return k.alpha_s * (y + (s_next - s) * slope)


def reference_2m(d, x, plan):
    """Algorithm 2 as printed, over a whole run: D_i from x0 at t_(i-1) and t_(i-2), r = h_(i-1) / h_i."""
    before = None
    for i, k in enumerate(plan):
        x0, h = d(x, k.t), k.lam_s - k.lam_t
        if before is None:
            mixed = x0
        else:
            r = (k.lam_t - plan[i - 1].lam_t) / h
            mixed = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before
        x, before = k.sigma_s / k.sigma_t * x - k.alpha_s * math.expm1(-h) * mixed, x0
    return x


CASES = [
    *(pytest.param(DDPM, {"variance": v}, reference_ddpm, id=f"DDPM-{v}") for v in (0.0, 0.3, 1.0)),
    *(pytest.param(DDIM, {"eta": e}, reference_ddim, id=f"DDIM-{e}") for e in (0.0, 0.4, 1.0)),
    *(pytest.param(Heun, {"churn": c}, reference_heun, id=f"Heun-{c}") for c in (None, CHURN)),
    *(
        pytest.param(Euler, {"churn": c}, lambda *a, **b: reference_heun(*a, **b, second=False), id=f"Euler-{c}")
        for c in (None, CHURN)
    ),
]


def gap_to_reference(solver, reference, settings, schedule, **start):
    """The largest relative difference of one step from the reference, over the steps of a coarse grid."""
    d, noise, worst = CLASSES.denoiser(schedule), Noise(range(6)), 0.0
    for k in steps(schedule, grids.karras(schedule, 7, sigma_max=30.0, sigma_min=0.02, **start))[:-1]:
        x = CLASSES.marginal(schedule, k.t).sample(6, k.i, dtype=torch.float64)
        exact = reference(d, x, k, noise, *settings.values())
        with torch.no_grad():
            made, _ = solver.step(d, x.clone(), k, solver.init(x), noise, {})
        worst = max(worst, float((made - exact).abs().max()) / max(1.0, k.sigma_s))
    return worst


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(("kind", "settings", "reference"), CASES)
def test_step_is_the_papers(kind, settings, reference, schedule):
    assert gap_to_reference(kind(**settings), reference, settings, schedule) < 2e-11


def gap_to_reference_2m(solver, schedule):
    d, grid = CLASSES.denoiser(schedule), grids.karras(schedule, 9, sigma_max=30.0, sigma_min=0.02)
    x = CLASSES.marginal(schedule, float(grid[0])).sample(6, 1, dtype=torch.float64)
    made = sample(d, solver=solver, grid=grid[:-1], seeds=range(6), x=x)
    return float((made - reference_2m(d, x, steps(schedule, grid[:-1]))).abs().max())


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_dpmpp_2m_is_the_papers(schedule):
    assert gap_to_reference_2m(DPMpp2M(), schedule) < 1e-11


def gap_far_out(solver):
    """Heun's first step from alpha = 0, where s is infinite: the trapezoid of the exact step's integral."""
    schedule = Rectified()
    d, (k, _) = CLASSES.denoiser(schedule), steps(schedule, torch.tensor([1.0, 0.4, 0.0]))
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    average = (d(x, 1.0) + d(k.sigma_s * x + k.alpha_s * d(x, 1.0), k.s)) / 2
    with torch.no_grad():
        made, _ = solver.step(d, x.clone(), k, None, Noise(range(6)), {})
    return float((made - (k.sigma_s * x + k.alpha_s * average)).abs().max())


def test_heun_from_alpha_zero():
    assert gap_far_out(Heun()) < 1e-14


def run(solver, schedule, n=12, **grid):
    return sample(
        CLASSES.denoiser(schedule),
        (8, 2),
        solver=solver,
        grid=grids.uniform(schedule, n, **grid),
        seeds=range(8),
        dtype=torch.float64,
    )


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
class TestIdentities:
    def test_ddim_with_eta_one_is_ddpm_with_the_small_variance(self, schedule):
        torch.testing.assert_close(run(DDIM(eta=1.0), schedule), run(DDPM(), schedule), atol=1e-11, rtol=0)

    def test_euler_is_ddim(self, schedule):
        assert torch.equal(run(Euler(), schedule), run(DDIM(), schedule))

    def test_the_first_step_of_2m_is_ddim(self, schedule):
        one = {"start": 0.9, "end": 0.5}
        assert torch.equal(run(DPMpp2M(), schedule, 1, **one), run(DDIM(), schedule, 1, **one))

    def test_churn_that_is_off_or_out_of_range_changes_nothing(self, schedule):
        plain = run(Heun(), schedule)
        assert torch.equal(run(Heun(churn=Churn(amount=0.0)), schedule), plain)
        assert torch.equal(run(Heun(churn=Churn(amount=9.0, low=1e5)), schedule), plain)


@pytest.mark.parametrize("schedule", [VPLinear(), VPCosine()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("n", [3, 20])
class TestVariancesOfDDPM:
    """What the two variances are right for (arXiv 2006.11239, section 3.2), exactly at every number of steps."""

    def test_beta_is_exact_for_unit_gaussian_data(self, schedule, n):
        grid = grids.uniform(schedule, n, end=0.01)
        assert moments(DDPM(variance=1.0), schedule, Gaussian([0.0], 1.0), grid) == pytest.approx((0, 1), abs=1e-12)
        assert abs(moments(DDPM(), schedule, Gaussian([0.0], 1.0), grid)[1] - 1) > 1e-3

    def test_beta_tilde_is_exact_for_a_single_point(self, schedule, n):
        assert isinstance(schedule, VP)
        grid, point = grids.uniform(schedule, n, end=0.3), Empirical([[0.8]])
        rows = 4000
        x = sample(
            point.denoiser(schedule), (rows, 1), solver=DDPM(), grid=grid, seeds=range(rows), dtype=torch.float64
        )
        alpha, sigma = schedule(0.3)
        assert float(x.mean()) == pytest.approx(0.8 * alpha, abs=4 * sigma / rows**0.5)
        assert float(x.std()) == pytest.approx(sigma, rel=4 / (2 * rows) ** 0.5)


def test_the_noise_of_a_finer_grid_refines_the_same_sample():
    """One Brownian path: DDPM at n and 2n steps from the same seeds is closer than with other seeds."""
    schedule = VE()
    d = GaussianMixture([[-1.0], [1.0]], [0.1, 0.1]).denoiser(schedule)
    x = torch.full((100, 1), 1.0, dtype=torch.float64)
    ends = [
        sample(d, solver=DDPM(), grid=grids.log_snr(schedule, n, sigma_max=1.0)[:-1], seeds=seeds, x=x)
        for n, seeds in ((100, range(100)), (200, range(100)), (200, range(1000, 1100)))
    ]
    assert (ends[0] - ends[1]).abs().mean() < 0.35 * (ends[2] - ends[1]).abs().mean()


def test_options_out_of_range_are_refused_in_one_line():
    from sfumato.core import InputError

    for make in (
        lambda: DDIM(eta=1.5),
        lambda: DDIM(eta=-0.1),
        lambda: DDPM(variance=2.0),
        lambda: Churn(amount=-1.0),
        lambda: Churn(amount=1.0, low=2.0, high=1.0),
    ):
        with pytest.raises(InputError) as refusal:
            make()
        assert "\n" not in str(refusal.value)
