"""The cheap claims of improved-ddpm, and what its checks rest on."""

import pytest
import torch
from torch import nn

from sfumato.core import Eps, LearnedVariance, Preconditioned, VPCosine, VPLinear, grids
from sfumato.measure import variational_bound
from sfumato.reproduce import beds, improved_ddpm


def bar(key):
    return next(claim for claim in improved_ddpm.SYSTEM.claims if claim.key == key)


def test_decoder():
    assert bar("decoder").judge(improved_ddpm.Measured("decoder", improved_ddpm.mass())).status == "pass"


def test_gaps_are_the_bound_with_their_variances():
    """With beta, what `variational_bound` finds; with the best variance less, and never below the entropy."""
    law, n = beds.plane(), 4000
    fixed, best = improved_ddpm.gaps(VPLinear(), 12, n)
    x0 = law.sample(n, 0, dtype=torch.float64)
    found = variational_bound(
        law.denoiser(VPLinear()), x0, grid=grids.uniform(VPLinear(), 12), seeds=beds.seeds(n, "test")
    )
    values = found.values + law.log_prob(x0)
    assert fixed == pytest.approx(float(values.mean()), abs=6 * float(values.std()) / n**0.5)
    assert 0 < best < fixed


def test_exact_rows():
    linear, cosine = improved_ddpm.gaps(VPLinear(), 30), improved_ddpm.gaps(VPCosine(), 30)
    for key, value in (("variance", linear[1] / linear[0]), ("cosine", cosine[1] / linear[1])):
        assert bar(key).judge(improved_ddpm.Measured(key, value)).status == "pass", key


def test_cells_differ_in_what_they_say():
    cells = improved_ddpm.CELLS
    assert [isinstance(c.prediction, LearnedVariance) for c in cells.values()] == [False, False, True, True]
    assert cells["cosine, bound"].objective.objective == cells["cosine, hybrid"].objective.vlb
    assert all(getattr(c.objective, "T", improved_ddpm.T) == improved_ddpm.T for c in cells.values())


def test_clipped_reads_as_the_prediction_does_within_the_range():
    x, eps = torch.linspace(-3, 3, 7), torch.zeros(7)
    clipped = improved_ddpm.Clipped(prediction=Eps())
    for alpha, sigma in ((0.8, 0.6), (5e-5, 1.0)):
        free = Eps().to_x0(eps, x, alpha, sigma)
        assert torch.equal(clipped.to_x0(eps, x, alpha, sigma), free.clamp(-1, 1))
        assert torch.equal(clipped.target(x, eps, alpha, sigma), eps)
        assert clipped.gain(alpha, sigma) == Eps().gain(alpha, sigma)
    cell = improved_ddpm.CELLS["cosine, hybrid"]
    reading = cell.clipped(Preconditioned(Even(), VPCosine(), LearnedVariance()))
    assert reading.prediction == LearnedVariance(prediction=clipped)


class Even(nn.Module):
    def __init__(self):
        super().__init__()
        self.mark = nn.Parameter(torch.zeros(()))
        self.cond = {"y": 10}

    def forward(self, x, c_noise, y=None):
        return torch.cat([torch.zeros_like(x), torch.ones_like(x)], 1)


@pytest.mark.slow
def test_importance_row_is_above_one_for_any_network():
    assert improved_ddpm.quieter(Preconditioned(Even(), VPCosine(), LearnedVariance())) > 1.0
