"""Rescaled guidance: off at phi = 0, and at phi = 1 the conditional's own spread, in the space that is asked for."""

import pytest
import torch

from sfumato.core import X0, Eps, InputError, V, VPLinear
from sfumato.guidance import ClassifierFree, Rescale
from sfumato.testing import Counted
from sfumato.testing.table import PICTURES

SCHEDULE, T = VPLinear(), 0.4
GUIDED = ClassifierFree(denoiser=PICTURES.denoiser(SCHEDULE), scale=5.0)
SPACES = pytest.mark.parametrize("space", [X0(), Eps(), V()], ids=lambda p: type(p).__name__)


def data():
    return PICTURES.sample(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1])


def out_of(x0, x, space):
    """The network output that an x_0 stands for."""
    alpha, sigma = SCHEDULE(T)
    return space.target(x0, (x - alpha * x0) / sigma, alpha, sigma)


@SPACES
def test_phi_zero_is_off(space):
    x, y = data()
    made = Rescale(denoiser=GUIDED, phi=0.0, space=space)(x, T, y=y)
    torch.testing.assert_close(made, GUIDED(x, T, y=y), atol=1e-12, rtol=0)


@SPACES
@pytest.mark.parametrize("phi", [0.3, 0.7, 1.0])
def test_equations_15_and_16(space, phi):
    x, y = data()
    guided, conditional = (out_of(v, x, space) for v in GUIDED.branches(x, T, y=y))
    exact = torch.empty_like(x)
    for i in range(4):
        rescaled = guided[i] * conditional[i].std() / guided[i].std()
        exact[i] = phi * rescaled + (1 - phi) * guided[i]
    made = out_of(Rescale(denoiser=GUIDED, phi=phi, space=space)(x, T, y=y), x, space)
    torch.testing.assert_close(made, exact, atol=1e-11, rtol=0)
    if phi == 1.0:
        torch.testing.assert_close(made.flatten(1).std(1), conditional.flatten(1).std(1), atol=1e-11, rtol=0)


def test_the_default_is_the_papers():
    assert Rescale(denoiser=GUIDED).phi == 0.7


def test_without_guidance_it_costs_and_changes_nothing():
    counted = Counted(PICTURES.denoiser(SCHEDULE))
    x, y = data()
    made = Rescale(denoiser=ClassifierFree(denoiser=counted, scale=1.0))(x, T, y=y)
    assert torch.equal(made, PICTURES.denoiser(SCHEDULE)(x, T, y=y))
    assert counted.rows == 4


@pytest.mark.parametrize("phi", [-0.1, 1.1])
def test_refusals(phi):
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        Rescale(denoiser=GUIDED, phi=phi)
