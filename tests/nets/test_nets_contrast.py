"""A contrastive model: two towers of unit vectors, their product, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch

from sfumato import InputError
from sfumato.core import from_config, to_config
from sfumato.nets import ContrastConfig, WordEncoderConfig

TEXT = WordEncoderConfig(words=9, length=4, width=8, layers=1, heads=2)
SMALL = ContrastConfig(text=TEXT, size=16, widths=(8, 16), layers=1, heads=2, features=6)
TOKENS = torch.tensor([[2, 3, 0, 0], [4, 5, 6, 7], [8, 0, 0, 0]])


def build(config=SMALL):
    torch.manual_seed(0)
    net = config.build().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0, 0.4)
        net.sharpness.fill_(1.5)
    return net


def pictures(n=3):
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_output_is_the_scaled_product_of_unit_vectors():
    net, x = build(), pictures()
    images, texts = net.picture(x), net.words(TOKENS)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(net(x, torch.zeros(1), tokens=TOKENS), math.exp(1.5) * images @ texts.T)
    both = net(x, torch.zeros(1), tokens=TOKENS, wrong=TOKENS.flip(0))
    torch.testing.assert_close(both, math.exp(1.5) * images @ torch.cat((texts, texts.flip(0))).T)


@torch.no_grad()
def test_the_scale_never_passes_a_hundred():
    net = build()
    net.sharpness.fill_(9.0)
    assert float(net(pictures(), torch.zeros(1), tokens=TOKENS).abs().max()) <= 100 + 1e-3
    assert float(SMALL.build().sharpness.exp()) == pytest.approx(1 / 0.07)


@torch.no_grad()
def test_rows_are_independent_and_places_matter():
    net, x = build(), pictures()
    torch.testing.assert_close(net.picture(x)[1:2], net.picture(x[1:2]), rtol=1e-4, atol=1e-5)
    assert float((net.picture(x) - net.picture(x.flip(-1))).abs().max()) > 1e-3
    assert float((net.words(TOKENS) - net.words(TOKENS[:, [1, 0, 2, 3]])).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: build()(pictures(), torch.zeros(1)), "give tokens"),
        (lambda: build().picture(pictures()[:, :2]), r"\[B, 3, 16, 16\]"),
        (lambda: replace(SMALL, size=10), "halve 2 times"),
        (lambda: replace(SMALL, widths=(8, 12)), "multiples of 8"),
        (lambda: replace(SMALL, widths=()), "multiples of 8"),
        (lambda: replace(SMALL, features=0), "features"),
    ],
)
def test_what_is_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_written_and_read_back():
    assert from_config(to_config(SMALL)) == SMALL
