"""Skip-layer guidance beside exact denoisers; its laws are in the conformance suite."""

import pytest
import torch

from sfumato.core import InputError, Rectified, VPLinear
from sfumato.guidance import SkipLayer
from sfumato.testing import Counted, Gaussian


def test_it_undoes_an_error_that_the_network_without_blocks_makes_more():
    """Point data seen with an offset e, and with 3 e without some blocks: scale 1/2 is free of it."""
    schedule, e = VPLinear(), torch.tensor([0.3, -0.2])
    centre = torch.tensor([0.5, 0.1])
    true, whole, bad = (Gaussian(centre + k * e, 1e-8).denoiser(schedule) for k in (0, 1, 3))
    x = 0.6 * torch.ones(4, 2, dtype=torch.float64)
    made = SkipLayer(denoiser=whole, bad=bad, scale=0.5)
    torch.testing.assert_close(made(x, 0.5), true(x, 0.5), atol=1e-6, rtol=0)
    assert torch.equal(made.branches(x, 0.5)[1], whole(x, 0.5))


def test_the_interval_is_in_sigma_over_alpha_for_each_row():
    schedule = Rectified()
    whole, bad = (
        Gaussian(torch.zeros(2), 1.0).denoiser(schedule),
        Counted(Gaussian(torch.ones(2), 1.0).denoiser(schedule)),
    )
    made = SkipLayer(denoiser=whole, bad=bad, scale=2.0, low=0.5, high=3.0)
    x = torch.ones(3, 2, dtype=torch.float64)
    t = torch.tensor([0.3, 0.5, 0.8], dtype=torch.float64)  # s = 0.43, 1, 4
    rows = made(x, t)
    for i, inside in enumerate((False, True, False)):
        plain = whole(x[i : i + 1], float(t[i]))
        assert torch.allclose(rows[i : i + 1], plain) != inside
        bad.calls = 0
        torch.testing.assert_close(made(x[i : i + 1], float(t[i])), rows[i : i + 1])
        assert bad.calls == inside


def test_what_cannot_be_compared_is_refused():
    a, b = (Gaussian(torch.zeros(2), 1.0).denoiser(s) for s in (VPLinear(), Rectified()))
    with pytest.raises(InputError, match="give two of one schedule"):
        SkipLayer(denoiser=a, bad=b, scale=1.0)
    with pytest.raises(InputError, match="0 <= low <= high"):
        SkipLayer(denoiser=a, bad=a, scale=1.0, low=2.0, high=1.0)
