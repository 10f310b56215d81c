"""The averages are the sums that their formula says."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from sfumato.core import InputError
from sfumato.train import EMA
from sfumato.train.ema import swapped


class One(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([value, -value], dtype=torch.float64))


def run(half_lives, ramp, steps=50, images=8):
    net = One(1.0)
    ema = EMA(net, half_lives, ramp)
    values = torch.cos(torch.arange(steps, dtype=torch.float64) ** 1.5)
    for k, value in enumerate(values):
        with torch.no_grad():
            net.w.copy_(torch.stack([value, -value]))
        ema.update(images, k * images)
    return ema, values


@pytest.mark.parametrize("half_life", [3.0, 100.0, 5e5])
def test_without_a_ramp_it_is_the_closed_form(half_life):
    """ema_n = b^n w_0 + (1 - b) sum_k b^(n - k) w_k, b = 2^(-images / half-life)."""
    ema, values = run((half_life, 17.0), None)
    b, n = 0.5 ** (8 / half_life), len(values)
    exact = b**n + (1 - b) * sum(b ** (n - k) * float(values[k - 1]) for k in range(1, n + 1))
    torch.testing.assert_close(ema.of(half_life)["w"][0].item(), exact, rtol=1e-12, atol=0)
    torch.testing.assert_close(ema.of(half_life)["w"][1].item(), -exact, rtol=1e-12, atol=0)


def test_the_weight_of_a_value_halves_in_one_half_life():
    net = One(1.0)
    ema = EMA(net, (64.0,), None)
    with torch.no_grad():
        net.w.zero_()
    for k in range(8):
        ema.update(8, 8 * k)
    torch.testing.assert_close(ema.of()["w"], torch.tensor([0.5, -0.5], dtype=torch.float64))


def test_with_a_ramp_the_half_life_follows_the_images_seen():
    ema, values = run((100.0,), 0.5)
    exact = 1.0
    for k, value in enumerate(values):
        life = min(100.0, 8 * k * 0.5)
        b = 0.5 ** (8 / life) if life else 0.0  # nothing of the untrained weights stays
        exact = b * exact + (1 - b) * float(value)
    torch.testing.assert_close(ema.of()["w"][0].item(), exact, rtol=1e-12, atol=0)


def test_several_at_once_are_each_alone():
    several, _ = run((5.0, 50.0, 500.0), 0.05)
    for half_life in (5.0, 50.0, 500.0):
        alone, _ = run((half_life,), 0.05)
        assert torch.equal(several.of(half_life)["w"], alone.of()["w"])
    assert torch.equal(several.of()["w"], several.of(500.0)["w"])
    assert sorted(several.state()) == ["5/w", "50/w", "500/w"]


def test_swapped_weights_come_back_even_after_an_error():
    net = One(2.0)
    with contextlib.suppress(RuntimeError), swapped(net, {"w": torch.zeros(2, dtype=torch.float64)}):
        assert net.w.tolist() == [0.0, 0.0]
        raise RuntimeError
    assert net.w.tolist() == [2.0, -2.0]


def test_bad_half_lives_are_named():
    with pytest.raises(InputError, match="must differ and be positive"):
        EMA(One(1.0), (5.0, 5.0))
    with pytest.raises(InputError, match="must differ and be positive"):
        EMA(One(1.0), (-1.0,))
    with pytest.raises(InputError, match=r"no EMA of half-life 7; kept: 5, 0\.5"):
        EMA(One(1.0), (5.0, 0.5)).of(7)
    with pytest.raises(InputError, match="keeps no EMA"):
        EMA(One(1.0), ()).of()
