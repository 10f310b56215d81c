"""What a network of a diffusers folder is: its configuration read and written, and the links of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...core.errors import InputError
from ..links import Link, Rules, renamed

_QUIET = ("_class_name", "_diffusers_version", "_name_or_path", "_use_default_values")


@dataclass(frozen=True)
class Layout:
    """One class of theirs.

    - `kind`: its `_class_name`; `aliases`: older names of it.
    - `read(fields) -> our configuration`; `write(our configuration) -> fields`.
    - `links(net) -> links` from the names of `net`'s tensors to theirs. `net` may be on the meta device.
    - `ignored(name) -> bool`: tensors of theirs that carry nothing (buffers that are recomputed, dead weights).
    - `older`: rules that turn the names of tensors in older files into those of today.
    """

    kind: str
    read: Callable[[Fields], Any]
    write: Callable[[Any], dict[str, Any]]
    links: Callable[[nn.Module], list[Link]]
    aliases: tuple[str, ...] = ()
    ignored: Callable[[str], bool] = lambda name: False
    older: Rules = ()

    def today(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a file's tensors under the names of today."""
        return {renamed(name, self.older): tensor for name, tensor in tensors.items()}

    def config(self, data: Mapping[str, Any]) -> Any:
        """Return our configuration of a `config.json` of theirs; `InputError` for what it asks and we do not know."""
        fields = Fields(self.kind, data)
        try:
            config = self.read(fields)
        except InputError:
            raise
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
            raise InputError(f"this configuration of {self.kind} cannot be read: {str(error)[:120]}") from error
        fields.finish()
        return config


class OneOf:
    """Several values that mean the same."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __repr__(self) -> str:
        return " or ".join(map(repr, self.values))


class Fields:
    """The fields of a foreign configuration: each is taken once, and what nobody took must have a known value.

    `finish()` raises `InputError` for fields that were not taken, so that a setting that we do not know cannot be
    passed over in silence.
    """

    def __init__(self, kind: str, data: Mapping[str, Any]) -> None:
        self.kind = kind
        self.left = {k: v for k, v in data.items() if k not in _QUIET}

    def take(self, name: str, default: Any = None) -> Any:
        """Return the value of a field, `default` where the file does not have it."""
        return self.left.pop(name, default)

    def must(self, **known: Any) -> None:
        """Take fields that we know with one value alone (or a tuple of them); raise `InputError` for another."""
        for name, value in known.items():
            got = self.left.pop(name, value)
            got = tuple(got) if isinstance(got, list) else got
            if got != value and not (isinstance(value, OneOf) and got in value.values):
                raise InputError(f"{self.kind} with {name}={got!r:.60} is not supported (known: {value!r:.60})")

    def skip(self, *names: str) -> None:
        """Take fields that change nothing of what a network computes."""
        for name in names:
            self.left.pop(name, None)

    def finish(self) -> None:
        """Raise `InputError` for fields that were not taken and are set."""
        unknown = {k: v for k, v in self.left.items() if v is not None and v is not False}
        if unknown:
            name, value = next(iter(unknown.items()))
            raise InputError(f"{self.kind} has a setting that is not known here: {name}={value!r:.60}")
