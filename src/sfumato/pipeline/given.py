"""The picture that a call starts from: read, encoded, noised to where the run begins; and what of it is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import Denoiser, InputError, Noise, Schedule

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..codecs import Codec
    from .pipeline import Pipeline

STRENGTH = 0.8


@dataclass(frozen=True, eq=False, kw_only=True)
class Given:
    """What of a run a picture decides: its `times`, its `start`, what is `kept`, the condition `extra`."""

    times: Tensor
    start: Tensor | None = None
    latents: Tensor | None = None
    picture: Tensor | None = None
    mask: Tensor | None = None
    blend: bool = False
    beside: Tensor | None = None
    request: Mapping[str, Any] = field(default_factory=dict)

    def conditions(self, cond: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
        """Return `cond` with the condition `extra` where the network takes one: the same with and without guidance."""
        return cond if self.beside is None else cond | {"extra": self.beside.expand(rows, -1, -1, -1)}

    def keeping(self, denoiser: Denoiser) -> Denoiser:
        """Return `denoiser` that knows the part of x_0 outside of the mask."""
        if not self.blend or self.latents is None or self.mask is None:
            return denoiser
        return Kept(denoiser=denoiser, known=self.latents, free=F.interpolate(self.mask, self.latents.shape[-2:]))

    def pasted(self, pixels: Tensor) -> Tensor:
        """Return `pixels` with those of the picture where the mask keeps them: exactly the same values."""
        if self.mask is None or self.picture is None:
            return pixels
        return torch.where(self.mask >= 0.5, pixels, self.picture.to(pixels.dtype))


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """x0_hat with the known latents put where `free` [.., 1, H, W] is below one half.

    A deterministic solver that starts at alpha z + sigma eps then keeps x_t = alpha z + sigma eps there at every step:
    blending with the noised picture, without a step of its own. It is a baseline, not a draw of the posterior, for
    which there are `sfumato.inverse.PiGDM` and `MomentMatching`.
    """

    denoiser: Denoiser
    known: Tensor
    free: Tensor

    @property
    def schedule(self) -> Schedule:
        """The denoiser's schedule."""
        return self.denoiser.schedule

    @property
    def cond(self) -> Mapping[str, Any]:
        """The denoiser's condition keys."""
        return self.denoiser.cond

    def prepare(self, times: Sequence[float]) -> Kept:
        """Return this for the times of one run."""
        from ..core import prepare

        return Kept(denoiser=prepare(self.denoiser, times), known=self.known, free=self.free)

    def __call__(self, x: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        """Return x0_hat where free, the known latents elsewhere."""
        return torch.where(self.free >= 0.5, self.denoiser(x, t, **cond), self.known.to(x.dtype))


class Start(NamedTuple):
    """What a call says of its start: a picture, a mask, the strength, a span of the times."""

    image: Any = None
    mask: Any = None
    strength: float | None = None
    span: tuple[float, float] | None = None


def given(
    pipe: Pipeline,
    codec: Codec,
    times: Tensor,
    shape: tuple[int, ...],
    noise: Noise,
    device: torch.device,
    said: Start,
) -> Given:
    """Return what a picture, a mask and a span of the times make of a run.

    Raises `InputError` for a strength outside (0, 1], a mask without a picture, a span that holds no step.
    """
    image, mask, strength, span = said
    request: dict[str, Any] = dict.fromkeys(("image", "mask", "strength", "span"))
    if span is not None:
        times = spanned(times, span)
        request["span"] = list(span)
    if image is None:
        for name, value in (("mask", mask), ("strength", strength)):
            if value is not None:
                raise InputError(f"{name} needs a picture: give image= too")
        if pipe.extra is None:
            return Given(times=times, request=request)
    side = (shape[1] * codec.factor, shape[2] * codec.factor)
    picture = None if image is None else pixels_of(image, side, 3 if pipe.codec is not None else shape[0]).to(device)
    hole = None if mask is None else (pixels_of(mask, side, 1).to(device) + 1) / 2
    beside = None if pipe.extra is None else pipe.extra(picture, hole, codec, (shape[1], shape[2]))
    own = pipe.extra is not None
    start = latents = None
    if picture is not None and not (own and strength is None):
        share = (STRENGTH if hole is None else 1.0) if strength is None else float(strength)
        if not 0 < share <= 1:
            raise InputError(f"strength={strength} must be in (0, 1]: the share of the steps that are run")
        steps = min(int((len(times) - 1) * share), len(times) - 1)
        if steps < 1:
            raise InputError(f"strength={strength} of {len(times) - 1} steps leaves none: give more steps or strength")
        times = times[len(times) - 1 - steps :]
        latents = codec.encode(picture)
        alpha, sigma = pipe.denoiser.schedule(float(times[0]))
        eps = noise.normal((len(noise), *shape), "start", device=device)
        start = latents * alpha + eps * sigma
        request["strength"] = share
    for name, value in (("image", picture), ("mask", hole)):
        if value is not None:
            request[name] = hashlib.sha256(value.cpu().contiguous().numpy().tobytes()).hexdigest()
    blend = hole is not None and not (pipe.extra is not None and pipe.extra.keeps)
    return Given(
        times=times,
        start=start,
        latents=latents,
        picture=picture,
        mask=hole,
        blend=blend,
        beside=beside,
        request=request,
    )


def spanned(times: Tensor, span: tuple[float, float]) -> Tensor:
    """Return the times of the steps that start above span[1] and not above span[0], with the end of the last."""
    high, low = span
    inside = [i for i, t in enumerate(times.tolist()[:-1]) if low < t <= high]
    if not 0 <= low < high <= 1 or not inside:
        raise InputError(f"span={tuple(span)} holds no step: give (from, to) with 1 >= from > to >= 0")
    return times[inside[0] : inside[-1] + 2]


def opened(path: Path) -> Image:
    """Return the picture in a file, within the limits that `sfumato.data` sets; `InputError` says why not."""
    from ..data.images import decode, read_bytes

    try:
        return decode(read_bytes(path.parent.resolve(), path.name))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def pixels_of(picture: Any, side: tuple[int, int], channels: int) -> Tensor:
    """Return [1, channels, *side] in [-1, 1] of a PIL picture, a file, or a tensor in [-1, 1] ([C, H, W] or one row).

    Raises `InputError` for what is none of them, and for tensors of another size: only pictures are resized.
    """
    if isinstance(picture, Tensor):
        value = picture.float() if picture.ndim == 4 else picture.float()[None]
        if value.shape[-2:] != side or value.shape[0] != 1 or value.shape[1] != channels:
            raise InputError(
                f"a picture as a tensor must be [1, {channels}, {side[0]}, {side[1]}], got {list(value.shape)}"
            )
        return value
    image = opened(Path(picture)) if isinstance(picture, (str, Path)) else picture
    if not hasattr(image, "convert"):
        raise InputError(f"a picture must be a PIL image, a file or a tensor, got {type(picture).__name__}")
    from PIL import Image

    image = image.convert("RGB" if channels == 3 else "L")
    if image.size != (side[1], side[0]):
        image = image.resize(
            (side[1], side[0]), Image.Resampling.LANCZOS if channels == 3 else Image.Resampling.NEAREST
        )
    array = np.asarray(image, dtype=np.float32).reshape(*side, channels)
    return torch.from_numpy(array / 127.5 - 1.0).permute(2, 0, 1)[None].contiguous()
