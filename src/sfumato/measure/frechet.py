"""The Frechet distance between Gaussians fitted to two sets of features (FID, Heusel et al. 2017, arXiv 1706.08500)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import InputError
from .features import FeatureSet, measured, pair
from .figure import Figure

_EPS = torch.finfo(torch.float64).eps
_LOST = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the trace: what rounding may cost on the fast route
_PANEL = 256  # columns of a panel in products with a triangular matrix


def frechet_distance(samples: FeatureSet | Tensor, reference: FeatureSet | Tensor) -> Figure:
    """Return |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)), lower is better, in float64 (eq. 6).

    Nothing is added to a singular covariance: its root is taken within its range. The expectation rises by about
    1 / n: two samples of N(0, I_d) score d^2 / 2n + 2 d / n. Figures of different counts therefore refuse comparison,
    and the note says where there were too few rows for a covariance of full rank.
    """
    x, y = pair(samples, reference)
    m, cov, mean = x.moments, x.moments.covariance, y.moments.mean
    shift = float((m.mean - mean).square().sum())
    value = shift + float(cov.trace() + y.moments.covariance.trace()) - 2 * trace_root(x, y)
    few = [f"{s.n} {side}" for s, side in ((x, "samples"), (y, "reference rows")) if s.n <= s.d]
    note = f"singular covariance: {' and '.join(few)} for {x.d} features" if few else ""
    return measured("frechet_distance", value, x, y, better="lower", note=note)


def trace_root(x: FeatureSet, reference: FeatureSet) -> float:
    """Return tr (S_1 S_2)^(1/2).

    With S_2 = L L^T it is the sum of the roots of the eigenvalues of the symmetric L^T S_1 L. Rounding moves an
    eigenvalue by up to about eps times the largest, which matters only to those near zero; where the sum could feel
    it, and where a covariance is singular, the accurate route is taken. No route can undo float32 products:
    there `InputError` asks for float64 ones.
    """
    dtypes = {s.moments.dtype for s in (x, reference)}
    dtype = torch.float32 if torch.float32 in dtypes else torch.float64
    factor = reference.cholesky
    if factor is not None and x.n > x.d:
        values = torch.linalg.eigvalsh(_congruent(x.moments.covariance, factor))
        slack = torch.finfo(dtype).eps * values[-1]
        roots = values.clamp(min=0).sqrt()
        doubt = torch.minimum(slack.sqrt().expand_as(roots), slack / (2 * roots)).sum()
        scale = x.moments.covariance.trace() + reference.moments.covariance.trace()
        if doubt <= _LOST[dtype] * scale:
            return float(roots.sum())
    if dtype == torch.float32:
        raise InputError("a covariance is singular, too much so for float32 products: gather its moments in float64")
    return _nuclear(x, reference)


def _nuclear(x: FeatureSet, reference: FeatureSet) -> float:
    """Return the sum of the singular values of F_1^T F_2 with S = F F^T: no root of a rounded zero is taken."""
    return float(torch.linalg.svdvals(_range_factor(x).T @ _range_factor(reference)).sum())


def _range_factor(s: FeatureSet) -> Tensor:
    """Return F [d, rank] with F F^T = S, from the eigenvalues that stand above rounding (d eps times the largest)."""
    values, vectors = torch.linalg.eigh(s.moments.covariance)
    kept = values > values[-1] * len(values) * _EPS
    return vectors[:, kept] * values[kept].sqrt()


def _congruent(cov: Tensor, factor: Tensor) -> Tensor:
    """Return the lower triangle of L^T S L, in panels that leave out the zeros of L: 5/12 of the full products."""
    d = len(cov)
    left, out = torch.empty_like(cov), torch.empty_like(cov)
    for i in range(0, d, _PANEL):
        panel = slice(i, i + _PANEL)
        torch.matmul(factor[i:, panel].T, cov[i:], out=left[panel])
    for i in range(0, d, _PANEL):
        panel = slice(i, i + _PANEL)
        out[i:, panel] = left[i:, i:] @ factor[i:, panel]
    return out
