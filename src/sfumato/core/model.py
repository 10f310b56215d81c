"""What a Trainer trains: a network inside of what calls it."""

from __future__ import annotations

from typing import Any

from torch import nn


class Model(nn.Module):
    """A network and what stands around it: a Trainer trains `net`, and hands the whole to the objective.

    A `Preconditioned` is one; so is what trains a codec.
    """

    net: nn.Module

    def around(self) -> dict[str, Any]:
        """Return what decides beside the network what is learned, by name: a run's record, checked at a resume."""
        return {}
