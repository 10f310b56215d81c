"""What x_0 is to a person: pixels or points, and how to look at it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from ..core import InputError, register

if TYPE_CHECKING:
    from PIL.Image import Image

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Modality(Protocol):
    """A registered configuration that says what the numbers of x_0 mean."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise `InputError` unless one sample of `shape` is of this kind."""
        ...

    def images(self, x: Tensor) -> list[Image]:
        """Return pictures of the samples x [B, ...]."""
        ...

    def table(self, x: Tensor) -> str | None:
        """Return the samples as CSV text where pictures do not hold their numbers, else None."""
        ...


@register
@dataclass(frozen=True, kw_only=True)
class Pixels:
    """x_0 [C, H, W] is a picture: `low` is black and `high` white; one picture a sample, 8 bits a channel.

    level = round(255 (x - low) / (high - low)), clipped. Defaults -1 and 1, the range of nearly all diffusion models
    (arXiv 2006.11239, section 3.3). One channel is grey, three are RGB, four RGBA.
    """

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError(f"Pixels needs low < high, got low={self.low}, high={self.high}")

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise `InputError` for anything but [1, 3 or 4, H, W]."""
        if len(shape) != 3 or shape[0] not in _MODES:
            raise InputError(f"pixels have the shape (1, 3 or 4, height, width), got {shape}")

    def images(self, x: Tensor) -> list[Image]:
        """Return one picture a row."""
        from PIL import Image

        levels = (x.detach().double() - self.low) * (255 / (self.high - self.low))
        bits = levels.round().clamp(0, 255).nan_to_num(0).byte().permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(b[..., 0] if b.shape[-1] == 1 else b, _MODES[b.shape[-1]]) for b in bits]

    def table(self, x: Tensor) -> None:
        """Return nothing: a picture holds its own numbers."""


@register
@dataclass(frozen=True, kw_only=True)
class Points:
    """x_0 [2] is a point of the plane: one picture of all samples, of the square from -limit to limit.

    Default limit 3: data of unit variance lies within. `size` is the picture's side in pixels.
    """

    limit: float = 3.0
    size: int = 512

    def __post_init__(self) -> None:
        if not (self.limit > 0 and 16 <= self.size <= 8192):
            raise InputError(f"Points needs a positive limit and a size of 16 to 8192 pixels, got {self}")

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise `InputError` for anything but [2]."""
        if shape != (2,):
            raise InputError(f"points have the shape (2,), got {shape}")

    def images(self, x: Tensor) -> list[Image]:
        """Return one picture of the cloud; points outside of it are not drawn."""
        from PIL import Image, ImageDraw

        fine = 4  # drawn four times as large and scaled down: smooth discs
        side = self.size * fine
        picture = Image.new("L", (side, side), 255)
        draw = ImageDraw.Draw(picture)
        radius = side / 220
        for u, v in x.detach().double().cpu().tolist():
            if math.isfinite(u) and math.isfinite(v):
                a, b = (u / self.limit + 1) * side / 2, (1 - v / self.limit) * side / 2
                if -side < a < 2 * side and -side < b < 2 * side:
                    draw.ellipse((a - radius, b - radius, a + radius, b + radius), fill=30)
        return [picture.resize((self.size, self.size), Image.Resampling.BOX)]

    def table(self, x: Tensor) -> str:
        """Return the coordinates, exactly, one point a line."""
        rows = x.detach().cpu().tolist()
        return "x,y\n" + "".join(f"{u!r},{v!r}\n" for u, v in rows)


def contact_sheet(images: Sequence[Image], columns: int | None = None, least: int = 64) -> Image:
    """Return the pictures on one sheet, `columns` wide (near-square by default).

    Pictures below `least` pixels are enlarged by a whole factor, without smoothing, so that they can be seen.
    """
    from PIL import Image

    if not images:
        raise InputError("there are no pictures to put on a sheet")
    width, height = (max(getattr(im, side) for im in images) for side in ("width", "height"))
    factor = max(1, math.ceil(least / max(width, height)))
    wide, high = width * factor, height * factor
    columns = math.ceil(math.sqrt(len(images))) if columns is None else columns
    if columns < 1:
        raise InputError(f"a sheet needs at least 1 column, got {columns}")
    gap = max(2, wide // 32)
    rows = math.ceil(len(images) / columns)
    mode = "L" if all(im.mode == "L" for im in images) else "RGB"
    white = 255 if mode == "L" else (255, 255, 255)
    sheet = Image.new(mode, (columns * (wide + gap) + gap, rows * (high + gap) + gap), white)
    for i, im in enumerate(images):
        row, column = divmod(i, columns)
        large = im.convert(mode).resize((im.width * factor, im.height * factor), Image.Resampling.NEAREST)
        sheet.paste(large, (gap + column * (wide + gap), gap + row * (high + gap)))
    return sheet
