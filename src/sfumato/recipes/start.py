"""Where a training takes its first weights from, other than chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch

from torch import Tensor, nn

from ..core import InputError, register


@register
@dataclass(frozen=True, kw_only=True)
class Start:
    """The weights of the run, model folder or shipped model at `path` (averaged where it keeps averages); None: chance.

    What is `fresh` (patterns of names: "*.patches.*") stays as chance made it, and what the other network has under
    such names is left. All else must be there with the same shape, in both: `InputError` names what is not.
    """

    path: str | None = None
    fresh: tuple[str, ...] = ()

    def give(self, net: nn.Module) -> None:
        """Write the weights into `net`."""
        if self.path is None:
            return
        from ..pipeline import load  # a pipeline knows recipes

        old: Mapping[str, Tensor] = load(self.path).denoiser.net.state_dict()
        new = net.state_dict()
        kept = {name for name in new.keys() | old.keys() if any(fnmatch(name, pattern) for pattern in self.fresh)}
        wrong = [
            f"{name} ({_shape(old, name)} there, {_shape(new, name)} here)"
            for name in sorted((new.keys() | old.keys()) - kept)
            if _shape(old, name) != _shape(new, name)
        ]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise InputError(
                f"{self.path} does not fit: {', '.join(wrong[:3])}{more}; change --net, or name them in --start.fresh"
            )
        net.load_state_dict({name: tensor for name, tensor in old.items() if name not in kept}, strict=False)


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return str(list(tensors[name].shape)) if name in tensors else "none"
