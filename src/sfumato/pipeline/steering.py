"""What steers a call of a pipeline beside its prompt: the entries of its `control`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

from ..codecs.codec import Codec
from ..conditioning.vision import ImageTower
from ..control.controlled import Control, Controlled
from ..control.controlnet import ControlNet, guessed
from ..control.ip_adapter import ImagePrompt, IPAdapter, LinearTokens, reads_text
from ..control.sd3_controlnet import SD3ControlNet
from ..control.t2i_adapter import T2IAdapter
from ..core import Denoiser, InputError, to_config
from ..nets.blocks.wide import native
from ..nets.hooked import Hooked, network
from .given import as_it_is, opened, pixels_of
from .identity import bare, digest
from .lean import lean_denoiser
from .packing import quick

if TYPE_CHECKING:
    from PIL.Image import Image

    from .pipeline import Pipeline


@dataclass(frozen=True)
class Place:
    """Where a call runs: the size of its pictures in pixels, its codec and its device."""

    size: tuple[int, int]
    codec: Codec
    device: torch.device

    def picture(self, value: Any, channels: int = 3) -> Tensor:
        """Return a PIL picture, a file or a tensor [B or 1, channels, H, W] in [0, 1] as that, in the call's size; of a
        list, one a sample, all below each other.
        """
        if isinstance(value, (list, tuple)):
            return torch.cat([self.picture(one, channels) for one in cast("Sequence[Any]", value)])
        if isinstance(value, Tensor):
            if value.ndim != 4 or value.shape[1:] != (channels, *self.size):
                raise InputError(
                    f"a hint must be [B, {channels}, {self.size[0]}, {self.size[1]}], got {list(value.shape)}"
                )
            return value.float().to(self.device)
        return (pixels_of(value, self.size, channels).to(self.device) + 1) / 2


class Steering(Protocol):
    """An entry of `control`: it makes a denoiser of a denoiser."""

    def around(self, denoiser: Denoiser, place: Place) -> Denoiser:
        """Return the steered denoiser."""
        ...

    @property
    def sha256(self) -> str:
        """The hash of all that it steers with."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class ByControlNet:
    """A ControlNet and its picture: PIL, a file, or a tensor in [0, 1], or a list of one a sample; `scale`, `start` and
    `end` as in `Controlled`.

    `guess`: without a prompt's help (guess mode): shallow residuals weaker, and rows without a prompt not steered.
    Those of Stable Diffusion 3 see the picture's latent, without the codec's shift where they know no pooled text: so
    they were trained. `context`: tokens that it reads instead of the text, and those of rows without a prompt: the face
    of InstantID's (arXiv 2401.07519).
    """

    net: nn.Module
    hint: Any
    scale: float | Sequence[float] = 1.0
    start: float = 0.0
    end: float = 1.0
    guess: bool = False
    context: tuple[Tensor, Tensor] | None = None

    def around(self, denoiser: Denoiser, place: Place) -> Denoiser:
        """Return the steered denoiser."""
        hint, scale = place.picture(self.hint), self.scale
        if isinstance(self.net, SD3ControlNet):
            hint = place.codec.encode(hint * 2 - 1)
            normalise = getattr(bare(place.codec), "normalise", None)
            if self.net.config.ignores_pooled and normalise is not None:
                hint = hint - normalise(torch.zeros_like(hint))
        averaged = isinstance(self.net, ControlNet) and self.net.config.averaged
        if self.guess and not averaged:
            if not isinstance(self.net, ControlNet) or not isinstance(scale, (int, float)):
                raise InputError("guess is for the ControlNets of U-Nets, with one number for a scale")
            scale = tuple(scale * s for s in guessed(len(self.net.outs)))
        return Controlled(
            denoiser=denoiser,
            control=cast(Control, native(self.net)),
            hint=hint,
            scale=scale,
            start=self.start,
            end=self.end,
            silent=("null",) if self.guess or averaged else (),
            instead={} if self.context is None else {"context": self.context},
        )

    @cached_property
    def sha256(self) -> str:
        """The hash of the network, the picture and the settings."""
        read = [] if self.context is None else [digest(b"", {"cond": self.context[0], "null": self.context[1]})]
        return hashed(self.net, self.hint, self.scale, self.start, self.end, self.guess, *read)


@dataclass(frozen=True, kw_only=True, eq=False)
class ByAdapter:
    """A T2I-Adapter and its picture; `scale` and `end` as in `Controlled`."""

    net: T2IAdapter
    hint: Any
    scale: float | Sequence[float] = 1.0
    end: float = 1.0

    def around(self, denoiser: Denoiser, place: Place) -> Denoiser:
        """Return the steered denoiser."""
        hint = place.picture(self.hint, self.net.config.hint_channels)
        net = cast(Control, native(self.net))
        return Controlled(denoiser=denoiser, control=net, hint=hint, scale=self.scale, end=self.end)

    @cached_property
    def sha256(self) -> str:
        """The hash of the network, the picture and the settings."""
        return hashed(self.net, self.hint, self.scale, self.end)


@dataclass(frozen=True, kw_only=True, eq=False)
class ByImage:
    """An IP-Adapter and what it is shown: a picture (PIL, a file) or a list of one a sample, read by `tower`, or
    features [1 or n, ...].

    `scale`: a number, or a table from beginnings of sites' names ("up.0") to numbers. Rows without a prompt see no
    picture: the features of zeros. Faces come as features: their networks are not a part of this library.
    """

    adapter: IPAdapter
    image: Any
    tower: ImageTower | None = None
    scale: float | Mapping[str, float] = 1.0

    def around(self, denoiser: Denoiser, place: Place) -> Denoiser:
        """Return the steered denoiser."""
        adapter = native(self.adapter)
        tokens, null = (adapter(f.to(place.device)) for f in self._features())
        prompt = ImagePrompt(adapter, network(denoiser), tokens, null, self.scale)
        if isinstance(denoiser, Hooked):
            return replace(denoiser, subscribe=[*denoiser.subscribe, (reads_text, prompt)], _table=None)
        return Hooked(denoiser=denoiser, subscribe=[(reads_text, prompt)])

    def _features(self) -> tuple[Tensor, Tensor]:
        """Return the features of the pictures, and those of none."""
        if isinstance(self.image, Tensor):
            return self.image, torch.zeros_like(self.image[:1])
        if self.tower is None:
            raise InputError("an image prompt needs a tower that reads pictures, or features instead of a picture")
        many: Sequence[Any] = self.image if isinstance(self.image, (list, tuple)) else [self.image]
        read = self.tower.embedding if isinstance(self.adapter.config.tokens, LinearTokens) else self.tower.states
        found = [read(as_image(one)) for one in many]
        return torch.cat([features for features, _ in found]), found[0][1]

    @cached_property
    def sha256(self) -> str:
        """The hash of the adapter, the picture and the settings."""
        scale = self.scale if isinstance(self.scale, (int, float)) else dict(self.scale)
        return hashed(self.adapter, self.image, scale, *([] if self.tower is None else [self.tower.sha256]))


def hashed(net: nn.Module, picture: Any, *settings: Any) -> str:
    """Return the hash of a network, a picture and settings."""
    said = [
        to_config(getattr(net, "config", None)) or repr(net),
        [list(s) if isinstance(s, tuple) else s for s in settings],
    ]
    many: Sequence[Any] = picture if isinstance(picture, (list, tuple)) else [picture]
    shown = {f"picture {i}": one if isinstance(one, Tensor) else as_it_is(as_image(one)) for i, one in enumerate(many)}
    return digest(json.dumps(said, sort_keys=True).encode(), {**net.state_dict(), **shown})


def as_image(picture: Any) -> Image:
    """Return a PIL picture, or the one in a file, upright and in colours of eight bits."""
    if not isinstance(picture, (str, Path)) and not hasattr(picture, "convert"):
        raise InputError(f"a picture must be a PIL image, a file or a tensor, got {type(picture).__name__}")
    return opened(picture)


def steered(
    pipe: Pipeline,
    evaluations: int | None,
    control: Sequence[Steering],
    shape: Sequence[int],
    codec: Codec,
    device: torch.device,
    compile: bool = False,
) -> Denoiser:
    """Return the pipeline's denoiser for a run of so many evaluations, with all of `control` around it, the first one
    innermost. A steering of one's own gets the plain network, which it may differentiate.
    """
    denoiser: Denoiser = pipe.denoiser
    if not isinstance(control, (list, tuple)) or not all(hasattr(one, "around") for one in control):
        raise InputError("control must be a list of what steers: ByControlNet, ByAdapter, ByImage")
    known = all(isinstance(one, (ByControlNet, ByAdapter, ByImage)) for one in control)
    if known and (pipe.device is None or pipe.device.type == "cpu"):
        denoiser = quick(pipe.denoiser, 0 if compile else evaluations, pipe.memory)  # graphs take no packed weights
    if not control:
        return lean_denoiser(denoiser, pipe.memory)
    if "slices" in pipe.memory or "offload" in pipe.memory:
        raise InputError("control goes with neither of the memory savers slices and offload")
    if compile and any(isinstance(one, ByImage) for one in control):
        raise InputError("compiled runs do not listen: leave compile out, or the image prompt")
    if len(shape) != 3:
        raise InputError("control is for pictures; this model's samples are none")
    place = Place((shape[1] * codec.factor, shape[2] * codec.factor), codec, device)
    for one in sorted(control, key=lambda c: isinstance(c, ByImage)):  # who listens is outermost
        denoiser = one.around(denoiser, place)
    return denoiser


def noted(control: Sequence[Steering]) -> str | None:
    """Return the hash of all of `control`, None where there is nothing."""
    joined = "".join(one.sha256 for one in control)
    return hashlib.sha256(joined.encode()).hexdigest() if joined else None
