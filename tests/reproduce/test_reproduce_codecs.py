"""What vae, vq-vae and dvae claim and can be shown at once, and what their helpers measure."""

import math

import torch

from sfumato.codecs import VAEConfig
from sfumato.codecs.learning import evidence
from sfumato.core import Noise
from sfumato.reproduce import CATALOGUE, dvae, vae, vq_vae
from sfumato.reproduce.claims import Measured


def passes(system, key, value):
    claim = next(c for c in CATALOGUE[system].load().claims if c.key == key)
    return claim.judge(Measured(key, value)).status == "pass"


def test_rows_that_are_exact():
    assert passes("vq-vae", "k-means", vq_vae.lloyd())
    assert passes("vq-vae", "straight-through", vq_vae.through())
    assert passes("dvae", "density", dvae.mass())
    assert passes("dvae", "gumbel", dvae.surprise())


@torch.no_grad()
def test_weighed_draws_reach_the_likelihood_where_it_is_known():
    """With z that the decoder does not look at, p(x) = p(x | z): every draw gives it, whatever the posterior is."""
    torch.manual_seed(0)
    codec = VAEConfig(size=2, widths=(4,), latent=2).build()
    codec.start.weight.zero_()
    codec.log_scale.fill_(math.log(0.4))
    x = torch.tanh(torch.randn(3, 1, 2, 2))
    made = codec.decode(torch.zeros(3, 2, 1, 1))
    exact = torch.distributions.Normal(made, 0.4).log_prob(x).sum((1, 2, 3))
    found = vae.likelihood(codec, x, draws=4000, bin=None)
    assert torch.allclose(found, exact, atol=0.05)
    nats, kl = evidence(codec, x, Noise(range(3)))
    assert (nats + kl > -exact).all()


def test_sharpness_is_what_a_blur_takes():
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert math.isclose(vae.sharpness(torch.ones(1, 1, 4, 4)), 0.0)
    one = torch.zeros(1, 1, 5, 5)
    one[0, 0, 2, 2] = 1.0
    assert math.isclose(vae.sharpness(one), (16 + 4) / 9, rel_tol=1e-6)
    assert vae.sharpness(torch.nn.functional.avg_pool2d(x, 3, 1, 1)) < 0.2 * vae.sharpness(x)


@torch.no_grad()
def test_the_gap_of_drawn_codes_closes_as_the_temperature_falls():
    torch.manual_seed(0)
    codec = dvae.CODEC.build()
    x = vq_vae.unseen(4)
    codec.chosen.weight *= 30
    soft, cold = (abs(dvae.gap(codec, x, tau)) for tau in (1.0, 1e-4))
    assert cold < 1e-3 * max(soft, 1e-2)
