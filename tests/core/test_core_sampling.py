"""The sampling loop: ends, starts, callbacks, refusals, and that size does not matter."""

import pytest
import torch

from sfumato.core import (
    VE,
    Eps,
    InputError,
    Noise,
    Rectified,
    Schedule,
    Score,
    VPLinear,
    VPScaledLinear,
    ZeroTerminalSNR,
    combine,
    evaluations,
    grids,
    sample,
    steps,
    update,
)
from sfumato.solvers import DDIM, DDPM, DPMpp2M, Heun
from sfumato.testing import exact_network
from sfumato.testing.table import CLASSES, PICTURES, PLANE


def test_the_start_is_sigma_times_the_seeds_noise():
    seen = []
    grid = grids.karras(VE(), 3)
    d = PLANE.denoiser(VE())
    sample(d, (4, 2), solver=DDIM(), grid=grid, seeds=[3, 1, 4, 1], callback=lambda k, x: seen.append((k, x.clone())))
    start = Noise([3, 1, 4, 1]).normal((4, 2), "start") * VE()(float(grid[0]))[1]
    k = steps(VE(), grid)[0]
    exact = k.sigma_s / k.sigma_t * start + (1 - k.sigma_s / k.sigma_t) * d(start, k.t)
    torch.testing.assert_close(seen[0][1], exact, atol=1e-5, rtol=1e-5)
    assert [k.i for k, _ in seen] == [0, 1, 2]
    assert torch.equal(seen[0][1][1], seen[0][1][3])  # the same seed, the same row


def test_the_last_state_is_the_denoisers_answer():
    seen = []
    grid = grids.uniform(Rectified(), 4)
    out = sample(
        PLANE.denoiser(Rectified()),
        (3, 2),
        solver=Heun(),
        grid=grid,
        seeds=range(3),
        callback=lambda k, x: seen.append(x.clone()),
    )
    assert torch.equal(out, PLANE.denoiser(Rectified())(seen[-2], float(grid[-2])))


def test_a_callback_that_raises_cancels():
    def stop(k, x):
        if k.i == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(PLANE.denoiser(VE()), (1, 2), solver=DDIM(), grid=grids.uniform(VE(), 4), seeds=[0], callback=stop)


@pytest.mark.parametrize("prediction", [Eps(), Score()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(
    "schedule", [Rectified(), ZeroTerminalSNR(base=VPScaledLinear())], ids=lambda s: type(s).__name__
)
def test_no_signal_is_refused_where_it_says_nothing(prediction, schedule):
    net = exact_network(CLASSES, schedule, prediction)
    run = {"solver": DPMpp2M(), "seeds": range(4), "dtype": torch.float64}
    with pytest.raises(InputError, match=r"start=0.999, or use V, Flow or X0|start=0.999\)") as refusal:
        sample(net, (4, 2), grid=grids.uniform(schedule, 8), **run)
    assert "\n" not in str(refusal.value)
    grid = grids.uniform(schedule, 8, start=0.999).float().double()
    exact = sample(CLASSES.denoiser(schedule), (4, 2), grid=grid, **run)
    torch.testing.assert_close(sample(net, (4, 2), grid=grid, **run), exact, atol=1e-11, rtol=0)


@pytest.mark.parametrize("solver", [DDIM(), DDPM(), DPMpp2M(), Heun()], ids=lambda s: type(s).__name__)
def test_a_row_alone_is_bit_identical_to_one_in_a_large_state(solver):
    """The kernels of a state beyond the caches are others: a row must not notice."""
    d, grid, many = PICTURES.denoiser(VPLinear()), grids.uniform(VPLinear(), 3), (1 << 18) // 32 + 1
    run = {"solver": solver, "grid": grid}
    batch = sample(d, (many, 2, 4, 4), seeds=range(many), **run)
    for i in (0, 1, many // 2, many - 1):
        assert torch.equal(sample(d, (1, 2, 4, 4), seeds=[i], **run)[0], batch[i])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [7, 1 << 18, (1 << 18) + 5])
def test_update(size, dtype):
    x, y, z = (Noise([i]).normal((1, size), "u", dtype=dtype)[0] for i in range(3))
    exact = 0.7 * x.double() + 0.2 * y.double() - 1.3 * z.double()
    rounding = {"atol": 4 * torch.finfo(dtype).eps * 4, "rtol": 0}
    with torch.no_grad():
        torch.testing.assert_close(update(x.clone(), 0.7, y, 0.2, z, -1.3).double(), exact, **rounding)
        torch.testing.assert_close(
            update(x.clone(), 0.7, y, 0.2).double(), 0.7 * x.double() + 0.2 * y.double(), **rounding
        )
        torch.testing.assert_close(update(x.clone(), 1.0, y, 0.2), x + 0.2 * y, **rounding)
        torch.testing.assert_close(combine(x.clone(), 0.7, (y, z, x), (0.2, -1.3)).double(), exact, **rounding)
        shared = x.clone()
        torch.testing.assert_close(update(shared, 0.7, shared, 0.2), 0.9 * x, **rounding)
    kept = x.clone().requires_grad_()
    update(kept, 0.7, y, 0.2, z, -1.3).sum().backward()
    torch.testing.assert_close(kept.grad, torch.full_like(x, 0.7))
    assert torch.equal(kept.detach(), x)


def test_evaluations():
    assert evaluations(Heun(), grids.uniform(VE(), 18)) == 35  # EDM's published 2 N - 1
    assert evaluations(DPMpp2M(), grids.uniform(VE(), 20)) == 20
    assert evaluations(Heun(), grids.uniform(VE(), 5, end=0.1)) == 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": None}, "needs a shape"),
        ({"seeds": range(3)}, "3 seeds for a batch of shape"),
        ({"x": torch.zeros(2, 2)}, "4 seeds for 2 samples"),
        ({"cond": {"z": torch.zeros(4)}}, "no condition 'z'"),
        ({"grid": torch.tensor([0.0, 1.0])}, "a falling sequence"),
        ({"grid": torch.tensor([1.0])}, "a falling sequence"),
    ],
)
def test_refusals(change, said):
    given = {"shape": (4, 2), "solver": DDIM(), "grid": grids.uniform(VE(), 3), "seeds": range(4)} | change
    with pytest.raises(InputError, match=said):
        sample(CLASSES.denoiser(VE()), **given)


class Drifting(Schedule):
    """A straight path whose slope may change."""

    slope = 1.0

    def __call__(self, t):
        return (1.0 - 0.5 * t**2) ** 0.5, self.slope * 0.5**0.5 * t

    def inverse(self, lam):
        raise NotImplementedError


def test_a_grid_is_planned_once_on_a_schedule_that_cannot_change():
    grid = grids.uniform(VPLinear(), 3)
    assert steps(VPLinear(), grid) is steps(VPLinear(), grid.clone())
    assert steps(VPLinear(beta_max=19.0), grid) != steps(VPLinear(), grid) != steps(VPLinear(), grid[:-1])
    drifting = Drifting()
    for schedule in (drifting, ZeroTerminalSNR(base=drifting)):
        drifting.slope = 1.0
        before = steps(schedule, grid)
        drifting.slope = 2.0
        assert steps(schedule, grid)[0].sigma_t != before[0].sigma_t
