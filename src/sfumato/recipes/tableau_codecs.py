"""The codecs of the tableau world: KL, vector-quantised, discrete and plain autoencoders of its pictures."""

from __future__ import annotations

from ..codecs import AutoencoderKLConfig, AutoencoderTinyConfig, DVAEConfig, VAEConfig, VQModelConfig
from ..codecs.learning import (
    ELBO,
    Adversary,
    Distilling,
    KLAutoencoding,
    PatchCriticConfig,
    PerceptualConfig,
    Quantising,
    Ramp,
    Relaxing,
)
from ..data import Glimpses, Tableau
from ..data.tableau import EVALUATION
from ..train import AdamW, Cosine, TrainConfig
from .coding import CodecRecipe

CRITIC = PatchCriticConfig(width=16, layers=2)


def pictures(side: int) -> Tableau:
    """Return a million pictures of the world without captions."""
    return Tableau(size=1_000_000, side=side, styles=(), weights=())


def unseen(side: int) -> Tableau:
    """Return 2,000 other pictures, for measuring."""
    return Tableau(size=2000, side=side, seed=EVALUATION, styles=(), weights=())


def training(steps: int, batch: int, lr: float) -> TrainConfig:
    """Return what the codecs' trainings share: a cosine to 2 %, averages of 2,000 pictures.

    Adam forgets the size of gradients in 100 steps, not in 1,000: networks without norms ran away with the latter.
    """
    return TrainConfig(
        steps=steps,
        batch_size=batch,
        lr=lr,
        rate=Cosine(warmup=100, end=0.02),
        optimiser=AdamW(betas=(0.9, 0.99)),
        ema=(2_000.0,),
        checkpoint_every=250,
        sample_every=500,
        log_every=25,
    )


def tableau_kl() -> CodecRecipe:
    """Return the KL autoencoder: 4 channels on 1/4 of the size, 1.26 M parameters, half an hour on one core.

    beta = 0.02 leaves latents a noise of half to one per cent of their spread.
    Without norms and on squares of 4 x 4 pixels, which learns several times faster on a processor than latent
    diffusion's own shape. 64 pixels become 16 x 16 x 4, 32 become 8 x 8 x 4. Emu's variant (arXiv 2309.15807,
    section 3): `--codec.latent 16 --codec.lift 0,1,2`.
    """
    return CodecRecipe(
        data=Glimpses(data=pictures(64)),
        codec=AutoencoderKLConfig(widths=(96,), layers=1, patch=4, groups=0, middle=False, scale=1.0),
        objective=KLAutoencoding(beta=0.02, perceptual=0.1, adversary=Adversary(critic=CRITIC, weight=0.1, start=2500)),
        train=training(3500, 8, 1.5e-3),
        judged=unseen(64),
    )


def tableau_vq() -> CodecRecipe:
    """Return the VQGAN: 512 codes on 1/4 of the size, 64 tokens for 32 pixels; without adversary and eye a VQ-VAE.

    `--objective.adversary none --objective.eye none`.
    """
    return CodecRecipe(
        data=Glimpses(data=pictures(64)),
        codec=VQModelConfig(
            widths=(96,), layers=1, patch=4, groups=0, middle=False, latent=32, code=32, codes=512, tokens=True
        ),
        objective=Quantising(
            variance=0.3,
            perceptual=0.1,
            eye=PerceptualConfig(),
            adversary=Adversary(critic=CRITIC, weight=0.1, start=2500),
        ),
        train=training(3500, 8, 1.5e-3),
        judged=unseen(64),
    )


def tableau_dvae() -> CodecRecipe:
    """Return the dVAE: 512 codes on 1/4 of the size, the temperature annealed to 1/16 over the run."""
    return CodecRecipe(
        data=pictures(32),
        codec=DVAEConfig(codes=512, width=32, multipliers=(1, 2, 4), blocks=1, inner=32),
        objective=Relaxing(tau=Ramp(start=1.0, end=1 / 16, steps=5000), beta=Ramp(start=0.0, end=1.0, steps=2000)),
        train=training(8000, 8, 1e-3),
        judged=unseen(32),
    )


def tableau_vae() -> CodecRecipe:
    """Return the plain VAE: 64 numbers for a picture of 32 pixels; its bound is that of a density."""
    return CodecRecipe(
        data=pictures(32),
        codec=VAEConfig(in_channels=3, size=32, widths=(32, 64, 128), latent=64),
        objective=ELBO(),
        train=training(8000, 16, 1e-3),
        judged=unseen(32),
    )


def tableau_tiny() -> CodecRecipe:
    """Return the tiny decoder of another codec's latents: `--objective.teacher FOLDER`, of `save_codec`."""
    return CodecRecipe(
        data=Glimpses(data=pictures(64)),
        codec=AutoencoderTinyConfig(width=32, encoder=(1, 1, 1), decoder=(1, 1, 1)),
        objective=Distilling(teacher="codec", perceptual=0.1),
        train=training(4000, 8, 2e-3),
        judged=unseen(64),
    )
