"""The adversary of an autoencoder: a critic of patches, its hinge losses, and the weight of what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.config import register
from ...nets.blocks.conv import GroupNorm


@register
@dataclass(frozen=True, kw_only=True)
class PatchCriticConfig:
    """The shape of a PatchGAN discriminator (Isola et al. 2017, arXiv 1611.07004, section 3.3 and appendix).

    4 x 4 convolutions: `layers` of stride 2 with `width`, twice, four times ... (at most eight times) that many
    channels, one more of stride 1, and the logits; LeakyReLU of slope 0.2, weights from N(0, 0.02). Defaults: those of
    latent diffusion's code (arXiv 2112.10752), 64 and 3. Group instead of batch normalisation: a row's loss does not
    depend on its batch, and no running statistics are kept.
    """

    in_channels: int = 3
    width: int = 64
    layers: int = 3
    groups: int = 8

    def build(self) -> PatchCritic:
        """Return the network, freshly initialised."""
        return PatchCritic(self)


class PatchCritic(nn.Module):
    """Pictures [B, C, H, W] -> logits [B, 1, h, w]: how real each patch looks."""

    def __init__(self, config: PatchCriticConfig) -> None:
        super().__init__()
        self.config = k = config
        widths = [k.width * min(2**i, 8) for i in range(k.layers + 1)]
        blocks: list[nn.Module] = [nn.Conv2d(k.in_channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(1, k.layers + 1):
            stride = 2 if i < k.layers else 1
            blocks += [nn.Conv2d(widths[i - 1], widths[i], 4, stride, 1, bias=False)]
            blocks += [GroupNorm(k.groups, widths[i], 1e-5), nn.LeakyReLU(0.2)]
        blocks.append(nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.blocks = nn.Sequential(*blocks)
        for module in self.blocks:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of pictures `x`."""
        return self.blocks(x)


def judged(critic: nn.Module, x: Tensor) -> Tensor:
    """Return critic(x) with a gradient for `x` alone: what moves the codec must not move the critic."""
    held = {name: p.detach() for name, p in critic.named_parameters()}
    return torch.func.functional_call(critic, held, (x,))


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Return the critic's loss[B] = (mean max(0, 1 - real) + mean max(0, 1 + fake)) / 2 (arXiv 1705.02894)."""
    return 0.5 * (_rows(F.relu(1 - real)) + _rows(F.relu(1 + fake)))


def generator(fake: Tensor) -> Tensor:
    """Return the codec's loss[B] = -mean fake."""
    return -_rows(fake)


def adaptive(reconstruction: Tensor, adversarial: Tensor, weight: Tensor, most: float = 1e4) -> Tensor:
    """Return |d reconstruction / d weight| / (|d adversarial / d weight| + 1e-4), at most `most`, without a gradient.

    The two losses are scalars, `weight` the decoder's last layer (Esser et al. 2020, arXiv 2012.09841, eq. 7, whose
    code has the 1e-4 and clamps at 10^4).
    """
    grads = [torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)]
    return (grads[0] / (grads[1] + 1e-4)).clamp(0.0, most).detach()


def last(codec: Any) -> Tensor:
    """Return the weight of the last convolution of a codec's decoder."""
    return codec.pixels.weight if hasattr(codec, "pixels") else codec.decoder.out.conv.weight


def _rows(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)
