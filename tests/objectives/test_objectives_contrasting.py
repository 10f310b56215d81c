"""Symmetric InfoNCE: row by row against its formula, its least value against the simplex's, its gradient."""

import math

import pytest
import torch
from torch import nn

from sfumato.core import X0, Batch, InputError, Noise, Plain, Preconditioned, Rectified
from sfumato.objectives import Contrasting, Discrete


class Table(nn.Module):
    """Logits that are a parameter; what it was given is kept."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.cond = nn.Parameter(logits), {"tokens": None, "wrong": None}

    def forward(self, x, c_noise, tokens=None, wrong=None):
        self.seen = x, c_noise, tokens, wrong
        return self.logits


class Directions(nn.Module):
    """Unit vectors for pictures and texts, and a temperature."""

    def __init__(self, pictures, texts, scale):
        super().__init__()
        self.pictures, self.texts, self.scale = nn.Parameter(pictures), nn.Parameter(texts), scale
        self.cond = {"tokens": None}

    def forward(self, x, c_noise, tokens=None):
        unit = [nn.functional.normalize(p, dim=-1) for p in (self.pictures, self.texts)]
        return self.scale * unit[0] @ unit[1].T


CLEAN = Contrasting()


def loss(net, tokens=None, objective=CLEAN, **more):
    n = len(next(net.parameters()))
    tokens = torch.arange(n)[:, None] if tokens is None else tokens
    batch = Batch(torch.ones(n, 1, 2, 2, dtype=torch.float64), {"tokens": tokens} | more)
    return objective(Preconditioned(net, Rectified(), X0(), Plain()), batch, Noise(range(n)))


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_loss_row_by_row():
    logits = 3 * normal(4, 4)
    found = loss(Table(logits))
    for i in range(4):
        rows = sum(math.exp(float(logits[i, j])) for j in range(4))
        columns = sum(math.exp(float(logits[j, i])) for j in range(4))
        exact = math.log(rows) / 2 + math.log(columns) / 2 - float(logits[i, i])
        assert float(found[i]) == pytest.approx(exact, abs=1e-5)


def test_wrong_texts_stand_against_pictures_alone():
    logits = 2 * normal(3, 6)
    found = loss(Table(logits), wrong=torch.zeros(3, 1, dtype=torch.int64))
    for i in range(3):
        rows = torch.logsumexp(logits[i], 0)
        columns = torch.logsumexp(logits[:, i], 0)
        assert float(found[i]) == pytest.approx(float((rows + columns) / 2 - logits[i, i]), abs=1e-5)


def test_a_text_that_says_the_same_is_no_negative():
    logits, tokens = normal(4, 4), torch.tensor([[1, 2], [1, 2], [3, 2], [1, 0]])
    kept = logits.clone()
    kept[0, 1] = kept[1, 0] = -1e9
    torch.testing.assert_close(loss(Table(logits), tokens), loss(Table(kept)))


@pytest.mark.parametrize("scale", [1.0, 14.0, 100.0])
def test_matched_orthonormal_embeddings(scale):
    n = 6
    exact = math.log(1 + (n - 1) * math.exp(-scale))
    assert loss(Directions(torch.eye(n).double(), torch.eye(n).double(), scale)).tolist() == pytest.approx(
        [exact] * n, abs=1e-6
    )


def test_the_least_value_is_that_of_the_simplex():
    """Of B pairs of directions the regular simplex is best: cosines of -1 / (B - 1) to all others."""
    n, scale = 5, 2.0
    least = math.log(1 + (n - 1) * math.exp(-scale * n / (n - 1)))
    simplex = torch.eye(n).double() - 1 / n
    assert float(loss(Directions(simplex, simplex.clone(), scale)).mean()) == pytest.approx(least, abs=1e-6)
    net = Directions(normal(n, n), normal(n, n).flip(0), scale)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(400):
        optimiser.zero_grad()
        value = loss(net).mean()
        assert float(value) > least - 1e-6
        value.backward()
        optimiser.step()
    assert float(value) == pytest.approx(least, rel=0.02)


def test_its_gradient():
    logits = normal(4, 8)
    net = Table(logits)
    loss(net).sum().backward()
    found, step = net.logits.grad.clone(), 1e-2
    for i, j in ((0, 0), (1, 2), (3, 6)):
        sides = []
        for sign in (1, -1):
            moved = logits.clone()
            moved[i, j] += sign * step
            sides.append(float(loss(Table(moved)).sum()))
        assert float(found[i, j]) == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=2e-4)


def test_what_the_network_is_shown():
    clean, noised = Table(normal(3, 3)), Table(normal(3, 3))
    loss(clean)
    assert clean.seen[0].equal(torch.ones(3, 1, 2, 2, dtype=torch.float64))
    assert clean.seen[1].tolist() == [0.0]
    law = Discrete(count=8)
    loss(noised, objective=Contrasting(time=law))
    noise = Noise(range(3))
    t = law(noise.uniform("time"), Rectified())
    expected = (1 - t)[:, None, None, None] + t[:, None, None, None] * noise.normal((3, 1, 2, 2), "eps").double()
    torch.testing.assert_close(noised.seen[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(3, 2), (3,), (2, 3)])
def test_another_output_is_refused(shape):
    denoiser = Preconditioned(Table(normal(*shape)), Rectified(), X0())
    batch = Batch(torch.ones(3, 1), {"tokens": torch.arange(3)[:, None]})
    with pytest.raises(InputError, match="3 or more"):
        CLEAN(denoiser, batch, Noise(range(3)))


def test_a_batch_without_texts_is_refused():
    with pytest.raises(InputError, match="no condition 'tokens'"):
        Contrasting()(
            Preconditioned(Table(normal(2, 2)), Rectified(), X0()), Batch(torch.ones(2, 1), {}), Noise(range(2))
        )
