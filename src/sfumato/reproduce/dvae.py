"""The dVAE of DALL-E (Ramesh et al. 2021, arXiv 2102.12092, section 2.1): a relaxation that is annealed away."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..codecs import DVAE, DVAEConfig
from ..codecs.dvae import logit_laplace, mapped
from ..codecs.learning import Ramp, Relaxing, usage
from ..codecs.learning.relaxed import relaxed
from ..core import Noise
from ..measure import block_means, psnr, ssim
from ..train import Cosine, TrainConfig
from .beds import rows_of
from .catalogue import CATALOGUE
from .claims import Claim, Measured, System
from .figures import sheets
from .runner import Context
from .training import fit_codec
from .vq_vae import SIDE, pictures, unseen

SEED = 0
CODES, FACTOR = 128, 4
CODEC = DVAEConfig(codes=CODES, width=16, multipliers=(1, 2, 4), blocks=1, inner=32)
COLD = 1 / 16
OBJECTIVE = Relaxing(tau=Ramp(start=1.0, end=COLD, steps=800), beta=Ramp(start=0.0, end=1.0, steps=300))
TRAIN = TrainConfig(steps=1000, batch_size=8, lr=2e-3, rate=Cosine(warmup=100, end=0.02), ema=(1_000.0,))


def codec_of(context: Context) -> DVAE:
    """Return a dVAE of the world."""
    data, train = pictures(2 + context.seed), replace(TRAIN, seed=context.seed)
    return fit_codec(context, "tableau-dvae", CODEC, OBJECTIVE, data, train)


def mass(cells: int = 200_000) -> float:
    """Return how far the integral of the logit-Laplace density over (0, 1) is from 1, the worst of three laws."""
    y = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    laws = ((0.0, -1.0), (1.3, -2.0), (-0.4, -0.3))
    places = [(y.new_tensor(mu), y.new_tensor(scale)) for mu, scale in laws]
    return max(abs(float(torch.exp(-logit_laplace(y, mu, scale)).mean()) - 1) for mu, scale in places)


def surprise(n: int = 20_000, *, seed: int = SEED) -> float:
    """Return the chi-square statistic, in its standard deviations from its mean, of relaxed draws at a low temperature.

    5 codes, n draws, against the frequencies of the categorical law.
    """
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0])
    drawn = relaxed(logits[None, :, None, None].expand(n, 5, 1, 1), Noise(rows_of("gumbel", n, seed=seed)), 0.02)
    counts = drawn.argmax(1).flatten().bincount(minlength=5).double()
    expected = n * torch.softmax(logits.double(), 0)
    return (float(((counts - expected) ** 2 / expected).sum()) - 4) / math.sqrt(8)


@torch.no_grad()
def gap(codec: DVAE, x: Tensor, tau: float, *, seed: int = SEED) -> float:
    """Return by how many nats a pixel value drawn codes are worse than the relaxed ones at `tau`, of the same noise."""
    logits, noise = codec.logits(x), Noise(rows_of("gap", len(x), seed=seed))
    soft = relaxed(logits, noise, tau)
    hard = codec.lookup(soft.argmax(1))
    nats = [logit_laplace(mapped(x), *codec.moments(y)).mean() for y in (hard, soft)]
    return float(nats[0] - nats[1])


def run(context: Context) -> Iterator[Measured]:
    """Measure the claims."""
    yield Measured("density", mass(), "three laws")
    yield Measured("gumbel", surprise(seed=context.seed), "20,000 draws of 5 codes at temperature 0.02")
    x, codec = unseen(), codec_of(context)
    warm, cold = (gap(codec, x, tau, seed=context.seed) for tau in (1.0, COLD))
    told = f"drawn codes are worse by {warm:.3f} nats a value at temperature 1, by {cold:.4f} at 1/16"
    yield Measured("annealed", cold / warm, told)
    with torch.no_grad():
        drawn = codec.indices(codec.encode(x, Noise(rows_of("codes", len(x), seed=context.seed))))
        made = codec.decode(codec.encode(x))
    used, perplexity = usage(drawn, CODES)
    yield Measured("used", used, f"{used * CODES:.0f} of {CODES} codes, perplexity {perplexity:.1f}")
    block = block_means(x, FACTOR)
    ours, means = float(psnr(x, made).mean()), float(psnr(x, block).mean())
    said = f"PSNR {ours:.2f} dB, SSIM {float(ssim(x, made).mean()):.3f}; means of the blocks {means:.2f} dB"
    yield Measured("reconstructs", ours - means, said)
    shown = {"pictures": x, f"by {CODES} codes": made, "means of blocks": block}
    context.draw("pictures", lambda: sheets(shown, 16, 4, width=2.6, height=2.8))


CLAIMS = (
    Claim(
        key="density",
        says="the logit-Laplace law is a density on the pixels' own interval",
        reported="appendix A.3, eq. 2",
        measure="distance of its integral from 1",
        high=1e-3,
    ),
    Claim(
        key="gumbel",
        says="at a low temperature the relaxation draws from the categorical law",
        reported="section 2.1",
        measure="chi-square statistic, in standard deviations from its mean",
        high=5.0,
    ),
    Claim(
        key="annealed",
        says="annealing to 1/16 closes the gap between relaxed and drawn codes",
        reported="section 2.1: 'sufficient to close the gap'",
        measure="nats by which drawn codes are worse, at temperature 1/16 over those at 1",
        high=0.25,
    ),
    Claim(
        key="used",
        says="the codes are used",
        measure="share of the codes that are drawn for unseen pictures",
        low=0.5,
    ),
    Claim(
        key="reconstructs",
        says="the codes keep the picture",
        reported="figure 1",
        measure="PSNR above that of the means of the blocks of 4 x 4 pixels, dB",
        low=1.0,
    ),
    Claim(
        key="weight",
        says="a weight of 6.6 on the divergence reconstructs better in the end, since more codes are used",
        reported="section 2.1",
        unshown="seen after millions of steps on photographs; the weight here is 1, that of the bound",
    ),
    Claim(
        key="imagenet",
        says="8192 codes on 32 x 32 places keep a photograph of 256 x 256",
        reported="figure 1",
        unshown="needs photographs and 3,000,000 steps; the shape is DALL-E's where the configuration says so",
    ),
)

SYSTEM = System(
    entry=CATALOGUE["dvae"],
    claims=CLAIMS,
    protocol=(
        f"The tableau world at {SIDE} pixels, {CODES} codes on 1/{FACTOR} of the size; 1000 steps of 8, temperature 1 "
        "to 1/16 over 800, weight of the divergence 0 to 1 over 300; 256 pictures of another seed."
    ),
    seed=SEED,
    run=run,
)
