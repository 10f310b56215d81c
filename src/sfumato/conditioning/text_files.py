"""A conditioner of texts in a pipeline's own folder: its settings as data, each tower in a folder of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..core.config import register
from ..core.errors import InputError
from .prompts import Syntax, Verbatim
from .text import Family, TextConditioner
from .tower_files import read_tower, write_tower

FOLDER = "text"


@register
@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A `TextConditioner` without its weights: the rule, the names of the towers that are there, the syntax.

    Tower `name` stands in `text/name`, its tokenizer in `text/name/tokenizer`. Raises `InputError` for a tower that
    the family does not have.
    """

    family: Family
    towers: tuple[str, ...]
    syntax: Syntax = field(default_factory=Verbatim)

    def __post_init__(self) -> None:
        for name in self.towers:
            if name not in self.family.needs:
                raise InputError(f"{type(self.family).__name__} has no tower {name!r:.60}")

    def load(self, folder: Path) -> TextConditioner:
        """Return the conditioner with the towers of a pipeline's folder; raises as `read_tower`."""
        at = folder / FOLDER
        towers = {name: read_tower(at / name, at / name / "tokenizer") for name in self.towers}
        return TextConditioner(family=self.family, towers=towers, syntax=self.syntax)


def save_text(conditioner: TextConditioner, folder: Path) -> None:
    """Write the towers of a conditioner into a pipeline's folder."""
    for name, tower in conditioner.towers.items():
        at = folder / FOLDER / name
        write_tower(tower, at, at / "tokenizer")
