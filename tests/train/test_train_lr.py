"""Learning-rate laws against their formulas and PyTorch's."""

from __future__ import annotations

import math

import pytest
import torch

from sfumato.core import InputError, from_config, to_config
from sfumato.train import Constant, Cosine, InverseSqrt


def test_warm_up_is_linear_and_reaches_one():
    for rate in (Constant(warmup=4), Cosine(warmup=4), InverseSqrt(warmup=4)):
        assert [rate(k, 10**9) for k in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0], rel=1e-12)
    assert [Constant()(k, 10) for k in range(10)] == [1.0] * 10


@pytest.mark.parametrize("end", [0.0, 0.1])
def test_cosine_is_pytorchs(end):
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=20, eta_min=end)
    for k in range(20):
        assert Cosine(end=end)(k, 20) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        theirs.step()
    assert Cosine(warmup=10, end=end)(15, 20) == pytest.approx((1 + end) / 2)
    assert Cosine(end=end)(25, 20) == pytest.approx(end)


def test_inverse_square_root_halves_at_four_times_its_start():
    rate = InverseSqrt(after=100)
    assert [rate(k, 1) for k in (0, 50, 100)] == [1.0, 1.0, 1.0]
    assert rate(400, 1) == pytest.approx(0.5)
    assert rate(200, 1) == pytest.approx(1 / math.sqrt(2))


def test_round_trip_and_bad_values():
    for rate in (Constant(warmup=3), Cosine(warmup=2, end=0.1), InverseSqrt(after=7)):
        assert from_config(to_config(rate)) == rate
    with pytest.raises(InputError, match=r"Constant\.warmup=-1"):
        Constant(warmup=-1)
    with pytest.raises(InputError, match=r"InverseSqrt\.after=0"):
        InverseSqrt(after=0)
