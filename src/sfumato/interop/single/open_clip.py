"""OpenCLIP's text encoder in one file: `transformer.resblocks...`, queries, keys and values fused."""

from __future__ import annotations

import re

from ..links import Link, Rules, one, renamed, split, transposed

RULES: Rules = (
    (r"^text_model\.", ""),
    (r"^text_projection\.weight$", "text_projection"),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^embeddings\.token_embedding\.", "token_embedding."),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm(1|2)\.", r".ln_\1."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.self_attn\.q_proj\.", ".attn.in_proj_"),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)


def links(names: list[str], prefix: str) -> list[Link]:
    """Return the links of the tensors `names` of a CLIP of `transformers` to OpenCLIP's under `prefix`.

    The projection is stored as P of x P, the transpose of a linear layer's weight.
    """
    found: list[Link] = []
    for name in names:
        theirs = prefix + renamed(name, RULES)
        if name == "text_projection.weight":
            found.append(transposed(name, theirs))
        elif ".q_proj." in name:
            found.append(split([name.replace(".q_proj.", f".{which}_proj.") for which in "qkv"], theirs))
        elif not re.search(r"\.(k|v)_proj\.", name):
            found.append(one(name, theirs))
    return found


def ignored(name: str) -> bool:
    """Return whether a tensor of a file carries nothing: the temperature of its training, and buffers."""
    return name.endswith((".logit_scale", ".attn_mask", "position_ids"))
