"""A denoiser whose network is listened to: the bridge from a run to `hooks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import Tensor, nn

from ..core import Denoiser, InputError, Schedule, prepare
from .hooks import Moment, Row, Selector, Subscriber, Subscriptions


@dataclass(frozen=True, kw_only=True, eq=False)
class Hooked:
    """`denoiser` with subscribers at sites of its network: `subscribe` holds (selector, subscriber) pairs.

    Each evaluation tells them the moment of the run and the role of every row: guidance says which rows are which
    ("cond", "null", ...), so subscribers never count calls or rows. Raises `InputError` for a denoiser without a
    network of its own: listen to the innermost one, and guide what you get.
    """

    denoiser: Denoiser
    subscribe: Sequence[tuple[Selector, Subscriber]]
    roles: tuple[str, ...] = ("cond",)
    times: tuple[float, ...] = ()
    _table: Subscriptions | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self._table is None:
            object.__setattr__(self, "_table", Subscriptions(network(self.denoiser), self.subscribe))

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
        return replace(self, denoiser=prepare(self.denoiser, times), times=tuple(times))

    def playing(self, roles: tuple[str, ...]) -> Self:
        """Return this with the roles of the equal parts of a batch."""
        inner = getattr(self.denoiser, "playing", None)
        return replace(self, roles=roles, denoiser=self.denoiser if inner is None else inner(roles))

    def __call__(self, x: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        """Return the denoiser's x0_hat, its network listened to."""
        assert self._table is not None
        moment, each = float(t.flatten()[0]) if isinstance(t, Tensor) else t, len(x) // len(self.roles)
        alpha, sigma = self.schedule(moment)
        now = Moment(
            step=self.times.index(moment) if moment in self.times else -1,
            steps=len(self.times),
            t=moment,
            alpha=alpha,
            sigma=sigma,
            rows=tuple(Row(role, sample) for role in self.roles for sample in range(each)),
        )
        return self.denoiser(x, t, hooks=self._table.at(now), **cond)


def network(denoiser: Any) -> nn.Module:
    """Return the network that a denoiser calls itself."""
    net = getattr(denoiser, "net", None) or getattr(getattr(denoiser, "denoiser", None), "net", None)
    if not isinstance(net, nn.Module):
        raise InputError(f"{type(denoiser).__name__} calls no network itself: hook the innermost denoiser")
    return net
