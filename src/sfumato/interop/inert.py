"""A reader of torch's pickles that runs nothing of theirs: it knows tables and tensors, and all else is inert.

A pickle is a program that calls what it names. Here names are looked up in a closed table and nothing is imported: what
it can call are a table, a tuple, our descriptions of tensors, and `Inert`, which takes everything and does nothing.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..core.weights import MAX_RANK

MAGIC = 0x1950A86A20F9469CFC6C  # of files before torch 1.6, which are pickles one after the other, then the numbers

# A name that is not known costs a file nothing but that object: trainers put their settings, callbacks and numpy's
# numbers beside weights, and `Inert` stands for them. It would do so for these names as well; but no trainer writes
# them and every attack does, so that a file with one is refused whole, for what else it is meant to do is not known.
ACTING = frozenset((
    "os", "posix", "nt", "sys", "subprocess", "_posixsubprocess", "commands", "popen2", "pty", "shutil", "socket",
    "_socket", "ctypes", "_ctypes", "importlib", "imp", "runpy", "code", "codeop", "pdb", "webbrowser", "marshal",
    "pickle", "_pickle", "pip", "urllib", "http", "requests", "asyncio", "multiprocessing", "threading",
))  # fmt: skip
BUILTIN = frozenset(("builtins", "__builtin__", "io", "_io", "codecs"))
ACTS = frozenset((  # of these modules
    "eval", "exec", "execfile", "compile", "open", "file", "input", "breakpoint", "__import__", "globals", "setattr",
))  # fmt: skip

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,  # of numbers that have no storage of their own: `_described_again` is told which
}


class Refused(Exception):
    """A file that is not read; the text says why."""


class Storage(NamedTuple):
    """Numbers of a file: `count` of them from `start` on, in the place that it calls `key`."""

    key: Any
    dtype: torch.dtype
    start: Any
    count: Any


class Stored(NamedTuple):
    """A tensor as a pickle describes it, unchecked; `Held.tensor` reads it."""

    storage: Storage
    offset: Any
    shape: tuple[Any, ...]
    stride: tuple[Any, ...]


class Inert:
    """What stands for an object of a class that is not known: it is made, called, filled and changed in vain."""

    __slots__ = ()

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """Take what a constructor is given."""
        return super().__new__(cls)

    def __call__(self, *_: Any) -> Inert:
        """Return what a method or a function would."""
        return self

    def _nothing(self, *_: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = _nothing


class Table(dict[Any, Any]):
    """An `OrderedDict`, without its attributes; or a `ParameterDict`, whose tensors are an attribute."""

    def __init__(self, given: Any = ()) -> None:
        super().__init__(given if isinstance(given, (dict, list, tuple)) else ())

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            held = cast("dict[Any, Any]", state).get("_parameters")
            self.update(cast("dict[Any, Any]", held) if isinstance(held, dict) else {})


class _Function:
    """A function that a pickle may call and cannot change."""

    __slots__ = ("_made",)

    def __init__(self, made: Callable[..., Any]) -> None:
        self._made = made

    def __call__(self, *given: Any) -> Any:
        return self._made(*given)

    def __setstate__(self, state: Any) -> None:
        raise Refused("it is damaged: it sets the state of a function")


def _described(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Any:
    return Stored(storage, offset, tuple(shape), tuple(stride)) if isinstance(storage, Storage) else Inert()


def _described_again(storage: Any, offset: Any, shape: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any) -> Any:
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        return Inert()
    return _described(storage._replace(dtype=dtype), offset, shape, stride)


KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Table,
    ("collections", "defaultdict"): Table,
    ("torch.nn.modules.container", "ParameterDict"): Table,
    ("torch", "Size"): tuple,
    ("torch", "Tensor"): Inert,  # as the next ones: said beside tensors and numbers, and news to nobody
    ("torch.nn.parameter", "Parameter"): Inert,
    ("_codecs", "encode"): Inert,
    ("torch._utils", "_rebuild_tensor"): _Function(_described),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_described),
    ("torch._utils", "_rebuild_tensor_v3"): _Function(_described_again),
    ("torch._utils", "_rebuild_parameter"): _Function(lambda tensor, *_: tensor),
    ("torch._utils", "_rebuild_parameter_with_state"): _Function(lambda tensor, *_: tensor),
    ("torch._tensor", "_rebuild_from_type_v2"): _Function(lambda made, kind, given, state: made(*given)),
    **{
        (module, name): dtype for name, dtype in STORAGES.items() for module in ("torch", "torch.cuda", "torch.storage")
    },
    **{("torch", str(dtype)[6:]): dtype for dtype in (*STORAGES.values(), torch.float8_e4m3fn, torch.float8_e5m2)},
}


class _Unpickler(pickle.Unpickler):
    """Python's own, with names that are looked up here alone."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="latin1")  # which reads whatever Python 2 wrote
        self.inert: set[str] = set()
        self.sizes: dict[Any, int] = {}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return what stands for a name."""
        builtin = module_name in BUILTIN
        if module_name.partition(".")[0] in ACTING or (builtin and global_name.partition(".")[0] in ACTS):
            name = shown(f"{module_name}.{global_name}")
            raise Refused(f"it names {name}, which no weights need and attacks do: delete it and look for safetensors")
        found = KNOWN.get((module_name, global_name))
        if found is None and not builtin:  # a set or a slice is part of what it stands in, which is named
            self.inert.add(f"{module_name}.{global_name}")
        return Inert if found is None else found

    def persistent_load(self, pid: Any) -> Any:
        """Return the description of a storage, which is all that torch calls by such a name."""
        if not isinstance(pid, tuple) or len(cast("tuple[Any, ...]", pid)) < 5:
            return Inert()
        _, dtype, key, _, count, *view = cast("tuple[Any, ...]", pid)
        if not isinstance(dtype, torch.dtype):
            return Inert()
        self.sizes[key] = dtype.itemsize
        if view and view[0] is not None:
            _, start, count = view[0]
            return Storage(key, dtype, start, count)
        return Storage(key, dtype, 0, count)


class Held:
    """What a file holds: `value`, with `Stored` for tensors; `inert`: the names of the classes that `Inert` stood for.

    Raises `Refused` for a file that torch did not write, that is compressed or damaged, or that names what acts.
    """

    def __init__(self, path: Path) -> None:
        self._places: dict[Any, tuple[int, int]] = {}  # key -> where its bytes begin, and how many there are
        self._read: dict[Any, Tensor] = {}
        try:
            with open(path, "rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self.value, self.inert = self._archive(path) if self._bytes[:4] == b"PK\3\4" else self._pickles()
        except (Refused, MemoryError, OSError):
            raise
        except Exception as error:  # of a program that somebody else wrote
            raise Refused("it is damaged, or no file that torch wrote") from error

    def tensor(self, stored: Stored) -> Tensor:
        """Return a tensor of the mapped file; tensors of one place share its memory."""
        (key, dtype, start, count), offset, shape, stride = stored
        begin, size = self._places.get(key, (0, -1))
        numbers = (start, count, offset, *shape, *stride)
        whole = all(type(n) is int and n >= 0 for n in numbers)
        if size < 0 or len(shape) != len(stride) or len(shape) > MAX_RANK or not whole:
            raise Refused("it is damaged: a tensor is described that it does not hold")
        full, first = size // dtype.itemsize, start + offset
        if not math.prod(shape):
            return torch.empty(shape, dtype=dtype)
        if first + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) >= full:
            raise Refused("it is cut: a tensor is described that goes beyond its end")
        if (key, dtype) not in self._read:
            self._read[key, dtype] = torch.frombuffer(self._bytes, dtype=dtype, count=full, offset=begin)
        return self._read[key, dtype].as_strided(shape, stride, first)

    def _archive(self, path: Path) -> tuple[Any, set[str]]:
        """Read the form since torch 1.6: a zip file of a pickle and of one entry for each storage."""
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
        total, size = sum(entry.file_size for entry in entries), len(self._bytes)
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or total > size:
            raise Refused(f"its parts unpack to {total:,} bytes from {size:,}: no checkpoint is compressed")
        inside: dict[str, tuple[int, int]] = {}
        for entry in entries:
            head = self._bytes[entry.header_offset + 26 : entry.header_offset + 30]
            begin = entry.header_offset + 30 + int.from_bytes(head[:2], "little") + int.from_bytes(head[2:], "little")
            if begin + entry.file_size > size:
                raise Refused("it is cut: an entry of it goes beyond its end")
            inside[entry.filename] = (begin, entry.file_size)
        roots = [name.removesuffix("data.pkl") for name in inside if name.rpartition("/")[2] == "data.pkl"]
        if len(roots) != 1:
            raise Refused("it is a zip file with no checkpoint in it")
        start = roots[0] + "data/"
        self._places |= {n.removeprefix(start): at for n, at in inside.items() if n.startswith(start)}
        if self._part(inside.get(roots[0] + "byteorder", (0, 0))) == b"big":
            raise Refused("its numbers are stored with the largest byte first, which is not read")
        reader = _Unpickler(io.BytesIO(self._part(inside[roots[0] + "data.pkl"])))
        return reader.load(), reader.inert

    def _pickles(self) -> tuple[Any, set[str]]:
        """Read the older form: what wrote it, the object, the keys of its storages, then their sizes and numbers."""
        magic, _, _ = (_Unpickler(self._bytes).load() for _ in range(3))
        if magic != MAGIC:
            raise Refused("it is no file that torch wrote")
        reader = _Unpickler(self._bytes)
        value, keys = reader.load(), _Unpickler(self._bytes).load()
        for key in keys:
            size = int.from_bytes(self._bytes.read(8), "little") * reader.sizes[key]
            self._places[key] = (self._bytes.tell(), size)
            self._bytes.seek(size, io.SEEK_CUR)
        return value, reader.inert

    def _part(self, at: tuple[int, int]) -> bytes:
        return self._bytes[at[0] : at[0] + at[1]]


def shown(name: object) -> str:
    """Return a name of a file as it can stand in a line on a terminal."""
    text = name if isinstance(name, str) else str(name) if isinstance(name, int) else type(name).__name__
    return (text if text.isprintable() else ascii(text))[:120]
