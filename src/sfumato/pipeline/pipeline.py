"""The pipeline: a trained denoiser with what it takes to ask it for samples. It has no sampling code of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..codecs.codec import Codec, Identity, IdentityConfig
from ..conditioning import Classes, Conditioner, Frame, Nothing, Prompt
from ..conditioning.depth import DepthModel
from ..conditioning.inversions import learned_words, read_inversion, with_inversions
from ..conditioning.matched import matched
from ..conditioning.text import TextConditioner
from ..control.lora import merged
from ..core import (
    Diverged,
    InputError,
    Noise,
    Preconditioned,
    Solver,
    device_of,
    from_config,
    sample,
    to_config,
)
from ..core.sampling import Callback, evaluations
from ..nets.blocks.wide import native
from .culprit import culprit
from .extra import Depth, Extra
from .given import Given, Start, enlarged_size, given
from .guiding import Guiding, embeds, guided
from .identity import bare, digest, weights_of
from .images import Modality, Pixels
from .lean import checked_savers, lean_codec, on
from .lora import Apply, with_lora
from .metadata import Settings, versions
from .names import Defaults, grid_of, solver_of
from .origin import Origin
from .output import Output
from .parts import described, evaluating, modules
from .request import SHOWN, checked, hash_of, listed, numbered, rerun
from .steering import Steering, noted, steered


@dataclass(eq=False, kw_only=True)
class Pipeline:
    """A denoiser with what it takes to ask it: a conditioner, a codec, the shape of a sample, defaults for a call.

    - `shape`: of one sample, as it is diffused (with a codec: of its latents).
    - `conditioner`: turns prompts into conditions; left out, that of the network's classes, numbered from "0".
    - `codec`: between pixels and what is diffused; None where they are the same.
    - `extra`: what stands beside the latent of networks that take it: a masked picture, a depth map...
    - `depth_model`: tells the depth of a picture, for networks that paint over a depth map.
    - `memory`: names of memory savers (`sfumato.pipeline.lean.SAVERS`); none is used unasked. With "offload", `device`
      is where each part runs in turn, and the parts wait on the CPU; otherwise all runs where the weights are. On a CPU
      long runs hold the network a second time, as it multiplies fastest (`packing`); "unpacked" spares that.
    - `references`: keys of `cite`'s table for what the parts alone do not tell, such as the data.
    - `origin`: what the file that it was read from holds beside its parts.

    Raises `InputError` where the parts do not fit each other.
    """

    denoiser: Preconditioned
    shape: tuple[int, ...]
    conditioner: Conditioner | None = None
    codec: Codec | None = None
    extra: Extra | None = None
    depth_model: DepthModel | None = None
    modality: Modality = field(default_factory=Pixels)
    defaults: Defaults = field(default_factory=Defaults)
    references: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()
    device: torch.device | None = None
    origin: Origin | None = None
    _hash: tuple[Any, str] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.shape = tuple(self.shape)
        self.memory = checked_savers(self.memory)
        if ("offload" in self.memory) != (self.device is not None):
            raise InputError('memory "offload" and device go together: where the parts run, one after the other')
        if self.codec is None:
            self.modality.check(self.shape)
        elif len(self.shape) != 3 or self.shape[0] != self.codec.channels:
            raise InputError(f"the codec has {self.codec.channels} channels, shape is {self.shape}")
        count = self.denoiser.cond.get("y")
        if self.conditioner is None:
            names = tuple(str(i) for i in range(count)) if isinstance(count, int) else None
            self.conditioner = Nothing() if names is None else Classes(names=names)
        if self.depth_model is not None and not isinstance(self.extra, Depth):
            raise InputError("a depth model is for networks that paint over a depth map; this one does not")
        if isinstance(self.conditioner, Classes) and len(self.conditioner.names) != count:
            raise InputError(f"{len(self.conditioner.names)} different class names for a network of {count} classes")

    @property
    def coded(self) -> Codec:
        """The codec, the identity where there is none."""
        return Identity(IdentityConfig(channels=self.shape[0])) if self.codec is None else self.codec

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes that a prompt can ask for, None where prompts are something else."""
        return self.conditioner.names if isinstance(self.conditioner, Classes) else None

    def __call__(
        self,
        prompt: Prompt | Sequence[Prompt] = None,
        n: int = 4,
        *,
        negative: Prompt | Sequence[Prompt] = None,
        seed: int | Sequence[int] = 0,
        size: tuple[int, int] | None = None,
        frame: Frame | None = None,
        steps: int | None = None,
        solver: str | Solver | None = None,
        grid: str | Tensor | Sequence[float] | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        rescale: float | None = None,
        image_guidance: float | None = None,
        image: Any = None,
        mask: Any = None,
        strength: float | None = None,
        depth: Any = None,
        noise_level: int | None = None,
        control: Sequence[Steering] = (),
        span: tuple[float, float] | None = None,
        start: Tensor | None = None,
        compile: bool = False,
        callback: Callback | None = None,
    ) -> Output:
        """Draw `n` samples for each prompt, with the seeds seed, seed + 1, ... over all rows, or those of a list.

        - `prompt`: what this model's conditioner reads (a text; a class by its name or its index), a list of them, or
          None for nothing. `negative`: what to avoid, one for all or one for each prompt; it needs guidance.
        - `size`: (height, width) of the pictures in pixels; `frame`: all that a network may be told of it (`Frame`).
        - `solver`: a name of `SOLVERS`, or a solver. `grid`: a name of `GRIDS` with `steps`, or the falling times.
        - `guidance`: the scale w of classifier-free guidance, 1 is off. `guidance_interval`: (low, high) of
          s = sigma / alpha where it acts. `rescale`: the phi of `Rescale`. Rows without a prompt are not guided.
          `image_guidance`: the scale of the picture, for networks that edit one by instruction (`TwoScale`). Networks
          that were distilled with their guidance are told the scale.
        - `image`: a picture to start from, with `strength` in (0, 1], the share of the steps that are run (SDEdit,
          arXiv 2108.01073; 0.8 by default, the common choice). With a `mask` (white where to paint anew; a
          tensor from 0 to 1, 1 where to paint) only there, by default with strength 1, from noise alone; the rest of
          the picture is kept exactly. Networks made for in-painting read both. A picture as a tensor is in the range of
          the model's pixels, [-1, 1].
        - `depth`: a depth map (near is white), for networks that paint over one; left out, that of `image`.
          `noise_level`: how much noise a network that enlarges its `image` puts on it first.
        - `control`: what steers beside the prompt: `ByControlNet`... (`sfumato.pipeline.steering`), together.
        - `span`: run the steps from t = span[0] down to span[1] alone: with an end above 0 the samples are x_t.
        - `start`: x_t at the first time of the grid, instead of the seeds' noise.
        - `compile`: run compiled graphs (see `sample`): worth it for small networks that are asked often.
        - `callback(k, x)`: called after each step; raising in it cancels. `watching` makes pictures of x.

        What is left out comes from `defaults`. Raises `InputError` for what this model cannot do, `Diverged` with the
        name of the first module where values stop being finite.
        """
        solver = solver_of(self.defaults.solver if solver is None else solver)
        grid = self.defaults.grid if grid is None else grid
        times = grid_of(grid, self.denoiser.schedule, steps, self.defaults.steps)
        count = len(times) - 1
        scale = float(guidance) if guidance is not None else self.defaults.guidance
        asked = listed(prompt)
        seeds = numbered(seed, n, len(asked))
        if asked == [None] * len(asked) and negative is None and guidance is None:
            scale = 1.0  # nothing to guide towards
        conditioner = self.conditioner
        assert conditioner is not None
        names = [conditioner.described(p) for p in asked]
        device = device_of(self.denoiser) if self.device is None else self.device
        here = self.device is None or self.device.type == "cpu"  # where parts are before they are asked
        shape, told = self._framed(enlarged_size(self.extra, image, size, self.coded.factor), frame)
        if start is not None and tuple(start.shape) != (len(seeds), *shape):
            raise InputError(f"start must be {[len(seeds), *shape]}, one x_t a picture, got {list(start.shape)}")
        guiding = Guiding(scale, guidance_interval, rescale, image_guidance)
        embedded = embeds(self, guiding, negative)

        def painted(
            pipe: Pipeline, control: Sequence[Steering], compile: bool, callback: Callback | None
        ) -> tuple[Tensor, Tensor, Given, tuple[str, ...]]:
            with evaluating(pipe.denoiser), torch.no_grad():
                codec = lean_codec(native(pipe.coded) if here else pipe.coded, pipe.memory)
                with on(pipe.device, *modules(pipe.conditioner)):
                    cond, null, notes = pipe._conditions(asked, negative, n, told, 1.0 if embedded else scale, device)
                if embedded:
                    cond["guidance"] = torch.full((len(seeds),), scale, device=device)
                with on(pipe.device, codec, None if pipe.depth_model is None else pipe.depth_model.model):
                    shown = Start(image, mask, strength, span, depth, noise_level)
                    begin = given(pipe, codec, times, shape, Noise(seeds), device, shown)
                asks = evaluations(solver, begin.times, pipe.denoiser.schedule)
                base = steered(pipe, asks, control, shape, codec, device, compile)
                denoiser = begin.keeping(guided(pipe, base, guiding, null))
                with on(pipe.device, pipe.denoiser):
                    x = sample(
                        denoiser,
                        (len(seeds), *shape),
                        solver=solver,
                        grid=begin.times,
                        seeds=Noise(seeds),
                        x=begin.start if start is None else start.to(device),
                        cond=begin.conditions(cond, len(seeds)),
                        callback=callback,
                        device=device,
                        compile=compile,
                    )
                del base, denoiser  # and with them what was made for the run
                pixels = x
                if float(begin.times[-1]) == 0.0:
                    with on(pipe.device, codec):
                        pixels = begin.pasted(codec.decode(x, Noise(seeds)) if codec.draws else codec.decode(x))
            return x, pixels, begin, notes

        x, pixels, begin, notes = painted(self, control, compile, callback)
        if not bool(torch.isfinite(pixels).all()):
            raise Diverged(culprit(self, control, lambda pipe, control: painted(pipe, control, False, None)))
        request = {
            "prompt": names,
            "negative": None if negative is None else [conditioner.described(p) for p in listed(negative)],
            "n": n,
            "seed": seed if isinstance(seed, int) else list(seeds),
            "size": None if size is None else list(size),
            "frame": None if frame is None else to_config(frame),
            "steps": count,
            "solver": to_config(solver),
            "grid": grid if isinstance(grid, str) else times.tolist(),
            "guidance": scale,
            "guidance_interval": None if guidance_interval is None else list(guidance_interval),
            "rescale": rescale,
            "image_guidance": image_guidance,
            **begin.request,
            "start": None if start is None else hash_of(start),
            "control": noted(control),
        }
        return Output(
            tensor=x,
            pixels=pixels,
            seeds=seeds,
            prompts=tuple(name for name in names for _ in range(n)),
            request=request,
            notes=notes,
            versions=versions(),
            device=str(device),
            pipeline=self,
        )

    def again(
        self,
        settings: Settings,
        callback: Callback | None = None,
        *,
        image: Any = None,
        mask: Any = None,
        depth: Any = None,
        start: Tensor | None = None,
        control: Sequence[Steering] = (),
    ) -> Output:
        """Make once more what `settings` (of a PNG: `read_settings`) describes; its picture is `images[index]`.

        The same bytes on the same device and versions; elsewhere the noise is the same and pixels agree to rounding.
        `image`, `mask`, `depth`, `start` and `control` are those that it was made from. Raises `InputError` for
        settings of another model or picture, and for settings that are damaged.
        """
        if settings.model != self.sha256():
            raise InputError(
                f"these settings are of the model {settings.model[:10]}, this one is {self.sha256()[:10]}: "
                "load the model that made the picture"
            )
        shown = {"image": image, "mask": mask, "depth": depth, "start": start, "control": control or None}
        out = self(**rerun(settings.request, shown), callback=callback)
        for key in SHOWN:
            if out.request[key] != settings.request[key]:
                raise InputError(f"{key} is not the one that the picture was made from")
        return out

    def to(self, target: torch.device | torch.dtype | str) -> Pipeline:
        """Move the network, the codec and the text encoders to a device or a dtype, in place; return the pipeline."""
        self.denoiser.to(target)  # type: ignore[arg-type]
        if self.codec is not None:
            self.codec.to(target)  # type: ignore[arg-type]
        if self.depth_model is not None and not isinstance(target, torch.dtype):
            self.depth_model.model.to(target)  # in float32 whatever the others are
        if isinstance(self.conditioner, TextConditioner):
            kind = isinstance(target, torch.dtype)
            self.conditioner.to(None if kind else target, target if kind else None)
        return self

    def save(self, folder: str | Path) -> Path:
        """Write the pipeline to a new or empty folder that `sfumato.load` reads; return its path."""
        from .folder import save

        return save(self, Path(folder))

    def config(self) -> dict[str, Any]:
        """Return all but the weights as plain data."""
        denoiser = self.denoiser
        net = getattr(denoiser.net, "config", None)
        if net is None:
            raise InputError(
                f"{type(denoiser.net).__name__} has no `config` to rebuild it from, so it cannot be written"
            )
        parts = {"net": net, "schedule": denoiser.schedule, "prediction": denoiser.prediction}
        return {
            "denoiser": {k: to_config(v) for k, v in (parts | {"scaling": denoiser.scaling}).items()},
            "shape": list(self.shape),
            "conditioner": described(self.conditioner),
            "codec": None if self.codec is None else to_config(getattr(bare(self.codec), "config", None)),
            "extra": None if self.extra is None else to_config(self.extra),
            "modality": to_config(self.modality),
            "defaults": to_config(self.defaults),
            "references": list(self.references),
        }

    def sha256(self) -> str:
        """Return the hash of what decides the samples: the parts' configurations, and the weights of the denoiser, the
        codec and the text encoders.

        It is the same in memory and in a folder. Computed once, and again when a weight was changed in place.
        """
        tensors = weights_of(self.denoiser.net, self.codec, self.conditioner, self.depth_model)
        stamp = [(name, t.data_ptr(), t._version) for name, t in tensors.items()]
        if self._hash is None or self._hash[0] != stamp:
            identity = json.dumps(self._identity(), sort_keys=True).encode()
            self._hash = (stamp, digest(identity, tensors))
        return self._hash[1]

    def _identity(self) -> dict[str, Any]:
        """Return the part of the configuration that decides the samples, as it reads back (1 where a float is 1.0)."""
        try:
            config = self.config()
        except InputError:  # a network or a part of one's own that is not registered: what it prints stands for it
            d = self.denoiser
            return {
                "parts": repr((d.net, d.schedule, d.prediction, d.scaling, self.modality, self.shape, self.conditioner))
            }
        parts = {**config["denoiser"], "modality": config["modality"]}
        read = {key: to_config(from_config(value)) for key, value in parts.items()}
        towers = self.conditioner.towers if isinstance(self.conditioner, TextConditioner) else {}
        words = {name: found for name, tower in towers.items() if (found := learned_words(tower))}
        read |= {"words": words} if words else {}  # their vectors are among the weights
        # defaults that no call names, and that are not in its settings
        unsaid = {"clip": self.defaults.clip, "guided_channels": self.defaults.guided_channels}
        read |= {name: value for name, value in unsaid.items() if value is not None}
        return read | {key: config[key] for key in ("shape", "conditioner", "codec", "extra")}

    def _framed(self, size: tuple[int, int] | None, frame: Frame | None) -> tuple[tuple[int, ...], Frame | None]:
        """Return the shape of one sample for pictures of `size`, and the frame that conditions are told of."""
        if len(self.shape) != 3:
            if size is not None or frame is not None:
                raise InputError("size and frame are for pictures; this model's samples are none")
            return self.shape, None
        factor = self.coded.factor
        if size is None:
            size = (
                (frame.height, frame.width) if frame is not None else (self.shape[1] * factor, self.shape[2] * factor)
            )
        if not isinstance(size, (tuple, list)) or len(size) != 2:
            raise InputError(f"size={size!r:.60} must be (height, width) in pixels")
        checked(height=size[0], width=size[1])
        for name, value in zip(("height", "width"), size, strict=True):
            if value < factor or value % factor:
                raise InputError(f"{name}={value} must be a multiple of {factor}, this model's codec's factor")
        return (self.shape[0], size[0] // factor, size[1] // factor), frame or Frame(height=size[0], width=size[1])

    def _conditions(
        self,
        asked: Sequence[Prompt],
        negative: Prompt | Sequence[Prompt],
        n: int,
        frame: Frame | None,
        scale: float,
        device: torch.device,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None, tuple[str, ...]]:
        """Return (conditions of all rows, the nulls of guidance, notes)."""
        assert self.conditioner is not None
        avoid = listed(negative)
        if scale == 1.0 and negative is not None:
            raise InputError("negative does nothing without guidance: give a guidance other than 1")
        if len(avoid) not in (1, len(asked)):
            raise InputError(f"{len(avoid)} negative prompts for {len(asked)} prompts: give one, or one for each")
        encoded = [self.conditioner(asked, frame)]
        if scale != 1.0:
            avoid = avoid * (len(asked) // len(avoid))
            encoded = list(matched(*encoded, self.conditioner(avoid, frame, negative=True)))
        rows = [{key: value.to(device).repeat_interleave(n, 0) for key, value in e.cond.items()} for e in encoded]
        notes = tuple(dict.fromkeys(note for e in encoded for note in e.notes))
        return rows[0], rows[1] if len(rows) > 1 and rows[1] else None, notes

    def with_defaults(self, **changes: Any) -> Pipeline:
        """Return a pipeline on the same weights with some of its defaults changed."""
        return replace(self, defaults=replace(self.defaults, **changes))

    def with_lora(
        self, path: str | Path, strength: float = 1.0, *, partly: bool = False, apply: Apply = merged
    ) -> Pipeline:
        """Return a pipeline with the adapters of a LoRA file (`sfumato.pipeline.lora`); this one is unchanged."""
        return with_lora(self, path, strength, partly=partly, apply=apply)

    def with_inversion(self, path: str | Path, token: str | None = None) -> Pipeline:
        """Return a pipeline that knows the learned word of a file (`sfumato.conditioning.inversions`), as `token`."""
        words = [read_inversion(path, token)]
        return replace(self, conditioner=with_inversions(self.conditioner, words))
