"""Textual inversion: words whose vectors were learned (Gal et al., arXiv 2208.01618)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..core.errors import CheckpointError, InputError
from ..core.weights import reason, sync
from .conditioner import Conditioner
from .text import TextConditioner
from .tower import Tower

MOST = 75  # vectors of a word: those of one chunk
MAX_FILE = 16 << 20  # bytes; 75 vectors of both towers of XL are 0.6 MB
_PAIRS = {
    "clip_l": "clip_l",
    "clip_g": "clip_g",
    "text_encoders_0": "clip_l",
    "text_encoders_1": "clip_g",
}


@dataclass(frozen=True)
class Inversion:
    """A word and its vectors [k, width] for each tower that it was learned for; "" where the file does not say."""

    token: str
    vectors: Mapping[str, Tensor]


def read_inversion(path: str | Path, token: str | None = None) -> Inversion:
    """Return the learned word in a safetensors file.

    Three forms are known: `emb_params`, whose word is the file's name; `clip_l` and `clip_g`, of two towers, the same;
    and a single tensor under the word itself. `token` gives another word. Raises `InputError` for any other file,
    `CheckpointError` for one that is damaged.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(
            f"{path} is not a safetensors file, and pickles are never read: convert it, "
            f"`sfumato convert {path.name} {path.stem}.safetensors --allow-pickle`"
        )
    try:  # not `read_weights`: the name of a tensor is a word here, with signs that no weight's name has
        if path.stat().st_size > MAX_FILE:
            raise CheckpointError(f"{path} is above {MAX_FILE >> 20} MiB, which no learned word is")
        found = cast("dict[str, Tensor]", cast(Any, safetensors.torch).load(path.read_bytes()))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from error
    for name, t in found.items():
        if not t.is_floating_point() or not bool(torch.isfinite(t.float()).all()):
            what = "numbers that are not finite" if t.is_floating_point() else f"numbers of {t.dtype}"
            raise CheckpointError(f"{path}: {name!r:.80} has {what}, which no vectors of a word have")
    tensors = {name: t.reshape(-1, t.shape[-1]) for name, t in found.items() if t.ndim in (1, 2) and t.numel()}
    if set(tensors) == {"emb_params"}:
        return Inversion(token or path.stem, {"": tensors["emb_params"]})
    if tensors and set(tensors) <= set(_PAIRS):
        return Inversion(token or path.stem, {_PAIRS[name]: t for name, t in tensors.items()})
    if len(tensors) == 1:
        name, vectors = next(iter(tensors.items()))
        return Inversion(token or name, {"": vectors})
    raise InputError(f"{path} holds no learned word: {len(tensors)} tensors, {', '.join(sorted(tensors)[:3])!r:.80}")


def write_inversion(path: Path, token: str, vectors: Tensor) -> None:
    """Write a learned word to a new file that `read_inversion` reads, under its name or, if none can be it, the file's.

    Raises `CheckpointError` where the disk refuses.
    """
    name = token if _is_word(token) and token not in _PAIRS else "emb_params"
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(cast(Any, safetensors.torch).save({name: vectors.contiguous()}))
        sync(aside)
        os.rename(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path}: {reason(error)}") from error


def with_inversions(conditioner: Conditioner | None, inversions: Sequence[Inversion]) -> TextConditioner:
    """Return a conditioner whose CLIP towers know the words; the given one is unchanged and shares its weights.

    A word of k vectors is read as k tokens. Raises `InputError` for a word that is one already, for vectors that a
    tower lacks, that are not of its width or not as many as another's, and for a conditioner without such towers.
    """
    towers = dict(conditioner.towers) if isinstance(conditioner, TextConditioner) else {}
    clips = [name for name in towers if name.startswith("clip")]
    if not isinstance(conditioner, TextConditioner) or not clips:
        raise InputError("learned words are vectors of a CLIP text encoder, and this model has none")
    for inversion in inversions:
        given = dict(inversion.vectors)
        if "" in given and len(clips) == 1:
            given[clips[0]] = given.pop("")
        for name in clips:
            if name not in given:
                raise InputError(f"{inversion.token!r:.60} has no vectors for {name}: it was learned for another model")
            if len(given[name]) != len(given[clips[0]]):  # towers are read side by side: what follows would not match
                raise InputError(
                    f"{inversion.token!r:.60} has {len(given[clips[0]])} vectors for {clips[0]} and {len(given[name])} "
                    f"for {name}: it is damaged, for a word has as many in each"
                )
            towers[name] = with_word(towers[name], inversion.token, given[name])
    return replace(conditioner, towers=towers)


def with_word(tower: Tower, token: str, vectors: Tensor) -> Tower:
    """Return a tower that reads `token` as `vectors` [k, width]; the rest of its weights is shared."""
    if not _is_word(token):
        raise InputError(f"{token!r:.60} cannot be a word: give token= without spaces, of at most 60 characters")
    if vectors.shape[-1] != tower.width:
        raise InputError(
            f"the vectors of {token!r} are {vectors.shape[-1]} wide, this text encoder {tower.width}: "
            "it was learned for another model"
        )
    if not 0 < len(vectors) <= MOST:
        raise InputError(f"{token!r} has {len(vectors)} vectors: 1 to {MOST} are read")
    names = [token, *(f"{token}_{i}" for i in range(1, len(vectors)))]
    for name in names:
        if name in tower.tokenizer.get_vocab() or len(tower.tokens(name)) == 1:
            raise InputError(f"{name!r} is a word of this text encoder already: give token= another")
    copy = tower.copied()
    # matched as it is written, or in lower case where the tokenizer lowers a prompt; never inside another word
    added: Any = type(next(iter(copy.tokenizer.added_tokens_decoder.values())))
    copy.tokenizer.add_tokens([added(name, single_word=True, normalized=True) for name in names])
    ids = [int(copy.tokenizer.convert_tokens_to_ids(name)) for name in names]
    model = cast(Any, copy.model)
    table = cast(nn.Embedding, model.get_input_embeddings())
    if ids != list(range(len(table.weight), len(table.weight) + len(ids))):
        raise InputError(
            f"this text encoder has {len(table.weight)} vectors, its tokenizer gives {token!r} id {ids[0]}"
        )
    weight = torch.cat((table.weight, vectors.to(table.weight)))
    table.weight = nn.Parameter(weight, requires_grad=table.weight.requires_grad)
    table.num_embeddings = model.config.vocab_size = len(weight)
    inner = getattr(model, "text_model", model)
    inner.eos_token_id = copy.tokenizer.eos_token_id  # the largest id is no longer the end token
    return replace(copy, several={**tower.several, ids[0]: tuple(ids)})


def learned_words(tower: Tower) -> list[str]:
    """Return the words that were added to a CLIP tower's own, in order; none for other towers."""
    if not type(tower.model).__name__.startswith("CLIP"):
        return []
    added = tower.tokenizer.get_added_vocab()
    return sorted(added.keys() - set(tower.tokenizer.all_special_tokens), key=added.__getitem__)


def _is_word(token: str) -> bool:
    return 0 < len(token) <= 60 and token.isprintable() and " " not in token
