"""Latents of a data set on the disk, encoded once: shards that know what made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codecs import Codec, load_codec
from ..core import Batch, CheckpointError, InputError, Noise, fold, register, to_config
from ..core.weights import read_metadata, read_weights, write_weights
from .dataset import Dataset

EDITION = 1  # of the files: a change of what they hold makes it another
CHUNK = 64  # pictures encoded at a time


@register
@dataclass(frozen=True, kw_only=True)
class Latents(Dataset):
    """The rows of `data` as the codec in the folder `coder` (of `save_codec`) encodes them, kept in the folder `path`.

    x_0 = mean + deviation eps of the posterior, eps drawn anew whenever a row is read (`draw`), or the mean alone;
    conditions are those of the data. What is random about a row of the data (a crop, a flip) is drawn once, by `seed`.
    Numbers lie on the disk in float16, `shard` rows a file.

    `write` fills the folder; it goes on where it was stopped. Every shard holds a sha256 of what made it (the codec's
    configuration, the weights that encode, the data's fingerprint, these settings), and one of another origin is
    refused: nothing is ever read that the present codec did not make of the present data. A decoder may be trained on.

    Reading raises `InputError` for a folder that is not whole, or was made otherwise.
    """

    path: str
    coder: str
    data: Dataset
    draw: bool = True
    shard: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shard < 1:
            raise InputError(f"Latents.shard={self.shard} must be at least 1")

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings alone: a loader's worker maps the shards itself, and needs no codec."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @cached_property
    def codec(self) -> Codec:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The codec, its weights in float32."""
        if not (Path(self.coder) / "codec.json").is_file():
            raise InputError(f"coder={self.coder!r} holds no codec: give a folder that `save_codec` wrote")
        return load_codec(self.coder, torch.float32)

    @cached_property
    def key(self) -> str:
        """A sha256 of all that decides what the shards hold."""
        digest, only = hashlib.sha256(), self.codec.decoding
        for name, tensor in sorted(self.codec.state_dict().items()):
            if name.split(".")[0] in only:
                continue  # latents do not change while a decoder is trained on
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode() + tensor.contiguous().numpy().tobytes())
        config = to_config(getattr(self.codec, "config", None))
        settings = [EDITION, config, digest.hexdigest(), self.data.fingerprint, self.draw, self.shard, self.seed]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """The key."""
        return self.key

    def __len__(self) -> int:
        return len(self.data)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the latents of one row."""
        _, height, width = self.data.shape
        return (self.codec.channels, height // self.codec.factor, width // self.codec.factor)

    def write(self, say: Callable[[int, int], None] = lambda done, of: None) -> Latents:
        """Encode what is not there yet, tell `say` (rows done, of how many) now and then, and return this data set.

        A shard appears whole or not at all. Raises `InputError` for a folder that holds shards of another origin.
        """
        folder = Path(self.path)
        folder.mkdir(parents=True, exist_ok=True)
        for number, first in enumerate(range(0, len(self), self.shard)):
            file, last = self._file(number), min(first + self.shard, len(self))
            if file.exists():
                self._check(file)
            else:
                write_weights(file, self._encoded(range(first, last)), {"key": self.key})
            say(last, len(self))
        return self

    @torch.no_grad()
    def _encoded(self, rows: range) -> dict[str, Tensor]:
        """Return mean, deviation and conditions of the `rows`."""
        parts: dict[str, list[Tensor]] = {}
        for start in range(rows.start, rows.stop, CHUNK):
            some = range(start, min(start + CHUNK, rows.stop))
            batch = self.data.batch(some, Noise([fold("latents", self.seed, i) for i in some]))
            mean, deviation = self.codec.posterior(batch.x0)
            made = {"mean": mean.half()} | {f"cond.{name}": value for name, value in batch.cond.items()}
            if self.draw and deviation is not None:
                made["deviation"] = deviation.half()
            for name, value in made.items():
                parts.setdefault(name, []).append(value)
        return {name: torch.cat(_padded(values)) for name, values in parts.items()}

    def batch(self, indices: Sequence[int], noise: Noise) -> Batch:
        """Return the rows `indices`; eps is drawn from `noise`."""
        for row in indices:
            if not 0 <= row < len(self):
                raise InputError(f"row {row} of {len(self)} latents: rows count from 0")
        rows = [(self._shards[row // self.shard], row % self.shard) for row in indices]
        stacked = lambda name: torch.cat(_padded([shard[name][at : at + 1] for shard, at in rows]))
        x0 = stacked("mean").float()
        if "deviation" in self._shards[0]:
            x0 = x0 + stacked("deviation").float() * noise.like(x0, "posterior")
        named = [name for name in self._shards[0] if name.startswith("cond.")]
        return Batch(x0, {name.removeprefix("cond."): stacked(name) for name in named})

    @cached_property
    def _shards(self) -> list[dict[str, Tensor]]:
        """All shards, mapped from the disk."""
        numbers = range(-(-len(self) // self.shard))
        missing = [number for number in numbers if not self._file(number).is_file()]
        if missing:
            raise InputError(f"{self.path} lacks {len(missing)} of {len(numbers)} shards: call write() first")
        for number in numbers:
            self._check(self._file(number))
        return [read_weights(self._file(number)) for number in numbers]

    def _check(self, file: Path) -> None:
        """Refuse a shard that something else made."""
        try:
            found = read_metadata(file).get("key")
        except CheckpointError as error:
            raise InputError(f"{error}; remove it, and write() makes it again") from error
        if found != self.key:
            raise InputError(
                f"{file} was made by another codec, of other data, or with other settings: give another path, or "
                "remove the folder"
            )

    def _file(self, number: int) -> Path:
        return Path(self.path) / f"latents-{number:05d}.safetensors"


def _padded(values: list[Tensor]) -> list[Tensor]:
    """Return the values with zeros behind, so that all but their rows agree in size: texts differ in length."""
    sizes = [max(v.shape[d] for v in values) for d in range(1, values[0].ndim)]
    if all(list(v.shape[1:]) == sizes for v in values):
        return values
    return [F.pad(v, [n for d in reversed(range(len(sizes))) for n in (0, sizes[d] - v.shape[d + 1])]) for v in values]
