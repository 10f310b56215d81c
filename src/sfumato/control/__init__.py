"""Control: networks that steer another one while it runs.

`Controlled(denoiser=..., control=..., hint=...)` is a denoiser whose network gets a control network's residuals at its
sites. A control network is built from a registered configuration like any other; the protocol is `Control`.
"""

from .controlled import Control, Controlled
from .controlnet import ControlNet, ControlNetConfig
from .sd3_controlnet import SD3ControlNet, SD3ControlNetConfig

__all__ = ["Control", "ControlNet", "ControlNetConfig", "Controlled", "SD3ControlNet", "SD3ControlNetConfig"]
