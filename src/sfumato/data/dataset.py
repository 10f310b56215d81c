"""What a data set is: rows that can be asked for by number, and a hash that says which rows they are."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor

from ..core import Batch, InputError, Noise, to_config

if TYPE_CHECKING:
    from ..codecs.codec import Codec
    from ..conditioning.conditioner import Conditioner

D = TypeVar("D", bound="Dataset")


class Dataset(ABC):
    """Rows numbered 0 .. len - 1; `batch` is a pure function of the row numbers and the noise handed in.

    A data set whose content follows from a few settings is itself a registered, frozen dataclass: its own
    configuration, loaded on first use.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def batch(self, indices: Sequence[int], noise: Noise) -> Batch:
        """Return the rows `indices`; what is random about row i (crop, flip) is drawn from row i of `noise` alone."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one x_0."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A sha256 of the data, in hexadecimal: equal exactly when every row is."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes that `cond["y"]` numbers, None where there are none."""
        return None

    @property
    def conditioner(self) -> Conditioner | None:
        """What turns a prompt into the conditions of a row, None where that is the classes or nothing."""
        return None

    @property
    def codec(self) -> Codec | None:
        """The codec whose latents x_0 is, None where it is what a person looks at."""
        return None

    def prepare(self, say: Callable[[int, int], None] = lambda done, of: None) -> None:  # noqa: B027 - most need nothing
        """Do what has to be done once before rows are read, telling `say` how many rows are done, of how many."""

    @property
    def bin(self) -> float | None:
        """The distance of neighbouring levels of x_0, None where it is not on a lattice: what a likelihood needs."""
        return None


class Wrapping(Dataset, Generic[D]):
    """The rows of another data set, `data`, read in another way: as many, of the same shape; a registered dataclass."""

    data: D

    def __len__(self) -> int:
        return len(self.data)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the data."""
        return self.data.shape

    @property
    def fingerprint(self) -> str:
        """A sha256 of the data's and of the settings."""
        return hashlib.sha256(f"{self.data.fingerprint} {json.dumps(to_config(self))}".encode()).hexdigest()


class InMemory(Dataset):
    """A data set that is a few tensors; a member gives them with `_load`."""

    @abstractmethod
    def _load(self) -> Batch:
        """Return all rows, in order."""

    @cached_property
    def rows(self) -> Batch:
        """All rows, loaded once."""
        return self._load()

    def __len__(self) -> int:
        return len(self.rows.x0)

    def batch(self, indices: Sequence[int], noise: Noise) -> Batch:
        """Return the rows `indices`; nothing is random about them, so `noise` is not looked at."""
        index = torch.tensor(indices, dtype=torch.int64)
        return Batch(self.rows.x0[index], {k: v[index] for k, v in self.rows.cond.items()})

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one x_0."""
        return tuple(self.rows.x0.shape[1:])

    @property
    def fingerprint(self) -> str:
        """A sha256 of every tensor, its name, type and shape."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        for name, value in [("x0", self.rows.x0), *sorted(self.rows.cond.items())]:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.contiguous().numpy().tobytes())
        return digest.hexdigest()


class Tensors(InMemory):
    """Tensors that you already have: `Tensors(x0, {"y": labels})`, every one with a row for each sample.

    Raises `InputError` where the numbers of rows differ, there are none, or a value of x_0 is not finite.
    """

    def __init__(
        self, x0: Tensor, cond: Mapping[str, Tensor] | None = None, classes: Sequence[str] | None = None
    ) -> None:
        cond = {} if cond is None else dict(cond)
        for name, value in cond.items():
            if len(value) != len(x0):
                raise InputError(f"{name} has {len(value)} rows for {len(x0)} samples: give one for each")
        if not len(x0):
            raise InputError("x0 has no rows: give at least one sample")
        if not torch.isfinite(x0).all():
            raise InputError("x0 has values that are not finite: remove those samples")
        self._given = Batch(x0, cond)
        self._classes = None if classes is None else tuple(classes)

    def _load(self) -> Batch:
        return self._given

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names that were given."""
        return self._classes


def split(y: Tensor, every: int = 5, seed: int = 0) -> Tensor:
    """Return a boolean mask over `y`, true for the held-out rows: one in `every`, in each class to within one row.

    Rows are ordered by class and then by a hash of (seed, row), and each `every`-th is taken, so the split depends on
    the labels and the seed alone. The default holds out a fifth.
    """
    if every < 2:
        raise InputError(f"split holds out one row in `every`, at least 2; got {every}")
    key = Noise(range(len(y))).uniform("split", seed)
    by_key = torch.argsort(key, stable=True)
    order = by_key[torch.argsort(y[by_key], stable=True)]
    mask = torch.zeros(len(y), dtype=torch.bool)
    mask[order[::every]] = True
    return mask
