"""What the file that a pipeline was read from holds beside its parts, so that it is written back as it was."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core import CheckpointError
from ..core.json_file import read_json
from ..core.weights import read_weights, write_weights

SAID, TENSORS = "origin.json", "origin.safetensors"
_MOST = 8 << 20  # bytes of texts: what a header may hold


@dataclass(frozen=True, eq=False, kw_only=True)
class Origin:
    """A file of one of the layouts of others: nothing here decides a sample.

    - `network`, `codec`: what stands before the names of the network's tensors and of the autoencoder's.
    - `tensors`: those that no part uses, under their names and as they were stored: averages of training, buffers.
    - `metadata`: the texts in its header.
    """

    network: str
    codec: str
    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    def save(self, folder: Path) -> None:
        """Write this into a pipeline's folder."""
        said = {"network": self.network, "codec": self.codec, "metadata": dict(self.metadata)}
        with open(folder / SAID, "w", encoding="utf-8") as file:
            json.dump(said, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        if self.tensors:
            write_weights(folder / TENSORS, self.tensors, {"format": "pt"})


def read_origin(folder: Path) -> Origin | None:
    """Return what `Origin.save` wrote into a pipeline's folder, None where it is of no file of others."""
    if not (folder / SAID).exists():
        return None
    data: dict[str, Any] = read_json(folder / SAID, most=_MOST)
    metadata = data.get("metadata")
    texts = [data.get("network"), data.get("codec"), *(metadata.values() if isinstance(metadata, dict) else [None])]
    if set(data) != {"network", "codec", "metadata"} or not all(isinstance(text, str) for text in texts):
        raise CheckpointError(f"{folder / SAID} needs the texts network and codec, and a table of texts, metadata")
    held = read_weights(folder / TENSORS) if (folder / TENSORS).exists() else {}
    return Origin(tensors=held, **data)


def summed(names: Iterable[str], most: int = 12) -> str:
    """Return names in one line: many that begin alike (up to a number) as what they share and how many they are."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(names):
        parts = name.split(".")
        number = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
        groups.setdefault(tuple(parts[: number + 1]), []).append(name)
    said = [
        text for each in groups.values() for text in (each if len(each) < 3 else [f"{_shared(each)}* ({len(each)})"])
    ]
    return ", ".join(said[:most]) + (f" and {len(said) - most} more" if len(said) > most else "")


def warn_of(names: Iterable[str], why: str) -> None:
    """Warn by name of what a layout has no place for."""
    if lost := summed(names):
        warnings.warn(f"not written: {lost} ({why})", UserWarning, stacklevel=3)


def _shared(names: list[str]) -> str:
    """Return what all of several names begin with, whole parts of it."""
    parts = [name.split(".")[:-1] for name in names]
    count = next((i for i, each in enumerate(zip(*parts, strict=False)) if len(set(each)) > 1), min(map(len, parts)))
    return "".join(f"{part}." for part in parts[0][:count])
