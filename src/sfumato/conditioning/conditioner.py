"""What turns what a person gives (a prompt, a class, a size) into the condition tensors of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from ..core import register

Prompt = str | int | None


class Encoded(NamedTuple):
    """The conditions of n prompts: for each key a tensor of n rows; `notes` say what a person should know of them."""

    cond: dict[str, Tensor]
    notes: tuple[str, ...] = ()


@register
@dataclass(frozen=True, kw_only=True)
class Frame:
    """What a network may be told of a picture's frame, in pixels.

    `height` and `width` of the picture to make; `original` size of the picture that it would be cut from, its own by
    default; `crop`, the (top, left) of the cut; `aesthetic`, a score, and that of what to avoid: the defaults of SDXL's
    refiner (arXiv 2307.01952 and its code), used by networks that were trained on one.
    """

    height: int
    width: int
    original: tuple[int, int] | None = None
    crop: tuple[int, int] = (0, 0)
    aesthetic: float = 6.0
    negative_aesthetic: float = 2.5


@runtime_checkable
class Conditioner(Protocol):
    """prompts -> condition tensors, one row a prompt; a prompt of None is "no prompt", the null of guidance."""

    def __call__(self, prompts: Sequence[Prompt], frame: Frame | None = None, *, negative: bool = False) -> Encoded:
        """Return the conditions of `prompts`; `negative` where they are what to avoid.

        All rows of a call can stand in one batch; `matched` brings those of two calls to one length.
        Raises `InputError` for a prompt that this model cannot read.
        """
        ...

    def described(self, prompt: Prompt) -> str | None:
        """Return the prompt as it is shown and stored: the name of a class for its index."""
        ...
