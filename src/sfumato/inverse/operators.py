"""Linear measurements y = A x_0 + sigma n, with deepinv's method names, so that its physics can be used here too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..core import InputError


@runtime_checkable
class LinearOperator(Protocol):
    """A linear A between data [B, ...] and measurements [B, ...], row by row."""

    def A(self, x: Tensor) -> Tensor:
        """Return A x."""
        ...

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y, with <A x, y> = <x, A^T y>."""
        ...

    def A_dagger(self, y: Tensor) -> Tensor:
        """Return A^+ y, the least-squares solution of smallest norm (Moore and Penrose's)."""
        ...


@runtime_checkable
class Solvable(LinearOperator, Protocol):
    """A linear operator whose A A^T is known well enough to be inverted with a multiple of the identity added."""

    def solve(self, y: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
        """Return (a A A^T + b)^-1 y; `a` and `b` are floats or [B, 1, ...].

        Where b = 0 and A A^T has a null space, the answer there is 0 (the pseudo-inverse).
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Mask:
    """A x = mask * x: the entries where `mask` (of one data point's shape, or one that broadcasts) is 1; others are 0.

    In-painting, extending and looping: what is known is pinned. Raises `InputError` for a mask that is not of 0 and 1.
    """

    mask: Tensor

    def __post_init__(self) -> None:
        if not bool(((self.mask == 0) | (self.mask == 1)).all()):
            raise InputError("a mask is of 0 and 1: 1 where the data are known")

    def A(self, x: Tensor) -> Tensor:
        """Return mask * x."""
        return x * self.mask.to(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Return mask * y: a mask is its own adjoint."""
        return self.A(y)

    def A_dagger(self, y: Tensor) -> Tensor:
        """Return mask * y: a mask is a projection."""
        return self.A(y)

    def solve(self, y: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
        """Return (a mask + b)^-1 y."""
        return _divide(y, a * self.mask.to(y) + b)


@dataclass(frozen=True, kw_only=True)
class Downsample:
    """A x = the mean of each `factor` x `factor` block of pictures [B, C, H, W]: super-resolution.

    Raises `InputError` for sizes that the factor does not divide.
    """

    factor: int

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise InputError(f"Downsample.factor must be at least 1, got {self.factor}")

    def A(self, x: Tensor) -> Tensor:
        """Return the means, [B, C, H / factor, W / factor]."""
        if x.ndim != 4 or x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise InputError(f"a picture of shape {tuple(x.shape)} has no whole blocks of {self.factor}: crop it")
        return torch.nn.functional.avg_pool2d(x, self.factor)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Return each value spread over its block, divided by factor^2."""
        return self.A_dagger(y) / self.factor**2

    def A_dagger(self, y: Tensor) -> Tensor:
        """Return each value repeated over its block: factor^2 A^T, since A A^T = 1 / factor^2."""
        return y.repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3)

    def solve(self, y: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
        """Return y / (a / factor^2 + b)."""
        return y / (a / self.factor**2 + b)


@dataclass(frozen=True, kw_only=True, eq=False)
class Blur:
    """A x = the periodic convolution of pictures [B, C, H, W] with `kernel` [h, w], whose middle stays in place.

    Diagonal in the Fourier basis: (A x)^ = k^ x^. Frequencies with |k^| below `cut` times the largest are taken for
    lost: `A_dagger` leaves them 0. Default 1e-6, where float32 has nothing left of them.
    """

    kernel: Tensor
    cut: float = 1e-6

    def __post_init__(self) -> None:
        if self.kernel.ndim != 2:
            raise InputError(f"a blur has a kernel [h, w], got the shape {tuple(self.kernel.shape)}")

    def A(self, x: Tensor) -> Tensor:
        """Return the blurred pictures."""
        return self._filter(x, self._response(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Return the correlation with the kernel."""
        return self._filter(y, self._response(y).conj())

    def A_dagger(self, y: Tensor) -> Tensor:
        """Return the inverse filter where the kernel lets something through."""
        k = self._response(y)
        power = k.abs() ** 2
        kept = power > self.cut**2 * power.amax()
        return self._filter(y, torch.where(kept, k.conj() / power.where(kept, torch.ones_like(power)), 0.0))

    def solve(self, y: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
        """Return the filter 1 / (a |k^|^2 + b)."""
        power = self._response(y).abs() ** 2
        power = power.where(power > self.cut**2 * power.amax(), torch.zeros_like(power))
        return torch.fft.ifft2(_divide(torch.fft.fft2(y), a * power + b)).real

    def _response(self, x: Tensor) -> Tensor:
        """Return k^ [H, W] for the size of `x`."""
        (h, w), (height, width) = self.kernel.shape, x.shape[-2:]
        if h > height or w > width:
            raise InputError(f"a kernel of {h} x {w} is larger than the picture of {height} x {width}")
        padded = torch.nn.functional.pad(self.kernel.to(x), (0, width - w, 0, height - h))
        return torch.fft.fft2(padded.roll((-(h // 2), -(w // 2)), (0, 1)))

    def _filter(self, x: Tensor, response: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(x) * response).real


class Matrix:
    """A x = matrix @ x for data of any `shape` flattened; measurements are [B, rows]. Held as its singular values.

    Singular values below `cut` times the largest are taken for 0; default 1e-10, for matrices in float64.
    """

    def __init__(self, matrix: Tensor, shape: tuple[int, ...] | None = None, *, cut: float = 1e-10) -> None:
        if matrix.ndim != 2 or (shape is not None and torch.Size(shape).numel() != matrix.shape[1]):
            raise InputError(f"a matrix [rows, size] is needed for data of shape {shape}, got {tuple(matrix.shape)}")
        self.matrix, self.shape = matrix, (matrix.shape[1],) if shape is None else tuple(shape)
        u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
        kept = s > cut * s.amax()
        self._u, self._s, self._v = u[:, kept], s[kept], v[kept]

    def A(self, x: Tensor) -> Tensor:
        """Return matrix @ x, [B, rows]."""
        return x.flatten(1) @ self.matrix.to(x).mT

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Return matrix^T @ y, [B, *shape]."""
        return (y @ self.matrix.to(y)).reshape(len(y), *self.shape)

    def A_dagger(self, y: Tensor) -> Tensor:
        """Return V S^-1 U^T y, [B, *shape]."""
        u, s, v = (part.to(y) for part in (self._u, self._s, self._v))
        return ((y @ u / s) @ v).reshape(len(y), *self.shape)

    def solve(self, y: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
        """Return U (a S^2 + b)^-1 U^T y, and y / b beside the range of U."""
        u, s = self._u.to(y), self._s.to(y)
        inside = y @ u
        rest = y - inside @ u.mT
        rest = rest - rest @ u @ u.mT  # once more: what rounding left in the range must not be divided by a small b
        outside = _divide(rest, b + torch.zeros_like(rest))
        return _divide(inside, a * s**2 + b) @ u.mT + outside


def _divide(y: Tensor, d: Tensor) -> Tensor:
    """Return y / d, and 0 where d = 0."""
    return torch.where(d == 0, torch.zeros_like(y), y / d.where(d != 0, torch.ones_like(d)))
