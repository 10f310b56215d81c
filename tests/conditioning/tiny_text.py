"""Tiny tokenizers and text encoders with random weights, made without a network: for tests of texts and of pipelines.

Their classes, special tokens, padding and configurations are those of released models; only the sizes are small. Any
prompt can be read: the vocabularies hold single characters, and the words below.
"""

from __future__ import annotations

import string

import pytest
import torch

transformers = pytest.importorskip("transformers")
pre_tokenizers = pytest.importorskip("tokenizers.pre_tokenizers")

WORDS = ("a", "photo", "of", "cat", "dog", "astronaut", "red", "sharp", "ugly", "blurry", "style", "the", "in", "hat")
WIDTH = 32
LETTERS = string.ascii_lowercase + string.digits + string.punctuation


def scrambled(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Return `model` in evaluation with every weight refilled from a seed, norms around one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            centre = 1.0 if value.ndim == 1 and name.endswith("weight") else 0.0
            value.copy_(centre + 0.2 * torch.randn(value.shape, generator=generator))
    return model.eval().requires_grad_(False)


def clip_tokenizer(*, pad: str = "<|endoftext|>") -> transformers.CLIPTokenizer:
    """Return a byte-pair tokenizer of CLIP: 77 tokens; `pad` "!" is that of OpenCLIP's towers (id 0)."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = ["!", *[c for c in letters if c != "!"], *[c + "</w>" for c in letters]]
    merges: list[str] = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = f"{parts[0]} {parts[1]}"
            if pair not in merges:
                merges.append(pair)
                vocab.append(parts[0] + parts[1])
            parts = [parts[0] + parts[1], *parts[2:]]
    ids = {token: i for i, token in enumerate([*vocab, "<|startoftext|>", "<|endoftext|>"])}
    pairs = [tuple(m.split(" ")) for m in merges]
    return transformers.CLIPTokenizer(vocab=ids, merges=pairs, pad_token=pad, model_max_length=77)


def clip_text(
    *, width: int = WIDTH, layers: int = 3, act: str = "quick_gelu", projection: int | None = None, eos: int = 2, seed=0
) -> torch.nn.Module:
    """Return a `CLIPTextModel`, or one with a projection; `eos` 2 is what released configurations say."""
    tokenizer = clip_tokenizer()
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        hidden_act=act,
        projection_dim=projection or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id if eos != 2 else 2,
        pad_token_id=1,
    )
    kind = transformers.CLIPTextModel if projection is None else transformers.CLIPTextModelWithProjection
    return scrambled(kind(config), seed)


def t5_tokenizer(length: int = 512) -> transformers.T5Tokenizer:
    """Return a unigram tokenizer of T5, which reads an upper-case letter as unknown."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab += [("▁" + word, -3.0) for word in WORDS if len(word) > 1] + [(c, -6.0) for c in LETTERS]
    return transformers.T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=length)


def t5(*, width: int = WIDTH, seed: int = 1, multilingual: bool = False) -> torch.nn.Module:
    """Return a `T5EncoderModel` (v1.1: gated GELU), or an `MT5EncoderModel`."""
    kind, made = (
        (transformers.MT5EncoderModel, transformers.MT5Config)
        if multilingual
        else (transformers.T5EncoderModel, transformers.T5Config)
    )
    config = made(
        vocab_size=len(t5_tokenizer()),
        d_model=width,
        d_kv=8,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    return scrambled(kind(config), seed)


def bert_tokenizer() -> transformers.BertTokenizer:
    """Return a word-piece tokenizer of BERT: 77 tokens, as in Hunyuan-DiT."""
    letters = [*LETTERS, *("##" + c for c in LETTERS)]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(w for w in WORDS if len(w) > 1)]
    return transformers.BertTokenizer(vocab={token: i for i, token in enumerate(vocab)}, model_max_length=77)


def bert(*, width: int = WIDTH, seed: int = 2) -> torch.nn.Module:
    """Return a `BertModel`."""
    config = transformers.BertConfig(
        vocab_size=len(bert_tokenizer()),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=77,
    )
    return scrambled(transformers.BertModel(config), seed)


def gemma_tokenizer() -> transformers.GemmaTokenizer:
    """Return a byte-fallback tokenizer of Gemma: a start token, padding on the left."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocab = [*special, *(f"<0x{i:02X}>" for i in range(256)), "▁", *LETTERS]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        for i in range(1, len(word)):
            if (word[:i], word[i]) not in merges:
                merges.append((word[:i], word[i]))
                vocab.append(word[: i + 1])
    ids = {token: i for i, token in enumerate(dict.fromkeys(vocab))}
    return transformers.GemmaTokenizer(vocab=ids, merges=merges, add_bos_token=True, model_max_length=256)


def gemma(*, width: int = WIDTH, layers: int = 3, seed: int = 3) -> torch.nn.Module:
    """Return a `GemmaModel` with one key head (multi-query), as Gemma-2B."""
    config = transformers.GemmaConfig(
        vocab_size=len(gemma_tokenizer()),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=512,
    )
    return scrambled(transformers.GemmaModel(config), seed)
