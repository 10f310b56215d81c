"""What stands beside the latent of networks with more channels: a masked picture, one to edit, a depth map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import InputError, register

if TYPE_CHECKING:
    from ..codecs import Codec


class Extra(Protocol):
    """A registered configuration that turns a picture and a mask into the condition `extra`."""

    def __call__(self, image: Tensor | None, mask: Tensor | None, codec: Codec, side: tuple[int, int]) -> Tensor:
        """Return [1, c, H, W] beside latents of `side` (H, W), of pixels [1, 3, h, w] and a mask [1, 1, h, w]."""
        ...

    @property
    def keeps(self) -> bool:
        """Whether a mask is the network's own business, so that no pixels need keeping from outside."""
        ...


@register
@dataclass(frozen=True, kw_only=True)
class Inpainting:
    """[mask, latents of the picture with the hole grey]: networks of 4 + 5 channels.

    The mask is 1 where to paint, brought to the latents' size by nearest neighbour; the hole is where it is at least
    one half. Without a mask all is painted anew.
    """

    @property
    def keeps(self) -> bool:
        """The network sees the mask."""
        return True

    def __call__(self, image: Tensor | None, mask: Tensor | None, codec: Codec, side: tuple[int, int]) -> Tensor:
        """Return [1, 1 + C, H, W]."""
        if image is None:
            raise InputError("this network was made for in-painting: give image= and mask= (white where to paint)")
        hole = torch.ones_like(image[:, :1]) if mask is None else mask
        latents = codec.encode(image * (hole < 0.5))
        return torch.cat([F.interpolate(hole, side).to(latents.dtype), latents], dim=1)


@register
@dataclass(frozen=True, kw_only=True)
class Instruct:
    """The latents of the picture to edit, without the codec's scale (InstructPix2Pix, arXiv 2211.09800).

    `guidance` is the scale of the picture, beside that of the text: 1.5 is its authors' (section 4.1).
    """

    guidance: float = 1.5

    @property
    def keeps(self) -> bool:
        """It knows no mask."""
        return False

    def __call__(self, image: Tensor | None, mask: Tensor | None, codec: Codec, side: tuple[int, int]) -> Tensor:
        """Return [1, C, H, W]."""
        if image is None:
            raise InputError("this network edits a picture by instruction: give image=")
        latents = codec.encode(image)
        normalise = getattr(codec, "normalise", None)
        return latents if normalise is None else normalise.inverse(latents)


@register
@dataclass(frozen=True, kw_only=True)
class Depth:
    """A depth map, nearer is larger, brought to [-1, 1] and to the latents' size: of Stable Diffusion 2."""

    @property
    def keeps(self) -> bool:
        """It knows no mask."""
        return False

    def __call__(self, image: Tensor | None, mask: Tensor | None, codec: Codec, side: tuple[int, int]) -> Tensor:
        """Return [1, 1, H, W]: the mean of the picture's channels as the map."""
        if image is None:
            raise InputError("this network paints over a depth map: give image= (a grey picture, near is white)")
        depth = F.interpolate(image.mean(1, keepdim=True), side, mode="bicubic", align_corners=False)
        low, high = depth.amin(), depth.amax()
        return 2 * (depth - low) / (high - low).clamp(min=1e-12) - 1


def default(channels: int) -> Extra | None:
    """Return what released networks of so many extra channels take: 5 in-painting, 4 instructions, 1 depth."""
    known: Mapping[int, Extra] = {5: Inpainting(), 4: Instruct(), 1: Depth()}
    return known.get(channels)
