"""Classes by name or by number: the conditioner of class-conditional networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..core import InputError, nearest, register
from .conditioner import Encoded, Frame, Prompt


@register
@dataclass(frozen=True, kw_only=True)
class Classes:
    """y = the index of a class; no prompt is the index after the last, the network's null class.

    Raises `InputError` for names that are given twice.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise InputError(f"{len(set(self.names))} different names for {len(self.names)} classes: give each its own")

    def __call__(self, prompts: Sequence[Prompt], frame: Frame | None = None, *, negative: bool = False) -> Encoded:
        """Return {"y": int64[n]}."""
        found = [self.index(prompt) for prompt in prompts]
        return Encoded({"y": torch.tensor([len(self.names) if i is None else i for i in found])})

    def described(self, prompt: Prompt) -> str | None:
        """Return the name of a class."""
        index = self.index(prompt)
        return None if index is None else self.names[index]

    def index(self, prompt: Prompt) -> int | None:
        """Return the index of a class; a word is a class name first, then an index."""
        if prompt is None:
            return None
        if isinstance(prompt, str) and prompt in self.names:
            return self.names.index(prompt)
        if isinstance(prompt, bool) or not str(prompt).isdecimal():
            raise InputError(f"no class is called {str(prompt)[:60]!r}{nearest(str(prompt)[:60], self.names)}")
        if int(prompt) >= len(self.names):
            raise InputError(f"there is no class {int(prompt)}: classes are 0 to {len(self.names) - 1}")
        return int(prompt)


@register
@dataclass(frozen=True, kw_only=True)
class Nothing:
    """The conditioner of an unconditional network: it takes no prompt."""

    def __call__(self, prompts: Sequence[Prompt], frame: Frame | None = None, *, negative: bool = False) -> Encoded:
        """Return no conditions; raise `InputError` for a prompt."""
        for prompt in prompts:
            self.described(prompt)
        return Encoded({})

    def described(self, prompt: Prompt) -> str | None:
        """Return None; raise `InputError` for a prompt."""
        if prompt is not None:
            raise InputError(f"this model takes no prompt, got {prompt!r:.60}: leave it out")
        return None
