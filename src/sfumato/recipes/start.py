"""Where a training takes its first weights from, other than chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch

from torch import Tensor, nn

from ..core import InputError, register


@register
@dataclass(frozen=True, kw_only=True)
class Start:
    """The weights of the run, folder or shipped model at `path`, averaged where averages are kept; None: chance.

    What is `fresh` (patterns of names: "*.patches.*") stays as chance made it, and what the other network has under
    such names is left. All else must be there with the same shape, in both: `InputError` names what is not.
    """

    path: str | None = None
    fresh: tuple[str, ...] = ()

    def give(self, net: nn.Module, read: Callable[[str], Mapping[str, Tensor]]) -> None:
        """Write the weights that `read(path)` gives into `net`."""
        if self.path is None:
            return
        old, new = read(self.path), net.state_dict()
        names = sorted(new.keys() | old.keys())
        kept = {name for name in names if any(fnmatch(name, pattern) for pattern in self.fresh)}
        wrong = [
            f"{name} ({_shape(old, name)} there, {_shape(new, name)} here)"
            for name in names
            if name not in kept and _shape(old, name) != _shape(new, name)
        ]
        if wrong:
            named = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            raise InputError(f"{self.path} does not fit: {named}; change the network, or name them in --start.fresh")
        net.load_state_dict({name: tensor for name, tensor in old.items() if name not in kept}, strict=False)


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return str(list(tensors[name].shape)) if name in tensors else "none"
