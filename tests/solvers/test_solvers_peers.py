"""Agreement with diffusers' schedulers on the same model, grid and noise, where the exact tests say that it is right.

Where it is not, or another choice of the same order, the test says so and compares what is the same in both.
"""

import math

import pytest
import torch

from sfumato.core import Noise, Table, sample, steps
from sfumato.solvers import (
    BH1,
    BH2,
    DEIS,
    DPMpp2M,
    DPMpp2MHeunSDE,
    DPMpp2MSDE,
    DPMpp2S,
    DPMpp3M,
    DPMpp3MShipped,
    DPMpp3S,
    DPMSolver2,
    DPMSolver3,
    SASolver,
    UniPC,
)
from sfumato.solvers.adams_moulton import Ahead
from sfumato.solvers.dpmpp_3s import R1, R2
from sfumato.solvers.multistep import History
from sfumato.testing.table import CLASSES, PLANE

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the peer's, about numpy

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
SCHEDULE = Table.from_betas(BETAS)
COMMON = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "sample"}
ROWS, STEPS = 6, 12


class Given(Noise):
    """Noise that is given: one tensor a step, by the time that it starts at."""

    def __init__(self, table):
        super().__init__(range(ROWS))
        self.table = table

    def increment(self, x, t, s, *key):
        return self.table[t]


class Peer:
    """A run of a scheduler of diffusers, without its last step: times, states x_i, x0_hat and noises."""

    def __init__(self, name, **settings):
        scheduler = getattr(pytest.importorskip("diffusers"), name)(**COMMON, **settings)
        scheduler.set_timesteps(STEPS)
        levels = scheduler.sigmas[:STEPS].double()
        self.grid = SCHEDULE.inverse(-levels.log())
        self.plan = steps(SCHEDULE, self.grid)
        self.noises = {k.t: torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(k.i)) for k in self.plan}
        x = Noise(range(ROWS)).normal((ROWS, 2), "start") * self.plan[0].sigma_t
        self.states, self.x0 = [x], []
        noisy = "sde" in settings.get("algorithm_type", "")
        for k, timestep in zip(self.plan, scheduler.timesteps):
            self.x0.append(CLASSES.denoiser(SCHEDULE)(x, k.t))
            more = {"variance_noise": self.noises[k.t]} if noisy else {}
            if name == "SASolverScheduler":
                more = {"generator": torch.Generator().manual_seed(k.i)}  # the same draw
            x = scheduler.step(self.x0[-1], timestep, x, **more).prev_sample
            self.states.append(x)

    def gap(self, solver, each=1):
        """The largest difference of any state, relative to the largest value of that state."""
        seen = [self.states[0]]
        sample(
            CLASSES.denoiser(SCHEDULE),
            solver=solver,
            grid=self.grid[::each],
            seeds=Given(self.noises),
            x=self.states[0],
            callback=lambda k, x: seen.append(x.clone()),
        )
        return max(relative(a, b) for a, b in zip(seen, self.states[::each]))


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


KARRAS = {"use_karras_sigmas": True, "lower_order_final": False}
EVEN = {"use_exponential_sigmas": True, "lower_order_final": False}  # equal steps of lambda
MULTI, SINGLE = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
AGREE = [
    (DPMpp2M(), MULTI, {"solver_order": 2}),
    (DPMpp3MShipped(), MULTI, {"solver_order": 3}),
    (DPMpp2MHeunSDE(eta=0.0), MULTI, {"solver_order": 2, "solver_type": "heun"}),
    (DPMpp2MSDE(), MULTI, {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
    (DPMpp2MHeunSDE(), MULTI, {"solver_order": 2, "algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}),
    (DEIS(order=2), "DEISMultistepScheduler", {"solver_order": 2}),
    (UniPC(), "UniPCMultistepScheduler", {"solver_order": 2}),
    (UniPC(b=BH1()), "UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh1"}),
    (UniPC(p=3), "UniPCMultistepScheduler", {"solver_order": 3}),
    (UniPC(p=3, b=BH1()), "UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh1"}),
]


@pytest.mark.parametrize(("solver", "name", "settings"), AGREE, ids=lambda v: str(v) if not isinstance(v, dict) else "")
def test_a_multistep_run_agrees(solver, name, settings):
    assert Peer(name, **KARRAS, **settings).gap(solver) < 1e-4


@pytest.mark.parametrize(
    ("solver", "settings"),
    [(DPMpp2S(), {}), (DPMSolver2(), {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"})],
    ids=["2S", "DPM-Solver-2"],
)
def test_a_singlestep_run_agrees(solver, settings):
    """Its two steps are our one, whose middle is at the grid's odd times: equal steps of lambda."""
    assert Peer(SINGLE, solver_order=2, **EVEN, **settings).gap(solver, 2) < 1e-4


class Halved(DPMpp3S):
    """With the midpoint rule's weight for the middle stage, where ours integrates the line exactly."""

    def weights(self, k):
        h = k.lam_s - k.lam_t
        return -math.expm1(-R2 * h), *super().weights(k)[1:]


class HalvedInEps(DPMSolver3):
    """The same for eps_hat."""

    def weights(self, k):
        h = k.lam_s - k.lam_t
        v, w = 0.5 * R2 / R1 * math.exp(R1 * h) * -math.expm1(-R2 * h), super().weights(k)[1]
        return v, w, -v * w


@pytest.mark.parametrize(
    ("ours", "its", "settings"),
    [
        (DPMpp3S(), Halved(), {}),
        (DPMSolver3(), HalvedInEps(), {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    ],
    ids=["3S", "DPM-Solver-3"],
)
def test_a_third_order_singlestep_run_differs_in_its_middle_stage_alone(ours, its, settings):
    """Another weight there changes the error, not the order: 3 with either, by the exact flow of a Gaussian."""
    peer = Peer(SINGLE, solver_order=3, **EVEN, **settings)
    assert peer.gap(ours, 3) > 1e-4
    assert peer.gap(its, 3) < 1e-4
    x = PLANE.marginal(SCHEDULE, 0.9).sample(20, 11, dtype=torch.float64)
    for solver in (ours, its):
        errors = []
        for n in (40, 160):
            grid = SCHEDULE.inverse(torch.linspace(SCHEDULE.lam(0.9), 3.0, n + 1, dtype=torch.float64))
            end = sample(PLANE.denoiser(SCHEDULE), solver=solver, grid=grid, seeds=range(20), x=x)
            errors.append(float((end - PLANE.flow(SCHEDULE, x, float(grid[0]), float(grid[-1]))).abs().mean()))
        assert math.log2(errors[0] / errors[1]) / 2 == pytest.approx(3.0, abs=0.2)


def test_deis_3_agrees_after_its_start():
    """Its first two steps are of first and second order, which leaves the run at second; ours makes them good."""
    peer = Peer("DEISMultistepScheduler", solver_order=3, **KARRAS)
    eps = [(x - k.alpha_t * d) / k.sigma_t for x, d, k in zip(peer.states, peer.x0, peer.plan)]
    for i in range(2, len(peer.plan)):
        past = History((eps[i - 1], eps[i - 2]), (-peer.plan[i - 1].lam_t, -peer.plan[i - 2].lam_t))
        d = CLASSES.denoiser(SCHEDULE)
        made, _ = DEIS().step(d, peer.states[i].clone(), peer.plan[i], past, Noise(range(ROWS)), {})
        assert relative(made, peer.states[i + 1]) < 1e-4


@pytest.mark.parametrize("tau", [0.0, 0.8])
def test_sa_solver_agrees_after_its_start(tau):
    """Through two values it has UniPC-like weights in place of the paper's; through more both are the paper's."""
    settings = {"predictor_order": 3, "corrector_order": 4, "tau_func": lambda t: torch.tensor(tau)}
    peer, solver = Peer("SASolverScheduler", **KARRAS, **settings), SASolver(p=3, tau=tau)
    for i in range(3, len(peer.plan)):
        past, d = range(i - 1, i - 4, -1), CLASSES.denoiser(SCHEDULE)
        state = Ahead(tuple(peer.x0[j] for j in past), tuple(peer.plan[j].lam_t for j in past), 1 + tau**2)
        made, _ = solver.step(d, peer.states[i].clone(), peer.plan[i], state, Given(peer.noises), {})
        assert relative(made, peer.states[i + 1]) < 1e-4


def test_the_third_order_multistep_form_differs_by_the_factor_of_two():
    """And only by that: half of the quadratic term, which `DPMpp3MShipped` leaves out too."""
    peer = Peer(MULTI, solver_order=3, **KARRAS)
    assert peer.gap(DPMpp3M()) > 1e-3
    d = CLASSES.denoiser(SCHEDULE)
    for i in range(2, len(peer.plan)):
        k = peer.plan[i]
        one, two = peer.x0[i - 1], peer.x0[i - 2]
        past = History((one, two), (peer.plan[i - 1].lam_t, peer.plan[i - 2].lam_t))
        ours, _ = DPMpp3M().step(d, peer.states[i].clone(), k, past, Noise(range(ROWS)), {})
        h, u, v = k.lam_s - k.lam_t, past.lams[0] - k.lam_t, past.lams[1] - k.lam_t
        divided = peer.x0[i] / (u * v) + one / (u * (u - v)) + two / (v * (v - u))
        second = 2 * (h * h / 2 - h + 1 - 2.718281828459045**-h)  # int_0^h e^-(h-u) u^2 du
        assert relative(ours - k.alpha_s * 0.5 * second * divided, peer.states[i + 1]) < 1e-4


def test_unipc_bh_names_are_not_swapped():
    assert Peer("UniPCMultistepScheduler", **KARRAS, solver_order=2, solver_type="bh1").gap(UniPC(b=BH2())) > 1e-3
