"""What a pipeline returns: samples, how they were made, and their pictures."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..core import InputError, SfumatoError
from .images import Modality, contact_sheet
from .metadata import Settings, encode_png

if TYPE_CHECKING:
    from PIL.Image import Image

    from .pipeline import Pipeline

_NUMBERED = re.compile(r"(\d{5,})(-\d+)?\.\w+")


@dataclass(frozen=True, eq=False, kw_only=True)
class Output:
    """Samples and all that made them.

    `tensor` is x_0 [B, ...] as it is diffused, `pixels` what a codec made of it. `seeds` and `prompts` have one entry a
    row; `request` holds the arguments of the call as plain data, `versions` and `device` what it ran on, `pipeline` who
    made it, `notes` what a person should know (what of a prompt was cut off).
    """

    tensor: Tensor
    pixels: Tensor
    seeds: tuple[int, ...]
    prompts: tuple[str | None, ...]
    request: Mapping[str, Any]
    versions: Mapping[str, str]
    device: str
    pipeline: Pipeline
    notes: tuple[str, ...] = ()

    @cached_property
    def model(self) -> str:
        """The sha256 of the model, computed when it is asked for: it reads every weight."""
        return self.pipeline.sha256()

    @property
    def modality(self) -> Modality:
        """What the numbers of the samples mean."""
        return self.pipeline.modality

    @cached_property
    def images(self) -> list[Image]:
        """The samples as PIL pictures: one each for pixels, one of all for points."""
        return self.modality.images(self.pixels)

    def settings(self, index: int = 0) -> Settings:
        """Return what makes picture `index` again."""
        return Settings(
            request=dict(self.request),
            index=index,
            seed=self.seeds[index],
            prompt=self.prompts[index],
            model=self.model,
            versions=dict(self.versions),
            device=self.device,
        )

    def grid(self, columns: int | None = None) -> Image:
        """Return all pictures on one sheet, small ones enlarged."""
        return contact_sheet(self.images, columns)

    def save(self, folder: str | Path, *, private: bool = False) -> list[Path]:
        """Write each picture to `folder` as `<next free number>-<seed>.png` with its settings; return the paths.

        Nothing is overwritten. Points also get a CSV of their coordinates. A `private` picture keeps only the mark that
        it is generated. Raises `InputError` where the folder cannot be used, `SfumatoError` where the disk refuses.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            taken = [int(m.group(1)) for p in folder.iterdir() if (m := _NUMBERED.fullmatch(p.name))]
        except OSError as error:
            raise InputError(f"cannot write pictures to {folder}: {error.strerror}; give another folder") from error
        table = self.modality.table(self.tensor)
        number = max(taken, default=-1) + 1
        paths: list[Path] = []
        for index, image in enumerate(self.images):
            files = {".png": encode_png(image, None if private else self.settings(index))}
            if table is not None:
                files[".csv"] = table.encode()
            number = _write_new(folder, number, self.seeds[index], files)
            paths.append(folder / f"{number:05d}-{self.seeds[index]}.png")
            number += 1
        return paths

    def _repr_png_(self) -> bytes:
        """Show the sheet in a notebook."""
        buffer = io.BytesIO()
        self.grid().save(buffer, "PNG")
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        """Show the sheet and what made it in a notebook."""
        data = base64.b64encode(self._repr_png_()).decode()
        solver = self.request["solver"]["kind"]
        line = (
            f"{len(self.seeds)} samples, seeds {self.seeds[0]} to {self.seeds[-1]}, {solver}, "
            f"{self.request['steps']} steps, guidance {self.request['guidance']:g}"
        )
        return f'<figure><img src="data:image/png;base64,{data}"><figcaption>{html.escape(line)}</figcaption></figure>'


def _write_new(folder: Path, number: int, seed: int, files: Mapping[str, bytes]) -> int:
    """Write the `files` (suffix -> bytes) under the first free number from `number` on, and return it."""
    while True:
        written: list[Path] = []
        try:
            for suffix, data in files.items():
                path = folder / f"{number:05d}-{seed}{suffix}"
                with open(path, "xb") as file:
                    written.append(path)
                    file.write(data)
            return number
        except OSError as error:
            for path in written:
                with contextlib.suppress(OSError):
                    path.unlink()
            if not isinstance(error, FileExistsError):
                raise SfumatoError(f"cannot write {folder}: {error.strerror}; what was there is untouched") from error
            number += 1
