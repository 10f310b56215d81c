"""Dynamic thresholding against numpy's quantile; its laws are in the conformance suite."""

import numpy as np
import pytest
import torch

from sfumato.core import InputError, VPLinear
from sfumato.guidance import ClassifierFree, DynamicThreshold
from sfumato.testing import GaussianMixture
from sfumato.testing.table import PICTURES

GUIDED = ClassifierFree(denoiser=PICTURES.denoiser(VPLinear()), scale=4.0)


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.8, 0.995, 1.0])
def test_each_row_by_its_own_quantile(quantile):
    x, y = 2 * PICTURES.sample(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    exact = GUIDED(x, 0.3, y=y).numpy()
    limits = [max(1.0, float(np.quantile(np.abs(row), quantile))) for row in exact]
    exact = np.stack([np.clip(row, -m, m) / m for row, m in zip(exact, limits, strict=True)])
    made = DynamicThreshold(denoiser=GUIDED, quantile=quantile)(x, 0.3, y=y)
    np.testing.assert_allclose(made.numpy(), exact, atol=1e-14)
    assert len(set(limits)) == 4 or quantile == 0.0


def test_around_a_plain_denoiser():
    plain = GaussianMixture([[3.0, 0.5]], 0.01).denoiser(VPLinear())
    made = DynamicThreshold(denoiser=plain, quantile=1.0)
    x = torch.tensor([[2.0, 0.4]], dtype=torch.float64)
    x0 = plain(x, 0.3)
    torch.testing.assert_close(made(x, 0.3), x0 / x0.abs().max(), atol=1e-15, rtol=0)
    assert torch.equal(made.branches(x, 0.3)[1], x0)


def test_default_and_refusal():
    assert DynamicThreshold(denoiser=GUIDED).quantile == 0.995
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        DynamicThreshold(denoiser=GUIDED, quantile=99.5)
