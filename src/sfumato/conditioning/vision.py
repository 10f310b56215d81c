"""A picture encoder: CLIP's, which adapters for image prompts read pictures with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.errors import CheckpointError, InputError
from ..core.json_file import read_json
from ..interop.files import weights_in
from ..nets.blocks.wide import native
from .tower_files import _bounded, _weightless, transformers

if TYPE_CHECKING:
    from PIL.Image import Image

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's code


@dataclass(frozen=True)
class ImageTower:
    """A `CLIPVisionModelWithProjection` of `transformers`, and how it is shown a picture.

    The picture's shorter side becomes `size` (bicubic), the middle is cut out, values are normalised: CLIP's own way.
    """

    model: nn.Module
    size: int = 224

    def pixels(self, picture: Image) -> Tensor:
        """Return [1, 3, size, size] of a PIL picture, in float32."""
        from PIL import Image

        image = picture.convert("RGB")
        short = min(image.size)
        width, height = (int(self.size * n / short) for n in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        array = np.asarray(image.crop((left, top, left + self.size, top + self.size)), dtype=np.float32) / 255.0
        array = (array - np.asarray(MEAN, dtype=np.float32)) / np.asarray(STD, dtype=np.float32)
        return torch.from_numpy(array).permute(2, 0, 1)[None]

    @torch.no_grad()
    def embedding(self, picture: Image) -> tuple[Tensor, Tensor]:
        """Return the projected vector [1, P] of a picture, and that of none: zeros."""
        model: Any = native(self.model)
        vector = model(self.pixels(picture).to(next(model.parameters()))).image_embeds
        return vector, torch.zeros_like(vector)

    @torch.no_grad()
    def states(self, picture: Image) -> tuple[Tensor, Tensor]:
        """Return the states [1, T, W] before the last layer for a picture, and those for zeros."""
        model: Any = native(self.model)
        shown = self.pixels(picture).to(next(model.parameters()))
        first, second = (
            model(p, output_hidden_states=True).hidden_states[-2] for p in (shown, torch.zeros_like(shown))
        )
        return first, second

    @cached_property
    def sha256(self) -> str:
        """The hash of its weights."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def read_image_tower(folder: str | Path, *, variant: str | None = None) -> ImageTower:
    """Return the picture encoder in a folder of `transformers` (`image_encoder` of diffusers' folders).

    Raises `InputError` for another class, `CheckpointError` for a folder that is damaged or lacks a weight.
    """
    folder = Path(folder)
    data = read_json(folder / "config.json")
    named = data.get("architectures")
    if named != ["CLIPVisionModelWithProjection"]:
        raise InputError(f"{folder} is a {named!r:.80}: picture encoders are read of CLIPVisionModelWithProjection")
    tensors, _ = weights_in(folder, "model", variant)
    _bounded(dict(data), len(tensors))
    model, size = _blank(data)
    expect = model.state_dict()
    missing = [name for name in expect if name not in tensors and not name.endswith("position_ids")]
    unused = [name for name in tensors if name not in expect and not name.endswith("position_ids")]
    if missing or unused:
        raise CheckpointError(f"{folder} lacks or has beyond its configuration: {', '.join((missing + unused)[:3])}")
    model.load_state_dict({k: v for k, v in tensors.items() if k in expect}, assign=True, strict=False)
    return ImageTower(model.eval().requires_grad_(False), size)


def _blank(data: Mapping[str, Any]) -> tuple[nn.Module, int]:
    theirs = transformers()
    try:
        config = theirs.CLIPVisionConfig.from_dict(dict(data))
        with _weightless():
            return theirs.CLIPVisionModelWithProjection(config), int(config.image_size)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, ZeroDivisionError) as error:
        raise CheckpointError(f"no picture encoder follows from its configuration: {str(error)[:120]}") from error
