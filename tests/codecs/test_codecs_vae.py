"""The plain VAE: its bound against an exact likelihood, and the discrete one against a sum over all levels."""

import math

import pytest
import torch
from test_codecs_kl import normal

import sfumato as sf
from sfumato.codecs import VAE, AutoencoderKLConfig, VAEConfig
from sfumato.codecs.learning import ELBO, Coding, evidence

D, K, DRAWS = 4, 2, 4000


class Linear(VAE):
    """p(x | z) = N(W z + b, s^2), q(z | x) = N(A (x - b), v): all of it known."""

    def __init__(self, a=None, v=None):
        super().__init__(VAEConfig(size=2, widths=(4,), latent=K))
        w = torch.linalg.qr(normal(D, K).double())[0] * torch.tensor([1.5, 0.7], dtype=torch.float64)
        self.w, self.b, self.s = w, normal(D, seed=2).double(), 0.6
        with torch.no_grad():
            self.log_scale.fill_(math.log(self.s))
        precision = 1 + (w**2).sum(0) / self.s**2  # columns are orthogonal: the posterior has no correlations
        self.a = (w / self.s**2 / precision).T if a is None else a
        self.v = 1 / precision if v is None else v

    def posterior(self, pixels):
        mean = (pixels.flatten(1) - self.b) @ self.a.T
        return mean[:, :, None, None], self.v.sqrt().expand_as(mean)[:, :, None, None]

    def decode(self, latents, noise=None):
        return (latents.flatten(1) @ self.w.T + self.b).unflatten(1, (1, 2, 2))

    def log_likelihood(self, x):
        covariance = self.w @ self.w.T + self.s**2 * torch.eye(D, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(self.b, covariance).log_prob(x.flatten(1))


def mean_of(codec, x):
    """The negative bound of one row, averaged over draws, with its standard error."""
    many = x.expand(DRAWS, -1, -1, -1)
    nats, kl = evidence(codec, many, sf.Noise(range(DRAWS)))
    total = nats + kl
    return float(total.mean()), float(total.std() / math.sqrt(DRAWS))


@torch.no_grad()
def test_the_bound_is_the_likelihood_where_the_posterior_is_exact_and_above_it_elsewhere():
    x = normal(1, 1, 2, 2, seed=5).double()
    exact = Linear()
    truth = -float(exact.log_likelihood(x))
    value, error = mean_of(exact, x)
    assert abs(value - truth) < 4 * error < 0.1
    # another posterior pays its divergence from the true one, to the nat
    off = Linear(a=0.5 * exact.a, v=2 * exact.v)
    value, error = mean_of(off, x)
    q, p = ((c.posterior(x)[0].flatten(), c.v) for c in (off, exact))
    gap = 0.5 * (q[1] / p[1] + (q[0] - p[0]) ** 2 / p[1] - 1 - torch.log(q[1] / p[1])).sum()
    assert abs(value - truth - float(gap)) < 4 * error
    assert float(gap) > 0.5


@torch.no_grad()
def test_bits_per_dimension_are_the_nats_divided():
    codec, x, noise = Linear(), normal(3, 1, 2, 2).double(), sf.Noise(range(3))
    nats, kl = evidence(codec, x, noise)
    found = ELBO()(Coding(codec, {}), sf.Batch(x, {}), noise)
    assert torch.allclose(found, (nats + kl) / (4 * math.log(2)))


@torch.no_grad()
def test_the_mass_of_all_levels_is_one():
    """p(x | z) of the discrete bound, summed over the 17 levels of a pixel, for one z."""
    codec = VAEConfig(size=2, widths=(4,), latent=K).build()
    codec.log_scale.fill_(math.log(0.3))
    codec.posterior = lambda pixels: (torch.zeros(len(pixels), K, 1, 1), torch.ones(len(pixels), K, 1, 1))
    noise, mass = sf.Noise([3]), torch.zeros(())
    base = torch.zeros(1, 1, 2, 2)
    at = evidence(codec, base, noise, 1 / 8)[0]
    for level in range(17):
        x = base.clone()
        x[0, 0, 0, 0] = -1 + level / 8
        mass = mass + torch.exp(at - evidence(codec, x, noise, 1 / 8)[0])
    one = base.clone()
    part = torch.distributions.Normal(codec.decode(noise.like(torch.zeros(1, K, 1, 1), "posterior"))[0, 0, 0, 0], 0.3)
    share = part.cdf(one[0, 0, 0, 0] + 1 / 16) - part.cdf(one[0, 0, 0, 0] - 1 / 16)
    assert torch.allclose(mass * share, torch.ones(()), rtol=1e-4)


def test_shapes_and_what_cannot_be():
    codec = VAEConfig(in_channels=3, size=16, widths=(8, 16), latent=5).build()
    x = torch.tanh(normal(2, 3, 16, 16))
    z = codec.encode(x, sf.Noise([1, 2]))
    assert z.shape == (2, 5, 1, 1)
    assert codec.decode(z).shape == x.shape
    assert torch.allclose(codec.encode(x[1:], sf.Noise([2])), z[1:], atol=1e-6)
    assert sf.from_config(sf.to_config(codec.config)) == codec.config
    with pytest.raises(sf.InputError, match="does not halve 3 times"):
        VAEConfig(size=12, widths=(8, 8, 8))
    with pytest.raises(sf.InputError, match="ELBO trains a VAE"):
        Coding.start(AutoencoderKLConfig(widths=(8,), groups=4, scale=1.0), ELBO())
