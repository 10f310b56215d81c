"""Compiled runs of states beyond the caches, where eager sums scale and add in one pass."""

import pytest
import torch

import sfumato as sf
from sfumato.nets import MLPConfig


@pytest.mark.slow
@pytest.mark.parametrize("solver", [sf.solvers.DPMpp2M(), sf.solvers.UniPC()], ids=lambda s: type(s).__name__)
def test_a_large_state_compiled_is_the_eager_one(solver):
    torch.manual_seed(0)
    net = MLPConfig(width=8, layers=1).build().eval()
    truth = sf.Preconditioned(net, sf.VPLinear(), sf.V())  # of eps, rounding is multiplied by 1 / alpha
    x = torch.randn(1 << 17, 2, generator=torch.Generator().manual_seed(0))
    settings = {"solver": solver, "grid": sf.grids.uniform(truth.schedule, 6), "seeds": range(1 << 17), "x": x}
    eager, compiled = sf.sample(truth, **settings), sf.sample(truth, **settings, compile=True)
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)
