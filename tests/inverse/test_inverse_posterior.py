"""Denoisers that know y against E[x_0 | x_t, y] in closed form, and what each method promises."""

import math

import pytest
import torch

from sfumato.core import VE, InputError, Noise, Rectified, V, VPLinear, grids, prepare, sample, steps
from sfumato.guidance import Classifier, ClassifierFree
from sfumato.inverse import DDNM, DPS, Blur, Downsample, Mask, Matrix, MomentMatching, PiGDM, Replacement
from sfumato.solvers import DDPM
from sfumato.testing import ExactClassifier, Gaussian, exact_network
from sfumato.testing.table import PICTURES

SHAPE = (1, 4, 4)
ROUND = Gaussian(torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(SHAPE), 0.3)
_half = Noise(range(16)).normal((16, 16), "c").double() / 4
ODD = Gaussian(ROUND.mean, _half @ _half.T + 0.05 * torch.eye(16, dtype=torch.float64))
OPERATORS = {
    "mask": Mask(mask=(torch.arange(16).reshape(4, 4) % 3 == 0).double()),
    "downsample": Downsample(factor=2),
    "blur": Blur(kernel=torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 1.0])).double() / 16),
    "matrix": Matrix(Noise(range(5)).normal((5, 16), "m").double(), SHAPE),
}
EACH = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
SCHEDULES = pytest.mark.parametrize("schedule", [VPLinear(), Rectified(), VE()], ids=lambda s: type(s).__name__)
TIMES = (0.03, 0.4, 0.9)


def data(operator, law, schedule, t, noise):
    """x_t and y of three draws."""
    x0 = law.sample(3, 1, dtype=torch.float64)
    alpha, sigma = schedule(t)
    x = alpha * x0 + sigma * Noise(range(3)).like(x0, "eps")
    clean = operator.A(x0)
    return x, clean + noise * Noise(range(3)).like(clean, "n")


def posterior(operator, law, schedule, x, t, y, noise):
    """E[x_0 | x_t, y] by joint Gaussian conditioning on both, with A as a matrix."""
    size = law.mean.numel()
    a = operator.A(torch.eye(size, dtype=torch.float64).reshape(size, *law.shape)).flatten(1).T
    alpha, sigma = schedule(t)
    seen = torch.cat([alpha * torch.eye(size, dtype=torch.float64), a])
    cover = seen @ law.covariance @ seen.T
    cover += torch.diag(torch.tensor([sigma**2] * size + [noise**2] * len(a), dtype=torch.float64))
    gap = torch.cat([x.flatten(1), y.flatten(1)], 1) - seen @ law.mean.flatten()
    return (law.mean.flatten() + gap @ torch.linalg.pinv(cover, rtol=1e-12) @ seen @ law.covariance).reshape(x.shape)


@SCHEDULES
@EACH
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_pigdm_with_the_right_variance_is_the_posterior_mean(operator, schedule, noise):
    for t in TIMES:
        x, y = data(operator, ROUND, schedule, t, noise)
        made = PiGDM(denoiser=ROUND.denoiser(schedule), operator=operator, y=y, noise=noise, variance=0.3)
        exact = posterior(operator, ROUND, schedule, x, t, y, noise)
        torch.testing.assert_close(made(x, t), exact, atol=1e-9, rtol=0)
        close = DDNM(denoiser=made.denoiser, operator=operator, y=y, noise=noise, variance=0.3)
        torch.testing.assert_close(close(x, t), exact, atol=1e-9, rtol=0)  # the same, where the data are round
    rows = torch.tensor(TIMES, dtype=torch.float64)
    alone = [
        PiGDM(denoiser=made.denoiser, operator=operator, y=y[i : i + 1], noise=noise, variance=0.3)(x[i : i + 1], t)
        for i, t in enumerate(TIMES)
    ]
    torch.testing.assert_close(made(x, rows), torch.cat(alone), atol=1e-11, rtol=0)


@SCHEDULES
@EACH
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_moment_matching_is_the_posterior_mean_of_any_gaussian(operator, schedule, noise):
    for t in TIMES:
        x, y = data(operator, ODD, schedule, t, noise)
        made = MomentMatching(denoiser=ODD.denoiser(schedule), operator=operator, y=y, noise=noise, iterations=60)
        exact = posterior(operator, ODD, schedule, x, t, y, noise)
        torch.testing.assert_close(made(x, t), exact, atol=1e-7, rtol=0)
    guess = PiGDM(denoiser=made.denoiser, operator=operator, y=y, noise=noise)(x, t)
    assert float((guess - exact).abs().max()) > 1e-3  # one number is no covariance


@EACH
def test_ddnm_answers_are_consistent_and_keep_the_null_space(operator):
    x, y = data(operator, ODD, VPLinear(), 0.5, 0.0)
    made = DDNM(denoiser=ODD.denoiser(VPLinear()), operator=operator, y=y)
    x0, free = made.branches(x, 0.5)
    torch.testing.assert_close(operator.A(x0), y, atol=1e-12, rtol=0)
    torch.testing.assert_close(operator.A_dagger(operator.A(x0 - free)), x0 - free, atol=1e-11, rtol=0)
    assert torch.equal(free, ODD.denoiser(VPLinear())(x, 0.5))
    small = DDNM(denoiser=made.denoiser, operator=operator, y=y, noise=1e-7)
    torch.testing.assert_close(small(x, 0.5), x0, atol=1e-8, rtol=0)  # the limit of noisy measurements
    samples = sample(made, solver=DDPM(), grid=grids.uniform(VPLinear(), 8), seeds=range(3), x=x, dtype=torch.float64)
    torch.testing.assert_close(operator.A(samples), y, atol=1e-11, rtol=0)


def algorithm_1(law, operator, y, x, k, zeta):
    """x_s of the plain step, then -zeta grad_x |y - A x0_hat|, J by hand: an exact denoiser of a Gaussian is affine."""
    base = law.denoiser(VPLinear() if k.alpha_t < 1 else VE())
    plain, _ = DDPM().step(base, x.clone(), k, None, Noise(range(3)), {})
    basis = torch.eye(16, dtype=torch.float64).reshape(16, *SHAPE)
    jacobian = (base(basis, k.t) - base(torch.zeros_like(basis[:1]), k.t)).flatten(1)  # [in, out]
    gap = operator.A(base(x, k.t)) - y
    unit = gap / gap.flatten(1).norm(dim=1)[:, None, None, None]
    slope = operator.A_adjoint(unit).flatten(1) @ jacobian.T
    return plain - zeta * slope.reshape(x.shape)


@pytest.mark.parametrize("schedule", [VPLinear(), VE()], ids=lambda s: type(s).__name__)
def test_dps_with_ddpm_is_algorithm_1(schedule):
    operator, zeta, grid = OPERATORS["downsample"], 0.7, grids.uniform(schedule, 6)
    base = ODD.denoiser(schedule)
    for k in steps(schedule, grid)[:-1]:
        x, y = data(operator, ODD, schedule, k.t, 0.1)
        made = DPS(denoiser=base, operator=operator, y=y, grid=grid, zeta=zeta)
        found, _ = DDPM().step(made, x.clone(), k, None, Noise(range(3)), {})
        torch.testing.assert_close(found, algorithm_1(ODD, operator, y, x, k, zeta), atol=1e-11, rtol=1e-11)
    last = steps(schedule, grid)[-1]
    assert made._weights[-1] == pytest.approx(zeta)
    assert float((made(x, last.t) - base(x, last.t)).abs().max()) > 1e-4


def test_dps_refuses_another_grid():
    grid = grids.uniform(VPLinear(), 6)
    _, y = data(OPERATORS["mask"], ODD, VPLinear(), 0.5, 0.0)
    made = DPS(denoiser=ODD.denoiser(VPLinear()), operator=OPERATORS["mask"], y=y, grid=grid)
    with pytest.raises(InputError, match="give DPS the grid of the run"):
        sample(made, (3, *SHAPE), solver=DDPM(), grid=grids.uniform(VPLinear(), 7), seeds=range(3))


def test_replacement_pastes_a_noised_y():
    operator, schedule, t = OPERATORS["mask"], VPLinear(), 0.6
    x, y = data(operator, ODD, schedule, t, 0.0)
    seen = []

    class Watched:
        cond = ODD.cond

        def __init__(self):
            self.schedule = schedule

        def __call__(self, z, time):
            seen.append(z)
            return ODD.denoiser(schedule)(z, time)

    alpha, sigma = schedule(t)
    pasted, known = [], operator.mask.bool().expand_as(x)
    for seed in range(200):
        seeds = Noise([3 * seed, 3 * seed + 1, 3 * seed + 2])
        made = Replacement(denoiser=Watched(), operator=operator, y=y, noise=seeds)
        x0 = made(x, t)
        assert torch.equal(seen[-1][~known], x[~known])
        torch.testing.assert_close(x0[known], y[known], atol=1e-14, rtol=0)
        assert torch.equal(made(x, t), x0)  # a draw belongs to (seed, t)
        pasted.append(((seen[-1] - alpha * y) / sigma)[known])
    drawn = torch.stack(pasted)
    assert abs(float(drawn.mean())) < 4 / math.sqrt(drawn.numel())
    assert float(drawn.var()) == pytest.approx(1.0, abs=0.08)
    with pytest.raises(InputError, match="give t as a float"):
        made(x, torch.full((3,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("kind", [PiGDM, MomentMatching, DDNM])
def test_one_row_of_measurements_for_all_and_prepared(kind):
    operator, schedule = OPERATORS["downsample"], VPLinear()
    x, y = data(operator, ROUND, schedule, 0.5, 0.0)
    one = kind(denoiser=ROUND.denoiser(schedule), operator=operator, y=y[:1])(x, 0.5)
    all_rows = kind(denoiser=ROUND.denoiser(schedule), operator=operator, y=y[:1].expand_as(y))
    torch.testing.assert_close(one, all_rows(x, 0.5), atol=1e-14, rtol=0)
    net = kind(denoiser=exact_network(ROUND, schedule, V()), operator=operator, y=y)
    torch.testing.assert_close(prepare(net, [0.5])(x, 0.5), net(x, 0.5), atol=1e-12, rtol=0)
    single = net(x.float(), 0.5)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), net(x, 0.5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [PiGDM, MomentMatching])
def test_around_guidance_and_not_inside(kind):
    """Around classifier-free guidance J is that of the guided answer; around a classifier's too."""
    schedule, t = VPLinear(), 0.4
    y, operator = torch.tensor([0, 2, 1]), Downsample(factor=2)
    x = PICTURES.sample(3, 2, dtype=torch.float64)
    seen = operator.A(x)
    classifier = ExactClassifier(model=PICTURES, schedule=schedule)
    free = ClassifierFree(denoiser=PICTURES.denoiser(schedule), scale=2.5)

    class Unconditional:
        cond, schedule = {}, VPLinear()

        def __call__(self, x, t):
            return PICTURES.denoiser(schedule)(x, t)

    by_class = Classifier(denoiser=Unconditional(), classifier=classifier, scale=2.5)
    made = [kind(denoiser=d, operator=operator, y=seen)(x, t, y=y) for d in (free, by_class)]
    torch.testing.assert_close(made[0], made[1], atol=1e-9, rtol=0)
    inside = Classifier(denoiser=kind(denoiser=free, operator=operator, y=seen), classifier=classifier, scale=1.0)
    inside(x, t, y=y)  # the classifier's gradient does not go through it
    nested = kind(denoiser=kind(denoiser=free, operator=operator, y=seen), operator=operator, y=seen)
    with pytest.raises(InputError, match="put it around the other guidance"):
        nested(x, t, y=y)


def test_refusals():
    d, operator = ROUND.denoiser(Rectified()), OPERATORS["downsample"]
    x, y = data(operator, ROUND, Rectified(), 0.5, 0.0)
    for kind in (PiGDM, MomentMatching):
        with pytest.raises(InputError, match="alpha = 0"):
            kind(denoiser=d, operator=operator, y=y)(x, 1.0)
        with pytest.raises(InputError, match="noise >= 0"):
            kind(denoiser=d, operator=operator, y=y, noise=-1.0)
    with pytest.raises(InputError, match="give a row each"):
        DDNM(denoiser=d, operator=operator, y=x)(x, 0.5)
    with pytest.raises(InputError, match="variance > 0"):
        DDNM(denoiser=d, operator=operator, y=y, variance=0.0)
