"""What a run computes ahead: all of a network that its states do not decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

ROWS = 128
"""Steps times rows of a batch that are steered at once. Sixty already multiply matrices at full rate; 128 rows of what
the adaptive norms of a transformer of width 1152 are told are a tenth of the matrices that told them."""

Memo = dict[str, tuple[Any, ...]]


def remembered(denoiser: Any, name: str, of: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """Return make(), computed once while a prepared `denoiser` is asked about the very same tensors `of`, unchanged.

    A denoiser prepared for a run has a `memo`, which goes with it; another one remembers nothing.
    """
    memo = cast("Memo | None", getattr(denoiser, "memo", None))
    if memo is None or torch.is_grad_enabled():
        return make()
    stamp = _stamp(of)
    known = memo.get(name)
    if known is None or known[0] != stamp:
        known = memo[name] = (stamp, dict(of), make())  # holds the tensors, so that their ids stay theirs
    return known[2]


def _stamp(of: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    return [(k, id(v), v._version if isinstance(v, Tensor) and not v.is_inference() else 0) for k, v in of.items()]


class Ahead:
    """A network for the steps of one run: what depends on the noise labels, the conditions and the size of x alone.

    A network may give, beside `embed(c_noise)`, whose rows are here for all steps at once:
    - `steer(emb, **given)`: what time and conditions decide together, tensors [..., N, width] (in lists, tuples, or
      None) for emb [..., N, width]. It becomes the argument `steering` of the trunk. It is made for as many steps at
      once as `ROWS` allows, each matrix in one product for all of them; one step at a time where they alone are more.
    - `tables(x)`: positions and rotations, which the size of x alone decides: the argument `tables`.
    A trunk that is not given them makes them itself.
    """

    def __init__(self, net: nn.Module, labels: Tensor) -> None:
        self.net: Any = net
        self.emb: Tensor = self.net.embed(labels)
        self.rows = self.emb.split(1)
        self.memo: Memo = {}
        self._steer: Callable[..., Any] | None = getattr(net, "steer", None)
        self._tables: Callable[[Tensor], Any] | None = getattr(net, "tables", None)

    def told(self, i: int | None, x: Tensor, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return `given` with what is known ahead for step `i` (None between the steps) and states like `x`."""
        if self._steer is None and self._tables is None:
            return given
        more = dict(given)
        if self._tables is not None:
            form = (x.shape[1:], x.device)
            known = self.memo.get("tables")
            if known is None or known[0] != form:
                known = self.memo["tables"] = (form, self._tables(x))
            more["tables"] = known[1]
        # a run that is written down for a compiler is one of equal steps: each makes its own
        if self._steer is not None and i is not None and not torch.is_grad_enabled() and not _written_down():
            steering = self._steered(self._steer, i, len(x), given)
            if steering is not None:
                more["steering"] = steering
        return more

    def _steered(self, steer: Callable[..., Any], i: int, rows: int, given: Mapping[str, Any]) -> Any:
        """Return the steering of step `i`, None where it is not worth making ahead."""
        count, steps = ROWS // rows, len(self.rows)
        if count < 2:
            return None
        stamp, known = _stamp(given), self.memo.get("steering")
        if known is not None and known[0] != stamp:
            # asked about something else: made for other steps too only where it is asked about again
            self.memo["steering"] = (stamp, dict(given), {})
            return None
        made: dict[int, Any] = {} if known is None else known[2]
        if i not in made:
            first = 0 if count >= steps else min(i, steps - count)
            several = steer(self.emb[first : first + count].unsqueeze(1), **given)
            made = {k: _entry(several, k - first) for k in range(first, min(first + count, steps))}
            self.memo["steering"] = (stamp, dict(given), made)
        return made[i]


def _entry(tree: Any, i: int) -> Any:
    """Return the i-th entry of all tensors of a tree."""
    if isinstance(tree, Tensor):
        return tree[i]
    if isinstance(tree, (list, tuple)):
        return [_entry(part, i) for part in cast("list[Any]", tree)]
    return tree


def _written_down() -> bool:
    return torch._C._len_torch_dispatch_stack() > 0
