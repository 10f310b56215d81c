"""Solvers that draw noise: their formulas in the papers' letters, identities, and moments in closed form."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch

from sfumato.core import (
    VE,
    InputError,
    Noise,
    Rectified,
    SubVP,
    VPCosine,
    VPLinear,
    VPScaledLinear,
    ZeroTerminalSNR,
    evaluations,
    grids,
    sample,
    steps,
)
from sfumato.solvers import (
    DDIM,
    DDPM,
    LCM,
    TCD,
    Ancestral,
    AnnealedLangevin,
    DPMSolver2,
    Euler,
    Heun,
    PredictorCorrector,
    Restart,
)
from sfumato.testing import Counted, Gaussian, GaussianMixture, moments
from sfumato.testing.table import CLASSES, DOT

SCHEDULES = [VPLinear(), VPCosine(), SubVP(), VE(), Rectified(), ZeroTerminalSNR(base=VPLinear())]
by_name = {"ids": lambda v: type(v).__name__}


def run(solver, schedule, n=9, **grid):
    return sample(
        CLASSES.denoiser(schedule), (8, 2), solver=solver, grid=grids.karras(schedule, n, **grid), seeds=range(8),
        dtype=torch.float64,
    )  # fmt: skip


def one_step(solver, schedule, k, d=None):
    """A solver's step from a draw of x_t, and that draw."""
    x = CLASSES.marginal(schedule, k.t).sample(6, 1, dtype=torch.float64)
    with torch.no_grad():
        made, _ = solver.step(d or CLASSES.denoiser(schedule), x.clone(), k, solver.init(x), Noise(range(6)), {})
    return x, made


def plan(schedule, n=7):
    return steps(schedule, grids.karras(schedule, n, sigma_max=30.0, sigma_min=0.02))[:-1]


# Ancestral


@pytest.mark.parametrize("schedule", SCHEDULES, **by_name)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ancestral_around_euler_is_ddim(eta, schedule):
    """So there is no class for Euler-ancestral: it is DDIM(eta), in any coordinates."""
    made = run(Ancestral(solver=Euler(), eta=eta), schedule)
    torch.testing.assert_close(made, run(DDIM(eta=eta), schedule), atol=1e-9, rtol=0)


@pytest.mark.parametrize("schedule", SCHEDULES, **by_name)
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_dpm2_ancestral_is_k_diffusions(eta, schedule):
    for k in plan(schedule):
        x, made = one_step(Ancestral(eta=eta), schedule, k)
        d = CLASSES.denoiser(schedule)
        s, new, y = k.sigma_t / k.alpha_t, k.sigma_s / k.alpha_s, x / k.alpha_t
        up = min(new, eta * math.sqrt(new**2 * (s**2 - new**2) / s**2))
        down = math.sqrt(new**2 - up**2)
        middle = math.exp((math.log(s) + math.log(down)) / 2)
        t = schedule.inverse(-math.log(middle))
        if down > 0.01 * s:  # below, it is the exponential midpoint
            y_m = y + (y - d(x, k.t)) / s * (middle - s)
            y = y + (y_m - d(schedule(t)[0] * y_m, t)) / middle * (down - s)
            exact = k.alpha_s * (y + up * Noise(range(6)).increment(x, k.t, k.s))
            torch.testing.assert_close(made, exact, atol=2e-10, rtol=0)


# Restart


def restarted(d, x, k, noise, low, high, times, count):
    """Algorithm 1 in y and s, around Euler's method, for one step of the grid."""
    s, new = k.sigma_t / k.alpha_t, k.sigma_s / k.alpha_s
    y = x / k.alpha_t

    def euler(y, s, new):
        t = d.schedule.inverse(-math.log(s))
        return y + (new - s) * (y - d(d.schedule(t)[0] * y, t)) / s

    y = euler(y, s, new)
    if new <= low < s:
        levels = [(high ** (1 / 7) + i / count * (new ** (1 / 7) - high ** (1 / 7))) ** 7 for i in range(count + 1)]
        for j in range(times):
            y = y + math.sqrt(high**2 - new**2) * noise.like(x, "restart", f"{k.s:.17g}", j)
            for a, b in itertools.pairwise(levels):
                y = euler(y, a, b)
    return k.alpha_s * y


@pytest.mark.parametrize("schedule", SCHEDULES, **by_name)
def test_restart_is_algorithm_1(schedule):
    solver, hit = Restart(solver=Euler(), low=0.4, high=1.5, times=3, steps=2), 0
    for k in plan(schedule):
        x, made = one_step(solver, schedule, k)
        exact = restarted(CLASSES.denoiser(schedule), x, k, Noise(range(6)), 0.4, 1.5, 3, 2)
        torch.testing.assert_close(made, exact, atol=1e-9, rtol=0)
        hit += not torch.equal(made, one_step(Euler(), schedule, k)[1])
    assert hit == 1


@pytest.mark.parametrize("times", [1, 3])
def test_restart_contracts_an_error_as_it_should(times):
    """A variance that is wrong by a factor c at `low` is wrong by 1 + (c - 1) (V_low / V_high)^times after it."""
    schedule, low, high, data = VE(), 0.3, 1.2, 0.5
    model = Gaussian([0.0], data)
    grid = torch.tensor([schedule.inverse(-math.log(v)) for v in (low * 1.0001, low)], dtype=torch.float64)
    solver = Restart(low=low * 1.00001, high=high, times=times, steps=40)

    class Wider(Gaussian):
        def marginal(self, schedule, t):
            true = super().marginal(schedule, t)
            return Gaussian(true.mean, 3.0 * true.covariance) if t == float(grid[0]) else true

    _, variance = moments(solver, schedule, Wider([0.0], data), grid)
    v_low, v_high = data + low**2, data + high**2
    fault = variance / float(model.marginal(schedule, float(grid[1])).covariance) - 1
    # the error shares the jump's fresh noise: (3 V_low + high^2 - low^2) / V_high - 1 = 2 V_low / V_high
    assert fault == pytest.approx(2 * (v_low / v_high) ** times, rel=0.01)


def test_restarts_nest_and_are_counted():
    inner = Restart(solver=Heun(), low=0.1, high=0.3, times=2, steps=2)
    both = Restart(solver=inner, low=1.0, high=4.0, times=3, steps=4)
    for schedule in (VE(), VPLinear()):
        d, grid = Counted(CLASSES.denoiser(schedule)), grids.karras(schedule, 12)
        sample(d, (2, 2), solver=both, grid=grid, seeds=range(2))
        assert d.calls == evaluations(both, grid, schedule) == 2 * (11 + 2 * 2 + 3 * 4) + 1
    short = grids.karras(VE(), 3, sigma_min=2.0)  # never comes to `low`
    assert evaluations(inner, short, VE()) == 5
    with pytest.raises(InputError, match="give evaluations the schedule"):
        evaluations(both, grid)


def test_restart_refuses_a_schedule_that_does_not_reach_before_anything_runs():
    d = Counted(CLASSES.denoiser(VPScaledLinear()))
    for solver in (Restart(high=20.0), PredictorCorrector(solver=Restart(high=20.0))):
        with pytest.raises(InputError, match=r"Restart.high=20.0 is beyond sigma / alpha = 14.46") as refusal:
            sample(d, (2, 2), solver=solver, grid=grids.karras(d.schedule, 5), seeds=range(2))
        assert "\n" not in str(refusal.value)
    assert d.calls == 0


# Langevin dynamics


@pytest.mark.parametrize("schedule", [VE(), VPLinear()], **by_name)
def test_predictor_corrector_is_the_papers(schedule):
    """Algorithms 2 and 4 in y and s, which is their x and sigma on VE; elsewhere alpha_i = (alpha_t / alpha_s)^2."""
    solver = PredictorCorrector(snr=0.2, steps=2)
    for k in plan(schedule):
        x, made = one_step(solver, schedule, k)
        d, noise = CLASSES.denoiser(schedule), Noise(range(6))
        s, new, y = k.sigma_t / k.alpha_t, k.sigma_s / k.alpha_s, x / k.alpha_t
        a = (k.alpha_t / k.alpha_s) ** 2
        y = y + (s**2 - new**2) * (d(x, k.t) - y) / s**2 + math.sqrt(a * (s**2 - new**2)) * noise.increment(x, k.t, k.s)
        made_x = k.alpha_s * y
        for j in range(2):
            score = (k.alpha_s * d(made_x, k.s) - made_x) / k.sigma_s**2
            e = 2 * a * (0.2 * k.sigma_s) ** 2
            z = noise.like(x, "langevin", f"{k.s:.17g}", j)
            made_x = made_x + e * score + math.sqrt(2 * e) * z
        torch.testing.assert_close(made, made_x, atol=1e-9, rtol=0)


def test_the_papers_step_is_ours_where_noise_dominates():
    """Algorithm 4 has r |z| / |score|, means over a batch, where ours has r sigma: within 2 % for images in noise."""
    schedule, shape = VE(), (16, 3, 16, 16)
    model = Gaussian(torch.zeros(shape[1:]), 0.25)
    t = schedule.inverse(-math.log(5.0))
    x = model.marginal(schedule, t).sample(16, 1, dtype=torch.float64)
    score = (model.denoiser(schedule)(x, t) - x) / 25.0
    z = Noise(range(16)).normal(shape, "z", dtype=torch.float64)
    assert float(z.flatten(1).norm(dim=1).mean() / score.flatten(1).norm(dim=1).mean()) == pytest.approx(5.0, rel=0.02)


@pytest.mark.parametrize("schedule", [VE(), VPLinear(), Rectified()], **by_name)
def test_langevin_settles_at_its_own_variance(schedule):
    """On a Gaussian of variance V the update x - e x / V + sqrt(2 e) z settles at V / (1 - e / (2 V)), exactly."""
    t = schedule.inverse(0.2)
    grid = torch.tensor([t, t * (1 - 1e-9)], dtype=torch.float64)
    _, variance = moments(AnnealedLangevin(steps=150, rate=0.4), schedule, DOT, grid)
    true = float(DOT.marginal(schedule, t).covariance)
    e = 0.2 * schedule(t)[1] ** 2
    assert variance == pytest.approx(true / (1 - e / (2 * true)), rel=1e-6)
    corrector = PredictorCorrector(solver=DDIM(), snr=0.3, steps=250)
    e = 2 * (0.3 * schedule(t)[1]) ** 2
    assert moments(corrector, schedule, DOT, grid)[1] == pytest.approx(true / (1 - e / (2 * true)), rel=1e-6)


def test_annealing_finds_the_modes_in_their_shares_and_plain_langevin_does_not():
    """Song & Ermon 2019, section 3.2.2 and figure 3: two far modes of weights 0.2 and 0.8, as many updates for both."""
    schedule = VE()
    d = GaussianMixture([[-5.0, -5.0], [5.0, 5.0]], 0.05, [0.2, 0.8]).denoiser(schedule)
    x = (Noise(range(600)).normal((600, 2), "x", dtype=torch.float64) * 0.5).erf() * 8  # spread over [-8, 8]
    last = schedule.inverse(0.0)  # sigma = 1
    ladder = schedule.inverse(-torch.linspace(math.log(20.0), 0.0, 11, dtype=torch.float64))
    for grid, settings, right in (
        (ladder, AnnealedLangevin(steps=40, rate=0.2), True),
        (torch.tensor([last + 1e-9, last], dtype=torch.float64), AnnealedLangevin(steps=400, rate=0.2), False),
    ):
        start = x if not right else 20 * Noise(range(600)).normal((600, 2), "start", dtype=torch.float64)
        end = sample(d, solver=settings, grid=grid, seeds=range(600), x=start)
        share = float((end.sum(1) > 0).double().mean())
        assert (abs(share - 0.8) < 0.05) == right, share
        assert right or share < 0.6


# Distilled models


@dataclass
class FlowMap:
    """The consistency function of a Gaussian: the end of the exact flow from x_t."""

    model: Gaussian
    schedule: object
    cond = {}  # noqa: RUF012

    def __call__(self, x, t):
        return self.model.flow(self.schedule, x, t, 0.0)


class Distilled(Gaussian):
    def denoiser(self, schedule):
        return FlowMap(self, schedule)


@pytest.mark.parametrize("schedule", SCHEDULES, **by_name)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_lcm_is_exact_at_any_number_of_steps_for_the_exact_flow(n, schedule):
    model = Distilled([0.7], 0.3)
    assert moments(LCM(), schedule, model, grids.uniform(schedule, n)) == pytest.approx((0.7, 0.3), abs=1e-12)
    end = model.marginal(schedule, 0.2)
    exact = pytest.approx((float(end.mean), float(end.covariance)), abs=1e-12)
    assert moments(LCM(), schedule, model, grids.uniform(schedule, n, end=0.2)) == exact


def test_lcm_needs_a_distilled_model():
    """With E[x_0 | x_t] the variance ends at half of the true one in the limit, as the documentation warns."""
    assert moments(LCM(), VE(), DOT, grids.log_snr(VE(), 400))[1] == pytest.approx(0.15, rel=0.1)


@pytest.mark.parametrize("schedule", SCHEDULES, **by_name)
class TestTCD:
    def test_gamma_zero_is_ddim(self, schedule):
        assert torch.equal(run(TCD(gamma=0.0), schedule), run(DDIM(), schedule))

    def test_gamma_one_is_lcm(self, schedule):
        torch.testing.assert_close(run(TCD(gamma=1.0), schedule), run(LCM(), schedule), atol=1e-10, rtol=0)

    def test_a_step_is_algorithm_2(self, schedule):
        for k in plan(schedule):
            x, made = one_step(TCD(gamma=0.4), schedule, k)
            x0 = CLASSES.denoiser(schedule)(x, k.t)
            alpha, sigma = schedule(0.6 * k.s)
            below = alpha * x0 + sigma * (x - k.alpha_t * x0) / k.sigma_t
            added = math.sqrt(k.sigma_s**2 - (k.alpha_s / alpha * sigma) ** 2)
            exact = k.alpha_s / alpha * below + added * Noise(range(6)).increment(x, k.t, k.s)
            torch.testing.assert_close(made, exact, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Ancestral(eta=1.5),
        lambda: Ancestral(solver=DDPM()),
        lambda: Restart(low=0.3, high=0.3),
        lambda: Restart(times=0),
        lambda: Restart(steps=0),
        lambda: PredictorCorrector(snr=0.0),
        lambda: PredictorCorrector(snr=0.9),
        lambda: PredictorCorrector(steps=0),
        lambda: AnnealedLangevin(rate=2.0),
        lambda: AnnealedLangevin(steps=0),
        lambda: TCD(gamma=1.1),
    ],
)
def test_settings_that_are_not_possible_are_refused_in_one_line(make):
    with pytest.raises(InputError) as refusal:
        make()
    assert "\n" not in str(refusal.value)


def test_what_is_wrapped_can_be_anything():
    """The wrappers pass on the state, the count and the order of what they wrap."""
    grid = grids.karras(VE(), 6)
    for solver in (Ancestral(solver=DPMSolver2()), PredictorCorrector(solver=DPMSolver2(), steps=2)):
        d = Counted(CLASSES.denoiser(VE()))
        sample(d, (2, 2), solver=solver, grid=grid, seeds=range(2))
        assert d.calls == evaluations(solver, grid) == solver.nfe * 5 + 1
        assert solver.order == 2
