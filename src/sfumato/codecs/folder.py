"""A codec on disk: `codec.json`, its configuration, and `codec.safetensors`, its weights, in one folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from ..core.config import from_config, to_config
from ..core.errors import CheckpointError, InputError
from ..core.json_file import read_json
from ..core.weights import check_header, read_weights, specs, write_weights
from .codec import Codec

CONFIG, WEIGHTS = "codec.json", "codec.safetensors"


def save_codec(codec: Codec, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> Path:
    """Write `codec` to a new or empty folder, its weights as `dtype` (their own by default), and return the folder.

    Raises `InputError` for a folder that holds something and for a codec that is only a wrapper of another,
    `CheckpointError` where the disk refuses.
    """
    folder = Path(folder)
    config = getattr(codec, "config", None)
    if config is None:
        raise InputError(f"{type(codec).__name__} has no configuration to write: give the codec that it wraps")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: give a new folder")
    weights = {name: t if dtype is None else t.to(dtype) for name, t in codec.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(folder / WEIGHTS, weights, {"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(to_config(config), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"cannot write the codec {folder}: {error}") from error
    return folder


def load_codec(folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> Codec:
    """Return the codec that `save_codec` wrote, in evaluation mode, its weights as `dtype` (as written by default).

    Raises `CheckpointError` for a folder that is damaged or holds something else.
    """
    folder = Path(folder)
    data = read_json(folder / CONFIG)
    try:
        config: Any = from_config(data)
        with torch.device("meta"):  # no memory, and no values, before the file is known to fit
            codec = config.build()
    except (InputError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from error
    if not isinstance(codec, Codec):
        raise CheckpointError(f"{folder / CONFIG}: kind {data.get('kind')!r:.60} is not a codec")
    found = check_header(folder / WEIGHTS)[0].values()
    codec = codec.to(next((spec.dtype for spec in found if spec.dtype.is_floating_point), torch.float32))
    weights = read_weights(folder / WEIGHTS, specs(codec.state_dict()))
    codec.load_state_dict(weights, assign=True)
    return (codec if dtype is None else codec.to(dtype)).eval()
