"""Mean and covariance of rows that come in batches, in constant memory."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..core import InputError

_ROWS = 1024  # rows multiplied at a time: large enough for the product to outweigh its addition to the sums
_PANEL = 256  # columns of a panel: only panels on and above the diagonal are computed


class Moments(NamedTuple):
    """The number of rows n, their mean [d] and covariance [d, d] with divisor n - 1, in float64.

    `dtype` is that in which rows were multiplied.
    """

    n: int
    mean: Tensor
    covariance: Tensor
    dtype: torch.dtype = torch.float64


class Statistics:
    """Streaming mean and covariance: `add` batches of any size, then take `moments`.

    Rows are shifted by the mean of the first 1,024, so that a large mean costs no digits: with y = x - shift,
    covariance = (sum y y^T - n ybar ybar^T) / (n - 1). Memory is d^2 + 1024 d numbers whatever n is, and the result
    does not depend on how the rows were batched.

    Sums are float64. `dtype` is that of the products within 1,024 rows: float32 doubles the speed and leaves an error
    of about 1e-7 of the largest variance in the covariance. A singular covariance does not forgive that (and the
    Frechet distance then refuses it); hence float64 unless asked for.
    """

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise InputError(f"statistics are multiplied in float32 or float64, got {dtype}")
        self.dtype = dtype
        self.n = 0
        self._pending = 0

    def add(self, rows: Tensor) -> None:
        """Take in rows [b, d]. Raises `InputError` for another shape or width and for values that are not finite."""
        if rows.ndim != 2 or rows.shape[1] == 0 or (self.n and rows.shape[1] != self._block.shape[1]):
            want = f"[rows, {self._block.shape[1]}]" if self.n else "[rows, features]"
            raise InputError(f"statistics take {want}, got shape {list(rows.shape)}: flatten to one row a sample")
        # one pass in the common case: a finite sum has finite terms; large finite terms may overflow it
        if not math.isfinite(rows.sum()) and not bool(torch.isfinite(rows).all()):
            raise InputError("features have values that are not finite: check the feature network and its input")
        if not len(rows):
            return
        rows = rows.detach().cpu()
        if self.n == 0:
            self._block = torch.empty(_ROWS, rows.shape[1], dtype=self.dtype)
            self._shift: Tensor | None = None
            self._sum, self._products = _zeros(rows.shape[1])
        self.n += len(rows)
        while len(rows):
            taken = rows[: _ROWS - self._pending]
            self._block[self._pending : self._pending + len(taken)] = taken
            self._pending += len(taken)
            rows = rows[len(taken) :]
            if self._pending == _ROWS:
                self._shift = _centre(self._block) if self._shift is None else self._shift
                _accumulate(self._block.sub_(self._shift), self._sum, self._products)
                self._pending = 0

    def moments(self) -> Moments:
        """Return the moments of all rows so far; more may be added afterwards.

        Raises `InputError` below two rows.
        """
        if self.n < 2:
            raise InputError(f"a covariance needs at least 2 rows, got {self.n}")
        last = self._block[: self._pending]
        shift = _centre(last) if self._shift is None else self._shift
        total, products = self._sum.clone(), self._products.clone()
        _accumulate(last - shift, total, products)
        mean = total / self.n
        upper = products.addr_(mean, mean, alpha=-self.n).div_(self.n - 1)
        return Moments(self.n, mean + shift, _mirrored(upper), self.dtype)


def _zeros(d: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)


def _centre(block: Tensor) -> Tensor:
    """Return a vector near the mean; in a column of equal values it is that value exactly."""
    return block.mean(0, dtype=torch.float64).to(block.dtype)


def _mirrored(upper: Tensor) -> Tensor:
    """Copy what is above the diagonal below it, in place, panel by panel: a whole transpose would leave the caches."""
    for i in range(0, len(upper), _PANEL):
        corner = upper[i : i + _PANEL, i : i + _PANEL]
        corner.copy_(corner.triu() + corner.triu(1).T)
        upper[i + _PANEL :, i : i + _PANEL] = upper[i : i + _PANEL, i + _PANEL :].T
    return upper


def _accumulate(block: Tensor, total: Tensor, products: Tensor) -> None:
    """Add the sum of the rows, and their products in the panels on and above the diagonal."""
    total += block.sum(0, dtype=torch.float64)
    for i in range(0, block.shape[1], _PANEL):
        left, right, out = block[:, i : i + _PANEL].T, block[:, i:], products[i : i + _PANEL, i:]
        if block.dtype == products.dtype:
            out.addmm_(left, right)  # no product of its own to add
        else:
            out += left @ right
