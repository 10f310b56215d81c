"""What is known about the pictures of a folder: nothing, the class that their sub-folder names, or a caption."""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import InputError, register
from .images import read_bytes

MAX_CAPTION = 4096  # bytes


class Labels(ABC):
    """How the files of a folder, named relative to it with `/`, get their labels."""

    @property
    def own(self) -> tuple[str, ...]:
        """The files that hold labels and so are no pictures."""
        return ()

    @abstractmethod
    def read(self, root: Path, names: Sequence[str]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """Return the label of each picture that has one, and (name, reason) for the others."""

    @abstractmethod
    def cond(self, labels: Sequence[Any]) -> dict[str, Tensor]:
        """Return the conditions of pictures with these `labels`, a row for each."""

    def classes(self, names: Sequence[str]) -> tuple[str, ...] | None:
        """Return the names of the classes, None where there are none."""
        return None


@register
@dataclass(frozen=True, kw_only=True)
class Unlabelled(Labels):
    """No conditions."""

    def read(self, root: Path, names: Sequence[str]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """Return no label for every picture."""
        return dict.fromkeys(names), []

    def cond(self, labels: Sequence[Any]) -> dict[str, Tensor]:
        """Return no conditions."""
        return {}


@register
@dataclass(frozen=True, kw_only=True)
class SubFolders(Labels):
    """`cond["y"]` int64: the number of the top sub-folder in alphabetical order (by code point)."""

    def read(self, root: Path, names: Sequence[str]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """Return the class number of each picture; one that lies in no sub-folder has none."""
        number = {name: k for k, name in enumerate(self.classes(names))}
        labels = {name: number[name.split("/")[0]] for name in names if "/" in name}
        return labels, [(name, "in no class sub-folder") for name in names if "/" not in name]

    def cond(self, labels: Sequence[Any]) -> dict[str, Tensor]:
        """Return y, the class numbers."""
        return {"y": torch.tensor(labels, dtype=torch.int64)}

    def classes(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the sub-folders; a class keeps its number when its pictures turn out to be broken."""
        return tuple(sorted({name.split("/")[0] for name in names if "/" in name}))


@register
@dataclass(frozen=True, kw_only=True)
class Captions(Labels):
    """`cond["caption"]` uint8[B, L]: each caption's UTF-8 bytes, zeros after the end; `text` reads them back.

    `file` lies in the folder and is one of: a `.csv` with the columns file_name and caption (or text); a `.jsonl` with
    an object of those keys on each line; a `.txt` with `file name<TAB>caption` lines. Names are relative to the
    folder.

    Raises `InputError` for a file that is missing or does not read so, and for a picture that is named twice.
    """

    file: str = "captions.csv"

    @property
    def own(self) -> tuple[str, ...]:
        """The captions file."""
        return (self.file,)

    def read(self, root: Path, names: Sequence[str]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """Return the caption of each picture; pictures without one and captions without a picture are refused."""
        suffix = Path(self.file).suffix.lower()
        if suffix not in _READERS:
            raise InputError(f"captions file {self.file!r} has an unknown ending; known: {', '.join(sorted(_READERS))}")
        try:
            content = read_bytes(root, self.file).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(
                f"captions file {self.file!r} is not UTF-8 (byte {error.start}); save it as UTF-8"
            ) from None
        except InputError as error:
            raise InputError(f"captions file {self.file!r} in {root}: {error}") from None
        captions: dict[str, str] = {}
        for line, (name, caption) in enumerate(_READERS[suffix](content, self.file), 1):
            if name in captions:
                raise InputError(f"captions file {self.file!r} names {name!r} twice (entry {line}); keep one")
            captions[name] = caption
        known, labels, refused = set(names), {}, []
        for name in sorted(known | captions.keys()):
            caption = captions.get(name, "").strip()
            if name not in known:
                refused.append((name, "has a caption, but there is no such file in the folder"))
            elif not caption:
                refused.append((name, "has no caption"))
            elif len(caption.encode()) > MAX_CAPTION or "\0" in caption:
                refused.append((name, f"its caption is longer than {MAX_CAPTION} bytes or holds a zero byte"))
            else:
                labels[name] = caption
        return labels, refused

    def cond(self, labels: Sequence[Any]) -> dict[str, Tensor]:
        """Return caption, the UTF-8 bytes padded to the longest with zeros."""
        coded = [label.encode() for label in labels]
        length = max(map(len, coded), default=0)
        joined = bytearray(b"".join(c.ljust(length, b"\0") for c in coded))
        return {"caption": torch.frombuffer(joined, dtype=torch.uint8).reshape(len(coded), length)}


def text(caption: Tensor) -> list[str]:
    """Return the captions that `Captions` wrote into a uint8[B, L] condition."""
    return [bytes(row).rstrip(b"\0").decode() for row in caption.tolist()]


def _entry(row: Any, where: str) -> tuple[str, str]:
    name, caption = (
        (row.get("file_name"), row.get("caption", row.get("text"))) if isinstance(row, dict) else (None, None)
    )
    if not isinstance(name, str) or not isinstance(caption, str):
        raise InputError(f"{where} needs file_name and caption (or text), both text")
    return name, caption


def _read_csv(content: str, file: str) -> Iterable[tuple[str, str]]:
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    try:
        for row in reader:
            yield _entry(row, f"captions file {file!r} line {reader.line_num}")
    except csv.Error as error:
        raise InputError(f"captions file {file!r} line {reader.line_num}: {error}; quote fields with commas") from None


def _read_jsonl(content: str, file: str) -> Iterable[tuple[str, str]]:
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            where = f"captions file {file!r} line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise InputError(f"{where} is not JSON; write one object a line") from None
            yield _entry(row, where)


def _read_txt(content: str, file: str) -> Iterable[tuple[str, str]]:
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            name, tab, caption = line.rstrip("\r").partition("\t")
            if not tab:
                raise InputError(f"captions file {file!r} line {number} has no tab; write `file name<TAB>caption`")
            yield name, caption


_READERS = {".csv": _read_csv, ".jsonl": _read_jsonl, ".txt": _read_txt}
