"""A run written down: every operation on tensors, in order, and every draw of noise. What `compiled` replays."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from .errors import InputError
from .noise import Noise

aten = torch.ops.aten


class Slot(int):
    """The number of a tensor in a record."""

    def __repr__(self) -> str:
        return f"%{int(self)}"


class Op(NamedTuple):
    """One operation, with slots in the place of tensors."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any


class Draw(NamedTuple):
    """One call of a method of `Noise`."""

    slot: int
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Record(TorchDispatchMode):
    """The operations of all that runs inside, in order; reading a value that depends on a `given` tensor raises."""

    def __init__(self, name: str, given: Sequence[Tensor]) -> None:
        super().__init__()
        self.name = name
        self.ops: list[Op] = []
        self.draws: list[Draw] = []
        self.numbers: set[int] = set()  # slots of tensors that were made of Python's numbers
        self.tensors: list[Tensor] = []
        self.ends: list[tuple[int, int]] = []  # of each part: how many operations so far, and the slot of the state
        self._paused = False
        self._slots: dict[int, Slot] = {}
        self._data = {self.slot(x) for x in given}

    def slot(self, x: Tensor) -> Slot:
        """Return the slot of a tensor, which is kept alive so that no other can have its id."""
        if id(x) not in self._slots:
            self._slots[id(x)] = Slot(len(self.tensors))
            self.tensors.append(x)
        return self._slots[id(x)]

    def end(self, x: Tensor) -> None:
        """Mark the end of a part, with the state."""
        self.ends.append((len(self.ops), self.slot(x)))

    def draw(self, value: Tensor, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Write down what was asked of `Noise`, and return what it gave."""
        self._data.add(self.slot(value))
        self.draws.append(Draw(self.slot(value), method, args, kwargs))
        return value

    def read(self, x: Tensor) -> None:
        """Raise `InputError` for a tensor that depends on what is given: Python goes on by its values."""
        if not self._paused and self._slots.get(id(x)) in self._data:
            self.refuse()

    def refuse(self) -> NoReturn:
        """Raise `InputError`."""
        raise InputError(
            f"{self.name} cannot be compiled with this denoiser: its steps go by values of the state that they read; "
            "leave compile out"
        )

    @contextmanager
    def paused(self) -> Generator[None]:
        """Write nothing down inside."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        if func is aten.lift_fresh.default:  # a tensor of Python's numbers: every run gets a copy of its own
            func, args = aten.clone.default, (args[0].clone(),)
            self.numbers.add(self.slot(args[0]))
        out = func(*args, **kwargs)
        taken = {self.slot(v) for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)}
        made = [self.slot(v) for v in tree_leaves(out) if isinstance(v, Tensor)]
        if not self._data.isdisjoint(taken):
            self._data.update(made)
            masked = func is not aten.index.Tensor or any(v.dtype == torch.bool for v in args[1] if v is not None)
            if not made or (masked and torch.Tag.dynamic_output_shape in func.tags):
                self.refuse()
        if made:
            self.ops.append(Op(func, *(tree_map_only(Tensor, self.slot, v) for v in (args, kwargs, out))))
        return out


class Reads(TorchFunctionMode):
    """Raise where the values of a tensor that depends on what is given leave torch unseen by dispatch."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self._record = record

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__):
            self._record.read(args[0])
        return func(*args, **(kwargs or {}))


class Drawn(Noise):
    """A `Noise` whose draws are written down."""

    def __init__(self, noise: Noise, record: Record) -> None:
        super().__init__(noise.seeds)
        self._record = record

    def rows(self, index: slice | Sequence[int]) -> Noise:
        """Refuse: a draw is written down for all rows."""
        raise InputError("a run that draws noise for some of its rows cannot be compiled: leave compile out")

    def uniform(self, *key: int | str) -> Tensor:
        """Draw, and write it down."""
        with self._record.paused():
            value = super().uniform(*key)
        return self._record.draw(value, "uniform", key, {})

    def normal(self, shape: Sequence[int], *key: int | str, **kwargs: Any) -> Tensor:
        """Draw, and write it down."""
        with self._record.paused():
            value = super().normal(shape, *key, **kwargs)
        return self._record.draw(value, "normal", (tuple(shape), *key), kwargs)

    def increment(self, x: Tensor, t: float, s: float, *key: int | str) -> Tensor:
        """Draw, and write it down."""
        with self._record.paused():
            value, like = super().increment(x, t, s, *key), torch.empty_like(x)
        return self._record.draw(value, "increment", (like, t, s, *key), {})
