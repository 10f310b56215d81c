"""Looking on while a run goes: small pictures of its state, at next to no cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from ..codecs.preview import Preview, fit_preview
from ..core import InputError, Step
from ..core.sampling import Callback

if TYPE_CHECKING:
    from PIL.Image import Image

    from .pipeline import Pipeline


def watching(
    pipe: Pipeline, show: Callable[[Step, list[Image]], None], *, every: int = 1, preview: Preview | None = None
) -> Callback:
    """Return a callback for a call that shows what x / alpha looks like after each `every` steps, one picture a row.

    With a codec, latents become colours by one matrix (`fit_preview`, fitted here unless it is given), so a look costs
    less than a thousandth of a decode. `show(k, pictures)` gets the step and the pictures, of the latents' size.
    """
    if every < 1:
        raise InputError(f"every={every} must be at least 1")
    matrix = preview
    if matrix is None and pipe.codec is not None:
        matrix = fit_preview(pipe.codec)

    def look(k: Step, x: Tensor) -> None:
        if (k.i + 1) % every and k.i + 1 != k.n:
            return
        state = x / max(k.alpha_s, 1e-3)
        show(k, pipe.modality.images(state if matrix is None else matrix(state)))

    return look
