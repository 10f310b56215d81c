"""Large pictures in little memory: a codec run along strips, tile by tile, or a few pictures at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor

from ..core.errors import InputError
from ..core.noise import Noise
from .codec import Codec, Striped


class Wrapped(Codec):
    """A codec that runs another one in its own way; the weights stay the other's."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec
        self.factor, self.channels = codec.factor, codec.channels

    @property
    def draws(self) -> bool:
        """Whether the wrapped codec's `decode` draws."""
        return self.codec.draws


class Strips(Wrapped):
    """Each layer works along strips of `height` rows of its grid: the same result, up to the order of sums, no seam.

    A strip takes the neighbouring rows that its kernel covers, and the statistics of a normalisation are those of the
    whole grid, so nothing is approximated. The memory still grows with the picture, but slower: a layer's input
    and output are whole, nothing else is. Raises `InputError` for a codec without such layers.
    """

    def __init__(self, codec: Codec, height: int = 64) -> None:
        super().__init__(codec)
        if not isinstance(codec, Striped):
            raise InputError(f"{type(codec).__name__} cannot work along strips: use Tiled, or Sliced")
        if height < 1:
            raise InputError(f"strips need a height of 1 or more, got {height}")
        self.height = height

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the wrapped codec's, computed along strips."""
        return cast(Striped, self.codec).posterior(pixels, self.height)

    def decode(self, latents: Tensor, noise: Noise | None = None) -> Tensor:
        """Return the wrapped codec's pixels, computed along strips."""
        return cast(Striped, self.codec).decode(latents, noise, self.height)


class Tiled(Wrapped):
    """Square tiles of `size` latents on a side that overlap by `overlap` at least, blended: constant memory.

    Nearest to a cut, a quarter of the overlap is dropped: what a layer sees there are zeros instead of neighbours. The
    half in between is a linear blend. So the result is exact for a codec whose pixels depend on latents no further
    away than overlap / 4, such as a small convolutional one. It is not for one that normalises over the whole picture
    or attends to it (KL, VQ): there every tile has its own brightness and contrast, which the blend turns into
    a gradient; take `Strips` where memory allows. Defaults: tiles of 512 pixels for a factor of 8, as is common, and an
    overlap of a quarter of them. Raises `InputError` for a codec whose decode draws, since tiles would draw apart.
    """

    def __init__(self, codec: Codec, size: int = 64, overlap: int = 16) -> None:
        super().__init__(codec)
        if codec.draws:
            raise InputError(f"{type(codec).__name__} draws noise while it decodes, so its tiles would not match")
        if not 0 <= overlap < size:
            raise InputError(f"tiles of {size} latents cannot overlap by {overlap}: give 0 <= overlap < size")
        self.size, self.overlap = size, overlap

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the blended means and standard deviations of the tiles."""
        f = self.factor
        height, width = (side // f for side in pixels.shape[-2:])
        random = True

        def moments(top: int, left: int, bottom: int, right: int) -> Tensor:
            nonlocal random
            mean, deviation = self.codec.posterior(pixels[..., top * f : bottom * f, left * f : right * f])
            random = deviation is not None
            return mean if deviation is None else torch.cat((mean, deviation), dim=1)

        blended = self._blended(moments, height, width, 1)
        if not random:
            return blended, None
        mean, deviation = blended.chunk(2, dim=1)
        return mean, deviation

    def decode(self, latents: Tensor, noise: Noise | None = None) -> Tensor:
        """Return the blended pixels of the tiles."""
        height, width = latents.shape[-2:]
        return self._blended(
            lambda top, left, bottom, right: self.codec.decode(latents[..., top:bottom, left:right]),
            height,
            width,
            self.factor,
        )

    def _blended(self, tile: Callable[[int, int, int, int], Tensor], height: int, width: int, f: int) -> Tensor:
        """Return the blend of all tiles of a grid of height x width latents, `f` places a latent on each side."""
        out: Tensor | None = None
        columns = list(self._spans(width, f))
        for top, bottom, down in self._spans(height, f):
            for left, right, across in columns:
                y = tile(top, left, bottom, right)
                if out is None:
                    out = y.new_zeros((*y.shape[:2], height * f, width * f))
                weight = (down[:, None] * across).to(y)
                part = out[..., top * f : bottom * f, left * f : right * f]
                part.addcmul_(y, weight) if not torch.is_grad_enabled() else part.add_(y * weight)
        assert out is not None
        return out

    def _spans(self, count: int, f: int) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (first, last, weights [f (last - first)]) of tiles along a side of `count`: weights sum to 1."""
        size, step = min(self.size, count), self.size - self.overlap
        tiles = 1 + max(0, -(-(count - size) // step))
        firsts = [round(i * (count - size) / max(tiles - 1, 1)) for i in range(tiles)]
        rows = [torch.zeros(count * f, dtype=torch.float64) for _ in firsts]
        for row, first in zip(rows, firsts, strict=True):
            place = (torch.arange(size * f, dtype=torch.float64) + 0.5) / f
            before = place if first else torch.full_like(place, torch.inf)
            after = size - place if first + size < count else torch.full_like(place, torch.inf)
            row[first * f : (first + size) * f] = self._ramp(torch.minimum(before, after))
        total = torch.stack(rows).sum(0)
        for row, first in zip(rows, firsts, strict=True):
            yield first, first + size, (row / total)[first * f : (first + size) * f]

    def _ramp(self, distance: Tensor) -> Tensor:
        """Return the weight at a distance from the cut: 0 up to overlap / 4, then up to 1 at 3/4 of it."""
        if self.overlap == 0:
            return torch.ones_like(distance)
        return ((distance - self.overlap / 4) / (self.overlap / 2)).clamp(0.0, 1.0)


class Sliced(Wrapped):
    """A batch `rows` pictures at a time: the same result as all at once, row by row."""

    def __init__(self, codec: Codec, rows: int = 1) -> None:
        super().__init__(codec)
        if rows < 1:
            raise InputError(f"slices need 1 row or more, got {rows}")
        self.rows = rows

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the wrapped codec's, a slice after the other."""
        means: list[Tensor] = []
        deviations: list[Tensor] = []
        for part in pixels.split(self.rows):
            mean, deviation = self.codec.posterior(part)
            means.append(mean)
            if deviation is not None:
                deviations.append(deviation)
        return torch.cat(means), torch.cat(deviations) if deviations else None

    def decode(self, latents: Tensor, noise: Noise | None = None) -> Tensor:
        """Return the wrapped codec's pixels, a slice after the other."""
        starts = range(0, len(latents), self.rows)
        slices = [slice(a, a + self.rows) for a in starts]
        return torch.cat([self.codec.decode(latents[s], None if noise is None else noise.rows(s)) for s in slices])
