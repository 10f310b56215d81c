"""Hooks: the one interface for everything that reaches into a network while it runs.

A network lists its *sites*: attentions, residual blocks, skips, blocks. A *subscriber* is asked at the sites that its
selector picks, by descriptor and never by class name or by counting calls. Without subscribers a network runs the plain
code: nothing is looked up, nothing is copied.

Order at an attention: `before` (answer and skip the work) -> `kv` (see and replace queries, keys, values) -> `branches`
(more keys and values, each with a softmax of its own) -> `probs` (the probabilities, made only where somebody overrides
it) -> `out`. At a residual block, a block or a skip: `after`. Any number may read and add; two that *replace* at one
event of one site are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..core.errors import InputError
from .blocks.attend import attend


class Site(NamedTuple):
    """Where a subscriber can be asked.

    `name` is the module's path, stable over versions and equal for equal configurations. `kind`: "self", "cross",
    "joint" attention; "residual", "block", "sample" (the way to the next level) or "skip". `stage`: "down", "middle",
    "up" of a U-Net, "trunk" of a transformer; `level`: how often the grid was halved there, for a trunk how many blocks
    come before. `order` counts the sites of a kind in the order in which they run. `heads` is 0 without attention.
    """

    name: str
    kind: str
    stage: str
    level: int
    order: int
    heads: int


class Row(NamedTuple):
    """Who a row of the batch is: its role ("cond", "null", "reference", ...) and its sample's index in the run."""

    role: str = "cond"
    sample: int = 0


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where a run stands: step `step` of `steps` (-1 where the time is not one of the run's), t, alpha, sigma."""

    step: int = -1
    steps: int = 0
    t: float = 0.0
    alpha: float = 1.0
    sigma: float = 0.0
    rows: tuple[Row, ...] = ()


class Branch(NamedTuple):
    """Keys and values [B, heads, T, d] with a softmax of their own, added times `scale` before the output matrix."""

    k: Tensor
    v: Tensor
    scale: float | Tensor = 1.0


class Subscriber:
    """What is asked at a site. Override what you need: an event that nobody overrides costs nothing.

    Methods get the site and the moment. `replaces` names the events that this subscriber answers for all ("before",
    "kv", "probs", "out", "after"): a second one at the same site is refused.
    """

    replaces: frozenset[str] = frozenset()

    def before(self, x: Tensor, site: Site, now: Moment) -> Tensor | None:
        """Return the attention's finished output for its input `x`, or None to let it run."""
        return None

    def kv(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, site: Site, now: Moment
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return (q, k, v, mask), each [B, heads, tokens, d], to use instead."""
        return q, k, v, mask

    def branches(self, q: Tensor, site: Site, now: Moment) -> Sequence[Branch]:
        """Return further branches for the queries `q`."""
        return ()

    def probs(self, p: Tensor, site: Site, now: Moment) -> Tensor:
        """Return the probabilities to use instead of `p` [B, heads, queries, keys]."""
        return p

    def out(self, y: Tensor, site: Site, now: Moment) -> Tensor:
        """Return what to use instead of the attention's output `y`."""
        return y

    def after(self, h: Tensor, site: Site, now: Moment) -> Tensor:
        """Return what to use instead of the output `h` of a block, or instead of a skip."""
        return h


Selector = Callable[[Site], bool]
EVENTS = ("before", "kv", "branches", "probs", "out", "after")


class Tap(nn.Module):
    """A site without weights: a place where a tensor passes."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, h: Tensor, hooks: Hooks | None = None) -> Tensor:
        """Return `h`, as the subscribers leave it."""
        return passed(self, h, hooks)


def sites(net: nn.Module) -> list[Site]:
    """Return the sites of a network in the order in which its modules stand, which is that of their running."""
    return [site for _, site in _sites(net)]


def _sites(net: nn.Module) -> list[tuple[nn.Module, Site]]:
    counts: dict[str, int] = {}
    found: list[tuple[nn.Module, Site]] = []
    for name, module in net.named_modules():
        kind = getattr(module, "kind", None)
        if isinstance(kind, str):
            stage, level = place_of(net, name)
            order = counts[kind] = counts.get(kind, -1) + 1
            found.append((module, Site(name, kind, stage, level, order, int(getattr(module, "heads", 0)))))
    return found


def place_of(net: nn.Module, name: str) -> tuple[str, int]:
    """Return (stage, level) of a module: what the network's `place` says, ("trunk", n) for the n-th block."""
    own = cast("Callable[[str], tuple[str, int]] | None", getattr(net, "place", None))
    if own is not None:
        return own(name)
    return "trunk", next((int(part) for part in name.split(".") if part.isdecimal()), 0)


class Subscriptions:
    """Which subscribers are asked at which sites of one network: made once a run, from (selector, subscriber) pairs.

    Raises `InputError` where a selector picks no site, and where two subscribers replace the same event of a site.
    """

    def __init__(self, net: nn.Module, pairs: Iterable[tuple[Selector, Subscriber]]) -> None:
        table: dict[nn.Module, tuple[Site, list[Subscriber]]] = {}
        known = _sites(net)
        for selector, subscriber in pairs:
            picked = [(module, site) for module, site in known if selector(site)]
            if not picked:
                kinds = ", ".join(sorted({site.kind for _, site in known})) or "none"
                raise InputError(
                    f"{type(subscriber).__name__} was given a selector that picks no site of {type(net).__name__}, "
                    f"whose kinds are: {kinds}"
                )
            for module, site in picked:
                table.setdefault(module, (site, []))[1].append(subscriber)
        for site, asked in table.values():
            for event in EVENTS:
                owners = [type(s).__name__ for s in asked if event in s.replaces]
                if len(owners) > 1:
                    raise InputError(f"{' and '.join(owners)} both replace {event!r} at {site.name}: use one of them")
        self.table = table

    def at(self, now: Moment) -> Hooks:
        """Return what a network's `hooks` argument takes, at one moment of a run."""
        return Hooks(self.table, now)


@dataclass(frozen=True)
class Hooks:
    """The subscribers of a network at one moment: what its forward takes as `hooks`."""

    table: Mapping[nn.Module, tuple[Site, list[Subscriber]]]
    now: Moment = field(default_factory=Moment)

    def of(self, module: nn.Module) -> Events | None:
        """Return the events of a site, None where nobody subscribed."""
        found = self.table.get(module)
        return None if found is None else Events(found[1], found[0], self.now)


class Events(NamedTuple):
    """The events of one site at one moment."""

    asked: list[Subscriber]
    site: Site
    now: Moment

    def _overriding(self, event: str) -> list[Subscriber]:
        return [s for s in self.asked if getattr(type(s), event) is not getattr(Subscriber, event)]

    def before(self, x: Tensor) -> Tensor | None:
        """Return the first finished output that a subscriber has."""
        for s in self._overriding("before"):
            y = s.before(x, self.site, self.now)
            if y is not None:
                return y
        return None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Return the heads' outputs [B, heads, tokens, d]: kv, then probs and branches, fused where nobody looks."""
        for s in self._overriding("kv"):
            q, k, v, mask = s.kv(q, k, v, mask, self.site, self.now)
        readers = self._overriding("probs")
        if readers:
            p = probabilities(q, k, mask)
            for s in readers:
                p = s.probs(p, self.site, self.now)
            y = p.to(v.dtype) @ v
        else:
            y = attend(q, k, v, mask)
        for s in self._overriding("branches"):
            for branch in s.branches(q, self.site, self.now):
                y = y + branch.scale * attend(q, branch.k.to(q.dtype), branch.v.to(q.dtype))
        return y

    def out(self, y: Tensor) -> Tensor:
        """Return the output as the subscribers leave it."""
        for s in self._overriding("out"):
            y = s.out(y, self.site, self.now)
        return y

    def after(self, h: Tensor) -> Tensor:
        """Return the block's output as the subscribers leave it."""
        for s in self._overriding("after"):
            h = s.after(h, self.site, self.now)
        return h


def probabilities(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T / sqrt(d) + mask), float32 [B, heads, queries, keys]: differentiable in every mode."""
    logits = (q * q.shape[-1] ** -0.5).float() @ k.float().mT
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    return torch.softmax(logits, dim=-1)


def passed(module: nn.Module, h: Tensor, hooks: Hooks | None) -> Tensor:
    """Return the output `h` of a site, as its subscribers leave it."""
    events: Any = None if hooks is None else hooks.of(module)
    return h if events is None else events.after(h)
