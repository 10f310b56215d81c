"""Control: networks that steer another one while it runs, and adapters that change it.

`Controlled(denoiser=..., control=..., hint=...)` is a denoiser whose network gets a control network's residuals at its
sites. A control network is built from a registered configuration like any other; the protocol is `Control`.
`ImagePrompt` listens at cross-attentions; `merged` and `attached` put a `LoRA` into a network or beside it.
"""

from .controlled import Control, Controlled
from .controlnet import ControlNet, ControlNetConfig
from .ip_adapter import ImagePrompt, IPAdapter, IPAdapterConfig, LinearTokens, MLPTokens, ResampledTokens
from .lora import Adapter, LoRA, attached, merged
from .sd3_controlnet import SD3ControlNet, SD3ControlNetConfig
from .t2i_adapter import LightT2IAdapterConfig, T2IAdapter, T2IAdapterConfig

__all__ = [
    "Adapter",
    "Control",
    "ControlNet",
    "ControlNetConfig",
    "Controlled",
    "IPAdapter",
    "IPAdapterConfig",
    "ImagePrompt",
    "LightT2IAdapterConfig",
    "LinearTokens",
    "LoRA",
    "MLPTokens",
    "ResampledTokens",
    "SD3ControlNet",
    "SD3ControlNetConfig",
    "T2IAdapter",
    "T2IAdapterConfig",
    "attached",
    "merged",
]
