"""A denoiser that a control network steers: its residuals are added inside of the host while it runs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor, nn

from ..core import Denoiser, InputError, Preconditioned, Schedule, per_row, prepare
from ..core.ahead import Ahead, remembered
from ..core.denoiser import device_of, net_dtype
from ..nets.hooks import Hooks, Moment, Site, Subscriber, sites


class Control(Protocol):
    """A control network: like any network, trunk(x, embed(c_noise), **condition(hint=..., **cond)), but the trunk gives
    a list of residuals, and `places` says which of them each site of the host gets.
    """

    @property
    def cond(self) -> Mapping[str, Any]:
        """The condition keys that it takes, "hint" among them, each with its null value."""
        ...

    def seen(self, host: nn.Module, x: Tensor) -> Tensor:
        """Return what it sees of the host's input `x`: `x` itself, or what the host makes of it first."""
        ...

    def places(self, known: Sequence[Site]) -> list[tuple[Site, int]]:
        """Return (site of the host, number of the residual that is added after it)."""
        ...

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return what depends on the noise label alone."""
        ...

    def condition(self, **cond: Any) -> dict[str, Any]:
        """Return what depends on the conditions alone, as the keyword arguments of `trunk`."""
        ...

    def trunk(self, x: Tensor, emb: Tensor, **given: Any) -> list[Tensor]:
        """Return the residuals."""
        ...


class Added(Subscriber):
    """h + residual: at a joint block, whose h holds the image's tokens first, over those."""

    def __init__(self, residual: Tensor) -> None:
        self.residual = residual

    def after(self, h: Tensor, site: Site, now: Moment) -> Tensor:
        """Return the sum."""
        r = self.residual.to(h.dtype)
        n = r.shape[1]
        return h + r if n == h.shape[1] else torch.cat((h[:, :n] + r, h[:, n:]), dim=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Controlled:
    """`denoiser` with scale * residual_i added after the sites that `control` names (ControlNet, arXiv 2302.05543).

    - `hint`: what to be steered by, one row, or a row a sample: a picture in [0, 1] for U-Nets, the latent of one for
      Stable Diffusion 3. It is worked on once a run.
    - `scale`: 0 is plain, bit for bit; a sequence gives each residual its own.
    - `start`, `end`: the share of a run's steps in which it steers: those k of n with k / n >= start and
      (k + 1) / n <= end.
    - `silent`: the roles of rows that it leaves as they are: ("null",) in guess mode.
    - `instead`: conditions that it gets instead of the run's: key -> (rows, those of rows of the role "null").
    Control networks nest, and their residuals add up. Listen from outside: `Hooked(denoiser=Controlled(...), ...)`.

    Raises `InputError` for a window outside of 0..1, scales that are not one a residual, a hint whose rows do not fit
    the batch, a window asked outside of a run, and a denoiser without a network of its own.
    """

    denoiser: Denoiser
    control: Control
    hint: Tensor
    scale: float | Sequence[float] = 1.0
    start: float = 0.0
    end: float = 1.0
    silent: tuple[str, ...] = ()
    instead: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict[str, "tuple[Tensor, Tensor]"])
    roles: tuple[str, ...] = ("cond",)
    times: tuple[float, ...] = ()
    _ahead: Ahead | None = field(default=None, repr=False)
    _host: Preconditioned = field(init=False, repr=False)
    _places: list[tuple[nn.Module, Site, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.start <= self.end <= 1.0:
            raise InputError(f"a control needs 0 <= start <= end <= 1, got start={self.start}, end={self.end}")
        inner: Any = self.denoiser
        while isinstance(inner, Controlled) or (hasattr(inner, "output") and not isinstance(inner, Preconditioned)):
            inner = inner.denoiser  # another control, or a denoiser prepared for a run
        if not isinstance(inner, Preconditioned):
            raise InputError(f"{type(inner).__name__} calls no network itself: control the innermost denoiser")
        places = [(inner.net.get_submodule(s.name), s, i) for s, i in self.control.places(sites(inner.net))]
        count = 1 + max(i for *_, i in places)
        if not isinstance(self.scale, (int, float)) and len(self.scale) != count:
            raise InputError(f"this control gives {count} residuals: scale has {len(self.scale)} entries")
        object.__setattr__(self, "_host", inner)
        object.__setattr__(self, "_places", places)

    @property
    def net(self) -> nn.Module:
        """The host's network."""
        return self._host.net

    @property
    def schedule(self) -> Schedule:
        """The denoiser's schedule."""
        return self.denoiser.schedule

    @property
    def cond(self) -> Mapping[str, Any]:
        """The denoiser's condition keys."""
        return self.denoiser.cond

    @property
    def memo(self) -> Any:
        """The memo of a run, None before `prepare`."""
        return getattr(self.denoiser, "memo", None)

    def prepare(self, times: Sequence[float]) -> Self:
        """Return this for the times of one run."""
        moments, host = torch.tensor(list(times), dtype=torch.float64), self._host
        labels = host.scaling(moments, *host.schedule(moments))[1]
        control = cast(nn.Module, self.control)
        ahead = Ahead(control, labels.to(device_of(control), torch.float32)) if times else None
        return replace(self, denoiser=prepare(self.denoiser, times), times=tuple(times), _ahead=ahead)

    def playing(self, roles: tuple[str, ...]) -> Self:
        """Return this with the roles of the equal parts of a batch."""
        told, inner = copy.copy(self), getattr(self.denoiser, "playing", None)
        object.__setattr__(told, "roles", roles)
        object.__setattr__(told, "denoiser", self.denoiser if inner is None else inner(roles))
        return told

    def __call__(self, x: Tensor, t: float | Tensor, hooks: Hooks | None = None, **cond: Any) -> Tensor:
        """Return the denoiser's x0_hat, steered."""
        steered = self._table(x, t, hooks, cond) if self._on(t) else hooks
        return self.denoiser(x, t, **cond, **({} if steered is None else {"hooks": steered}))

    def residuals(self, x: Tensor, t: float | Tensor, **cond: Any) -> list[Tensor]:
        """Return the control network's residuals, each times its scale."""
        host, control = self._host, self.control
        alpha, sigma = host.schedule(t)
        c_in, c_noise = host.scaling(t, alpha, sigma)
        dtype = net_dtype(cast(nn.Module, control))
        inside = (x * per_row(c_in, x)).to(net_dtype(host.net))
        given = {key: value for key, value in cond.items() if key in control.cond} | {"hint": self.hint}

        fixed = {f"{key} {i}": value for key, pair in self.instead.items() for i, value in enumerate(pair)}

        def conditioned() -> dict[str, Any]:
            own = {key: self._by_role(pair, len(x)) for key, pair in self.instead.items()}
            return control.condition(**given | own | {"hint": self._rows(x)})

        known = remembered(self, f"control {id(control)} {len(x)} {self.roles}", given | fixed, conditioned)
        inside = control.seen(host.net, inside).to(dtype)
        if self._ahead is not None and not isinstance(t, Tensor) and t in self.times:
            i = self.times.index(t)
            found = control.trunk(inside, self._ahead.rows[i], **self._ahead.told(i, x, known))
        else:
            label = torch.as_tensor(c_noise, dtype=torch.float32, device=x.device).reshape(-1)
            found = control.trunk(inside, control.embed(label), **known)
        scales = [self.scale] * len(found) if isinstance(self.scale, (int, float)) else self.scale
        found = [r if s == 1.0 else r * s for r, s in zip(found, scales, strict=True)]
        if not set(self.silent) & set(self.roles):
            return found
        heard = torch.tensor([role not in self.silent for role in self.roles], device=x.device)
        heard = heard.repeat_interleave(len(x) // len(self.roles))
        return [torch.where(heard.view(-1, *(1 for _ in r.shape[1:])), r, 0) for r in found]

    def _table(self, x: Tensor, t: float | Tensor, hooks: Hooks | None, cond: Mapping[str, Any]) -> Hooks:
        """Return `hooks` with the residuals added first, so that who listens hears what the next block gets."""
        outer = Hooks({}) if hooks is None else hooks
        added = [Added(r) for r in self.residuals(x, t, **cond)]
        table = dict(outer.table)
        for module, site, i in self._places:
            table[module] = site, [added[i], *table.get(module, (site, []))[1]]
        return replace(outer, table=table)

    def _on(self, t: float | Tensor) -> bool:
        if self.scale == 0.0 or (self.start, self.end) == (0.0, 1.0):
            return self.scale != 0.0
        if not self.times or isinstance(t, Tensor):
            raise InputError("a control's start and end are shares of a run: sample with it, or leave them 0 and 1")
        k, n = sum(time >= t for time in self.times) - 1, len(self.times)
        return k / n >= self.start and (k + 1) / n <= self.end

    def _by_role(self, pair: tuple[Tensor, Tensor], rows: int) -> Tensor:
        each = rows // len(self.roles)
        parts = [pair[role == "null"] for role in self.roles]
        if any(len(part) not in (1, each) for part in parts):
            raise InputError(
                f"{[len(part) for part in parts]} rows instead of a condition of {each}: give one, or each"
            )
        return torch.cat([part.expand(each, *part.shape[1:]) for part in parts])

    def _rows(self, x: Tensor) -> Tensor:
        """Return the hint with as many rows as `x`, or one: guidance stacks its branches below each other."""
        rows, hints = len(x), len(self.hint)
        if hints not in (1, samples := rows // len(self.roles)):
            raise InputError(f"the hint has {hints} rows, the batch {samples}: give one row, or one a sample")
        hint = self.hint.to(device=x.device)
        return hint if hints == 1 else hint.repeat(rows // hints, *(1 for _ in hint.shape[1:]))
