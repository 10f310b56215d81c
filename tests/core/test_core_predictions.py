"""Predictions: EDM's constants, gradients, and the refusals; their laws are in the conformance suite."""

import math

import pytest
import torch

from sfumato.core import X0, Eps, Flow, InputError, Karras, Score, V
from sfumato.core.predictions import axpby


@pytest.mark.parametrize("s", [0.002, 0.5, 3.0, 80.0])
def test_karras_is_table_1_of_edm(s):
    y, out = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    c_skip, c_out = 0.5**2 / (s**2 + 0.5**2), s * 0.5 / math.sqrt(s**2 + 0.5**2)
    for alpha in (1.0, 0.3):
        made = Karras().to_x0(out, alpha * y, alpha, alpha * s)
        torch.testing.assert_close(made, c_skip * y + c_out * out, atol=1e-13, rtol=0)


def test_the_targets_are_the_papers():
    x0, eps = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    alpha, sigma = 0.6, 0.8
    for prediction, exact in (
        (X0(), x0),
        (Eps(), eps),
        (V(), 0.6 * eps - 0.8 * x0),
        (Flow(), eps - x0),
        (Score(), -eps / 0.8),
    ):
        torch.testing.assert_close(prediction.target(x0, eps, alpha, sigma), exact, atol=1e-14, rtol=0)


def test_karras_target_has_unit_variance():
    x0 = 0.5 * torch.randn(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    eps = torch.randn(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for alpha, sigma in ((1.0, 0.01), (0.5, 0.5), (0.05, 1.0)):
        assert float(Karras().target(x0, eps, alpha, sigma).var()) == pytest.approx(1, abs=0.015)


@pytest.mark.parametrize("prediction", [Eps(), Score()], ids=lambda p: type(p).__name__)
def test_no_signal_is_refused(prediction):
    with pytest.raises(InputError, match=r"start=0\.999"):
        prediction.to_x0(torch.zeros(1), torch.zeros(1), 0.0, 1.0)


def test_gradients_pass_through():
    x, out = torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)
    V().to_x0(out, x, 0.6, 0.8).sum().backward()
    torch.testing.assert_close(out.grad, torch.full((3,), -0.8))
    torch.testing.assert_close(x.grad, torch.full((3,), 0.6))


def test_axpby_leaves_its_inputs_alone():
    x, y = torch.ones(3), torch.ones(3)
    for b in (2.0, torch.tensor(2.0), math.inf):
        axpby(x, 0.5, y, b)
    assert x.tolist() == y.tolist() == [1, 1, 1]
