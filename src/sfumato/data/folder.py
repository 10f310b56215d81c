"""A folder of pictures as a data set: every file is looked at once, and what cannot be used is named."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core import Batch, InputError, Noise, register
from .crops import CenterCrop, Crop
from .dataset import Dataset
from .images import decode, read_bytes
from .labels import Labels, Unlabelled

_CHUNK = 1024  # files handed to the threads at a time


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of the files of a folder: how many were found and used, and (name, reason) of each skipped one."""

    found: int
    used: int
    skipped: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        reasons = Counter(reason for _, reason in self.skipped).most_common()
        listed = "".join(f"; {count} x {reason}" for reason, count in reasons[:5])
        return f"{self.found} files found, {self.used} used, {len(self.skipped)} skipped{listed}"


class _Scan(NamedTuple):
    names: list[str]
    digests: list[bytes]
    cond: dict[str, Tensor]
    classes: tuple[str, ...] | None
    report: Report
    fingerprint: str


@register
@dataclass(frozen=True, kw_only=True)
class ImageFolder(Dataset):
    """The PNG, JPEG and WebP pictures below `path`, in [-1, 1] as float32[channels, size, size].

    Each is decoded by `decode`, cut to the square that `crop` chooses, brought to `size` by Pillow's antialiased
    `resample` filter in 8 bits, mirrored with probability `flip`, and scaled by level / 127.5 - 1. `channels` is 3, or
    1 for grey (ITU-R 601 luma). `labels` says where conditions come from. Hidden files and folders are left alone.

    The first use reads and decodes every file once: broken and hostile ones are skipped, and named in `report`. A file
    that has changed since is an `InputError`, as are a folder without a usable picture and settings out of range.
    """

    path: str
    size: int
    channels: int = 3
    crop: Crop = field(default_factory=CenterCrop)
    flip: float = 0.0
    resample: Literal["bicubic", "lanczos", "bilinear", "box"] = "bicubic"
    labels: Labels = field(default_factory=Unlabelled)

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096:
            raise InputError(f"ImageFolder.size must lie in 1 .. 4096 pixels, got {self.size}")
        if self.channels not in (1, 3):
            raise InputError(f"ImageFolder.channels must be 3 (colour) or 1 (grey), got {self.channels}")
        if not 0 <= self.flip <= 1:
            raise InputError(f"ImageFolder.flip is a probability, got {self.flip}; give 0 .. 1")

    def __len__(self) -> int:
        return len(self._scan.names)

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, size, size)."""
        return self.channels, self.size, self.size

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the class sub-folders, None with other labels."""
        return self._scan.classes

    @property
    def bin(self) -> float:
        """256 levels from -1 to 1."""
        return 2 / 255

    @property
    def fingerprint(self) -> str:
        """A sha256 of the names, the contents and the labels of the pictures that are used."""
        return self._scan.fingerprint

    @property
    def report(self) -> Report:
        """What became of each file."""
        return self._scan.report

    @property
    def names(self) -> tuple[str, ...]:
        """The file of each row, relative to `path`."""
        return tuple(self._scan.names)

    def batch(self, indices: Sequence[int], noise: Noise) -> Batch:
        """Return the rows `indices`, with crops and flips drawn from the rows of `noise`."""
        draws = torch.stack([noise.uniform("data", k) for k in ("flip", "zoom", "left", "top")], 1).tolist()
        x0 = np.empty((len(indices), *self.shape), dtype=np.float32)
        for out, index, (flip, *u) in zip(x0, indices, draws, strict=True):
            out[:] = self._pixels(index, flip < self.flip, (u[0], u[1], u[2]))
        index = torch.tensor(indices, dtype=torch.int64)
        return Batch(torch.from_numpy(x0), {k: v[index] for k, v in self._scan.cond.items()})

    def _pixels(self, index: int, mirrored: bool, u: tuple[float, float, float]) -> np.ndarray:
        """Return float32[channels, size, size] of one row."""
        name = self._scan.names[index]
        content = read_bytes(Path(self.path).resolve(), name)
        if hashlib.sha256(content).digest() != self._scan.digests[index]:
            raise InputError(
                f"{name} in {self.path} has changed since the folder was read; start again to read it anew"
            )
        image = decode(content)
        if self.channels == 1:
            image = image.convert("L")
        filters = Image.Resampling[self.resample.upper()]
        image = image.resize((self.size, self.size), filters, box=self.crop(*image.size, u))
        if mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        levels = np.asarray(image, dtype=np.float32).reshape(self.size, self.size, self.channels)
        return levels.transpose(2, 0, 1) / np.float32(127.5) - np.float32(1)

    @cached_property
    def _scan(self) -> _Scan:
        root = Path(self.path).resolve()
        if not root.is_dir():
            raise InputError(f"{self.path!r} is not a folder; give the folder that holds the pictures")
        names, skipped = _list(root)
        names = [name for name in names if name not in self.labels.own]
        found = len(names) + len(skipped)
        labels, refused = self.labels.read(root, names)
        skipped += refused
        digests: dict[str, bytes] = {}
        for name, result in _check_all(root, [name for name in names if name in labels]):
            if isinstance(result, bytes):
                digests[name] = result
            else:
                skipped.append((name, result))
        report = Report(found=found, used=len(digests), skipped=tuple(sorted(skipped)))
        if not digests:
            raise InputError(f"no usable picture in {self.path!r}: {report}")
        rows = [(name, digest.hex(), labels[name]) for name, digest in digests.items()]
        fingerprint = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        cond = self.labels.cond([labels[name] for name in digests])
        return _Scan(list(digests), list(digests.values()), cond, self.labels.classes(names), report, fingerprint)


def _list(root: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the files below `root`, sorted by name, and the linked folders, which are not entered."""
    names: list[str] = []
    linked: list[tuple[str, str]] = []
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not name.startswith(".")]
        linked += [((here / n).as_posix(), "a link to a folder") for n in folders if (Path(folder) / n).is_symlink()]
        names += [(here / name).as_posix() for name in files if not name.startswith(".")]
    return sorted(names), linked


def _check_all(root: Path, names: list[str]) -> list[tuple[str, bytes | str]]:
    """Return (name, sha256 of its content, or the reason why it is not used); decoding runs beside Python's lock."""

    def check(name: str) -> tuple[str, bytes | str]:
        try:
            content = read_bytes(root, name)
            decode(content)
        except InputError as error:
            return name, str(error)
        return name, hashlib.sha256(content).digest()

    results: list[tuple[str, bytes | str]] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused by size, whatever Pillow thinks
        for start in range(0, len(names), _CHUNK):
            results += pool.map(check, names[start : start + _CHUNK])
    return results
