"""Links: which tensors of a foreign file are which of ours, and how to turn the one into the other, both ways.

A layout is a list of links. Reading follows them from their tensors to ours without copying (slices, transposes and
reshapes are views of the mapped file); writing follows them back. Nothing is guessed: a tensor that no link names is
reported, and so is a link whose tensor is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..core.errors import CheckpointError, InputError
from ..core.weights import Spec

Turn = Callable[[list[Tensor]], list[Tensor]]


def same(tensors: list[Tensor]) -> list[Tensor]:
    """Return the tensors as they are."""
    return tensors


@dataclass(frozen=True)
class Link:
    """`ours` = read(`theirs`), `theirs` = write(`ours`): most links are one name each and no change."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    read: Turn = same
    write: Turn = same


def one(ours: str, theirs: str) -> Link:
    """Return the link of two names for the same tensor."""
    return Link((ours,), (theirs,))


def flat(ours: str, theirs: str) -> Link:
    """Return the link of a linear layer's weight [out, in] to that of a 1x1 convolution [out, in, 1, 1]."""
    return Link((ours,), (theirs,), lambda t: [t[0].flatten(1)], lambda t: [t[0][:, :, None, None]])


def convolved(ours: str, theirs: str, side: int) -> Link:
    """Return the link of a matrix on patches [D, C p p] to the weight of a convolution [D, C, p, p], p = `side`."""

    def write(tensors: list[Tensor]) -> list[Tensor]:
        return [tensors[0].unflatten(1, (-1, side, side))]

    return Link((ours,), (theirs,), lambda t: [t[0].flatten(1)], write)


def repeated(ours: str, theirs: Sequence[str]) -> Link:
    """Return the link of one tensor to equal copies; a file whose copies differ is refused with `CheckpointError`."""

    def read(tensors: list[Tensor]) -> list[Tensor]:
        first = tensors[0]
        for name, other in zip(theirs, tensors, strict=True):
            if not first.is_meta and not torch.equal(first, other):
                raise CheckpointError(f"{name} differs from {theirs[0]}: this network has one of them for all blocks")
        return [first]

    return Link((ours,), tuple(theirs), read, lambda t: list(t) * len(theirs))


def shared(ours: Sequence[str], theirs: str) -> Link:
    """Return the link of several equal tensors of ours, each in memory of its own, to one of theirs.

    Raises `InputError` for writing ones that differ.
    """

    def write(tensors: list[Tensor]) -> list[Tensor]:
        if not tensors[0].is_meta and not all(torch.equal(tensors[0], other) for other in tensors[1:]):
            raise InputError(f"{' and '.join(ours)} differ: {theirs} is one of them in this layout")
        return tensors[:1]

    return Link(tuple(ours), (theirs,), lambda t: [*t, *(t[0].clone() for _ in ours[1:])], write)


def split(ours: Sequence[str], theirs: str) -> Link:
    """Return the link of several tensors to one that holds them below each other, in equal parts."""
    count = len(ours)
    return Link(tuple(ours), (theirs,), lambda t: list(t[0].chunk(count)), lambda t: [torch.cat(t)])


def stacked(ours: str, theirs: Sequence[str]) -> Link:
    """Return the link of one tensor to several that stand below each other in it, in equal parts."""
    count = len(theirs)
    return Link((ours,), tuple(theirs), lambda t: [torch.cat(t)], lambda t: list(t[0].chunk(count)))


def swapped(ours: str, theirs: str) -> Link:
    """Return the link of a tensor to one with its two halves in the other order: (shift, scale) and (scale, shift)."""

    def turn(tensors: list[Tensor]) -> list[Tensor]:
        return [torch.cat(tensors[0].chunk(2)[::-1])]

    return Link((ours,), (theirs,), turn, turn)


def transposed(ours: str, theirs: str) -> Link:
    """Return the link of a matrix to its transpose."""
    return Link((ours,), (theirs,), lambda t: [t[0].T], lambda t: [t[0].T.contiguous()])


def prefixed(links: Iterable[Link], prefix: str) -> list[Link]:
    """Return links to the same tensors of theirs with a `prefix` before their names."""
    return [Link(k.ours, tuple(prefix + name for name in k.theirs), k.read, k.write) for k in links]


Rules = Sequence[tuple[str, str]]


def renamed(name: str, rules: Rules) -> str:
    """Return `name` with each rule's pattern (a regular expression) replaced, in order."""
    for pattern, replacement in _compiled(tuple(rules)):
        name = pattern.sub(replacement, name)
    return name


@lru_cache
def _compiled(rules: tuple[tuple[str, str], ...]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern), replacement) for pattern, replacement in rules]


def read(
    links: Iterable[Link], theirs: Mapping[str, Tensor], *, optional: Iterable[str] = ()
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Return (our tensors, the names of theirs that are missing, the names of theirs that no link used).

    `optional` are names whose links are left out where the file does not have them.
    """
    ours: dict[str, Tensor] = {}
    missing: list[str] = []
    used: set[str] = set()
    may = set(optional)
    for link in links:
        absent = [name for name in link.theirs if name not in theirs]
        if absent:
            missing += [name for name in absent if name not in may]
            continue
        used.update(link.theirs)
        ours.update(zip(link.ours, link.read([theirs[name] for name in link.theirs]), strict=True))
    return ours, missing, [name for name in theirs if name not in used]


def write(links: Iterable[Link], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return their tensors of ours."""
    theirs: dict[str, Tensor] = {}
    for link in links:
        theirs.update(zip(link.theirs, link.write([ours[name] for name in link.ours]), strict=True))
    return theirs


def check(kind: str, path: str, expect: Mapping[str, Spec], ours: Mapping[str, Tensor], missing: Sequence[str]) -> None:
    """Raise `CheckpointError` for what a file lacks, and for tensors of another shape than the network's, or of whole
    numbers where it computes with broken ones.
    """
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise CheckpointError(f"{path} lacks {', '.join(missing[:3])}{more}, which {kind} needs: is it another model?")
    for name, spec in expect.items():
        got = ours.get(name)
        if got is not None and tuple(got.shape) != spec.shape:
            raise CheckpointError(
                f"{path}: {name} of {kind} has the shape {list(got.shape)}, its configuration says {list(spec.shape)}"
            )
        if got is not None and spec.dtype.is_floating_point and not got.dtype.is_floating_point:
            raise CheckpointError(f"{path}: {name} of {kind} is stored as {got.dtype}: it needs floating-point numbers")


def chained(first: Iterable[Link], second: Iterable[Link]) -> list[Link]:
    """Return ours <-> c for ours <-> b (`first`) and b <-> c (`second`), where each link of `first` takes whole links.

    A link of `second` that joins several of b's tensors joins the links of `first` that hold them.
    """
    owner: dict[str, int] = {}
    outer = list(second)
    for i, link in enumerate(outer):
        owner.update(dict.fromkeys(link.ours, i))
    groups: dict[int, list[Link]] = {}
    parent = list(range(len(outer)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    inner = [link for link in first if all(name in owner for name in link.theirs)]
    for link in inner:
        roots = [root(owner[name]) for name in link.theirs]
        for other in roots[1:]:
            parent[other] = roots[0]
            roots = [root(r) for r in roots]
    for link in inner:
        groups.setdefault(root(owner[link.theirs[0]]), []).append(link)
    joined: list[Link] = []
    for top, members in groups.items():
        parts = [link for i, link in enumerate(outer) if root(i) == top]
        joined.append(_through(members, parts))
    return joined


def _through(inner: list[Link], outer: list[Link]) -> Link:
    ours = tuple(name for link in inner for name in link.ours)
    theirs = tuple(name for link in outer for name in link.theirs)

    def reading(tensors: list[Tensor]) -> list[Tensor]:
        middle = _follow(outer, dict(zip(theirs, tensors, strict=True)), back=False)
        result = _follow(inner, middle, back=False)
        return [result[name] for name in ours]

    def writing(tensors: list[Tensor]) -> list[Tensor]:
        middle = _follow(inner, dict(zip(ours, tensors, strict=True)), back=True)
        result = _follow(outer, middle, back=True)
        return [result[name] for name in theirs]

    return Link(ours, theirs, reading, writing)


def _follow(links: list[Link], tensors: dict[str, Tensor], *, back: bool) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for link in links:
        source, target, turn = (link.ours, link.theirs, link.write) if back else (link.theirs, link.ours, link.read)
        result.update(zip(target, turn([tensors[name] for name in source]), strict=True))
    return result
