"""What a file of ours says in its metadata beyond its tensors, so that it reads back as it was."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...codecs.kl import AutoencoderKLConfig
from ...conditioning import TextConditioner
from ...conditioning.text import Family
from ...core import CheckpointError, InputError, Prediction, Schedule, from_config, to_config
from ...pipeline import Defaults, Pipeline
from ...pipeline.folder import bounded
from ...pipeline.identity import own

KEY = "sfumato"


@dataclass(frozen=True, kw_only=True)
class Said:
    """The configurations of a file's parts; the tensors must fit them as they must fit those read off shapes."""

    net: Any
    schedule: Schedule
    prediction: Prediction
    codec: AutoencoderKLConfig | None
    family: Family | None
    towers: Mapping[str, tuple[str, dict[str, Any]]]
    shape: tuple[int, ...]
    defaults: Defaults


def said_of(metadata: Mapping[str, str], path: str) -> Said | None:
    """Return what the metadata of a file of ours says, None for files of others; `CheckpointError` where damaged."""
    if KEY not in metadata:
        return None
    importlib.import_module("sfumato.nets")  # whose configurations register on import
    try:
        data = json.loads(metadata[KEY])
        bounded(data)
        net = from_config(data["net"])
        if not callable(getattr(net, "build", None)):
            raise InputError(f"kind {data['net']['kind']!r} is not a network")
        towers = {str(name): (str(kind), dict(config)) for name, (kind, config) in data["towers"].items()}
        shape = tuple(data["shape"])
        if not all(type(n) is int and 0 < n <= 1 << 16 for n in shape):
            raise InputError(f"shape {shape} is not one of sizes")
        return Said(
            net=net,
            schedule=from_config(data["schedule"], Schedule),
            prediction=from_config(data["prediction"], Prediction),
            codec=None if data["codec"] is None else from_config(data["codec"], AutoencoderKLConfig),
            family=None if data["family"] is None else from_config(data["family"], Family),
            towers=towers,
            shape=shape,
            defaults=from_config(data["defaults"], Defaults),
        )
    except (InputError, TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata: {' '.join(str(error).split())[:200]}") from error


def told(pipe: Pipeline) -> str:
    """Return what `said_of` reads, of a pipeline."""
    net: Any = pipe.denoiser.net
    codec: Any = own(pipe.codec)
    texts = pipe.conditioner if isinstance(pipe.conditioner, TextConditioner) else None
    towers: dict[str, Any] = {}
    for name, tower in (texts.towers if texts else {}).items():
        model: Any = tower.model
        towers[name] = [type(model).__name__, model.config.to_dict()]
    data = {
        "net": to_config(net.config),
        "schedule": to_config(pipe.denoiser.schedule),
        "prediction": to_config(pipe.denoiser.prediction),
        "codec": None if codec is None else to_config(codec.config),
        "family": None if texts is None else to_config(texts.family),
        "towers": towers,
        "shape": list(pipe.shape),
        "defaults": to_config(pipe.defaults),
    }
    return json.dumps(data)
