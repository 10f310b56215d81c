"""A CLIP whose last layers nobody reads, without them: what diffusers' folders hold for Stable Diffusion 2."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from ...conditioning import ClipText, Tower
from ...conditioning.tower_files import blank


def shortened(tower: Tower, family: Any) -> Tower:
    """Return the tower of `ClipText` without the layers that it skips, with the same weights; others as they are."""
    if not isinstance(family, ClipText) or not family.skip:
        return tower
    model = cast(Any, tower.model)
    config = model.config.to_dict()
    count = config["num_hidden_layers"] - family.skip
    kind = "CLIPTextModel"  # the projection follows the last layer, which is left out
    less = blank(kind, config | {"num_hidden_layers": count})
    known = {name.removeprefix("text_model."): t for name, t in model.state_dict().items()}
    kept = {name: known[name.removeprefix("text_model.")] for name in less.state_dict()}
    less.load_state_dict(kept, assign=True)
    less.eval().requires_grad_(False)
    inner = cast(Any, getattr(less, "text_model", less))
    inner.eos_token_id = tower.tokenizer.eos_token_id
    return Tower(less, tower.tokenizer)


def bare_names(model: nn.Module) -> set[str]:
    """Return the names of a CLIP's tensors, which have `text_model.` before them or not."""
    return {name.removeprefix("text_model.") for name in model.state_dict()}
