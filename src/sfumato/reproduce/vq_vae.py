"""VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937): a codebook that lives, on the tableau world."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..codecs import VQModel, VQModelConfig
from ..codecs.learning import Follower, Quantising, usage
from ..core import Noise
from ..data import Dataset, Tableau
from ..data.tableau import EVALUATION
from ..measure import block_means, psnr, ssim
from ..train import AdamW, Cosine, TrainConfig
from .beds import seeds
from .catalogue import CATALOGUE
from .claims import Claim, Measured, System
from .figures import sheets
from .runner import Context
from .training import fit_codec

SEED = 0
SIDE, CODES, FACTOR = 32, 128, 4
CODEC = VQModelConfig(
    widths=(48,), layers=1, patch=FACTOR, groups=0, middle=False, latent=16, code=16, codes=CODES, tokens=True
)
TRAIN = TrainConfig(
    steps=1000,
    batch_size=8,
    lr=1.5e-3,
    rate=Cosine(warmup=100, end=0.02),
    optimiser=AdamW(betas=(0.9, 0.99)),
    ema=(1_000.0,),
)
PLAIN = Quantising(variance=0.3, revive=0.0)  # the paper's: nothing is revived
REVIVED = Quantising(variance=0.3)


def pictures(seed: int, *, side: int = SIDE) -> Dataset:
    """Return pictures of the world."""
    return Tableau(size=100_000, side=side, seed=seed, styles=(), weights=())


def unseen(n: int = 256) -> Tensor:
    """Return n other pictures."""
    return pictures(EVALUATION).batch(range(n), Noise(range(n))).x0


def codec_of(context: Context, objective: Quantising, name: str) -> VQModel:
    """Return a VQ model trained by `objective`."""
    data, train = pictures(2 + context.seed), replace(TRAIN, seed=context.seed)
    return fit_codec(context, f"tableau-vq-{name}", CODEC, objective, data, train)


def lloyd(*, seed: int = SEED) -> float:
    """Return the largest gap between a step without memory and one of k-means, on 500 points and 8 codes."""
    noise = seeds(1, "lloyd", seed)
    z = noise.normal((1, 1500), "places").reshape(500, 3)
    codebook = noise.normal((1, 24), "codes").reshape(8, 3)
    codes = torch.cdist(z, codebook).argmin(1)
    means = torch.stack([z[codes == k].mean(0) for k in range(8)])
    Follower(8, 3).follow(codebook, z, codes, noise, decay=0.0, smooth=0.0, revive=0.0)
    return float((codebook - means).abs().max())


def through(*, seed: int = SEED) -> float:
    """Return the largest gap between the gradient of the latents and that of the codes that took their place."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        codec = replace(CODEC, widths=(8,), codes=16).build()
    z = seeds(2, "through", seed).normal((2, CODEC.code, 4, 4), "z").requires_grad_()
    e = codec.lookup(codec.indices(z.detach())).detach().requires_grad_()
    one = torch.autograd.grad(codec.decode(z).square().sum(), z)[0]
    two = torch.autograd.grad(codec.render(e).square().sum(), e)[0]
    return float((one - two).abs().max() / two.abs().max())


def run(context: Context) -> Iterator[Measured]:
    """Measure the claims."""
    yield Measured("k-means", lloyd(seed=context.seed), "500 points in space, 8 codes")
    yield Measured("straight-through", through(seed=context.seed), "relative to the largest")
    x, revived = unseen(), codec_of(context, REVIVED, "revived")
    with torch.no_grad():
        codes = revived.indices(revived.encode(x))
        made = revived.decode(revived.encode(x)).clamp(-1, 1)
    used, perplexity = usage(codes, CODES)
    yield Measured("alive", used, f"{used * CODES:.0f} of {CODES} codes on {len(x)} unseen pictures")
    yield Measured("perplexity", perplexity / CODES, f"perplexity {perplexity:.1f}")
    block = block_means(x, FACTOR)
    ours, means = float(psnr(x, made).mean()), float(psnr(x, block).mean())
    said = f"PSNR {ours:.2f} dB, SSIM {float(ssim(x, made).mean()):.3f}; means of the blocks {means:.2f} dB"
    yield Measured("reconstructs", ours - means, said)
    bits = x[0].numel() * 8 / (codes[0].numel() * math.log2(CODES))
    yield Measured("compresses", bits, f"{codes[0].numel()} codes of {math.log2(CODES):.0f} bits a picture")
    plain = codec_of(context, PLAIN, "plain")
    with torch.no_grad():
        left = usage(plain.indices(plain.encode(x)), CODES)
        worse = float(psnr(x, plain.decode(plain.encode(x)).clamp(-1, 1)).mean())
    told = f"without revival {left[0] * CODES:.0f} codes, perplexity {left[1]:.1f}, PSNR {worse:.2f} dB"
    yield Measured("revival", used / left[0], told)
    shown = {"pictures": x, f"by {CODES} codes": made, "means of blocks": block}
    context.draw("pictures", lambda: sheets(shown, 16, 4, width=2.6, height=2.8))


CLAIMS = (
    Claim(
        key="k-means",
        says="the codebook's moving averages are k-means; without memory a step is exactly one of its steps",
        reported="appendix A.1",
        measure="largest difference of a code",
        high=1e-5,
    ),
    Claim(
        key="straight-through",
        says="the gradient of the decoder's input is copied to the encoder's output",
        reported="section 3.2",
        measure="largest difference of the two gradients, relative",
        high=1e-5,
    ),
    Claim(
        key="alive",
        says="no dead codebook: the codes are in use",
        measure="share of the codes that occur in unseen pictures",
        low=0.9,
    ),
    Claim(
        key="perplexity",
        says="and about evenly",
        measure="perplexity of the codes over their number",
        low=0.3,
    ),
    Claim(
        key="reconstructs",
        says="discrete codes keep the picture",
        reported="figure 2",
        measure="PSNR above that of the means of the blocks of 4 x 4 pixels, dB",
        low=2.0,
    ),
    Claim(
        key="compresses",
        says="in few bits",
        reported="42.6 times (ImageNet, section 4.2)",
        measure="bits of the pixels over bits of the codes",
        low=42.6,
    ),
    Claim(
        key="revival",
        says="what a codebook that starts small and is never revived leaves unused",
        measure="share of codes used with revival over that without",
        low=1.2,
    ),
    Claim(
        key="cifar",
        says="4.67 bits a dimension on CIFAR-10 (VAE 4.51); speech and video; a PixelCNN prior over the codes",
        reported="sections 4.1 to 4.4",
        unshown="needs CIFAR-10, ImageNet and VCTK; priors over codes are systems of their own",
    ),
)

SYSTEM = System(
    entry=CATALOGUE["vq-vae"],
    claims=CLAIMS,
    protocol=(
        f"The tableau world at {SIDE} pixels, {CODES} codes on 1/{FACTOR} of the size; 1000 steps of 8, mean squared "
        "error, beta 0.25, moving averages of 0.99; 256 pictures of another seed."
    ),
    seed=SEED,
    run=run,
)
