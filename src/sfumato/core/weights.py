"""Weights on disk: safetensors, written so that a crash loses nothing, and read only after a strict check.

The check answers what the format itself leaves open: a file may not name a tensor twice, be nearly all header, or hold
anything but the tensors that the configuration asks for, and it is made before any tensor is read.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import re
import stat
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors import torch as _torch_files
from torch import Tensor

from .errors import CheckpointError, InputError

_files: Any = _torch_files  # its signatures name bare PathLike, which a strict type check refuses

MAX_HEADER = 8 << 20  # bytes; 50,000 tensors need about 5 MB
MAX_TENSORS = 50_000
MAX_RANK = 8
MAX_SIZE = 1 << 40  # of one dimension: products stay below 2^63 long before that
_PART = 1 << 23  # bytes of a file that are mapped beside what is made of them
_CACHED = 1 << 17  # numbers whose float32 copy stays in the cache
_NAME = re.compile(r"[A-Za-z0-9._/-]{1,256}")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Spec(NamedTuple):
    """What a tensor must look like."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def specs(tensors: Mapping[str, Tensor]) -> dict[str, Spec]:
    """Return the shape and dtype of each tensor: what `read_weights` expects of a file that fits them."""
    return {name: Spec(tuple(t.shape), t.dtype) for name, t in tensors.items()}


def write_weights(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write `tensors` to the safetensors file `path`, whole or not at all.

    Written aside, brought to the disk, then renamed over `path`, and the folder brought to the disk. The file gets the
    mode that the umask gives, where safetensors alone leaves it readable to its owner only. Raises `InputError` for
    names that `read_weights` would refuse, `CheckpointError` where the disk refuses (what stood at `path` is intact).
    """
    path = Path(path)
    for name in tensors:
        if not _allowed(name):
            raise InputError(f"{name!r:.80} cannot name a tensor in {path}: use letters, digits and . _ / -")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        handle = os.open(aside, os.O_CREAT | os.O_WRONLY, 0o666)
        mode = os.fstat(handle).st_mode
        os.close(handle)
        _files.save_file(_apart(tensors), aside, dict(metadata))
        os.chmod(aside, mode)
        sync(aside)
        os.rename(aside, path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path}: {reason(error)}; what was there is untouched") from error


def read_weights(path: str | os.PathLike[str], expect: Mapping[str, Spec] | None = None) -> dict[str, Tensor]:
    """Read a safetensors file whose header passes the check, with exactly the tensors of `expect` where it is given.

    Raises `CheckpointError` with the reason for a file that is missing, damaged, or holds something else.
    """
    return read_whole(path, expect)[0]


def read_whole(
    path: str | os.PathLike[str], expect: Mapping[str, Spec] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the text metadata of a file; raises as `read_weights`."""
    metadata = check_header(path, expect)[1]
    try:
        return cast("dict[str, Tensor]", _files.load_file(path)), metadata
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from error


def stored_as(tensors: Iterable[Tensor], dtype: torch.dtype) -> bool:
    """Return whether tensors are of `dtype` wherever they hold floating-point numbers."""
    return all(t.dtype == dtype for t in tensors if t.is_floating_point())


def read_cast(
    path: str | os.PathLike[str], dtype: torch.dtype, names: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Read tensors of a file that passed the check, all or `names`, floating-point ones cast to `dtype`.

    The file is mapped, and of it a part of `_PART` bytes at a time is in memory beside the result. Raises as
    `read_weights`.
    """
    path = Path(path)
    header, size = _header(path)
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from error
    start = 8 + int.from_bytes(mapped[:8], "little")
    if start + size != len(mapped):
        raise CheckpointError(f"cannot read {path}: it changed after its header was checked")
    tensors: dict[str, Tensor] = {}
    for name in header.keys() - {"__metadata__"} if names is None else names:
        (shape, stored), end = _spec(name, header[name], path)
        tensors[name] = torch.empty(shape, dtype=dtype if stored.is_floating_point else stored)
        flat, step = tensors[name].view(-1), _PART // stored.itemsize
        for at in range(0, len(flat), step):
            part = flat[at : at + step]
            begin = start + end - (len(flat) - at) * stored.itemsize
            _cast(torch.frombuffer(mapped, dtype=stored, count=len(part), offset=begin), part)
            _drop(mapped, begin, begin + len(part) * stored.itemsize)
    return tensors


def _cast(source: Tensor, target: Tensor) -> None:
    """Copy between two lists of numbers; between the two half precisions by way of float32, 4.4 times faster."""
    if source.dtype == target.dtype or {source.dtype, target.dtype} != {torch.float16, torch.bfloat16}:
        target.copy_(source)
        return
    for held, part in zip(source.split(_CACHED), target.split(_CACHED), strict=True):
        part.copy_(held.float())


def _drop(mapped: mmap.mmap, begin: int, end: int) -> None:
    """Give back the pages of a mapped file in which these bytes begin, up to that where they end, where that can be."""
    page = mmap.PAGESIZE
    begin, end = begin // page * page, end // page * page
    if hasattr(mmap, "MADV_DONTNEED") and end > begin:
        mapped.madvise(mmap.MADV_DONTNEED, begin, end - begin)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the text metadata of a safetensors file whose header passes the check."""
    return check_header(path)[1]


def check_header(
    path: str | os.PathLike[str], expect: Mapping[str, Spec] | None = None
) -> tuple[dict[str, Spec], dict[str, str]]:
    """Return what the header of `path` promises, without reading a tensor: (specs, metadata).

    Raises `CheckpointError` for a header above 8 MiB, more than 50,000 tensors, names other than letters, digits and
    `._/-` (256 at most, no `..`), a name given twice, more than 8 dimensions, offsets that do not fit the shape or the
    file, and for tensors that differ from `expect`.
    """
    path = Path(path)
    header, size = _header(path)
    metadata: Any = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in cast("dict[Any, Any]", metadata).values()):
        raise CheckpointError(f"{path}: its metadata is not a table of texts")
    if len(header) > MAX_TENSORS:
        raise CheckpointError(f"{path}: {len(header)} tensors, more than {MAX_TENSORS}")
    found: dict[str, Spec] = {}
    end = 0
    for name, entry in header.items():
        if not _allowed(name):
            raise CheckpointError(
                f"{path}: the tensor name {name!r:.80} is refused; letters, digits and . _ / - are read"
            )
        found[name], last = _spec(name, entry, path)
        end = max(end, last)
    if end != size:
        raise CheckpointError(f"{path}: {size} bytes of tensors where the header says {end}; the file is cut or padded")
    if expect is None and not found:
        raise CheckpointError(f"{path}: it holds no tensor")
    if expect is not None:
        _compare(found, expect, path)
    return found, cast("dict[str, str]", metadata)


def sync(path: Path) -> None:
    """Bring a file or a folder to the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the parsed header and the number of bytes that follow it."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe or a device would be read without an end
            raise CheckpointError(f"{path}: not a file")
        with open(path, "rb") as file:
            total = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            if not 2 <= length <= total - 8:
                raise CheckpointError(f"{path}: not a whole safetensors file ({total} bytes)")
            if length > MAX_HEADER:
                raise CheckpointError(f"{path}: a header of {length} bytes, more than {MAX_HEADER}")
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from error
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header cannot be read: {str(error)[:120]}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header is not a table")
    return cast("dict[str, Any]", header), total - 8 - length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key is given twice, so the file can be read in two ways")
    return table


def _spec(name: str, entry: Any, path: Path) -> tuple[Spec, int]:
    """Return what one header entry promises, and the offset at which its bytes end."""
    if not isinstance(entry, dict) or set(cast("dict[str, Any]", entry)) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{path}: {name!r} needs dtype, shape and data_offsets and nothing else")
    table = cast("dict[str, Any]", entry)
    kind, shape, offsets = table["dtype"], _numbers(table["shape"]), _numbers(table["data_offsets"])
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise CheckpointError(f"{path}: {name!r} has the dtype {kind!r:.40}, which is not read here")
    if shape is None or len(shape) > MAX_RANK or any(n > MAX_SIZE for n in shape):
        raise CheckpointError(f"{path}: {name!r} has the shape {table['shape']!s:.60}, which is not read here")
    if offsets is None or len(offsets) != 2:
        raise CheckpointError(f"{path}: {name!r} has the offsets {table['data_offsets']!s:.60}; two numbers are needed")
    begin, end = offsets
    if end - begin != math.prod(shape) * _DTYPES[kind].itemsize:
        raise CheckpointError(f"{path}: {name!r} of shape {shape} and dtype {kind} does not take {end - begin} bytes")
    return Spec(tuple(shape), _DTYPES[kind]), end


def _numbers(values: Any) -> list[int] | None:
    """Return `values` if they are a list of whole numbers from 0 on."""
    good = isinstance(values, list) and all(type(v) is int and v >= 0 for v in cast("list[Any]", values))
    return cast("list[int]", values) if good else None


def _allowed(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and ".." not in name


def _compare(found: Mapping[str, Spec], expect: Mapping[str, Spec], path: Path) -> None:
    missing = sorted(expect.keys() - found.keys())
    extra = sorted(found.keys() - expect.keys())
    for names, what in ((missing, "lacks"), (extra, "has, beyond the configuration,")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(
                f"{path}: it {what} the tensor {names[0]!r}{more}; give the configuration it was made with"
            )
    for name, spec in expect.items():
        if found[name] != tuple(spec):
            raise CheckpointError(
                f"{path}: {name!r} is {found[name].dtype} {list(found[name].shape)}, "
                f"the configuration says {spec[1]} {list(spec[0])}"
            )


def reason(error: Exception) -> str:
    """Return the system's own words for an error, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors contiguous and each in memory of its own (the format refuses tied ones)."""
    seen: set[int] = set()
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        whole = tensor.detach().contiguous()
        out[name] = whole.clone() if memory in seen else whole
        seen.add(memory)
    return out
