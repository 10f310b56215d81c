"""The picture that a call starts from: read, encoded, noised to where the run begins; and what of it is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import Denoiser, InputError, Noise, Schedule
from .extra import Depth, Extra, Shown, Upscale
from .images import Modality, Pixels
from .request import hash_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..codecs import Codec
    from .pipeline import Pipeline

STRENGTH = 0.8
SLACK = 1e-3  # of a tensor's range: what rounding in half precision leaves
Read = TypeVar("Read")


@dataclass(frozen=True, eq=False, kw_only=True)
class Given:
    """What of a run a picture decides: its `times`, its `start`, what is `kept`, the conditions `beside` the latent."""

    times: Tensor
    start: Tensor | None = None
    latents: Tensor | None = None
    picture: Tensor | None = None
    mask: Tensor | None = None
    blend: bool = False
    beside: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    request: Mapping[str, Any] = field(default_factory=dict)

    def conditions(self, cond: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
        """Return `cond` with what stands beside the latent, where the network takes it: the same without a prompt."""
        return cond | {key: value.expand(rows, *value.shape[1:]) for key, value in self.beside.items()}

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
    """What a call says of its start: a picture, a mask, the strength, a span of times, a depth map, a noise level.

    Pictures, masks and depth maps are PIL pictures, files or tensors: a picture's tensor [1, C, H, W] in the range of
    the model's pixels, a mask's [1 or B, 1, H, W] in [0, 1], 1 where to paint.
    """

    image: Any = None
    mask: Any = None
    strength: float | None = None
    span: tuple[float, float] | None = None
    depth: Any = None
    level: int | None = None


def given(
    pipe: Pipeline,
    codec: Codec,
    times: Tensor,
    shape: tuple[int, ...],
    noise: Noise,
    device: torch.device,
    said: Start,
) -> Given:
    """Return what a picture, a mask, a depth map and a span of the times make of a run.

    Raises `InputError` for a strength outside (0, 1], a mask without a picture, a span that holds no step, a picture
    where samples are none, and for what this network does not read.
    """
    extra = pipe.extra
    _checked(extra, said)
    request: dict[str, Any] = dict.fromkeys(("image", "mask", "strength", "span", "depth", "noise_level"))
    if said.span is not None:
        times = spanned(times, said.span)
        request["span"] = list(said.span)
    if said.image is None and extra is None:
        return Given(times=times, request=request)
    low, high = (-1.0, 1.0) if said.image is None else range_of(pipe.modality)
    side, factor = (shape[1], shape[2]), 1 if extra is not None and extra.small else codec.factor
    size, channels = (side[0] * factor, side[1] * factor), 3 if pipe.codec is not None else shape[0]
    picture = None if said.image is None else pixels_of(said.image, size, channels, low, high).to(device)
    hole = None if said.mask is None else hole_of(said.mask, size, len(noise)).to(device)
    depth = None if said.depth is None else map_of(said.depth).to(device)
    for name, value in (("image", picture), ("mask", hole), ("depth", depth)):
        if value is not None:
            request[name] = hash_of(value)
    if depth is None and said.image is not None and pipe.depth_model is not None:
        unit = (as_it_is(said.image, low, high) - low) / (high - low)
        depth = pipe.depth_model((unit * 2 - 1).to(device))
    beside: Mapping[str, Tensor] = {}
    if extra is not None:
        beside = extra(Shown(codec, side, noise, image=picture, mask=hole, depth=depth, level=said.level))
        request["noise_level"] = int(beside["noise_level"][0]) if "noise_level" in beside else None
    blend = hole is not None and not (extra is not None and extra.keeps)
    starts = picture is not None and (extra is None or extra.starts or said.strength is not None)
    latents = None if picture is None or not (starts or blend) else codec.encode(picture)
    start = None
    if starts and latents is not None:
        share = (STRENGTH if hole is None else 1.0) if said.strength is None else float(said.strength)
        steps = min(int((len(times) - 1) * share), len(times) - 1)
        if steps < 1:
            raise InputError(f"strength={share} of {len(times) - 1} steps leaves none: give more steps or strength")
        times = times[len(times) - 1 - steps :]
        alpha, sigma = pipe.denoiser.schedule(float(times[0]))
        known = latents
        if hole is not None and share == 1.0:  # nothing of what is to be painted anew: alpha is not 0 at the start
            known = latents * (F.interpolate(hole, latents.shape[-2:]) < 0.5) * blend
        start = known * alpha + noise.normal((len(noise), *shape), "start", device=device) * sigma
        request["strength"] = share
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


def _checked(extra: Extra | None, said: Start) -> None:
    """Raise `InputError` for what a call says that this network cannot use."""
    small = extra is not None and extra.small
    for name, value in (("mask", said.mask), ("strength", said.strength)):
        if value is not None and said.image is None:
            raise InputError(f"{name} needs a picture: give image= too")
        if value is not None and small:
            raise InputError(f"{name} is for pictures that a run starts from; this network reads a small one beside it")
    if said.depth is not None and not isinstance(extra, Depth):
        raise InputError("depth is for networks that paint over a depth map; this one does not")
    if said.level is not None and not isinstance(extra, Upscale):
        raise InputError("noise_level is for networks that enlarge a picture; this one does not")
    if said.strength is not None and not 0 < said.strength <= 1:
        raise InputError(f"strength={said.strength} must be in (0, 1]: the share of the steps that are run")


def enlarged_size(extra: Extra | None, image: Any, size: tuple[int, int] | None, factor: int) -> tuple[int, int] | None:
    """Return the size of a call's pictures: `size`, or that of the small picture times the codec's factor."""
    if size is not None or image is None or extra is None or not extra.small:
        return size
    height, width = as_it_is(image).shape[-2:]
    return height * factor, width * factor


def spanned(times: Tensor, span: tuple[float, float]) -> Tensor:
    """Return the times of the steps that start above span[1] and not above span[0], with the end of the last."""
    high, low = span
    inside = [i for i, t in enumerate(times.tolist()[:-1]) if low < t <= high]
    if not 0 <= low < high <= 1 or not inside:
        raise InputError(f"span={tuple(span)} holds no step: give (from, to) with 1 >= from > to >= 0")
    return times[inside[0] : inside[-1] + 2]


def range_of(modality: Modality) -> tuple[float, float]:
    """Return what black and white are among a model's samples; `InputError` where they are no pictures."""
    if not isinstance(modality, Pixels):
        raise InputError(
            f"image is for models of pictures, this one's samples are {type(modality).__name__}: leave it out"
        )
    return modality.low, modality.high


def opened(picture: Any) -> Image:
    """Return the upright 8-bit RGB picture of a file or a PIL picture: the same of both; `InputError` says why not."""
    from ..data.images import upright

    return _read(picture, "a picture", upright)


def _read(picture: Any, name: str, how: Callable[[Image], Read]) -> Read:
    """Return what `how` reads of a PIL picture, or of a file within the limits that `sfumato.data` sets."""
    from ..data.images import load, read_bytes

    if isinstance(picture, (str, Path)):
        path = Path(picture)
        try:
            return how(load(read_bytes(path.parent.resolve(), path.name)))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    if not hasattr(picture, "convert"):
        raise InputError(f"{name} must be a PIL image, a file or a tensor, got {type(picture).__name__}")
    try:
        return how(picture)
    except InputError as error:
        raise InputError(f"{name} of PIL's mode {picture.mode} {error}: give it in RGB") from None


def as_it_is(picture: Any, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Return [1, C, H, W] of a tensor, or of a PIL picture or a file in its own size, in colours in [low, high]."""
    if isinstance(picture, Tensor):
        return picture.float() if picture.ndim == 4 else picture.float()[None]
    image = opened(picture)
    return pixels_of(image, (image.height, image.width), 3, low, high)


def map_of(depth: Any) -> Tensor:
    """Return [1, 1, h, w] of a depth map: a tensor of 2 to 4 dimensions, a grey PIL picture of any depth, a file."""
    if not isinstance(depth, Tensor):
        from ..data.images import grey_levels

        depth = torch.from_numpy(_read(depth, "a depth map", grey_levels))
    value = depth.float().reshape((1,) * (4 - depth.ndim) + tuple(depth.shape)) if 2 <= depth.ndim <= 4 else depth
    if value.ndim != 4 or value.shape[:2] != (1, 1) or not bool(value.isfinite().all()):
        raise InputError(f"a depth map must be finite and [height, width] or [1, 1, h, w], got {list(depth.shape)}")
    return value


def hole_of(mask: Any, side: tuple[int, int], rows: int) -> Tensor:
    """Return [1 or rows, 1, *side] in [0, 1], 1 where to paint, of a PIL picture, a file or a tensor in [0, 1] or of
    booleans.
    """
    if isinstance(mask, Tensor):
        mask = mask.float() if mask.dtype == torch.bool else mask
        return _fitting("a mask", mask, (rows, 1, *side), 0.0, 1.0)
    return pixels_of(mask, side, 1, 0.0, 1.0)


def pixels_of(picture: Any, side: tuple[int, int], channels: int, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Return [1, channels, *side] of a PIL picture, a file or a tensor ([C, H, W] or one row): low + (high - low) l/255
    of the levels l, and a tensor's own values, which lie in [low, high].

    Raises `InputError` for what is none of them, for channels that pictures do not have, and for tensors of another
    size or range: only pictures are resized.
    """
    if isinstance(picture, Tensor):
        return _fitting("a picture", picture, (1, channels, *side), low, high)
    if channels not in (1, 3):
        raise InputError(
            f"PIL pictures and files are read in 1 or 3 channels, this model has {channels}: "
            f"give the picture as a tensor [1, {channels}, {side[0]}, {side[1]}] from {low:g} to {high:g}"
        )
    from PIL import Image

    image = opened(picture).convert("RGB" if channels == 3 else "L")
    if image.size != (side[1], side[0]):
        image = image.resize(
            (side[1], side[0]), Image.Resampling.LANCZOS if channels == 3 else Image.Resampling.NEAREST
        )
    array = np.asarray(image, dtype=np.float32).reshape(*side, channels)
    return torch.from_numpy(array / (255 / (high - low)) + low).permute(2, 0, 1)[None].contiguous()


def _fitting(name: str, given: Tensor, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Return a tensor of `shape`, or of one row of it, with values in [low, high]."""
    value = given.float() if given.ndim == 4 else given.float()[None]
    if value.shape[1:] != shape[1:] or value.shape[0] not in (1, shape[0]):
        rows = "1" if shape[0] == 1 else f"1 or {shape[0]}"
        expected = ", ".join(str(one) for one in shape[1:])
        raise InputError(f"{name} as a tensor must be [{rows}, {expected}], got {list(given.shape)}")
    said = f"{name} as a tensor must hold finite numbers from {low:g} to {high:g}"
    if not given.is_floating_point() or not bool(value.isfinite().all()):
        raise InputError(f"{said}, got {given.dtype} values")
    least, most, slack = float(value.min()), float(value.max()), SLACK * (high - low)
    if least < low - slack or most > high + slack:
        raise InputError(f"{said}, got {least:g} to {most:g}: scale or clamp it")
    return value
