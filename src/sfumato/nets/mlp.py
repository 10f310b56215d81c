"""A multilayer perceptron for points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.config import register
from ..core.errors import InputError
from .blocks.embedding import Fourier, LabelEmbedding, NoFeature, Raw, Sinusoidal

RAW = Raw()
SINUSOIDS = Sinusoidal(dim=64)


@register
@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """h_0 = ReLU(gamma(x) W_x + gamma(c_noise) W_t + b + label), h_i = ReLU(h_(i-1) W_i + b_i), out = h_layers W + b.

    W_x and W_t are the halves of one matrix on both features joined: the noise label's half is `embed`, which is
    computed once for all steps of a run.

    - `inputs`: coordinates of a point, 2 for the plane.
    - `width`, `layers`: of the hidden layers, and how many matrices join them; 128 and 3.
    - `position`: the features of x, `Raw` or `Fourier`; `time`: those of c_noise, by default 64 sinusoids of the label
      0..1000 that `Plain` gives, else `Raw`, `Fourier` or `NoFeature`.
    - `num_classes`: None, or the number of classes, which adds a learned row a class to the first layer.

    Width 64, `Fourier(count=32)` of the point and `Fourier(count=16)` of c_noise = t - 1/2 (`Plain(scale=1.0,
    shift=-0.5)`) are those of A. Chan's very tiny diffusion model of the Datasaurus.

    Raises `InputError` for sizes below 1 and for a feature that does not take a point.
    """

    inputs: int = 2
    width: int = 128
    layers: int = 3
    position: Raw | Fourier = RAW
    time: NoFeature | Raw | Fourier | Sinusoidal = SINUSOIDS
    num_classes: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("inputs", 1), ("width", 1), ("layers", 0)):
            if getattr(self, name) < least:
                raise InputError(f"MLPConfig.{name} must be at least {least}, got {getattr(self, name)}")
        if not isinstance(self.position, (Raw, Fourier)):
            raise InputError(f"MLPConfig.position must be Raw or Fourier, got {type(self.position).__name__}")

    def build(self) -> MLP:
        """Return the network, freshly initialised."""
        return MLP(self)


class MLP(nn.Module):
    """net(x [B, inputs], c_noise [B] or [1], y=int[B]) -> [B, inputs], y where it has classes.

    All weights start as U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for a linear layer.
    """

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        self.position = config.position.build(config.inputs)
        self.time = config.time.build(1)
        self.raw = config.position == RAW
        # rows times matrices, [in, out], and the hidden layers in one stack: the fewest and fastest operations
        fan_in, width = self.position.dim + self.time.dim, config.width
        self.weight_x = _parameter(fan_in, self.position.dim, width)
        self.weight_t = _parameter(fan_in, self.time.dim, width)
        self.bias_in = _parameter(fan_in, width)
        self.weight = _parameter(width, config.layers, width, width)
        self.bias = _parameter(width, config.layers, width)
        self.weight_out, self.bias_out = _parameter(width, width, config.inputs), _parameter(width, config.inputs)
        self.label = None if config.num_classes is None else LabelEmbedding(config.num_classes, width)
        self.cond: dict[str, Any] = {} if self.label is None else {"y": self.label.null}

    def forward(self, x: Tensor, c_noise: Tensor, y: Tensor | int | None = None) -> Tensor:
        """Return the output [B, inputs] for class labels `y` (no class without them)."""
        return self.trunk(x, self.embed(c_noise), y)

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return the first layer's part of labels [N], gamma(c_noise) W_t + b, [N, width]."""
        features = self.time(c_noise.unsqueeze(-1)).to(self.bias_in.dtype)
        return torch.addmm(self.bias_in, features, self.weight_t)

    def trunk(self, x: Tensor, emb: Tensor, y: Tensor | int | None = None) -> Tensor:
        """Return the output for the embeddings `emb` of one row or of B."""
        if self.label is not None:
            emb = emb + self.label(y)
        elif y is not None:
            raise InputError("this MLP has no classes: leave y out, or set MLPConfig.num_classes")
        features = x if self.raw else self.position(x).to(emb.dtype)
        h = torch.addmm(emb, features, self.weight_x).relu_()
        for weight, bias in zip(self.weight.unbind(), self.bias.unbind(), strict=True):
            h = torch.addmm(bias, h, weight).relu_()
        return torch.addmm(self.bias_out, h, self.weight_out)


def _parameter(fan_in: int, *shape: int) -> nn.Parameter:
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
