"""A text encoder and its tokenizer: what reads a text, of whatever kind it is."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..core.errors import InputError
from ..nets.blocks.wide import native

_NORMS = ("final_layer_norm", "text_model.final_layer_norm", "encoder.final_layer_norm", "norm")


class States(NamedTuple):
    """What an encoder gave: a vector a token [n, T, width], and one for the text [n, P] where it has one."""

    tokens: Tensor
    pooled: Tensor | None


@dataclass(frozen=True)
class Tower:
    """A tokenizer and a text encoder of `transformers`: CLIP, T5, mT5, BERT or Gemma.

    `model` and `tokenizer` are theirs; `read_tower` takes them from files. The pooled vector is CLIP's state of the
    first end token after all layers and the final norm, projected where the model has a projection; this differs from
    an arg-max of the ids, which released configurations ask for (their `eos_token_id` is 2), only where tokens were
    added. `several`: ids that stand for several, those of a learned word of more than one vector.
    """

    model: nn.Module
    tokenizer: Any
    several: Mapping[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]])

    def __call__(self, ids: Tensor, mask: Tensor | None = None, *, skip: int = 0, norm: bool = True) -> States:
        """Return the states of `ids` int[n, T] after all layers but the last `skip`, and after the final norm or not.

        `mask` [n, T] is 1 where a token is one. The pooled vector is that of all layers, whatever `skip` says.
        Raises `InputError` where there are not that many layers.
        """
        last = skip == 0 and norm
        ids = ids.to(self.device)
        mask = None if mask is None else mask.to(self.device)
        model: Any = native(self.model)
        given = model(input_ids=ids, attention_mask=mask, output_hidden_states=not last)
        pooled = given.get("text_embeds") if hasattr(self.model, "text_projection") else None
        if pooled is None and type(self.model).__name__ == "CLIPTextModel":
            pooled = given.pooler_output
        if last:
            return States(given.last_hidden_state, pooled)
        if not 0 <= skip < len(given.hidden_states) - 1:
            raise InputError(f"this text encoder has {len(given.hidden_states) - 1} layers: {skip} cannot be skipped")
        tokens = given.hidden_states[-1 - skip]
        return States(_normed(model, tokens) if norm else tokens, pooled)

    def tokens(self, text: str) -> list[int]:
        """Return the ids of a text, without those that start and end it."""
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return [i for one in ids for i in self.several.get(one, (one,))]

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of some ids."""
        return str(self.tokenizer.decode(ids)).strip()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Tower:
        """Move the encoder's weights, in place, and return this tower.

        What overflows in float16 stays in float32: T5's second linear layers, as its authors' port keeps them.
        """
        self.model.to(device=device, dtype=dtype)
        if getattr(self.model, "dtype", None) == torch.float16:
            kept = set(getattr(self.model, "_keep_in_fp32_modules", None) or ())
            for name, module in self.model.named_modules():
                if name.rpartition(".")[2] in kept:
                    module.float()
        return self

    def copied(self) -> Tower:
        """Return a tower whose tokenizer and structure are its own and whose weights are shared with this one."""
        memo = {id(t): t for t in (*self.model.parameters(), *self.model.buffers())}
        return Tower(copy.deepcopy(self.model, memo), copy.deepcopy(self.tokenizer), self.several)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def width(self) -> int:
        """Return the width of a token's vector."""
        config: Any = self.model.config
        return int(config.hidden_size)

    @property
    def limit(self) -> int:
        """Return how many tokens the encoder has places for, where places are relative what its tokenizer says."""
        places = getattr(self.model.config, "max_position_embeddings", None)
        return min(int(self.tokenizer.model_max_length), int(places or 1 << 30))

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """Return the ids that start a text and those that end it."""
        whole, inner = list(self.tokenizer("a").input_ids), self.tokens("a")
        at = next(i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
        return whole[:at], whole[at + len(inner) :]

    @property
    def pad(self) -> int:
        """Return the id that fills a text up."""
        return int(self.tokenizer.pad_token_id)


def _normed(model: nn.Module, tokens: Tensor) -> Tensor:
    for path in _NORMS:
        try:
            return cast(Tensor, model.get_submodule(path)(tokens))
        except AttributeError:
            continue
    raise InputError(f"{type(model).__name__} has no final norm")
