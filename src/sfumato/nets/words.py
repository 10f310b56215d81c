"""A small transformer that reads words by their numbers, trained together with the network that it tells of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.config import register
from ..core.errors import InputError
from .blocks.attend import attend, seen
from .blocks.checks import check_counts
from .blocks.kernels import eager
from .blocks.transformer import FeedForward

PAD = 0  # the number that stands for no word


@register
@dataclass(frozen=True, kw_only=True)
class WordEncoderConfig:
    """A transformer encoder of `length` words out of `words` numbers, 0 for no word (arXiv 1706.03762, norms first).

    A learned token stands before the words, so that an empty text has something to be read from, and so that its last
    state can speak for the whole text. Places are learned too. `width`, `layers`, `heads` as usual; the feed-forward
    layers are four times as wide. The defaults are for a few hundred words.

    Raises `InputError` for counts below 1 and a width that the heads do not divide.
    """

    words: int
    length: int = 40
    width: int = 128
    layers: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        check_counts(self, "words", "length", "width", "layers", "heads")
        if self.width % self.heads:
            raise InputError(f"WordEncoderConfig.width={self.width} must be a multiple of heads={self.heads}")

    def build(self) -> WordEncoder:
        """Return the encoder, freshly initialised."""
        return WordEncoder(self)


class TokenBlock(nn.Module):
    """x += Attention(LN x); x += MLP(LN x): a transformer block that hides masked tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.mlp = FeedForward(width, 4 * width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the next tokens [B, N, D]; `mask` is what `seen` gives."""
        q, k, v = self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(attend(q, k, v, mask).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_2(x))


class WordEncoder(nn.Module):
    """encoder(tokens int[B, length]) -> (states [B, 1 + n, width], mask [B, 1 + n]): state 0 is the start's.

    What stands at a place of no word is masked, here and for who reads the states. On a CPU n is the longest text's
    words, since masked states cost as much as others; elsewhere, and where a compiler reads along, n = length.

    Tables start as N(0, 0.02^2), matrices Xavier-uniform, biases zero.
    """

    def __init__(self, config: WordEncoderConfig) -> None:
        super().__init__()
        self.config = k = config
        self.table = nn.Embedding(k.words, k.width)
        self.start = nn.Parameter(torch.empty(k.width))
        self.places = nn.Parameter(torch.empty(1 + k.length, k.width))
        self.blocks = nn.ModuleList(TokenBlock(k.width, k.heads) for _ in range(k.layers))
        self.norm = nn.LayerNorm(k.width)
        for table in (self.table.weight, self.start, self.places):
            nn.init.normal_(table, std=0.02)
        initialise(self.blocks)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states and the mask; raise `InputError` for another length, and for numbers beyond the list."""
        k = self.config
        if tokens.ndim != 2 or tokens.shape[1] != k.length or tokens.dtype.is_floating_point:
            raise InputError(f"tokens must be whole numbers [B, {k.length}], got {tokens.dtype} {list(tokens.shape)}")
        if tokens.device.type == "cpu" and eager():
            tokens = tokens[:, : _longest(tokens)]
        try:
            words = self.table(tokens)
        except IndexError:
            raise InputError(
                f"tokens must be in 0..{k.words - 1}: was the text read by another list of words?"
            ) from None
        h = torch.cat((self.start.expand(len(tokens), 1, -1), words), dim=1)
        h = h + self.places[: h.shape[1]]
        mask = nn.functional.pad((tokens != PAD).to(h.dtype), (1, 0), value=1.0)
        hidden = seen(mask, h.dtype)
        for block in self.blocks:
            h = block(h, hidden)
        return self.norm(h), mask


def _longest(tokens: Tensor) -> int:
    """Return how many columns there are up to the last that has a word."""
    used = (tokens != PAD).any(0).nonzero()
    return int(used[-1]) + 1 if len(used) else 0


def initialise(module: nn.Module) -> None:
    """Start the matrices of `module` Xavier-uniform and their biases at zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
