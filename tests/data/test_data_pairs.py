"""Pairs of a flow that is known in closed form."""

import pytest
import torch

import sfumato as sf
from sfumato.core import InputError
from sfumato.data import pairs
from sfumato.solvers import DDPM, Heun
from sfumato.testing import Gaussian, GaussianMixture

LAW = Gaussian([0.5, -0.3], [[0.5, 0.2], [0.2, 0.3]])


def test_a_row_is_the_end_of_its_own_start():
    schedule = sf.Rectified()
    found = pairs(LAW.denoiser(schedule), 50, (2,), solver=Heun(), grid=sf.grids.uniform(schedule, 40), chunk=20).rows
    exact = LAW.flow(schedule, found.cond["eps"].double(), 1.0, 0.0)
    torch.testing.assert_close(found.x0.double(), exact, rtol=0, atol=6e-3)
    assert found.cond["eps"].std() == pytest.approx(1.0, abs=0.15)


def test_rows_do_not_depend_on_the_chunk_and_carry_their_conditions():
    law = GaussianMixture([[-2.0, 0.0], [2.0, 0.0]], 0.1, labels=[0, 1])
    schedule, y = sf.Rectified(), torch.arange(9) % 2
    grid = sf.grids.uniform(schedule, 10)
    a, b = (
        pairs(law.denoiser(schedule), 9, (2,), solver=Heun(), grid=grid, cond={"y": y}, chunk=c).rows for c in (4, 9)
    )
    assert torch.equal(a.x0, b.x0)
    assert torch.equal(a.cond["y"], y)
    assert torch.equal(a.x0[:, 0] > 0, y == 1)


def test_a_solver_that_draws_noise_is_refused():
    schedule = sf.VPLinear()
    with pytest.raises(InputError, match="draws noise"):
        pairs(LAW.denoiser(schedule), 4, (2,), solver=DDPM(), grid=sf.grids.uniform(schedule, 4))
