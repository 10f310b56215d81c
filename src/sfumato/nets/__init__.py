"""Networks: each is built from a registered, frozen configuration and keeps it as `net.config`.

The contract: `net(x, c_noise, **cond)` = `net.trunk(x, net.embed(c_noise), **cond)`, and `net.cond` names the
conditions that it takes, each with its null value.
"""

from .blocks.kernels import packed
from .blocks.wide import widened
from .captioned import Captioned, CaptionedConfig
from .contrast import Contrast, ContrastConfig
from .diffit import DiffiT, DiffiTConfig
from .diffit_unet import DiffiTUNet, DiffiTUNetConfig
from .dit import DiT, DiTConfig
from .encoder import Encoder, EncoderConfig
from .exam import Exam, ExamConfig
from .hunyuan_dit import HunyuanDiT, HunyuanDiTConfig
from .latent_unet import LatentUNet, LatentUNetConfig
from .lumina import Lumina, LuminaConfig
from .mlp import MLP, MLPConfig
from .mmdit import MMDiT, MMDiTConfig
from .pixart import PixArt, PixArtConfig
from .unet import UNet, UNetConfig
from .uvit import UViT, UViTConfig
from .words import WordEncoder, WordEncoderConfig

__all__ = [
    "MLP",
    "Captioned",
    "CaptionedConfig",
    "Contrast",
    "ContrastConfig",
    "DiT",
    "DiTConfig",
    "DiffiT",
    "DiffiTConfig",
    "DiffiTUNet",
    "DiffiTUNetConfig",
    "Encoder",
    "EncoderConfig",
    "Exam",
    "ExamConfig",
    "HunyuanDiT",
    "HunyuanDiTConfig",
    "LatentUNet",
    "LatentUNetConfig",
    "Lumina",
    "LuminaConfig",
    "MLPConfig",
    "MMDiT",
    "MMDiTConfig",
    "PixArt",
    "PixArtConfig",
    "UNet",
    "UNetConfig",
    "UViT",
    "UViTConfig",
    "WordEncoder",
    "WordEncoderConfig",
    "packed",
    "widened",
]
