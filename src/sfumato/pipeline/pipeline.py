"""The pipeline: a trained denoiser with what it takes to ask it for samples. It has no sampling code of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core import (
    Denoiser,
    InputError,
    Noise,
    Preconditioned,
    Solver,
    device_of,
    from_config,
    nearest,
    sample,
    to_config,
)
from ..core.sampling import Callback
from ..guidance import ClassifierFree, Guided, Interval, Rescale
from .images import Modality, Pixels
from .metadata import Settings, versions
from .names import SOLVERS, Defaults, by_name, grid_of
from .output import Output

Prompt = str | int | None


@dataclass(eq=False, kw_only=True)
class Pipeline:
    """A denoiser, the shape of one sample, its classes, what its numbers mean, and defaults for a call.

    - `classes`: the names of the classes that the condition `y` numbers; without names they are "0", "1", ...
    - `references`: keys of `cite`'s table for what the parts alone do not tell, such as the data.

    Raises `InputError` where the parts do not fit each other.
    """

    denoiser: Preconditioned
    shape: tuple[int, ...]
    classes: tuple[str, ...] | None = None
    modality: Modality = field(default_factory=Pixels)
    defaults: Defaults = field(default_factory=Defaults)
    references: tuple[str, ...] = ()
    _hash: tuple[Any, str] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.shape = tuple(self.shape)
        self.modality.check(self.shape)
        count = self.denoiser.cond.get("y")
        if self.classes is None:
            if isinstance(count, int):
                self.classes = tuple(str(i) for i in range(count))
        else:
            self.classes = tuple(self.classes)
            if len(self.classes) != count or len(set(self.classes)) != count:
                raise InputError(f"{len(set(self.classes))} different class names for a network of {count} classes")

    def __call__(
        self,
        prompt: Prompt | Sequence[Prompt] = None,
        n: int = 4,
        *,
        seed: int = 0,
        steps: int | None = None,
        solver: str | Solver | None = None,
        grid: str | Tensor | Sequence[float] | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        rescale: float | None = None,
        callback: Callback | None = None,
    ) -> Output:
        """Draw `n` samples for each prompt, with the seeds seed, seed + 1, ... over all rows.

        - `prompt`: a class by its name or its index, a list of them, or None for no class (the null one).
        - `solver`: a name of `SOLVERS`, or a solver. `grid`: a name of `GRIDS` with `steps`, or the falling times.
        - `guidance`: the scale w of classifier-free guidance, 1 is off. `guidance_interval`: (low, high) of
          s = sigma / alpha where it acts. `rescale`: the phi of `Rescale`. Rows without a class are not guided.
        - `callback(k, x)`: called after each step; raising in it cancels.

        What is left out comes from `defaults`. Raises `InputError` for what this model cannot do.
        """
        solver = self.defaults.solver if solver is None else solver
        solver = by_name("solver", solver, SOLVERS) if isinstance(solver, str) else solver
        grid = self.defaults.grid if grid is None else grid
        times = grid_of(grid, self.denoiser.schedule, steps, self.defaults.steps)
        given = guidance is not None
        scale = float(guidance) if guidance is not None else self.defaults.guidance
        asked = [prompt] if prompt is None or isinstance(prompt, (str, int)) else list(prompt)
        _checked(n=n, seed=seed, prompts=len(asked))
        labels = [self._label(p) for p in asked]
        if labels == [None] * len(labels) and not given:
            scale = 1.0  # nothing to guide towards
        denoiser = self._guided(scale, guidance_interval, rescale)
        names = [None if label is None else self._names[label] for label in labels]
        request = {
            "prompt": names,
            "n": n,
            "seed": seed,
            "steps": len(times) - 1,
            "solver": to_config(solver),
            "grid": grid if isinstance(grid, str) else times.tolist(),
            "guidance": scale,
            "guidance_interval": None if guidance_interval is None else list(guidance_interval),
            "rescale": rescale,
        }
        rows = [label for label in labels for _ in range(n)]
        seeds = tuple(range(seed, seed + len(rows)))
        device = device_of(self.denoiser)
        model = self.sha256()
        with evaluating(self.denoiser):
            x = sample(
                denoiser,
                (len(rows), *self.shape),
                solver=solver,
                grid=times,
                seeds=Noise(seeds),
                cond=self._cond(rows, device),
                callback=callback,
                device=device,
            )
        return Output(
            tensor=x,
            seeds=seeds,
            prompts=tuple(name for name in names for _ in range(n)),
            request=request,
            model=model,
            versions=versions(),
            device=str(device),
            pipeline=self,
        )

    def again(self, settings: Settings, callback: Callback | None = None) -> Output:
        """Make once more what `settings` (of a PNG: `read_settings`) describes; its picture is `images[index]`.

        The same bytes on the same device and versions; elsewhere the noise is the same and pixels agree to rounding.
        Raises `InputError` for settings of another model, and for settings that are damaged.
        """
        if settings.model != self.sha256():
            raise InputError(
                f"these settings are of the model {settings.model[:10]}, this one is {self.sha256()[:10]}: "
                "load the model that made the picture"
            )
        return self(**arguments(settings.request), callback=callback)

    def to(self, target: torch.device | torch.dtype | str) -> Pipeline:
        """Move the network to a device or a dtype, in place, and return the pipeline."""
        self.denoiser.to(target)  # type: ignore[arg-type]
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
            "classes": None if self.classes is None else list(self.classes),
            "modality": to_config(self.modality),
            "defaults": to_config(self.defaults),
            "references": list(self.references),
        }

    def sha256(self) -> str:
        """Return the hash of what decides the samples: the denoiser's configuration and its weights.

        It is the same in memory and in a folder. Computed once, and again when a weight was changed in place.
        """
        tensors = self.denoiser.net.state_dict(keep_vars=True)
        stamp = [(name, t.data_ptr(), t._version) for name, t in tensors.items()]
        if self._hash is None or self._hash[0] != stamp:
            digest = hashlib.sha256()
            digest.update(json.dumps(self._identity(), sort_keys=True).encode())
            for name in sorted(tensors):
                value = tensors[name].detach().cpu().contiguous()
                digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
                digest.update(value.reshape(-1).view(torch.uint8).numpy())
            self._hash = (stamp, digest.hexdigest())
        return self._hash[1]

    def _identity(self) -> dict[str, Any]:
        """Return the part of the configuration that decides the samples, as it reads back (1 where a float is 1.0)."""
        try:
            config = self.config()
        except InputError:  # a network or a part of one's own that is not registered: what it prints stands for it
            d = self.denoiser
            return {
                "parts": repr((d.net, d.schedule, d.prediction, d.scaling, self.modality, self.shape, self.classes))
            }
        parts = {**config["denoiser"], "modality": config["modality"]}
        read = {key: to_config(from_config(value)) for key, value in parts.items()}
        return read | {key: config[key] for key in ("shape", "classes")}

    @property
    def _names(self) -> tuple[str, ...]:
        return self.classes or ()

    def _label(self, prompt: Prompt) -> int | None:
        """Return the index of a class; a word is a class name first, then an index."""
        if prompt is None:
            return None
        if not self._names:
            raise InputError(f"this model takes no prompt, got {prompt!r:.60}: leave it out")
        if isinstance(prompt, str) and prompt in self._names:
            return self._names.index(prompt)
        if isinstance(prompt, bool) or not str(prompt).isdecimal():
            raise InputError(f"no class is called {str(prompt)[:60]!r}{nearest(str(prompt)[:60], self._names)}")
        if int(prompt) >= len(self._names):
            raise InputError(f"there is no class {int(prompt)}: classes are 0 to {len(self._names) - 1}")
        return int(prompt)

    def _cond(self, labels: Sequence[int | None], device: torch.device) -> dict[str, Tensor]:
        if not self._names:
            return {}
        null = self.denoiser.cond["y"]
        return {"y": torch.tensor([null if v is None else v for v in labels], device=device)}

    def _guided(self, scale: float, interval: tuple[float, float] | None, rescale: float | None) -> Denoiser:
        if not math.isfinite(scale):
            raise InputError(f"guidance={scale} must be a finite number; 1 is off")
        if scale == 1.0:
            for name, value in (("guidance_interval", interval), ("rescale", rescale)):
                if value is not None:
                    raise InputError(f"{name}={value} does nothing without guidance: give a guidance other than 1")
            return self.denoiser
        guided: Guided = ClassifierFree(denoiser=self.denoiser, scale=scale)
        if interval is not None:
            if len(interval) != 2:
                raise InputError(f"guidance_interval needs (low, high) of sigma / alpha, got {tuple(interval)}")
            guided = Interval(denoiser=guided, low=float(interval[0]), high=float(interval[1]))
        if rescale is not None:
            guided = Rescale(denoiser=guided, phi=float(rescale), space=self.denoiser.prediction)
        return guided

    def with_defaults(self, **changes: Any) -> Pipeline:
        """Return a pipeline on the same weights with some of its defaults changed."""
        return replace(self, defaults=replace(self.defaults, **changes))


def arguments(request: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of a call from the plain data of a request.

    Raises `InputError` for a key or a value that no call could have written.
    """
    known = ("prompt", "n", "seed", "steps", "solver", "grid", "guidance", "guidance_interval", "rescale")
    for key in request:
        if key not in known:
            raise InputError(f"a request has no {key!r:.60}{nearest(str(key)[:60], known)}")
    if missing := [key for key in known if key not in request]:
        raise InputError(f"a request needs {', '.join(missing)}")
    values = dict(request)
    values["solver"] = from_config(request["solver"], Solver)
    for key, kinds in (
        ("prompt", list),
        ("n", int),
        ("seed", int),
        ("steps", int),
        ("grid", (str, list)),
        ("guidance", (int, float)),
        ("guidance_interval", (list, type(None))),
        ("rescale", (int, float, type(None))),
    ):
        numbers = values[key] if key in ("grid", "guidance_interval") and isinstance(values[key], list) else []
        if (
            isinstance(values[key], bool)
            or not isinstance(values[key], kinds)
            or not all(type(v) in (int, float) for v in numbers)
        ):
            raise InputError(f"a request's {key} cannot be {str(values[key])[:60]!r}")
    return values


def _checked(**counts: int) -> None:
    for name, value in counts.items():
        least = 0 if name == "seed" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name}={value!r:.60} must be a whole number of at least {least}")


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Generator[None]:
    """Switch dropout and its like off inside, and each module back to what it was at the end."""
    training = [m for m in net.modules() if m.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
