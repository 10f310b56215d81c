"""The dVAE: its likelihood integrates to one, the relaxation is a draw at low temperature, its shape is DALL-E's."""

import math

import pytest
import torch
from test_codecs_kl import normal

import sfumato as sf
from sfumato.codecs import DVAEConfig, VAEConfig
from sfumato.codecs.dvae import gumbel, logit_laplace, mapped, unmapped
from sfumato.codecs.learning import Coding, Ramp, Relaxing
from sfumato.codecs.learning.relaxed import relaxed, uniform_kl
from sfumato.pipeline.folder import empty

TINY = DVAEConfig(codes=7, width=16, multipliers=(1, 2), inner=8)


@pytest.mark.parametrize(("mu", "log_scale"), [(0.0, -1.0), (1.3, -2.0), (-0.4, -0.3)])
def test_the_logit_laplace_is_a_density(mu, log_scale):
    """It integrates to one, and is the law of sigmoid(mu + b Laplace) by the change of variables."""
    edges = torch.linspace(0, 1, 400_001, dtype=torch.float64)
    y = 0.5 * (edges[1:] + edges[:-1])
    mu, log_scale = torch.tensor(mu, dtype=torch.float64), torch.tensor(log_scale, dtype=torch.float64)
    p = torch.exp(-logit_laplace(y, mu, log_scale))
    assert math.isclose(float(p.mean()), 1.0, abs_tol=2e-4)
    laplace = torch.distributions.Laplace(mu, torch.exp(log_scale))
    expected = torch.distributions.TransformedDistribution(laplace, torch.distributions.SigmoidTransform())
    assert torch.allclose(p.log()[1000:-1000:997], expected.log_prob(y[1000:-1000:997]), atol=1e-8)


def test_pixels_are_mapped_and_back():
    x = torch.linspace(-1, 1, 11)
    assert torch.allclose(mapped(x), torch.linspace(0.1, 0.9, 11))
    assert torch.allclose(unmapped(mapped(x)), x, atol=1e-6)
    assert torch.equal(unmapped(torch.tensor([0.0, 1.0])), torch.tensor([-1.0, 1.0]))


def chi_square(counts, p):
    return float(((counts - p * counts.sum()) ** 2 / (p * counts.sum())).sum())


def test_gumbel_draws_have_the_frequencies_of_the_categorical():
    n, logits = 20_000, torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0])
    rows = logits[None, :, None, None].expand(n, 5, 1, 1)
    p = torch.softmax(logits.double(), 0)
    soft = relaxed(rows, sf.Noise(range(n)), 0.02)
    counts = torch.bincount(soft.argmax(1).flatten(), minlength=5).double()
    assert chi_square(counts, p) < 23.5  # chance 1e-4 with 4 degrees of freedom
    # at a low temperature nearly all draws are one-hot, at a high one none is
    assert (soft.max(1).values > 0.99).double().mean() > 0.9
    assert (relaxed(rows, sf.Noise(range(n)), 5.0).max(1).values < 0.99).all()
    assert torch.allclose(soft.sum(1), torch.ones(n, 1, 1), atol=1e-5)
    # the codec's own draws are the same ones
    codec = DVAEConfig(codes=5, width=8, multipliers=(1,), inner=8).build()
    codec.logits = lambda pixels: rows[: len(pixels)]
    drawn = codec.indices(codec.encode(torch.zeros(100, 3, 1, 1), sf.Noise(range(100))))
    assert torch.equal(drawn, soft[:100].argmax(1))


def test_gumbel_numbers_have_their_moments():
    g = gumbel(torch.zeros(4, 50_000), sf.Noise(range(4))).double()
    assert abs(float(g.mean()) - 0.5772157) < 4 * math.pi / math.sqrt(6 * g.numel())
    assert math.isclose(float(g.std()), math.pi / math.sqrt(6), rel_tol=0.02)


def test_the_divergence_from_uniform():
    logits = normal(2, 7, 3, 3).double()
    q = torch.distributions.Categorical(logits=logits.movedim(1, -1))
    u = torch.distributions.Categorical(logits=torch.zeros(7, dtype=torch.float64))
    assert torch.allclose(uniform_kl(logits), torch.distributions.kl_divergence(q, u).sum((1, 2)))
    assert torch.allclose(uniform_kl(torch.zeros(1, 7, 2, 2)), torch.zeros(1), atol=1e-5)


def test_the_loss_follows_its_schedules():
    objective = Relaxing(tau=Ramp(start=1.0, end=0.1, steps=10), beta=Ramp(start=0.0, end=3.0, steps=10))
    model, x, noise = Coding.start(TINY, objective), torch.tanh(normal(2, 3, 8, 8)), sf.Noise([4, 9])
    codec, memory = model.codec, objective.memory()
    told = objective.recalling(memory)
    for step in range(12):
        logits = codec.logits(x)
        tau, beta = objective.tau(step), objective.beta(step)
        y = torch.softmax((logits + gumbel(logits, noise)) / tau, 1)
        mu, b = codec.moments(y)
        p = torch.exp(-(torch.logit(mapped(x)) - mu).abs() / b.exp()) / (2 * b.exp() * mapped(x) * (1 - mapped(x)))
        expected = (-p.log().sum((1, 2, 3)) + beta * uniform_kl(logits)) / (3 * 64)
        assert torch.allclose(told(model, sf.Batch(x, {}), noise), expected, rtol=1e-4)
        objective.record(memory, noise, expected)
    assert sf.from_config(sf.to_config(objective)) == objective


def test_codes_and_back():
    codec = TINY.build().eval()
    x = torch.tanh(normal(2, 3, 8, 8))
    z = codec.encode(x)
    assert z.shape == (2, 7, 4, 4)
    assert torch.equal(z.sum(1), torch.ones(2, 4, 4))
    assert torch.equal(codec.indices(z), codec.logits(x).argmax(1))
    assert torch.equal(codec.lookup(codec.indices(z)), z)
    assert codec.decode(z).shape == x.shape
    assert torch.equal(codec.encode(x, sf.Noise([1, 2]))[1:], codec.encode(x[1:], sf.Noise([2])))
    # one-hot codes are looked up: the first layer of the decoder is a codebook
    table = codec.codebook.weight[:, :, 0, 0].T[codec.indices(z)].movedim(-1, 1) + codec.codebook.bias[:, None, None]
    assert torch.allclose(codec.codebook(z), table, atol=1e-6)


def test_the_shape_is_that_of_dalle():
    codec = empty(DVAEConfig(), torch.float32)
    assert (codec.factor, codec.channels) == (8, 8192)

    def block(i, o, kernels):
        widths = [i, o // 4, o // 4, o // 4, o]
        path = sum(a * b * k * k + b for a, b, k in zip(widths, widths[1:], kernels, strict=False))
        return path + (i * o + o if i != o else 0)

    w = [256, 512, 1024, 2048]
    ins = [256, 256, 256, 512, 512, 1024, 1024, 2048]
    encoder = 3 * 49 * 256 + 256 + 2048 * 8192 + 8192
    encoder += sum(block(i, w[n // 2], (3, 3, 3, 1)) for n, i in enumerate(ins))
    ins = [128, 2048, 2048, 1024, 1024, 512, 512, 256]
    decoder = 8192 * 128 + 128 + 256 * 6 + 6 + sum(block(i, w[3 - n // 2], (1, 3, 3, 3)) for n, i in enumerate(ins))
    assert sum(p.numel() for p in codec.parameters()) == encoder + decoder
    gains = {m.gain for m in codec.modules() if hasattr(m, "gain")}
    assert gains == {1 / 64}  # 1 / (4 groups x 2 blocks)^2


def test_what_cannot_be_is_refused():
    with pytest.raises(sf.InputError, match="width that 4 divides"):
        DVAEConfig(width=6)
    with pytest.raises(sf.InputError, match="Relaxing trains a DVAE"):
        Coding.start(VAEConfig(), Relaxing())
    with pytest.raises(sf.InputError, match="must be at least 1"):
        Ramp(start=1.0, end=0.0, steps=0)
