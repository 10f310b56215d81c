"""A run written down: every operation on tensors, in order, and every draw of noise. What `compiled` replays.

What cannot be written down is refused: a replay computes what the run did, or there is none.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from .errors import InputError
from .noise import Noise

aten = torch.ops.aten

_SUMS = {getattr(aten, name).Tensor for name in ("add", "add_", "sub", "sub_")}
_UNSEEN = {  # ways out of torch and around its dispatcher
    *(Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.apply_, Tensor.map_),
    *(Tensor.__deepcopy__, Tensor.__reduce_ex__, Tensor.__repr__, Tensor.__format__),
    Tensor.data.__set__,  # type: ignore[attr-defined]
}
_SHAPES = {aten.is_same_size.default, aten._has_same_storage_numel.default}  # say nothing of values


class Slot(int):
    """The number of a tensor in a record."""

    def __repr__(self) -> str:
        return f"%{int(self)}"


def slots(tree: Any) -> list[Slot]:
    """Return the slots of a tree."""
    return [v for v in tree_leaves(tree) if isinstance(v, Slot)]


class Op(NamedTuple):
    """One operation, with slots in the place of tensors."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any

    def written(self) -> list[Slot]:
        """Return the slots of what it writes to."""
        arguments = self.function._schema.arguments
        given = dict(zip((a.name for a in arguments), self.args)) | self.kwargs
        return slots([given.get(a.name) for a in arguments if a.alias_info is not None and a.alias_info.is_write])


class Draw(NamedTuple):
    """One call of a method of `Noise`."""

    slot: int
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Record(TorchDispatchMode):
    """The operations of all that runs inside, in order.

    Whatever shares memory with a `given` tensor, or is computed from one, is data; reading a value of data raises.
    """

    supports_higher_order_operators = True  # to refuse them

    def __init__(self, name: str, given: Sequence[Tensor]) -> None:
        super().__init__()
        self.name = name
        self.ops: list[Op] = []
        self.draws: list[Draw] = []
        self.numbers: set[int] = set()  # slots of tensors that were made of Python's numbers
        self.tensors: list[Tensor] = []
        self.storages: list[int] = []  # of the tensors: what shares memory has the same
        self.ends: list[tuple[int, int]] = []  # of each part: how many operations so far, and the slot of the state
        self._paused = False
        self._slots: dict[int, Slot] = {}
        self._views: dict[Any, Slot] = {}
        self._found: dict[int, bool] = {}  # of each storage: whether it was there before the run
        self._data: set[int] = set()
        for x in given:
            self._data.add(self.storages[self._add(x)])

    def _add(self, x: Tensor, found: bool = False) -> Slot:
        """Return the slot of a tensor, which is kept alive so that no other can have its id or its memory."""
        if id(x) not in self._slots:
            if x.layout is not torch.strided:
                self.refuse(f"it takes a tensor of layout {x.layout}")
            self._slots[id(x)] = self._views[_view(x)] = Slot(len(self.tensors))
            self.tensors.append(x)
            self.storages.append(_storage(x))
            self._found.setdefault(self.storages[-1], found)
        return self._slots[id(x)]

    def slot(self, x: Tensor) -> Slot:
        """Return the slot of a tensor that goes in: its own, that of the same view of the same memory, or a new one."""
        known = self._slots.get(id(x), self._views.get(_view(x)) if x.layout is torch.strided else None)
        if known is not None:
            return known
        slot = self._add(x, found=True)
        if not self._found[self.storages[slot]]:
            self.refuse("it takes a view that no operation made")
        return slot

    def end(self, x: Tensor) -> None:
        """Mark the end of a part, with the state."""
        self.ends.append((len(self.ops), self.slot(x)))

    def draw(self, value: Tensor, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Write down what was asked of `Noise`, and return what it gave."""
        slot = self._add(value)
        self._data.add(self.storages[slot])
        self.draws.append(Draw(slot, method, args, kwargs))
        return value

    def read(self, x: Tensor) -> None:
        """Raise `InputError` for data: Python goes on by its values."""
        if not self._paused and x.layout is torch.strided and _storage(x) in self._data:
            self.refuse()

    def refuse(self, reason: str = "its steps go by values of the state that they read") -> NoReturn:
        """Raise `InputError`."""
        raise InputError(f"{self.name} cannot be compiled with this denoiser: {reason}; leave compile out")

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
        if not isinstance(func, OpOverload):
            self.refuse(f"it takes {func}, an operation of higher order")
        if torch.Tag.inplace_view in func.tags:
            self.refuse(f"{func} changes the shape of a tensor in place")
        if func is aten.lift_fresh.default:  # a tensor of Python's numbers: every run gets a copy of its own
            func, args = aten.clone.default, (args[0].clone(),)
            self.numbers.add(self.slot(args[0]))
        if func in _SUMS and isinstance(kwargs.get("alpha"), float):
            # a product of its own, whose factor can be an entry of a table
            args, kwargs = (args[0], self._scaled(args[0], args[1], kwargs["alpha"])), {}
        op = Op(func, tree_map_only(Tensor, self.slot, args), tree_map_only(Tensor, self.slot, kwargs), None)
        written = op.written()
        if any(self._found[self.storages[slot]] for slot in written):
            self.refuse(f"{func} writes to a tensor that is not the run's")
        out = self._called(func, args, kwargs)
        op = op._replace(out=tree_map_only(Tensor, self._add, out))
        made = slots(op.out)
        if not self._data.isdisjoint(self.storages[slot] for slot in slots(op[1:3])):
            self._data.update(self.storages[slot] for slot in (*made, *written))
            masked = func is not aten.index.Tensor or any(v.dtype == torch.bool for v in args[1] if v is not None)
            if not (made or written or func in _SHAPES) or (masked and torch.Tag.dynamic_output_shape in func.tags):
                self.refuse()
        if made or written:
            self.ops.append(op)
        return out

    def _scaled(self, x: Any, y: Any, alpha: float) -> Any:
        """Return alpha y, for a sum with `x`, in the dtype of the sum."""
        if not isinstance(y, Tensor):
            return alpha * y
        dtype = torch.result_type(x, y)
        if y.dtype != dtype:
            y = self.__torch_dispatch__(aten._to_copy.default, (), (y,), {"dtype": dtype})
        return self.__torch_dispatch__(aten.mul.Tensor, (), (y, alpha))

    def _called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what an operation gives, where it draws no random numbers."""
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        before = _generators()
        out = func(*args, **kwargs)
        if kwargs.get("generator") is not None or not all(map(torch.equal, before, _generators())):
            self.refuse(f"{func} draws random numbers that are not of the seeds")
        return out


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def _view(x: Tensor) -> Any:
    """Return what two tensors have in common that are one and the same."""
    return _storage(x), x.storage_offset(), x.shape, x.stride(), x.dtype, x.is_conj(), x.is_neg()


def _generators() -> list[Tensor]:
    """Return the states of torch's global generators."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]


class Reads(TorchFunctionMode):
    """Raise where the values of data leave torch unseen by dispatch, or come in."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self._record = record

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in _UNSEEN:
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
