"""Strips give the whole's result; tiles do where a codec sees no further than they overlap; slices row by row."""

import pytest
import torch
from test_codecs_kl import normal, scrambled
from torch import nn

from sfumato import InputError, Noise
from sfumato.codecs import AutoencoderKLConfig, Codec, Identity, Sliced, Strips, Tiled

TINY = AutoencoderKLConfig(widths=(8, 16, 16), layers=1, groups=4, attention=(1,))


class Near(Codec):
    """Sees one latent further on each side; random in neither direction or in encoding."""

    factor, channels = 2, 5

    def __init__(self, random=False):
        super().__init__()
        self.up = nn.ConvTranspose2d(5, 3, 6, stride=2, padding=2)
        self.down = nn.Conv2d(3, 5, 6, stride=2, padding=2)
        self.random = random

    def posterior(self, pixels):
        mean = torch.tanh(self.down(pixels))
        return mean, mean.abs() + 1 if self.random else None

    def decode(self, latents, noise=None):
        return torch.tanh(self.up(latents))


def error(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("height", [1, 2, 3, 7, 64])
@torch.no_grad()
def test_strips_are_exact(height):
    codec = scrambled(TINY.build())
    strips = Strips(codec, height)
    z, x = normal(2, 4, 6, 5), normal(2, 3, 24, 20)
    assert error(strips.decode(z), codec.decode(z)) < 1e-5
    assert error(strips.encode(x, Noise([1, 2])), codec.encode(x, Noise([1, 2]))) < 1e-5


def test_strips_have_the_same_gradient():
    codec, z = scrambled(TINY.build()), normal(1, 4, 4, 4).requires_grad_()
    slope = lambda c: torch.autograd.grad((c.decode(z) ** 2).sum(), z)[0]
    assert error(slope(Strips(codec, 3)), slope(codec)) < 1e-5


@torch.no_grad()
def test_strips_in_half_precision_are_as_exact_as_the_whole():
    codec, z = scrambled(TINY.build()), normal(2, 4, 6, 5)
    exact = codec.decode(z)
    codec.bfloat16()
    whole, strips = codec.decode(z).float(), Strips(codec, 3).decode(z).float()
    assert error(strips, exact) < 1.5 * error(whole, exact) < 2e-2


@pytest.mark.parametrize(("size", "overlap"), [(8, 4), (9, 5), (12, 6), (7, 6)])
@torch.no_grad()
def test_tiles_are_exact_where_the_codec_sees_no_further_than_they_overlap(size, overlap):
    codec = Near(random=True)
    tiled = Tiled(codec, size, overlap)
    z, x = normal(2, 5, 23, 31), normal(2, 3, 46, 62)
    assert error(tiled.decode(z), codec.decode(z)) < 1e-6
    assert error(tiled.encode(x, Noise([1, 2])), codec.encode(x, Noise([1, 2]))) < 1e-6
    assert error(Tiled(codec, size, 1).decode(z), codec.decode(z)) > 1e-3  # it sees further than 1 / 4


@torch.no_grad()
def test_the_weights_of_tiles_sum_to_one():
    x = normal(1, 3, 50, 33)
    for size, overlap in ((8, 0), (8, 3), (8, 7), (64, 16), (33, 1)):
        assert error(Tiled(Identity(), size, overlap).decode(x), x) < 1e-6


@torch.no_grad()
def test_every_tile_is_small_and_a_picture_that_fits_is_one():
    codec, seen = Near(), []
    decode = codec.decode
    codec.decode = lambda z, noise=None: seen.append(tuple(z.shape[-2:])) or decode(z)
    Tiled(codec, 8, 4).decode(normal(1, 5, 23, 6))
    assert set(seen) == {(8, 6)}
    assert len(seen) == 5
    seen.clear()
    z = normal(1, 5, 8, 6)
    assert torch.equal(Tiled(codec, 8, 4).decode(z), decode(z))
    assert seen == [(8, 6)]


@torch.no_grad()
def test_tiles_of_a_codec_that_normalises_differ_and_strips_do_not():
    codec, z = scrambled(TINY.build()), normal(1, 4, 24, 24)
    whole = codec.decode(z)
    assert error(Tiled(codec, 12, 6).decode(z), whole) > 1e-2
    assert error(Strips(codec, 8).decode(z), whole) < 1e-5


@torch.no_grad()
def test_slices_are_the_rows_of_the_whole():
    codec = scrambled(TINY.build())
    z, x = normal(5, 4, 3, 3), normal(5, 3, 12, 12)
    for rows in (1, 2, 5, 9):
        sliced = Sliced(codec, rows)
        assert error(sliced.decode(z), codec.decode(z)) < 1e-5
        noise = Noise([3, 1, 4, 1, 5])
        assert error(sliced.encode(x, noise), codec.encode(x, noise)) < 1e-5


@torch.no_grad()
def test_wrappers_nest():
    codec, z = scrambled(TINY.build()), normal(3, 4, 6, 6)
    assert error(Sliced(Strips(codec, 4), 2).decode(z), codec.decode(z)) < 1e-5
    assert len(Sliced(Strips(codec, 4), 2).state_dict()) == len(codec.state_dict())
    nested = Tiled(Strips(codec, 4), 4, 2)
    assert error(nested.decode(z), Tiled(codec, 4, 2).decode(z)) < 1e-5


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda c: Tiled(c, 8, 8), "overlap by 8"),
        (lambda c: Tiled(c, 8, -1), "overlap by -1"),
        (lambda c: Sliced(c, 0), "1 row or more"),
        (lambda c: Strips(c, 0), "height of 1"),
        (lambda c: Strips(Identity()), "Identity cannot work along strips"),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(InputError, match=says):
        make(TINY.build())
