"""Laws of a linear operator: what the methods that know measurements rely on, for the reader's own operators too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..inverse import LinearOperator, Solvable
from .exact import draws
from .report import Case, Report, run, title_of

_ROWS = 3


def check_operator(operator: LinearOperator, shape: Sequence[int], *, tol: float = 1e-9) -> Report:
    """Hold a linear operator on data of `shape` (one data point's) to its laws, in float64.

    Linear; A_adjoint is its transpose; A_dagger meets Penrose's four conditions, so that it is the pseudo-inverse;
    `solve`, where there is one, inverts a A A^T + b; a row depends on itself alone. `tol` bounds every deviation,
    relative to the size of what is compared: raise it for an iterative pseudo-inverse. Returns a `Report` to print.
    """
    return run(operator_laws(type(operator).__name__, operator, shape, tol))


def operator_laws(name: str, operator: LinearOperator, shape: Sequence[int], tol: float) -> Iterator[Case]:
    """Yield the checks of one operator."""
    for check in (_linear, _rows_apart, _transposed, _first, _second, _symmetric, _solved):
        if check is _solved and not isinstance(operator, Solvable):
            continue

        def case(c: object = check) -> tuple[object, str, bool]:
            x = draws(_ROWS, 1).normal((_ROWS, *shape), "x", dtype=torch.float64)
            y = draws(_ROWS, 2).normal(operator.A(x).shape, "y", dtype=torch.float64)
            gap = c(operator, x, y)  # type: ignore[operator]
            return gap, f"<= {tol:g}", gap <= tol

        yield Case(f"operator: {title_of(check)}", name, case)


def _gap(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).abs().max() / exact.abs().max().clamp(min=1e-12))


def _dots(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _linear(operator: LinearOperator, x: Tensor, y: Tensor) -> float:
    """A, A_adjoint and A_dagger are linear."""
    worst = 0.0
    for function, v in ((operator.A, x), (operator.A_adjoint, y), (operator.A_dagger, y)):
        worst = max(worst, _gap(function(2 * v - 3 * v.flip(0)), 2 * function(v) - 3 * function(v).flip(0)))
    return worst


def _rows_apart(operator: LinearOperator, x: Tensor, y: Tensor) -> float:
    """A row depends on itself alone."""
    worst = 0.0
    for function, v in ((operator.A, x), (operator.A_adjoint, y), (operator.A_dagger, y)):
        worst = max(worst, _gap(torch.cat([function(v[i : i + 1]) for i in range(_ROWS)]), function(v)))
    return worst


def _transposed(operator: LinearOperator, x: Tensor, y: Tensor) -> float:
    """<A x, y> = <x, A_adjoint y>."""
    size = operator.A(x).flatten(1).norm(dim=1) * y.flatten(1).norm(dim=1)
    return float(((_dots(operator.A(x), y) - _dots(x, operator.A_adjoint(y))).abs() / size).max())


def _first(operator: LinearOperator, x: Tensor, y: Tensor) -> float:
    """A A_dagger A = A."""
    return _gap(operator.A(operator.A_dagger(operator.A(x))), operator.A(x))


def _second(operator: LinearOperator, x: Tensor, y: Tensor) -> float:
    """A_dagger A A_dagger = A_dagger."""
    return _gap(operator.A_dagger(operator.A(operator.A_dagger(y))), operator.A_dagger(y))


def _symmetric(operator: LinearOperator, x: Tensor, y: Tensor) -> float:
    """A A_dagger and A_dagger A are symmetric."""
    worst = 0.0
    for project, v in (
        (lambda u: operator.A(operator.A_dagger(u)), y),
        (lambda u: operator.A_dagger(operator.A(u)), x),
    ):
        w = v.flip(0)
        size = v.flatten(1).norm(dim=1) * w.flatten(1).norm(dim=1)
        worst = max(worst, float(((_dots(project(v), w) - _dots(v, project(w))).abs() / size).max()))
    return worst


def _solved(operator: Solvable, x: Tensor, y: Tensor) -> float:
    """(a A A_adjoint + b) solve(y, a, b) = y, also for b = 0 where A reaches."""
    worst, reached = 0.0, operator.A(x)
    for v, a, b in ((y, 0.7, 0.3), (y, 1.0, 1e-3), (reached, 2.0, 0.0)):
        u = operator.solve(v, a, b)
        worst = max(worst, _gap(a * operator.A(operator.A_adjoint(u)) + b * u, v))
    return worst
