"""Agreement of the ancestral, Adams-Bashforth, PNDM and distilled samplers with diffusers' on model, grid and noise.

Where it is not right, or starts in another way, the test says so and compares what is the same in both.
"""

import math
from dataclasses import dataclass

import pytest
import torch

from sfumato.core import InputError, Noise, Schedule, Table, sample, steps
from sfumato.solvers import DDIM, IPNDM, LCM, LMS, PLMS, PNDM, TCD, Ancestral, DPMSolver2
from sfumato.solvers.adams import recall
from sfumato.testing.table import CLASSES

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the peer's, about numpy

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
SCHEDULE = Table.from_betas(BETAS)
COMMON = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ROWS, N = 6, 10


class Given(Noise):
    """Noise that is given: one tensor a step, by the time that the step starts at."""

    def __init__(self, table):
        super().__init__(range(ROWS))
        self.table = table

    def increment(self, x, t, s, *key):
        return self.table[t]


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


def drawn(i):
    return torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(i))


def peer(monkeypatch, name, module, **settings):
    """A scheduler of diffusers whose j-th draw is `drawn(j)`."""
    diffusers = pytest.importorskip("diffusers")
    own = __import__(f"diffusers.schedulers.{module}", fromlist=["x"])
    count = iter(range(1000))
    monkeypatch.setattr(own, "randn_tensor", lambda *a, **b: drawn(next(count)), raising=False)
    return getattr(diffusers, name)(**settings)


def eps_hat(d, x, t):
    alpha, sigma = d.schedule(t)
    return (x - alpha * d(x, t)) / sigma


def gap(solver, grid, states, schedule=SCHEDULE):
    """The largest relative difference of any state of a run from the peer's."""
    plan, seen = steps(schedule, grid), []
    noise = Given({k.t: drawn(k.i) for k in plan})
    sample(CLASSES.denoiser(schedule), solver=solver, grid=grid, seeds=noise, x=states[0],
           callback=lambda k, x: seen.append(x.clone()))  # fmt: skip
    return max(relative(a, b) for a, b in zip(seen, states[1:], strict=True))


def run_in_sigma(scheduler, calls, after=0):
    """Run a scheduler that works on y = x / alpha; return the grid and the states x at its levels."""
    scheduler.set_timesteps(N)
    levels, d = scheduler.sigmas.double().unique().flip(0)[:-1], CLASSES.denoiser(SCHEDULE)
    grid = SCHEDULE.inverse(-levels.log())
    y = drawn(100) * float(levels[0])
    states, at = [y * SCHEDULE(float(grid[0]))[0]], 0
    for i, timestep in enumerate(scheduler.timesteps[: calls * (len(grid) - 1)]):
        scheduler.scale_model_input(y, timestep)  # it finds its place by this
        place = scheduler.step_index
        s = scheduler.sigmas_interpol[place - after] if i % calls else scheduler.sigmas[place]
        t = SCHEDULE.inverse(-math.log(float(s)))
        y = scheduler.step(eps_hat(d, SCHEDULE(t)[0] * y, t), timestep, y).prev_sample
        if i % calls == calls - 1:
            at += 1
            states.append(y * SCHEDULE(float(grid[at]))[0])
    return grid, states


@pytest.mark.parametrize(
    ("solver", "name", "module", "calls"),
    [
        (DDIM(eta=1.0), "EulerAncestralDiscreteScheduler", "scheduling_euler_ancestral_discrete", 1),
        (DPMSolver2(), "KDPM2DiscreteScheduler", "scheduling_k_dpm_2_discrete", 2),
        (Ancestral(), "KDPM2AncestralDiscreteScheduler", "scheduling_k_dpm_2_ancestral_discrete", 2),
    ],
    ids=["euler-ancestral", "dpm2", "dpm2-ancestral"],
)
def test_a_run_in_sigma_agrees(monkeypatch, solver, name, module, calls):
    grid, states = run_in_sigma(peer(monkeypatch, name, module, **COMMON), calls, int(solver.stochastic))
    assert len(states) == N
    if isinstance(solver, Ancestral):  # its last step goes from s = 0.37 to 0.0023: too far for eps_hat, ours says
        grid, states = grid[:-1], states[:-1]
    assert gap(solver, grid, states) < 1e-4


def each_step(solver, plan, states, d, points):
    """The largest relative difference of any step from the peer's, given the peer's own past."""
    past, worst = [], 0.0
    for k, x, after in zip(plan, states, states[1:], strict=False):
        past.insert(0, recall(x, d(x, k.t), k))
        known = tuple(past[1:points])
        state = (known, ()) if isinstance(solver, LMS) else known
        if k.i == 0 and isinstance(solver, LMS):
            state = (known, (0.0,))  # the plain start
        made, _ = solver.step(d, x.clone(), k, state, Noise(range(ROWS)), {})
        worst = max(worst, relative(made, after))
    return worst


@pytest.mark.parametrize("order", [2, 3, 4])
def test_each_step_of_lms_agrees(monkeypatch, order):
    """Given the past, all steps are the same. Its start is of lower orders, which leaves the run at second order in the
    limit (`test_solvers_adams` has ours exact for polynomials); so whole runs agree for order 2 alone."""
    scheduler = peer(monkeypatch, "LMSDiscreteScheduler", "scheduling_lms_discrete", **COMMON)
    step = scheduler.step
    scheduler.step = lambda *a: step(*a, order=order)
    grid, states = run_in_sigma(scheduler, 1)
    assert each_step(LMS(order=order), steps(SCHEDULE, grid), states, CLASSES.denoiser(SCHEDULE), order) < 1e-4
    assert (gap(LMS(order=order), grid, states) < 1e-4) == (order == 2)


@pytest.mark.parametrize(("solver", "skip"), [(PLMS(), True), (PNDM(), False)], ids=["PLMS", "PNDM"])
def test_a_run_of_pndm_agrees(monkeypatch, solver, skip):
    """On its own leading grid; on others diffusers' PNDM takes T / n for every step, which is not where it goes."""
    scheduler = peer(monkeypatch, "PNDMScheduler", "scheduling_pndm", **COMMON, skip_prk_steps=skip, steps_offset=1)
    scheduler.set_timesteps(N)
    grid = (torch.arange(9, -1, -1, dtype=torch.float64) * 100 + 2) / 1000
    d, x = CLASSES.denoiser(SCHEDULE), drawn(100)
    states, done = [x], [2, *range(3, 11)] if skip else [4, 8, 12, *range(13, 20)]
    for i, timestep in enumerate(scheduler.timesteps, 1):
        x = scheduler.step(eps_hat(d, x, (int(timestep) + 1) / 1000), timestep, x).prev_sample
        if i in done:
            states.append(x)
    assert gap(solver, grid, states[:N]) < 1e-4


@dataclass(frozen=True)
class SineSquared(Schedule):
    """The schedule of diffusers' IPNDM: sigma = sin(pi t / 2)^2, alpha = sqrt(1 - sigma^2)."""

    def __call__(self, t):
        f = torch if isinstance(t, torch.Tensor) else math
        sigma = f.sin(t * math.pi / 2) ** 2
        return f.sqrt((1 - sigma) * (1 + sigma)), sigma

    def inverse(self, lam):
        raise InputError("not needed here")


def test_each_step_of_ipndm_agrees_after_the_first(monkeypatch):
    """At its first time alpha is 0 and diffusers divides by 1e-8: it loses x0_hat there, as if the model said 0."""
    scheduler = peer(monkeypatch, "IPNDMScheduler", "scheduling_ipndm")
    scheduler.set_timesteps(N)
    schedule = SineSquared()
    d, x = CLASSES.denoiser(schedule), drawn(100)
    plan, states = steps(schedule, torch.linspace(1, 0, N + 1, dtype=torch.float64)[:-1]), [drawn(100)]
    for k, timestep in zip(plan, scheduler.timesteps, strict=False):
        x0 = d(x, k.t)
        eps = (x - k.alpha_t * x0) / k.sigma_t
        x = scheduler.step(k.alpha_t * eps - k.sigma_t * x0, timestep, x).prev_sample  # v
        states.append(x)
    assert relative(states[1], plan[0].sigma_s * states[0]) < 1e-4
    right, _ = IPNDM().step(d, states[0].clone(), plan[0], (), Noise(range(ROWS)), {})
    torch.testing.assert_close(right, plan[0].sigma_s * states[0] + plan[0].alpha_s * d(states[0], 1.0))
    past = [recall(states[0], d(states[0], 1.0), plan[0])]
    for k, before, after in zip(plan[1:], states[1:], states[2:], strict=False):
        made, _ = IPNDM().step(d, before.clone(), k, tuple(past[:3]), Noise(range(ROWS)), {})
        assert relative(made, after) < 1e-4
        past.insert(0, recall(before, d(before, k.t), k))


@pytest.mark.parametrize(
    ("solver", "name", "module", "settings"),
    [
        (TCD(gamma=0.5), "TCDScheduler", "scheduling_tcd", {"eta": 0.5}),
        (TCD(gamma=0.0), "TCDScheduler", "scheduling_tcd", {"eta": 0.0}),
        (LCM(), "LCMScheduler", "scheduling_lcm", {}),
    ],
    ids=["TCD(gamma=0.5)", "TCD(gamma=0)", "LCM"],
)
def test_a_distilled_run_agrees(monkeypatch, solver, name, module, settings):
    """LCM's c_skip and c_out belong to the model there and here; at these times they are 0 and 1 to 1e-7."""
    scheduler = peer(monkeypatch, name, module, **COMMON, original_inference_steps=1000)
    times = [999, 749, 499, 249]
    scheduler.set_timesteps(timesteps=times, original_inference_steps=1000)
    d, x = CLASSES.denoiser(SCHEDULE), drawn(100)
    states = [x]
    for timestep in scheduler.timesteps[:-1]:
        x = scheduler.step(eps_hat(d, x, (int(timestep) + 1) / 1000), timestep, x, **settings).prev_sample
        states.append(x)
    assert gap(solver, torch.tensor([(t + 1) / 1000 for t in times], dtype=torch.float64), states) < 1e-4
