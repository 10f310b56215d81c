"""Degradations and the way back against what is exact about them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch

import sfumato as sf
from sfumato.cold import Animorph, Blur, Desaturate, Downsampling, Masking, Naive, Restoration, Snow, TACoS, restore
from sfumato.core import Batch, InputError, Noise, from_config, to_config
from sfumato.data import Digits
from sfumato.nets import UNetConfig

ALL = [Blur(), Masking(), Downsampling(), Snow(), Animorph(data=Digits()), Desaturate()]
NAMES = [type(d).__name__ for d in ALL]
GRID = torch.linspace(1, 0, 21, dtype=torch.float64)


def pictures(n=4, channels=1, side=8):
    return Noise(range(100, 100 + n)).normal((n, channels, side, side), "x", dtype=torch.float64).clamp(-1, 1)


def of(degradation, n=4):
    return pictures(n, 3 if isinstance(degradation, Desaturate) else 1)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """D(x, t) = x + t e with a picture e of the row's own."""

    def __call__(self, x, t, noise):
        t = t.reshape(-1, 1, 1, 1) if isinstance(t, torch.Tensor) else t
        return x + t * noise.like(x, "e")


@pytest.mark.parametrize("degradation", ALL, ids=NAMES)
def test_severity_0_is_the_picture_itself(degradation):
    x = of(degradation)
    for t in (0.0, torch.zeros(4, dtype=torch.float64)):
        assert torch.equal(degradation(x, t, Noise(range(4))), x)
        assert torch.equal(degradation(x.float(), t, Noise(range(4))), x.float())
    assert not torch.equal(degradation(x, 0.5, Noise(range(4))), x)


@pytest.mark.parametrize("degradation", ALL, ids=NAMES)
def test_a_row_depends_on_its_own_seed_and_time(degradation):
    x, t = of(degradation), torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=torch.float64)
    whole = degradation(x, t, Noise(range(4)))
    for i in range(4):
        alone = degradation(x[i : i + 1], float(t[i]), Noise([i]))
        torch.testing.assert_close(whole[i : i + 1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("degradation", [Masking(), Snow(), Animorph(data=Digits())], ids=lambda d: type(d).__name__)
def test_what_is_random_stays_along_the_chain_and_differs_between_seeds(degradation):
    """Where D is affine in x, D(x, t) = a x + b: a and b of one seed at two times must belong to the same draw."""
    x = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    first, second, other = (degradation(x + 0.5, t, Noise([s])) for t, s in ((0.55, 1), (0.6, 1), (0.6, 2)))
    alike = lambda a, b: float(torch.corrcoef(torch.stack([(a - 0.5).flatten(), (b - 0.5).flatten()]))[0, 1])
    assert alike(first, second) > 0.95
    assert alike(second, other) < 0.9


@pytest.mark.parametrize("degradation", ALL, ids=NAMES)
@pytest.mark.parametrize("rule", [Naive(), TACoS()], ids=["naive", "improved"])
def test_with_the_true_picture_both_rules_return_it(degradation, rule):
    x = of(degradation)
    start = degradation(x, 1.0, Noise(range(4)))
    end = restore(lambda y, t: x, degradation, start, rule=rule, grid=GRID, seeds=range(4))
    torch.testing.assert_close(end, x, rtol=0, atol=1e-12)


def test_improved_is_exact_for_a_linear_degradation_whatever_is_restored():
    x, degradation = pictures(), Linear()
    nonsense = lambda y, t: torch.sin(7 * y) * 3 - t
    start = degradation(x, 1.0, Noise(range(4)))
    ends = [restore(nonsense, degradation, start, rule=r, grid=GRID, seeds=range(4)) for r in (TACoS(), Naive())]
    torch.testing.assert_close(ends[0], x, rtol=0, atol=1e-12)
    assert float((ends[1] - x).abs().mean()) > 0.5


def test_error_of_the_improved_rule_is_that_of_the_steps():
    """x_s - D(x, s) = sum of [D(x0_hat, s) - D(x0_hat, t)] - [D(x, s) - D(x, t)]: checked for blur, restored by 0."""
    x, blur = pictures(), Blur()
    start = blur(x, 1.0, Noise(range(4)))
    end = restore(lambda y, t: y, blur, start, rule=TACoS(), grid=GRID, seeds=range(4))
    by_hand = start
    for t, s in pairwise(GRID.tolist()):
        by_hand = by_hand - blur(by_hand, t, Noise(range(4))) + blur(by_hand, s, Noise(range(4)))
    torch.testing.assert_close(end, by_hand, rtol=0, atol=1e-12)
    # a Fourier mode of variance v is multiplied by 1 - M(t) + M(s) in each step
    mode = torch.cos(2 * math.pi * torch.arange(8, dtype=torch.float64) / 8).expand(1, 1, 8, 8).clone()
    m = [math.exp(-0.5 * blur.variance_at(float(t)) * (2 * math.pi / 8) ** 2) for t in GRID]
    gain = m[0] * math.prod(1 - a + b for a, b in pairwise(m))
    found = restore(lambda y, t: y, blur, blur(mode, 1.0, Noise([0])), rule=TACoS(), grid=GRID, seeds=[0])
    torch.testing.assert_close(found, gain * mode, rtol=0, atol=1e-12)


def test_blurs_compose():
    x, noise = pictures(), Noise(range(4))
    steps = [Blur(first=1.0, variance=v) for v in (0.4, 1.1, 2.5)]
    through = x
    for blur in steps:
        through = blur(through, 1.0, noise)
    torch.testing.assert_close(through, Blur(first=1.0, variance=4.0)(x, 1.0, noise), rtol=0, atol=1e-12)
    assert [Blur().variance_at(t) for t in (0.0, 1.0)] == pytest.approx([0.0, 8.0])
    ratio = [Blur().variance_at(t + 0.1) - Blur().variance_at(t) for t in (0.2, 0.3, 0.4)]
    assert ratio[1] / ratio[0] == pytest.approx(ratio[2] / ratio[1]) == pytest.approx(161**0.1)


def test_blur_is_a_gaussian_on_the_periodic_picture():
    """Of a single bright pixel it leaves the Gaussian, summed over the pictures that tile the plane."""
    v, x = 4.0, torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    x[..., 2, 5] = 1.0
    found = Blur(variance=v)(x, 1.0, Noise([0]))[0, 0]
    place = torch.arange(8, dtype=torch.float64)
    tiles = 8 * torch.arange(-6, 7, dtype=torch.float64)[:, None]
    down, across = (torch.exp(-((place - c + tiles) ** 2) / (2 * v)).sum(0) for c in (2, 5))
    torch.testing.assert_close(found, down[:, None] * across / (2 * math.pi * v), rtol=0, atol=1e-9)


def test_masking_is_the_product_of_its_steps():
    mask, noise = Masking(steps=4, width=0.3, fill=-1.0), Noise([5])
    ones = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    cy, cx = (8 * float(noise.uniform("masking", axis)) for axis in ("y", "x"))
    side = torch.arange(8, dtype=torch.float64) + 0.5
    r2 = (side[:, None] - cy) ** 2 + (side - cx) ** 2
    m = torch.ones(8, 8, dtype=torch.float64)
    for i in (1, 2, 3):
        m = m * (1 - torch.exp(-r2 / (2 * (0.3 * 8 * i / 4) ** 2)))
        torch.testing.assert_close(mask(ones, i / 4, noise)[0, 0], 2 * m - 1, rtol=0, atol=1e-10)


def test_downsampling_takes_means_of_blocks():
    x = pictures()
    for t, size in ((0.2, 2), (1 / 3, 2), (0.5, 4), (1.0, 8)):
        blocks = x.reshape(4, 1, 8 // size, size, 8 // size, size).mean((3, 5))
        expected = blocks.repeat_interleave(size, 2).repeat_interleave(size, 3)
        torch.testing.assert_close(Downsampling()(x, t, Noise(range(4))), expected, rtol=0, atol=1e-12)


def test_snow_whitens_where_it_falls():
    x, noise = pictures(), Noise(range(4))
    everywhere = Snow(amount=1.0, threshold=-20.0)
    torch.testing.assert_close(everywhere(x, 1.0, noise), torch.ones_like(x))
    torch.testing.assert_close(everywhere(x, 0.25, noise), 0.75 * x + 0.25)
    assert torch.equal(Snow(threshold=20.0)(x, 1.0, noise), x)
    bare, single = (Snow(length=n)(0 * x, 1.0, noise) for n in (1, 2))
    torch.testing.assert_close(single, torch.maximum(bare, bare.roll((1, 1), (2, 3))))


def test_desaturate_keeps_luma_and_ends_in_grey():
    x = pictures(channels=3)
    luma = lambda p: (p * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]).sum(1)
    grey = Desaturate()(x, 1.0, Noise(range(4)))
    assert float(grey.std(1).max()) < 1e-12
    for t in (0.3, 1.0):
        torch.testing.assert_close(luma(Desaturate()(x, t, Noise(range(4)))), luma(x), rtol=0, atol=1e-12)


def test_animorph_ends_in_a_row_of_its_data():
    x, data = pictures(3), Digits()
    ends = Animorph(data=data)(x, 1.0, Noise(range(3)))
    distance = torch.cdist(ends.flatten(1), data.rows.x0.double().flatten(1)).amin(1)
    assert float(distance.max()) < 1e-6


def test_objective_is_the_mean_absolute_error():
    config = UNetConfig(
        in_channels=1, out_channels=1, channels=8, multipliers=(1,), layers=1, attention=(), groups=2, head_width=None
    )
    denoiser = sf.Preconditioned(config.build(), sf.Rectified(), sf.X0())
    x0, noise = pictures().float(), Noise(range(4))
    loss = Restoration(degradation=Blur())(denoiser, Batch(x0, {}), noise)
    t = torch.ceil(20 * noise.uniform("time")) / 20
    for i in range(4):
        seen = Blur()(x0[i : i + 1], float(t[i]), Noise([i]))
        exact = (denoiser(seen, float(t[i])) - x0[i : i + 1]).abs().mean()
        assert float(loss[i].detach()) == pytest.approx(float(exact.detach()), rel=1e-4)


@pytest.mark.parametrize("degradation", ALL, ids=NAMES)
def test_configurations_read_back(degradation):
    objective = Restoration(degradation=degradation)
    assert from_config(to_config(objective)) == objective
    assert from_config(to_config(degradation)) == degradation


@pytest.mark.parametrize(
    ("changed", "base"),
    [
        (Blur(variance=4.0), Blur()),
        (Blur(first=0.5), Blur()),
        (Masking(steps=20), Masking()),
        (Masking(width=0.4), Masking()),
        (Masking(fill=1.0), Masking()),
        (Downsampling(steps=2), Downsampling()),
        (Snow(amount=0.5), Snow()),
        (Snow(threshold=0.2), Snow()),
        (Snow(length=2), Snow()),
        (Animorph(data=Digits(held_out=True)), Animorph(data=Digits())),
        (replace(Desaturate(), weights=(0.2, 0.2, 0.6)), Desaturate()),
    ],
    ids=str,
)
def test_every_setting_has_an_effect(changed, base):
    x = of(base)
    assert not torch.allclose(changed(x, 0.4, Noise(range(4))), base(x, 0.4, Noise(range(4))))


def test_what_does_not_fit_is_refused():
    x = pictures()
    for degradation, wrong in (
        (Downsampling(steps=4), x),
        (Desaturate(), x),
        (Animorph(data=Digits()), pictures(side=4)),
        (Blur(), x[:, 0]),
    ):
        with pytest.raises(InputError):
            degradation(wrong, 0.5, Noise(range(4)))
    with pytest.raises(InputError, match="one seed for each"):
        restore(lambda y, t: y, Blur(), x, rule=Naive(), grid=GRID, seeds=[1])
    with pytest.raises(InputError, match="end at 0"):
        restore(lambda y, t: y, Blur(), x, rule=Naive(), grid=GRID[:-1], seeds=range(4))
    with pytest.raises(InputError, match="above 0"):
        Blur(variance=0.0)
