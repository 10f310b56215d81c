"""What stands beside the latent of networks with more channels: a masked picture, one to edit, a depth map..."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import InputError, Noise, Schedule, Table, register
from .identity import bare

if TYPE_CHECKING:
    from ..codecs import Codec


class Shown(NamedTuple):
    """What a call shows a network: a picture [1, 3, h, w] in [-1, 1], a mask [1 or B, 1, h, w] in [0, 1] (1 where to
    paint), a depth map [1, 1, any, any], a noise level; the codec, the latents' side, the rows' noise.
    """

    codec: Codec
    side: tuple[int, int]
    noise: Noise
    image: Tensor | None = None
    mask: Tensor | None = None
    depth: Tensor | None = None
    level: int | None = None


class Extra(Protocol):
    """A registered configuration that turns what a call shows into conditions, `extra` among them."""

    def __call__(self, shown: Shown) -> dict[str, Tensor]:
        """Return conditions of one row, or a row a sample: `extra` [1 or B, c, H, W] beside latents [B, C, H, W]."""
        ...

    @property
    def keeps(self) -> bool:
        """Whether a mask is the network's own business, so that no pixels need keeping from outside."""
        ...

    @property
    def starts(self) -> bool:
        """Whether a picture is also what a run starts from, where no strength is given."""
        ...

    @property
    def small(self) -> bool:
        """Whether the picture has the latents' size, and what is made of it the codec's factor more."""
        ...


@register
@dataclass(frozen=True, kw_only=True)
class Inpainting:
    """[mask, latents of the picture with the hole grey]: networks of 4 + 5 channels.

    The hole is where the mask is at least one half, and what the network is told is 1 there and 0 elsewhere, brought to
    the latents' size by nearest neighbour: never grey, which it was not trained on. Without a mask all is painted anew.
    """

    keeps, starts, small = True, False, False

    def __call__(self, shown: Shown) -> dict[str, Tensor]:
        """Return `extra` [1, 1 + C, H, W]."""
        image = shown.image
        if image is None:
            raise InputError("this network was made for in-painting: give image= and mask= (white where to paint)")
        hole = torch.ones_like(image[:, :1]) if shown.mask is None else (shown.mask >= 0.5).to(image.dtype)
        latents = shown.codec.encode(image * (hole == 0))
        return {"extra": torch.cat([F.interpolate(hole, shown.side).to(latents.dtype), latents], dim=1)}


@register
@dataclass(frozen=True, kw_only=True)
class Instruct:
    """The latents of the picture to edit, without the codec's scale (InstructPix2Pix, arXiv 2211.09800).

    `guidance` is the scale of the picture, beside that of the text: 1.5 is its authors' (section 4.1).
    """

    guidance: float = 1.5

    keeps, starts, small = False, False, False

    def __call__(self, shown: Shown) -> dict[str, Tensor]:
        """Return `extra` [1, C, H, W]."""
        if shown.image is None:
            raise InputError("this network edits a picture by instruction: give image=")
        latents = shown.codec.encode(shown.image)
        normalise = getattr(bare(shown.codec), "normalise", None)
        return {"extra": latents if normalise is None else normalise.inverse(latents)}


FLAT = 1e-6  # of the largest depth: what interpolating a constant in float32 leaves, and no depth


@register
@dataclass(frozen=True, kw_only=True)
class Depth:
    """A depth map, nearer is larger, brought to the latents' size and to [-1, 1]: of Stable Diffusion 2.

    2 (d - min) / (max - min) - 1: a map of one value has no such range, and is refused.
    """

    keeps, starts, small = False, True, False

    def __call__(self, shown: Shown) -> dict[str, Tensor]:
        """Return `extra` [1, 1, H, W]."""
        if shown.depth is None:
            raise InputError("this network paints over a depth map: give depth= (near is white), or image= and a model")
        depth = F.interpolate(shown.depth.float(), shown.side, mode="bicubic", align_corners=False)
        low, high = depth.amin(), depth.amax()
        if float(high - low) <= FLAT * float(torch.maximum(low.abs(), high.abs())):
            raise InputError(f"the depth map is {high:g} everywhere: give depth= where something is nearer (larger)")
        return {"extra": 2 * (depth - low) / (high - low) - 1}


def upscaling() -> Table:
    """Return the schedule that the x4 up-scaler's small pictures are noised on: betas linear in the root to 0.02."""
    return Table.from_betas(torch.linspace(1e-2, 0.02**0.5, 1000, dtype=torch.float64) ** 2)


@register
@dataclass(frozen=True, kw_only=True)
class Upscale:
    """The small picture with noise of a level in 0..`most`, which the network is told: alpha_l y + sigma_l eps
    (conditioning augmentation, arXiv 2106.15282; the x4 up-scaler of Stable Diffusion 2).

    `level` 20 and `most` 350 are its authors'; level l stands at t = (l + 1) / T of `schedule`. The noise of a row is
    its own seed's. The picture has the latents' size.
    """

    schedule: Schedule = field(default_factory=upscaling)
    level: int = 20
    most: int = 350

    keeps, starts, small = False, False, True

    def __call__(self, shown: Shown) -> dict[str, Tensor]:
        """Return `extra` [B, 3, H, W] and `noise_level` int64[B]."""
        image, level = shown.image, self.level if shown.level is None else shown.level
        if image is None:
            raise InputError("this network enlarges a picture: give image=, the small one")
        if isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= self.most:
            raise InputError(f"noise_level={level!r:.40} must be a whole number from 0 to {self.most}")
        count = len(self.schedule.alphas_cumprod) if isinstance(self.schedule, Table) else 1000
        alpha, sigma = self.schedule((level + 1) / count)
        rows = len(shown.noise)
        eps = shown.noise.normal((rows, *image.shape[1:]), "low resolution", device=image.device)
        return {"extra": image * alpha + eps * sigma, "noise_level": torch.full((rows,), level, device=image.device)}


DEFAULTS: Mapping[int, Callable[[], Extra]] = {5: Inpainting, 4: Instruct, 3: Upscale, 1: Depth}


def default(channels: int) -> Extra | None:
    """Return what released networks of so many extra channels take."""
    made = DEFAULTS.get(channels)
    return None if made is None else made()
