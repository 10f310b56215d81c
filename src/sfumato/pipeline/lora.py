"""A pipeline with the adapters of a LoRA file: in its network and in its text encoders."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..conditioning.text import TextConditioner
from ..control.lora import Loras
from ..core import InputError, Preconditioned
from ..interop.lora import Part, network_part, read_lora, tower_part

if TYPE_CHECKING:
    from .pipeline import Pipeline

Apply = Callable[[nn.Module, Loras], nn.Module]


def parts_of(pipe: Pipeline) -> dict[str, Part]:
    """Return the parts of a pipeline that adapters are for: "net", and its text encoders by name."""
    parts = {"net": network_part(pipe.denoiser.net)}
    if isinstance(pipe.conditioner, TextConditioner):
        needs = pipe.conditioner.family.needs
        for i, name in enumerate(needs):
            if name in pipe.conditioner.towers:  # files count encoders; the refiner of XL has the second one alone
                parts[name] = tower_part(
                    pipe.conditioner.towers[name].model, 2 if name == "clip_g" else i + 1, alone=len(needs) == 1
                )
    return parts


def with_lora(pipe: Pipeline, path: str | Path, strength: float, *, partly: bool, apply: Apply) -> Pipeline:
    """Return `pipe` with the adapters of a LoRA file, of any form, at `strength`; `pipe` is unchanged.

    - `apply`: `merged` into copies of those weights that they change, or `attached` beside them
      (`sfumato.control.lora`), which takes little memory and some time.
    - `partly`: leave out what this model has no modules for, instead of refusing the file.
    Several files: one after the other. Raises `InputError` for a file that was made for another model or would change
    nothing, `CheckpointError` for one that is damaged.
    """
    if not math.isfinite(strength):
        raise InputError(f"{path}: strength={strength} must be a finite number; 0 is off")
    parts = parts_of(pipe)
    found = read_lora(path, parts)
    if found.unmatched and not partly:
        raise InputError(
            f"{path} has {len(found.unmatched)} tensors of modules that this model does not have, such as "
            f"{found.unmatched[0]!r:.120}: it was made for another model, or give partly=True to leave them out"
        )
    changed = {name: apply(parts[name].module, [(lora, strength)]).eval() for name, lora in found.loras.items()}
    denoiser, conditioner = pipe.denoiser, pipe.conditioner
    if "net" in changed:
        denoiser = Preconditioned(changed.pop("net"), denoiser.schedule, denoiser.prediction, denoiser.scaling)
    if isinstance(conditioner, TextConditioner) and changed:
        towers: Any = {**conditioner.towers}
        towers |= {name: replace(towers[name], model=model) for name, model in changed.items()}
        conditioner = replace(conditioner, towers=towers)
    return replace(pipe, denoiser=denoiser, conditioner=conditioner)
