"""How far things in a picture are: the depth model that networks which paint over a depth map came with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..core.errors import CheckpointError, InputError
from ..core.json_file import read_json
from ..core.weights import reason, write_weights
from ..interop.files import weights_in
from .tower_files import _DROPPED, _bounded, _weightless, transformers

KIND, SETTINGS = "DPTForDepthEstimation", "preprocessor_config.json"
DATA = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_pad": False}


@dataclass(frozen=True, kw_only=True)
class DepthModel:
    """A `DPTForDepthEstimation` of `transformers` (arXiv 2103.13413), and how it is shown a picture.

    The picture, in 8 bits, is brought to `size` (bicubic, whatever its proportions) and normalised by `mean` and `std`:
    its authors' way. It works in float32: its normalisations leave the range of float16.
    """

    model: nn.Module
    size: tuple[int, int] = (384, 384)
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @torch.no_grad()
    def __call__(self, picture: Tensor) -> Tensor:
        """Return the map [B, 1, h, w], nearer is larger, of pictures [B, 3, H, W] in [-1, 1]."""
        place = next(self.model.parameters()).device
        shown = torch.cat([self._shown(one) for one in (picture.float().cpu() + 1) * 127.5]).to(place)
        mean, std = (torch.tensor(v, device=place).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return cast(Any, self.model)((shown - mean) / std).predicted_depth[:, None].to(picture.device)

    def _shown(self, levels: Tensor) -> Tensor:
        """Return [1, 3, *size] in [0, 1] of a picture [3, H, W] in 0..255."""
        from PIL import Image

        image = Image.fromarray(levels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
        image = image.resize((self.size[1], self.size[0]), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0).permute(2, 0, 1)[None]


def read_depth_model(folder: str | Path, settings: str | Path | None = None) -> DepthModel:
    """Return the depth model in `folder`, shown pictures as `preprocessor_config.json` of the folder `settings` says.

    Those are `depth_estimator` and `feature_extractor` of diffusers' folders. Raises `InputError` for another class or
    a way to prepare pictures that is not read, `CheckpointError` for a folder that is damaged or lacks a weight.
    """
    folder = Path(folder)
    data = read_json(folder / "config.json")
    if (named := data.get("architectures")) != [KIND]:
        raise InputError(f"{folder} is a {named!r:.80}: depth models are read of {KIND}")
    tensors, _ = weights_in(folder, "model", None)
    _bounded({k: v for k, v in data.items() if k != "semantic_loss_ignore_index"}, len(tensors))
    model = _blank({k: v for k, v in data.items() if k not in _DROPPED})
    expect = model.state_dict()
    if missing := [name for name in expect if name not in tensors and expect[name].is_meta]:
        raise CheckpointError(f"{folder} lacks {missing[0]} and {len(missing) - 1} more, which {KIND} needs")
    if unused := [name for name in tensors if name not in expect and "auxiliary" not in name]:
        raise CheckpointError(f"{folder} holds {unused[0]!r:.80}, which {KIND} does not have: is it another model?")
    known = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    try:
        model.load_state_dict({k: v for k, v in known.items() if k in expect}, assign=True, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: {' '.join(str(error).split())[:200]}") from error
    shown = _settings(read_json(Path(folder if settings is None else settings) / SETTINGS))
    return DepthModel(model=model.eval().requires_grad_(False), **shown)


def write_depth_model(depth: DepthModel, folder: Path, settings: Path | None = None) -> None:
    """Write a depth model as `read_depth_model` and other readers of these layouts take it."""
    model, settings = cast(Any, depth.model), folder if settings is None else settings
    document = model.config.to_dict() | {"architectures": [KIND], "dtype": "float32"}
    said = {"size": dict(zip(("height", "width"), depth.size, strict=True)), "resample": 3, "keep_aspect_ratio": False}
    said |= {"image_mean": list(depth.mean), "image_std": list(depth.std), "image_processor_type": "DPTImageProcessor"}
    try:
        for at, name, content in ((folder, "config.json", document), (settings, SETTINGS, DATA | said)):
            at.mkdir(parents=True, exist_ok=True)
            (at / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        write_weights(folder / "model.safetensors", model.state_dict(), {"format": "pt"})
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {reason(error)}") from error


def _settings(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `DepthModel` from a configuration; what would prepare pictures in another way is refused."""
    for name, wanted in (DATA | {"keep_aspect_ratio": False}).items():
        got = data.get(name, wanted)
        if got is not None and got != wanted:
            raise InputError(f"a depth model with {name}={got!r:.40} is not read (known: {wanted})")
    size = data.get("size", 384)
    sides: tuple[Any, Any] = (size.get("height"), size.get("width")) if isinstance(size, dict) else (size, size)
    if not all(type(side) is int and 1 <= side <= 4096 for side in sides):
        raise InputError(f"a depth model's size={size!r:.60} must be a height and a width in pixels")
    multiple = data.get("ensure_multiple_of") or 1
    values = {name: tuple(map(float, data.get(f"image_{name}") or (0.5,) * 3)) for name in ("mean", "std")}
    return {"size": tuple(round(side / multiple) * multiple for side in sides), **values}


def _blank(data: Mapping[str, Any]) -> nn.Module:
    theirs = transformers()
    try:
        config = theirs.DPTConfig.from_dict(dict(data))
        with _weightless():
            return getattr(theirs, KIND)(config)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, ZeroDivisionError) as error:
        raise CheckpointError(f"no depth model follows from its configuration: {str(error)[:120]}") from error
