"""The configurations of the text encoders that released models have, for files that do not hold them."""

from __future__ import annotations

from typing import Any

Published = tuple[str, dict[str, Any]]
"""(class, configuration)"""


def clip(
    width: int, layers: int, *, act: str, heads: int | None = None, projection: int | None = None, **more: Any
) -> Published:
    """Return a CLIP text encoder of 49,408 words and 77 places; heads are 64 wide in every released one."""
    kind = "CLIPTextModel" if projection is None else "CLIPTextModelWithProjection"
    config = {
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads or width // 64,
        "hidden_act": act,
        "layer_norm_eps": 1e-5,
        "projection_dim": projection or width,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 1,
    }
    return kind, config | more


def clip_l(*, projection: int | None = None) -> Published:
    """Return CLIP ViT-L/14's text encoder (arXiv 2103.00020): 123,060,480 parameters, and a projection if asked."""
    return clip(768, 12, act="quick_gelu", projection=projection)


def open_clip_h() -> Published:
    """Return OpenCLIP ViT-H/14's (arXiv 2212.07143) without its last layer, as version 2 uses it: 340,387,840."""
    return clip(1024, 23, act="gelu")


def open_clip_g() -> Published:
    """Return OpenCLIP ViT-bigG/14's with its projection: 694,659,840."""
    return clip(1280, 32, act="gelu", projection=1280)


def t5_xxl() -> Published:
    """Return the encoder of T5 v1.1 XXL (arXiv 1910.10683 and 2002.05202): 4,762,310,656."""
    return "T5EncoderModel", {
        "vocab_size": 32128,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
    }
