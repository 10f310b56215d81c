"""A second model for the last part of the noise: the hand-over to a refiner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..conditioning import Prompt
from ..core import InputError
from .names import grid_of

if TYPE_CHECKING:
    from .output import Output
    from .pipeline import Pipeline


def refined(
    base: Pipeline,
    refiner: Pipeline,
    prompt: Prompt | Sequence[Prompt] = None,
    n: int = 4,
    *,
    share: float = 0.2,
    refining: dict[str, Any] | None = None,
    **call: Any,
) -> Output:
    """Return pictures that `base` begins and `refiner` ends: it takes the steps that start at t <= `share`.

    0.2 is what SDXL's refiner was trained for (arXiv 2307.01952, section 2.5). `call` are arguments of both calls,
    `refining` those of the second alone; the steps, the sampler, the size and the seeds are the first one's. What is
    kept of a picture with a `mask` is kept by both; a picture without one is where the first starts, and `control`
    steers the first: control networks are made for one host. The output is the refiner's: to make it again, give the
    state that it started from, `start`.

    Raises `InputError` for models of other latents or another schedule, and for a share that leaves one no step.
    """
    if _latents(base) != _latents(refiner):
        raise InputError(
            "this refiner was made for other latents (channels, size, scale) or another schedule than the model before "
            "it: take the refiner of its own family"
        )
    if not 0 < share < 1:
        raise InputError(f"share={share} must be in (0, 1): the part of the noise that is left to the refiner")
    steps, grid = call.pop("steps", None), call.pop("grid", None)
    defaults = base.defaults
    times = grid_of(defaults.grid if grid is None else grid, base.denoiser.schedule, steps, defaults.steps)
    if call.get("solver") is None:
        call["solver"] = defaults.solver
    if call.get("size") is None and call.get("frame") is None and len(base.shape) == 3:
        call["size"] = tuple(side * base.coded.factor for side in base.shape[1:])
    first = base(prompt, n, grid=times, span=(1.0, share), **call)
    first_alone = ("strength", "control") if call.get("mask") is not None else ("image", "strength", "control")
    again = {key: value for key, value in call.items() if key not in first_alone}
    return refiner(prompt, n, grid=times, span=(share, 0.0), start=first.tensor, **(again | (refining or {})))


def _latents(pipe: Pipeline) -> tuple[Any, ...]:
    """Return what two models must have in common to work on the same x_t."""
    codec = pipe.coded
    return pipe.shape[0], codec.factor, getattr(codec, "normalise", None), pipe.denoiser.schedule
