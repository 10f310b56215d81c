"""The guidance that a call asks for, around a denoiser; or as a condition, where a network was distilled with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from ..core import Denoiser, InputError
from ..guidance import ClassifierFree, Guided, Interval, Rescale, TwoScale
from .clipping import Clipped
from .extra import Instruct

if TYPE_CHECKING:
    from .pipeline import Pipeline


class Guiding(NamedTuple):
    """What a call says of its guidance: the scale w, (low, high) of sigma / alpha, phi, the scale of a picture."""

    scale: float
    interval: tuple[float, float] | None = None
    rescale: float | None = None
    image: float | None = None

    def refused(self, why: str, **more: Any) -> None:
        """Raise `InputError` for what is set beside the scale, saying why it does nothing."""
        said = {"guidance_interval": self.interval, "rescale": self.rescale, "image_guidance": self.image}
        for name, value in (more | said).items():
            if value is not None:
                raise InputError(f"{name}={value!r:.60} does nothing {why}")


def embeds(pipe: Pipeline, said: Guiding, negative: Any) -> bool:
    """Return whether the network is told the scale, as latent consistency models are (arXiv 2310.04378, section 4.3):
    it was distilled with its guidance, and one evaluation does. What else there is to guidance is then refused.
    """
    if "guidance" not in pipe.denoiser.cond:
        return False
    said.refused("with a network that was distilled with its guidance: leave it out", negative=negative)
    return True


def guided(pipe: Pipeline, denoiser: Denoiser, said: Guiding, null: Mapping[str, Tensor] | None) -> Denoiser:
    """Return `denoiser` with the guidance that is asked for; `null`: the conditions of what to avoid.

    The clip of the pipeline's defaults goes around it: guidance pushes x0_hat out of range.
    """
    found = _guided(pipe, denoiser, said, null)
    return found if pipe.defaults.clip is None else Clipped(denoiser=found, most=pipe.defaults.clip)


def _guided(pipe: Pipeline, denoiser: Denoiser, said: Guiding, null: Mapping[str, Tensor] | None) -> Denoiser:
    scale = said.scale
    if not math.isfinite(scale):
        raise InputError(f"guidance={scale} must be a finite number; 1 is off")
    if "guidance" in pipe.denoiser.cond:
        return denoiser
    if scale == 1.0:
        said.refused("without guidance: give a guidance other than 1")
        return denoiser
    found: Guided
    if isinstance(pipe.extra, Instruct):
        picture = pipe.extra.guidance if said.image is None else said.image
        found = TwoScale(denoiser=denoiser, scale=scale, image_scale=picture, null=null)
    elif said.image is not None:
        raise InputError("image_guidance is for networks that edit a picture by instruction; this one does not")
    else:
        found = ClassifierFree(denoiser=denoiser, scale=scale, null=null, channels=pipe.defaults.guided_channels)
    if said.interval is not None:
        if len(said.interval) != 2:
            raise InputError(f"guidance_interval needs (low, high) of sigma / alpha, got {tuple(said.interval)}")
        found = Interval(denoiser=found, low=float(said.interval[0]), high=float(said.interval[1]))
    if said.rescale is not None:
        found = Rescale(denoiser=found, phi=float(said.rescale), space=pipe.denoiser.prediction)
    return found
