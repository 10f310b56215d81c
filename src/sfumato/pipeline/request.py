"""What a call was asked, as plain data: how it is checked, stored, and asked again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..conditioning import Frame, Prompt
from ..core import InputError, Solver, from_config, nearest

KINDS: dict[str, Any] = {
    "prompt": list,
    "negative": (list, type(None)),
    "n": int,
    "seed": (int, list),
    "size": (list, type(None)),
    "frame": (dict, type(None)),
    "steps": int,
    "solver": dict,
    "grid": (str, list),
    "guidance": (int, float),
    "guidance_interval": (list, type(None)),
    "rescale": (int, float, type(None)),
    "image_guidance": (int, float, type(None)),
    "image": (str, type(None)),
    "mask": (str, type(None)),
    "strength": (int, float, type(None)),
    "span": (list, type(None)),
    "start": (str, type(None)),
    "depth": (str, type(None)),
    "noise_level": (int, type(None)),
    "control": (str, type(None)),
}
NUMBERS = ("seed", "grid", "guidance_interval", "size", "span")


def listed(prompt: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """Return a prompt, or several, as a list."""
    return [prompt] if prompt is None or isinstance(prompt, (str, int)) else list(prompt)


def arguments(request: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of a call from the plain data of a request.

    Raises `InputError` for a key or a value that no call could have written.
    """
    for key in request:
        if key not in KINDS:
            raise InputError(f"a request has no {key!r:.60}{nearest(str(key)[:60], KINDS)}")
    if missing := [key for key in KINDS if key not in request]:
        raise InputError(f"a request needs {', '.join(missing)}")
    values = dict(request)
    for key, kinds in KINDS.items():
        value = values[key]
        numbers = value if key in NUMBERS and isinstance(value, list) else []
        if isinstance(value, bool) or not isinstance(value, kinds) or not all(type(v) in (int, float) for v in numbers):
            raise InputError(f"a request's {key} cannot be {str(value)[:60]!r}")
    values["solver"] = from_config(request["solver"], Solver)
    return values


def hash_of(value: Tensor) -> str:
    """Return the sha256 of a tensor's values."""
    return hashlib.sha256(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


SHOWN = ("image", "mask", "depth", "start", "control")  # of which a request holds the hash


def rerun(request: dict[str, Any], shown: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call that makes `request` again, from what it was `shown`.

    Raises `InputError` where some of that is missing: a request holds hashes alone.
    """
    values = arguments(request)
    for key in SHOWN:
        value = shown[key]
        if (values[key] is None) != (value is None):
            what = "was made from one: give the same" if value is None else "was made without one: leave it out"
            raise InputError(f"{key}: the picture to make again {what}")
        values[key] = value
    values["control"] = values["control"] or ()
    if values["frame"] is not None:
        values["frame"] = from_config(values["frame"], Frame)
    return values


def numbered(seed: int | Sequence[int], n: int, prompts: int) -> tuple[int, ...]:
    """Return one seed a row: seed, seed + 1, ... or those of a list, which must have one for each row.

    NumPy's whole numbers and arrays of them are taken as well.
    """
    checked(n=n, prompts=prompts)
    seed = seed.tolist() if isinstance(seed, np.ndarray | np.integer | Tensor) else seed
    if isinstance(seed, Sequence):
        seed = [int(one) if isinstance(one, np.integer) else one for one in seed]
        for one in seed:
            checked(seed=one)
        if len(seed) != n * prompts:
            raise InputError(
                f"{len(seed)} seeds for {n * prompts} pictures: give one each, or a single one to count from"
            )
        return tuple(seed)
    checked(seed=seed)
    return tuple(range(seed, seed + n * prompts))


def checked(**counts: int) -> None:
    """Raise `InputError` for counts that are none, and for a height and a width beyond what is read as a picture."""
    from ..data.images import MAX_PIXELS, MAX_SIDE

    for name, value in counts.items():
        least = 0 if name == "seed" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name}={value!r:.60} must be a whole number of at least {least}")
        if name in ("height", "width") and value > MAX_SIDE:
            raise InputError(f"{name}={value} pixels: at most {MAX_SIDE} are made, give a smaller size")
    if (pixels := counts.get("height", 1) * counts.get("width", 1)) > MAX_PIXELS:
        raise InputError(
            f"{counts['height']} x {counts['width']} are {pixels:,} pixels: at most {MAX_PIXELS:,} are made, give a "
            "smaller size"
        )
