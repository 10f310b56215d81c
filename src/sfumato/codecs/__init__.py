"""Codecs: what stands between pixels and what is diffused.

`encode(pixels, noise)` gives the latents that a denoiser sees, `decode(latents)` gives pixels back.
"""

from .codec import Codec, Identity, IdentityConfig, Striped
from .consistency_decoder import ConsistencyDecoder, ConsistencyDecoderConfig
from .dvae import DVAE, DVAEConfig
from .folder import load_codec, save_codec
from .kl import AutoencoderKL, AutoencoderKLConfig
from .preview import Preview, fit_preview
from .tiled import Sliced, Strips, Tiled
from .tiny import AutoencoderTiny, AutoencoderTinyConfig
from .vae import VAE, VAEConfig
from .vq import VQModel, VQModelConfig, codebook_loss

__all__ = [
    "DVAE",
    "VAE",
    "AutoencoderKL",
    "AutoencoderKLConfig",
    "AutoencoderTiny",
    "AutoencoderTinyConfig",
    "Codec",
    "ConsistencyDecoder",
    "ConsistencyDecoderConfig",
    "DVAEConfig",
    "Identity",
    "IdentityConfig",
    "Preview",
    "Sliced",
    "Striped",
    "Strips",
    "Tiled",
    "VAEConfig",
    "VQModel",
    "VQModelConfig",
    "codebook_loss",
    "fit_preview",
    "load_codec",
    "save_codec",
]
