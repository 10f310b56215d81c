"""A network of pictures together with the encoder of the words that it is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from ..core.config import register
from ..core.errors import InputError
from .hooks import Hooks, place_of
from .words import PAD, WordEncoderConfig


class ReaderConfig(Protocol):
    """A configuration of a network that reads a `context` and its `context_mask`."""

    def build(self) -> nn.Module:
        """Return the network, freshly initialised."""
        ...


@register
@dataclass(frozen=True, kw_only=True)
class CaptionedConfig:
    """`net`, told by `text` what a caption says: both are trained, averaged and saved as one network.

    `net` is any network whose conditions are `context` and `context_mask` alone (`PixArtConfig`, `LatentUNetConfig`);
    its width of the context is `text.width`. Raises `InputError` where the two do not fit.
    """

    text: WordEncoderConfig
    net: ReaderConfig

    def __post_init__(self) -> None:
        width = getattr(self.net, "context", None)
        if width != self.text.width:
            kind = type(self.net).__name__
            raise InputError(f"the text is {self.text.width} wide and {kind}.context is {width}: give both one width")

    def build(self) -> Captioned:
        """Return the network, freshly initialised."""
        return Captioned(self)


class Captioned(nn.Module):
    """net(x, c_noise, tokens=int[B, T]) -> what the inner network gives for the encoded tokens.

    forward = trunk(x, embed(c_noise), **condition(tokens)). The null is the empty caption: every token 0. Key k + 1 of
    a cross-attention belongs to word k, key 0 to the text's start; `text(tokens)` gives the states to who wants them.
    """

    def __init__(self, config: CaptionedConfig) -> None:
        super().__init__()
        self.config = config
        self.text = config.text.build()
        self.net: Any = config.net.build()
        self.cond: dict[str, Any] = {"tokens": PAD}
        if not set(self.net.cond) <= {"context", "context_mask"}:
            raise InputError(
                f"a captioned network reads a text alone, {type(self.net).__name__} takes {list(self.net.cond)}"
            )

    def forward(self, x: Tensor, c_noise: Tensor, hooks: Hooks | None = None, **cond: Any) -> Tensor:
        """Return trunk(x, embed(c_noise), **condition(**cond))."""
        return self.trunk(x, self.embed(c_noise), **self.condition(**cond), hooks=hooks)

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return what depends on noise labels alone."""
        return self.net.embed(c_noise)

    def condition(self, tokens: Tensor | None = None) -> dict[str, Any]:
        """Return what depends on the caption alone, as the keyword arguments of `trunk`."""
        if tokens is None:
            raise InputError("this network reads a caption: give tokens [B, T] (all 0 for the empty one)")
        states, mask = self.text(tokens)
        return self.net.condition(context=states, context_mask=mask)

    def trunk(self, x: Tensor, emb: Tensor, *, hooks: Hooks | None = None, **given: Any) -> Tensor:
        """Return the inner network's output for what `embed` and `condition` gave."""
        return self.net.trunk(x, emb, **given, hooks=hooks)

    def place(self, name: str) -> tuple[str, int]:
        """Return the stage and the level of a site: those of the inner network."""
        return place_of(self.net, name.removeprefix("net."))
