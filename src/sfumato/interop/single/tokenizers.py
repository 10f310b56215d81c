"""The tokenizers of models in one file, which no such file holds: from a folder, or from what is cached on the disk."""

from __future__ import annotations

import copy
import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...conditioning.tower_files import read_tokenizer, suits
from ...core.errors import InputError

Given = str | Path | Mapping[str, str | Path] | None

NUMBERED = {"clip": 1, "clip_l": 1, "clip_g": 2, "t5": 3}
# repositories that hold CLIP's vocabulary, or T5's, and where in them
CACHED = {
    "CLIP": (
        ("openai/clip-vit-large-patch14", ""),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer"),
        ("stabilityai/stable-diffusion-2-1", "tokenizer"),
    ),
    "T5": (("google/t5-v1_1-xxl", ""), ("stabilityai/stable-diffusion-3-medium-diffusers", "tokenizer_3")),
}
NAMES = {"CLIP": "vocab.json", "T5": "spiece.model"}


def tokenizer_of(tower: str, given: Given, *, path: str, zeros: bool = False) -> Any:
    """Return the tokenizer of a tower ("clip", "clip_l", "clip_g" or "t5") of a file at `path`.

    `given`: a folder for each tower, or one folder: a diffusers model's with `tokenizer`, `tokenizer_2`..., or one with
    CLIP's vocabulary, which all CLIPs share. Those of OpenCLIP ("clip_g", or `zeros`) fill texts up with "!" (id 0),
    OpenAI's with its end token. Raises `InputError` with the remedy where none is found.
    """
    kind = "T5" if tower == "t5" else "CLIP"
    encoder = "T5EncoderModel" if kind == "T5" else "CLIPTextModel"
    for folder in _places(tower, kind, given):
        if any((folder / name).is_file() for name in ("tokenizer.json", NAMES[kind])) and suits(folder, encoder):
            made = copy.copy(read_tokenizer(folder, encoder))
            if kind == "CLIP":
                made.pad_token = "!" if zeros or tower == "clip_g" else made.eos_token
            return made
    more = "" if given is None else f" ({given} has none of {kind}'s)"
    raise InputError(
        f"{path} holds a text encoder, and no such file holds its tokenizer{more}: give tokenizer= "
        f"(--tokenizer), a folder with {kind}'s tokenizer.json or {NAMES[kind]}, or a diffusers model of this kind"
    )


def _places(tower: str, kind: str, given: Given) -> list[Path]:
    if isinstance(given, Mapping):
        return [Path(given[tower])] if tower in given else []
    if given is not None:
        at, number = Path(given), NUMBERED[tower]
        own = "tokenizer" if number == 1 else f"tokenizer_{number}"
        return [at / tower, at / own, at] + ([at / "tokenizer_2", at / "tokenizer"] if kind == "CLIP" else [])
    if importlib.util.find_spec("huggingface_hub") is None:
        return []
    hub = importlib.import_module("huggingface_hub")
    found: list[Path] = []
    for repo, inside in CACHED[kind]:
        for name in ("tokenizer.json", NAMES[kind]):
            hit = hub.try_to_load_from_cache(repo, f"{inside}/{name}" if inside else name)
            found += [Path(hit).parent] if isinstance(hit, str) else []
    return found
