"""The conditioner of networks that read a text: a family's rule and the towers that it asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import torch

from ..core.errors import InputError
from .conditioner import Encoded, Frame, Prompt
from .prompts import Piece, Section, Syntax, Verbatim
from .tower import Tower

if TYPE_CHECKING:
    from .text_files import TextConfig

Text = tuple[Section, ...] | None


@runtime_checkable
class Family(Protocol):
    """How a family of networks is told a text: which towers, which of their states, in what order."""

    needs: ClassVar[tuple[str, ...]]
    """The names of its towers."""
    may_lack: ClassVar[tuple[str, ...]]
    """Those of them that it works without."""

    def encode(
        self, towers: Mapping[str, Tower], texts: Sequence[Text], frame: Frame | None, negative: bool
    ) -> Encoded:
        """Return the conditions of texts; None is no prompt."""
        ...

    def prepared(self, text: str) -> str:
        """Return a text as the family wants it: some were trained on lower case."""
        ...


@dataclass(frozen=True, kw_only=True)
class TextConditioner:
    """prompts -> the condition tensors of a network that reads texts.

    - `family`: a registered rule (`ClipText`, `XLText`, `RefinerText`, `SD3Text`, `PixArtText`, `HunyuanText`,
      `LuminaText`), `towers` its encoders by name.
    - `syntax`: what a prompt's characters mean: `Verbatim()`, as the pipelines that models are released with read it,
      or `Weighted()`.
    Equal prompts are encoded once. Raises `InputError` for towers that are missing or unknown.
    """

    family: Family
    towers: Mapping[str, Tower]
    syntax: Syntax = field(default_factory=Verbatim)

    def __post_init__(self) -> None:
        kind, needs = type(self.family).__name__, self.family.needs
        if unknown := [name for name in self.towers if name not in needs]:
            raise InputError(f"{kind} has no tower {unknown[0]!r:.60}; it has {', '.join(needs)}")
        missing = [name for name in needs if name not in self.towers and name not in self.family.may_lack]
        if missing or not self.towers:
            raise InputError(f"{kind} needs the tower{'s' * (len(missing) > 1)} {', '.join(missing or needs)}")

    def __call__(self, prompts: Sequence[Prompt], frame: Frame | None = None, *, negative: bool = False) -> Encoded:
        """Return the conditions of `prompts`; see `Conditioner`."""
        if not prompts:
            raise InputError("no prompts: give at least one")
        given = [self.described(prompt) for prompt in prompts]
        distinct = list(dict.fromkeys(given))
        notes: list[str] = []
        texts: list[Text] = []
        for prompt in distinct:
            if prompt is None:
                texts.append(None)
                continue
            read = self.syntax.read(prompt.strip())
            texts.append(tuple(tuple(Piece(self.family.prepared(p.text), p.weight) for p in s) for s in read.sections))
            notes += read.notes
        encoded = self.family.encode(self.towers, texts, frame, negative)
        rows = [distinct.index(prompt) for prompt in given]
        if rows != list(range(len(rows))):
            encoded = Encoded(
                {k: v[torch.tensor(rows, device=v.device)] for k, v in encoded.cond.items()}, encoded.notes
            )
        return Encoded(encoded.cond, tuple(dict.fromkeys((*notes, *encoded.notes))))

    def described(self, prompt: Prompt) -> str | None:
        """Return the prompt; raise `InputError` for one that is not a text."""
        if prompt is not None and not isinstance(prompt, str):
            raise InputError(f"this model reads a text, got {prompt!r:.60}: give the prompt in words")
        return prompt

    @property
    def config(self) -> TextConfig:
        """The settings as data, without the towers' weights."""
        from .text_files import TextConfig

        return TextConfig(family=self.family, towers=tuple(self.towers), syntax=self.syntax)

    def save(self, folder: Path) -> None:
        """Write the towers into a pipeline's folder, where `config.load` finds them."""
        from .text_files import save_text

        save_text(self, folder)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TextConditioner:
        """Move all towers, in place, and return this conditioner."""
        for tower in self.towers.values():
            tower.to(device, dtype)
        return self


def empty_for_none(texts: Sequence[Text]) -> list[Sequence[Section]]:
    """Return the texts with an empty one for no prompt."""
    return [((Piece(""),),) if text is None else text for text in texts]
