"""A run recorded once and replayed as compiled graphs: what `sample(..., compile=True)` does.

The loop runs under a dispatch mode that writes down every operation on tensors, so that Python's part of it, the
solver's coefficients among it, is done once. The record is cut where steps end. The factors of a step become a table
that goes in with the state: steps of one form are then one graph, of which torch's compiler makes a few kernels (50
steps of DDIM are two graphs; nothing of a run is outside of them but the embeddings of its times). Noise is drawn by
`Noise` before the run; weights go in by reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, is_dataclass
from itertools import chain, groupby, pairwise
from operator import getitem, is_
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
import torch._inductor as inductor
from torch import Tensor, fx, nn
from torch._dynamo.exc import Unsupported
from torch.utils._pytree import tree_map_only

from .denoiser import Denoiser, prepare
from .errors import InputError
from .noise import Noise
from .record import Draw, Drawn, Op, Reads, Record, Slot, aten, slots
from .sampling import Callback, Solver, Step, loop

_SELECT = aten.select.int
_JOINED = (8, 7, 6, 5)  # steps in a graph: the calls between graphs weigh little then, and it compiles quickly
_SCALING = {getattr(aten, f"{name}{end}").Tensor for name in ("mul", "div", "add", "sub") for end in ("", "_")}


@dataclass(frozen=True)
class _Factor:
    """A factor: entry `j` of the table of step `i`."""

    i: int
    j: int


class _Form(NamedTuple):
    """A stretch of a run: its operations, the slots that go in and those that come out, and the tables of its factors.

    `text` says all that stretches which share a graph have in common; in `ops` slots are numbered from 0.
    """

    text: str
    ops: Sequence[Op]
    inputs: Sequence[int]
    outputs: Sequence[int]
    number: dict[int, Slot]
    tables: Sequence[Tensor]
    examples: list[Tensor]

    def graph(self) -> fx.GraphModule:
        """Return the function of inputs and tables that gives the outputs."""
        graph = fx.Graph()
        node: dict[int, fx.Node] = {self.number[slot]: graph.placeholder(f"x{i}") for i, slot in enumerate(self.inputs)}
        tables = [graph.placeholder(f"table{i}") for i in range(len(self.tables))]

        def value(v: Any) -> Any:
            return node[v] if isinstance(v, Slot) else graph.call_function(_SELECT, (tables[v.i], 0, v.j))

        def bind(result: fx.Node, out: Any) -> None:
            if isinstance(out, Slot):
                node[out] = result
            elif slots(out):
                for i, part in enumerate(out):
                    bind(graph.call_function(getitem, (result, i)), part)

        for function, *inside, out in self.ops:
            args, kwargs = tree_map_only((Slot, _Factor), value, inside)
            bind(graph.call_function(function, args, kwargs), out)
        graph.output(tuple(node[self.number[slot]] for slot in self.outputs))
        graph.eliminate_dead_code()  # a schedule's values, of which Python made factors
        return fx.GraphModule({}, graph)


_GRAPHS: dict[str, Callable[..., Sequence[Tensor]]] = {}  # by the text of a form: nothing of a model or a run is in it


def _compiled(form: _Form) -> Callable[..., Sequence[Tensor]]:
    """Return a form's graph, compiled."""
    if form.text in _GRAPHS:
        return _GRAPHS[form.text]
    # the processor names its instructions, so they are not tried out with the compiler, which takes it 10 s
    options: dict[str, Any] = {"cpp.vec_isa_ok": True, "size_asserts": False}
    if form.examples[0].device.type == "cpu":
        options["cpp_wrapper"] = True
    try:
        with torch.autocast(form.examples[0].device.type, enabled=False):  # what it does was written down
            graph = inductor.compile(form.graph(), [*form.examples, *form.tables], options=options)
        _GRAPHS[form.text] = cast("Callable[..., Sequence[Tensor]]", graph)
    except Exception as error:
        if "InvalidCxxCompiler" not in f"{type(error).__name__} {error}":
            raise
        raise InputError(
            "compile=True needs a C++ compiler, g++ or the one that CXX names: install one, or leave compile out"
        ) from error
    return _GRAPHS[form.text]


class _Part(NamedTuple):
    """A stretch of a run: `function` of the slots `inputs` and of the tables gives those in `outputs`."""

    function: Callable[..., Sequence[Tensor]]
    inputs: Sequence[int]
    tables: Sequence[Tensor]
    outputs: Sequence[int]
    state: int  # the slot of x at its end


class _Program(NamedTuple):
    """A recorded run: tensors that it holds on to, its draws and its parts."""

    held: dict[int, Tensor]
    draws: list[Draw]
    parts: list[_Part]

    def __call__(
        self, given: Sequence[Tensor], noise: Noise, plan: Sequence[Step], callback: Callback | None
    ) -> Tensor:
        """Run it; with a callback a part is a step."""
        values = self.held | dict(enumerate(given))
        for slot, method, args, kwargs in self.draws:
            values[slot] = getattr(noise, method)(*args, **kwargs)
        for i, (function, inputs, tables, outputs, state) in enumerate(self.parts):
            values.update(zip(outputs, function(*[values[slot] for slot in inputs], *tables), strict=True))
            if callback is not None and i > 0:
                callback(plan[i - 1], values[state])
        return values[self.parts[-1].state]


class _Made(NamedTuple):
    """What a denoiser is made of, down to its parameters: a run is recorded anew where any of it is another object."""

    attributes: list[Mapping[str, Any]]  # of all its parts
    values: list[Any]
    tensors: list[Tensor]
    kinds: list[Any]

    @classmethod
    def of(cls, denoiser: Any) -> _Made:
        """Look at a denoiser."""
        attributes = list(_attributes(denoiser))
        values = list(chain.from_iterable(v.values() for v in attributes))
        tensors = [v for v in values if isinstance(v, Tensor)]
        return cls(attributes, values, tensors, _kinds(tensors))

    def still(self) -> bool:
        """Return whether it is made of the same: the same objects, tensors of the same form."""
        now = list(chain.from_iterable(v.values() for v in self.attributes))
        return len(now) == len(self.values) and all(map(is_, now, self.values)) and _kinds(self.tensors) == self.kinds


def _kinds(tensors: Iterable[Tensor]) -> list[Any]:
    return [(v.shape, v.stride(), v.dtype, v.device) for v in tensors]


def _attributes(part: Any) -> Iterator[Mapping[str, Any]]:
    for owner in part.modules() if isinstance(part, nn.Module) else (part,):
        yield (found := getattr(owner, "__dict__", {}))
        for value in found.values():
            if isinstance(value, dict) and isinstance(part, nn.Module):
                yield value
            elif is_dataclass(value) or (isinstance(value, nn.Module) and not isinstance(part, nn.Module)):
                yield from _attributes(value)


_PROGRAMS: WeakKeyDictionary[Any, dict[Any, tuple[Solver, _Made, _Program]]] = WeakKeyDictionary()


def run(
    denoiser: Denoiser,
    x: Tensor,
    solver: Solver,
    plan: Sequence[Step],
    noise: Noise,
    cond: Mapping[str, Any],
    callback: Callback | None,
) -> Tensor:
    """Return what `loop` does, to rounding, by compiled graphs; the record is kept as long as `denoiser` lives.

    Raises `InputError` for a run that goes by values of the state, for conditions that are neither tensors nor numbers,
    and where there is no C++ compiler.
    """
    # laid out as their copies are, which are recorded
    given = [v if v.is_contiguous() else v.clone() for v in (x, *cond.values()) if isinstance(v, Tensor)]
    settings = tuple((name, None if isinstance(v, Tensor) else v) for name, v in cond.items())
    for name, v in settings:
        if not isinstance(v, (int, float, str, type(None))):
            raise InputError(f"compile=True takes tensors and numbers as conditions, got {name}={v!r:.60}")
    tensors = tuple(id(v) for found in _attributes(solver) for v in found.values() if isinstance(v, Tensor))
    casts = torch.is_autocast_enabled(x.device.type)
    around = (torch.get_autocast_dtype(x.device.type) if casts else None, torch.get_default_dtype())
    asked = (repr(solver), tensors, tuple(plan), repr(settings), *_kinds(given), callback is None)
    key = (*asked, *around, torch.get_num_threads())
    programs = _PROGRAMS.setdefault(denoiser, {})
    _, made, program = programs.get(key, (None, None, None))
    if made is None or program is None or not made.still():
        made = _Made.of(denoiser)  # before the run, which may change it
        program = _program(denoiser, given, solver, plan, noise, cond, callback is None)
        programs[key] = (solver, made, program)  # the solver holds the tensors by whose ids it is known
    with torch.autocast(x.device.type, enabled=False) if casts else nullcontext():
        return program(given, noise, plan, callback)


def _program(
    denoiser: Denoiser,
    given: Sequence[Tensor],
    solver: Solver,
    plan: Sequence[Step],
    noise: Noise,
    cond: Mapping[str, Any],
    joined: bool,
) -> _Program:
    """Run the loop on copies of what is given, and cut its record at the ends of the steps."""
    copies = [v.clone() for v in given]
    record = Record(type(solver).__name__, copies)
    mine = iter(copies[1:])
    cond = {name: next(mine) if isinstance(v, Tensor) else v for name, v in cond.items()}
    try:
        with record, Reads(record):
            ready = prepare(denoiser, [k.t for k in plan])
            record.end(copies[0])
            loop(ready, copies[0], solver, plan, Drawn(noise, record), cond, lambda _, x: record.end(x))
    except Unsupported:
        record.refuse("a part of it calls for torch's compiler itself")
    ends, states = zip(*record.ends, strict=True)
    constant = _constants(record)
    stretches = [
        [op for op in record.ops[start:end] if constant.isdisjoint(slots(op.out))]
        for start, end in zip((0, *ends), ends)
    ]
    last = {slot: i for i, ops in enumerate(stretches) for slot in slots([op[1:3] for op in ops])}

    def form(start: int, end: int) -> _Form:
        made = dict.fromkeys(slots([op.out for ops in stretches[start:end] for op in ops]))
        kept = [slot for slot in made if last.get(slot, 0) >= end or slot == states[end - 1]]
        return _form(record, stretches[start:end], kept)

    parts: list[_Part] = []
    every = range(len(stretches))
    for start, end in _runs([form(i, i + 1).text for i in every] if joined else every):
        shape = form(start, end)
        # what comes before the first step, the embeddings of all times, is not worth a graph of its own
        function = _compiled(shape) if start > 0 and shape.ops else shape.graph()
        parts.append(_Part(function, shape.inputs, shape.tables, shape.outputs, states[end - 1]))
    made = {slot for part in parts for slot in part.outputs}
    made.update(range(len(given)), (draw.slot for draw in record.draws))
    held = {slot: record.tensors[slot] for part in parts for slot in (*part.inputs, part.state) if slot not in made}
    return _Program(held, record.draws, parts)


def _constants(record: Record) -> set[int]:
    """Return the slots of what Python's numbers alone decide and nothing writes to: they need not be computed again."""
    written = {record.storages[slot] for op in record.ops for slot in op.written()}
    written.update(record.storages[slot] for _, slot in record.ends)  # the state belongs to the run
    found = set(record.numbers)
    for op in record.ops:
        if found.issuperset(slots(op[1:3])) and written.isdisjoint(record.storages[slot] for slot in slots(op[1:])):
            found.update(slots(op.out))
    return found


def _runs(texts: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of stretches of equal texts, of one length from 5 to 8 and what is left over one by one."""
    start = 0
    for _, same in groupby(texts):
        length = len(list(same))
        size = min(_JOINED, key=lambda n: length % n) if length >= _JOINED[-1] else 1
        ends = [
            *range(start, start + length - length % size + 1, size),
            *range(start + length - length % size + 1, start + length + 1),
        ]
        yield from pairwise(ends)
        start += length


def _form(record: Record, stretches: Sequence[Sequence[Op]], outputs: Sequence[int]) -> _Form:
    """Return the form of some steps.

    Slots are numbered anew in the order of their first use, and factors of floating tensors become entries of tables.
    """
    number: dict[int, Slot] = {}
    tables: list[list[float]] = [[] for _ in stretches]
    inputs: list[int] = []
    local: list[Op] = []

    def renamed(slot: Slot) -> Slot:
        return number.setdefault(slot, Slot(len(number)))

    def entry(i: int, v: Any) -> Any:
        if not isinstance(v, float):
            return v
        tables[i].append(v)
        return _Factor(i, len(tables[i]) - 1)

    for i, op in ((i, op) for i, ops in enumerate(stretches) for op in ops):
        inputs += [slot for slot in dict.fromkeys(slots(op[1:3])) if slot not in number and renamed(slot) >= 0]
        args, kwargs, out = tree_map_only(Slot, renamed, op[1:])
        operands = [record.tensors[slot] for slot in slots(op.args)]
        # a factor that is a tensor without dimensions decides no dtype beside those that have some
        if op.function in _SCALING and all(x.ndim > 0 and x.is_floating_point() for x in operands):
            args = tuple(entry(i, v) for v in args)
        local.append(Op(op.function, args, kwargs, out))
    tensors = [record.tensors[slot] for slot in inputs]
    memory = [record.storages[slot] for slot in inputs]
    written = {record.storages[slot] for ops in stretches for op in ops for slot in op.written()}
    # inputs that share memory must do so in each stretch of this form, in the same way where it is written to
    shared = [(memory.index(v), x.storage_offset() * (v in written)) for v, x in zip(memory, tensors)]
    kinds = [(x.dtype, x.device, tuple(x.shape), x.stride()) for x in tensors]
    settings = (torch.get_num_threads(), torch.get_default_dtype())
    text = f"{kinds} {shared} {local} {[number[slot] for slot in outputs]} {settings}"
    rows = [torch.tensor(table, dtype=torch.float64, device=record.tensors[0].device) for table in tables]
    return _Form(text, local, inputs, outputs, number, rows, tensors)
