"""Larger pictures by a second pass: enlarged, noised a little, and denoised at the new size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F

from ..core import InputError, Solver, from_config
from .given import STRENGTH, range_of
from .request import checked

if TYPE_CHECKING:
    from .output import Output
    from .pipeline import Pipeline


def enlarged(pipe: Pipeline, out: Output, *, scale: float = 2.0, strength: float = 0.35, **call: Any) -> list[Output]:
    """Return each picture of `out` again, `scale` times as large: enlarged smoothly, then run from `strength` on.

    The prompts, the seeds and the settings are those of `out` where `call` says nothing; what was shown to it (`depth`,
    `control`) must be said again, and a mask is not: the whole is painted over. The new size is rounded to
    whole latents. A strength of 0.3 to 0.5 keeps the composition and paints the detail (SDEdit, arXiv 2108.01073);
    0.35 is the middle of what web interfaces use. Raises `InputError` for points and for a scale of at most 1.
    """
    if out.pixels.ndim != 4:
        raise InputError("only pictures can be enlarged")
    factor, n = pipe.coded.factor, out.request["n"]
    size = larger((out.pixels.shape[-2], out.pixels.shape[-1]), scale, factor)
    if not 0 < strength <= 1:
        raise InputError(f"strength={strength} must be in (0, 1], {STRENGTH} changes much, 0.3 little")
    told = ("steps", "guidance", "guidance_interval", "rescale", "image_guidance")
    asked: dict[str, Any] = {key: out.request[key] for key in told if out.request[key] is not None}
    asked["solver"] = from_config(out.request["solver"], Solver)
    asked["grid"] = out.request["grid"]
    for name in ("depth", "control"):
        if out.request[name] is not None and name not in call:
            raise InputError(f"these pictures were made with {name}: give {name}= to their second pass too")
    avoid: list[Any] = out.request["negative"] or [None]
    avoid = avoid * (len(out.seeds) // len(avoid)) if len(avoid) == 1 else [a for a in avoid for _ in range(n)]
    large = F.interpolate(out.pixels.float(), size, mode="bicubic", align_corners=False)
    large = large.clamp(*range_of(pipe.modality))
    made: list[Output] = []
    for picture, seed, prompt, negative in zip(large, out.seeds, out.prompts, avoid, strict=True):
        given: dict[str, Any] = asked | {"prompt": prompt, "n": 1, "seed": seed, "size": size, "strength": strength}
        given |= {"image": picture, "negative": negative} | call
        made.append(pipe(**given))
    return made


def larger(size: tuple[int, int], scale: float, factor: int) -> tuple[int, int]:
    """Return a size in pixels `scale` times as large, in whole latents; raise `InputError` where that cannot be."""
    from ..data.images import MAX_SIDE

    if not 1 < scale <= MAX_SIDE:
        raise InputError(f"a scale of {scale:g} enlarges nothing, or too much: give more than 1, at most {MAX_SIDE}")
    height, width = (round(side * scale / factor) * factor for side in size)
    if height <= size[0] or width <= size[1]:
        raise InputError(
            f"a scale of {scale:g} enlarges nothing: {size[0]} x {size[1]} pixels, in steps of {factor}, stay "
            f"{height} x {width}; give a larger one"
        )
    checked(height=height, width=width)
    return height, width
