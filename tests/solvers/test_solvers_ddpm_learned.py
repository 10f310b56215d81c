"""DDPM with a learned variance: a network that says v everywhere is DDPM with that variance; elsewhere elementwise."""

import pytest
import torch
from torch import nn

from sfumato.core import InputError, LearnedVariance, Noise, Preconditioned, VPLinear, grids, sample, steps
from sfumato.solvers import DDIM, DDPM, DDPMLearned
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
