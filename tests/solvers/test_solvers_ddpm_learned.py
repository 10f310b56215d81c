"""DDPM with a learned variance: a network that says v everywhere is DDPM with that variance; elsewhere elementwise."""

import pytest
import torch
from torch import nn

from sfumato.core import (
    VE,
    InputError,
    LearnedVariance,
    Noise,
    Preconditioned,
    VPLinear,
    ZeroTerminalSNR,
    grids,
    posterior,
    sample,
    steps,
)
from sfumato.guidance import ClassifierFree
from sfumato.solvers import DDIM, DDPM, DDPMLearned
from sfumato.testing import Gaussian
from sfumato.testing.learned import exact_chain
from sfumato.testing.table import PLANE


class Says(nn.Module):
    """The exact eps of the plane, and v = `share` (a number, or one a coordinate)."""

    def __init__(self, share):
        super().__init__()
        self.mark = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.share, self.cond = torch.as_tensor(share, dtype=torch.float64), {}

    def embed(self, c_noise):
        return c_noise.double()[:, None]

    def trunk(self, x, emb):
        t = emb.expand(len(x), 1)[:, 0] / 1000
        alpha, sigma = (v[:, None] for v in VPLinear()(t))
        eps = (x - alpha * PLANE.denoiser(VPLinear())(x, t)) / sigma
        return torch.cat([eps, (2 * self.share - 1).expand_as(eps)], 1)

    def forward(self, x, c_noise):
        return self.trunk(x, self.embed(c_noise))


def network(share):
    return Preconditioned(Says(share), VPLinear(), LearnedVariance())


GRID = grids.linspace(VPLinear(), 6, T=64)  # a strided grid whose times the float32 label holds


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_constant_share_is_ddpm(share):
    more = {"grid": GRID, "seeds": range(5), "dtype": torch.float64}
    learned = sample(network(share), (5, 2), solver=DDPMLearned(), **more)
    fixed = sample(PLANE.denoiser(VPLinear()), (5, 2), solver=DDPM(variance=share), **more)
    torch.testing.assert_close(learned, fixed, rtol=0, atol=1e-5)


def test_coordinates_have_their_own_variance():
    x, k = PLANE.sample(4000, 1, dtype=torch.float64), steps(VPLinear(), GRID)[2]
    drawn, _ = DDPMLearned().step(network([0.0, 1.0]), x.clone(), k, None, Noise(range(4000)), {})
    for column, share in ((0, 0.0), (1, 1.0)):
        fixed, _ = DDPM(variance=share).step(PLANE.denoiser(VPLinear()), x.clone(), k, None, Noise(range(4000)), {})
        torch.testing.assert_close(drawn[:, column], fixed[:, column], rtol=0, atol=1e-5)


def test_other_solvers_read_the_mean_alone():
    more = {"grid": GRID, "seeds": range(5), "dtype": torch.float64}
    a, b = (sample(network(share), (5, 2), solver=DDIM(), **more) for share in (0.1, 0.9))
    assert torch.equal(a, b)
    exact = sample(PLANE.denoiser(VPLinear()), (5, 2), solver=DDIM(), **more)
    torch.testing.assert_close(a, exact, rtol=0, atol=1e-5)


def test_a_network_that_says_no_variance_is_refused():
    with pytest.raises(InputError, match=r"LearnedVariance.*use DDPM"):
        sample(PLANE.denoiser(VPLinear()), (2, 2), solver=DDPMLearned(), grid=GRID, seeds=range(2))


class Same(Noise):
    """Noise that is `value` everywhere."""

    def __init__(self, value):
        super().__init__(range(2))
        self.value = value

    def increment(self, x, t, s, *key):
        return torch.full_like(x, self.value)


@pytest.mark.parametrize(
    "schedule", [VPLinear(), VE(), ZeroTerminalSNR(base=VPLinear())], ids=lambda v: type(v).__name__
)
def test_under_guidance_the_mean_is_guided_and_the_variance_the_networks(schedule):
    """Two classes of one variance: guidance by w makes a Gaussian about m_0 + w (m_1 - m_0), of the same variance; with
    the exact one, three steps have its moments."""
    means, variance, w = torch.tensor([[-0.3], [0.5]], dtype=torch.float64), 0.4, 2.5
    guided = Gaussian([float(means[0] + w * (means[1] - means[0]))], variance)
    grid = grids.uniform(schedule, 3, end=0.2)
    denoiser = ClassifierFree(denoiser=exact_chain(means, variance, schedule, grid), scale=w)
    start, end = (guided.marginal(schedule, float(t)) for t in grid[[0, -1]])
    mean, found = float(start.mean), float(start.covariance)
    for k in steps(schedule, grid):
        x, cond = torch.tensor([[mean], [mean + 1]], dtype=torch.float64), {"y": torch.tensor([1, 1])}
        still, moved = (DDPMLearned().step(denoiser, x.clone(), k, None, Same(z), cond)[0] for z in (0.0, 1.0))
        mean, slope, std = float(still[0]), float(still[1] - still[0]), float((moved - still)[0])
        found = slope**2 * found + std**2
    assert mean == pytest.approx(float(end.mean), abs=1e-10)
    assert found == pytest.approx(float(end.covariance), rel=1e-10)


class Asked(Says):
    """Keeps the classes that it is asked about, and says v = 0.2 for class 1, 0.9 for the null."""

    def __init__(self):
        super().__init__(0.0)
        self.cond, self.asked = {"y": 0}, []

    def trunk(self, x, emb, y):
        self.asked.append(y.tolist())
        self.share = torch.where(y == 1, 0.2, 0.9).double()[:, None]
        return super().trunk(x, emb)

    def forward(self, x, c_noise, y):
        return self.trunk(x, self.embed(c_noise), y)


def test_the_variance_is_that_of_the_given_class_at_one_more_evaluation():
    network = Preconditioned(Asked(), VPLinear(), LearnedVariance())
    k, x = steps(VPLinear(), GRID)[2], torch.zeros(1, 2, dtype=torch.float64)
    cond, guided = {"y": torch.tensor([1])}, ClassifierFree(denoiser=network, scale=2.0)
    still, moved = (DDPMLearned().step(guided, x.clone(), k, None, Same(z), cond)[0] for z in (0.0, 1.0))
    assert network.net.asked == 2 * [[1], [1, 0]]
    q = posterior(k.alpha_t, k.sigma_t, k.alpha_s, k.sigma_s)
    torch.testing.assert_close((moved - still) ** 2, torch.full_like(x, q.beta**0.2 * q.tilde**0.8))
