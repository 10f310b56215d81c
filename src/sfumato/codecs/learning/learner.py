"""What a codec is trained as: the codec, and the modules that only its training needs, as one network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ...core.denoiser import Batch
from ...core.model import Model
from ...core.noise import Noise, fold
from ..codec import Codec


class CodecConfig(Protocol):
    """A registered configuration of a codec."""

    def build(self) -> Codec:
        """Return the codec, freshly initialised."""
        ...


class CodecObjective(Protocol):
    """What a Trainer minimises to train a codec: (model, batch, noise) -> loss[B], and the modules that it takes."""

    def parts(self, codec: Codec) -> dict[str, nn.Module]:
        """Return the modules that training `codec` takes beside it, freshly initialised, by name."""
        ...

    def __call__(self, model: Coding, batch: Batch, noise: Noise) -> Tensor:
        """Return the unreduced loss, one value a row."""
        ...


class Learner(nn.Module):
    """A codec and what helps it to learn, by name (`parts`): trained, averaged and checkpointed as one network.

    Called with a function of itself, so that what wraps it (a copy in each process, a compiler) sees one call a step.
    """

    def __init__(self, codec: Codec, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.config = cast(Any, codec).config
        self.codec = codec
        self.parts = nn.ModuleDict(dict(parts))

    def forward(self, loss: Callable[[Learner], Tensor]) -> Tensor:
        """Return loss(self)."""
        return loss(self)


class Coding(Model):
    """The `Model` of a codec's training; `codec` is the codec itself."""

    def __init__(self, codec: Codec, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.net = Learner(codec, parts)

    @classmethod
    def start(cls, config: CodecConfig, objective: CodecObjective, seed: int = 0) -> Coding:
        """Return an untrained codec with what `objective` takes; the initial weights follow from `seed`."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(fold("weights", seed))
            codec = config.build()
            return cls(codec, objective.parts(codec))

    @property
    def codec(self) -> Codec:
        """The codec that is trained."""
        return cast(Learner, self.net).codec
