"""Operators against the matrices that they are: adjoint, Penrose's four conditions, and the linear solve."""

import pytest
import torch

from sfumato.core import InputError, Noise
from sfumato.inverse import Blur, Downsample, LinearOperator, Mask, Matrix, Solvable
from sfumato.inverse.measured import conjugate_gradients, solved

SHAPE = (2, 6, 4)
GAUSS = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([0.5, 3.0, 1.5])).double() / 20
MEAN = torch.ones(2, 2).double() / 4  # loses the highest frequencies
DEFICIENT = Noise(range(5)).normal((5, 48), "m").double()
DEFICIENT[4] = DEFICIENT[0] - 2 * DEFICIENT[1]
OPERATORS = {
    "mask": Mask(mask=(torch.arange(24).reshape(6, 4) % 3 == 0).double()),
    "downsample": Downsample(factor=2),
    "blur": Blur(kernel=GAUSS),
    "blur, singular": Blur(kernel=MEAN),
    "matrix": Matrix(DEFICIENT[:4], SHAPE),
    "matrix, deficient": Matrix(DEFICIENT, SHAPE),
}
EACH = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


def dense(operator):
    """A as a matrix [rows, 48]."""
    basis = torch.eye(48, dtype=torch.float64).reshape(48, *SHAPE)
    return operator.A(basis).flatten(1).T


def draws(operator):
    x = Noise(range(3)).normal((3, *SHAPE), "x").double()
    y = Noise(range(3)).normal(operator.A(x).shape, "y").double()
    return x, y


@EACH
def test_adjoint(operator):
    x, y = draws(operator)
    left, right = (operator.A(x) * y).flatten(1).sum(1), (x * operator.A_adjoint(y)).flatten(1).sum(1)
    torch.testing.assert_close(left, right, atol=1e-12, rtol=0)
    torch.testing.assert_close(operator.A_adjoint(y).flatten(1), y.flatten(1) @ dense(operator), atol=1e-12, rtol=0)
    assert isinstance(operator, LinearOperator)
    assert isinstance(operator, Solvable)


@EACH
def test_penrose_conditions_and_the_pseudo_inverse(operator):
    x, y = draws(operator)
    a, plus = operator.A, operator.A_dagger
    torch.testing.assert_close(a(plus(a(x))), a(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(plus(a(plus(y))), plus(y), atol=1e-11, rtol=0)
    for both, v in ((lambda v: a(plus(v)), y), (lambda v: plus(a(v)), x)):  # symmetric projections
        w = v.flip(0)
        left, right = ((p * q).flatten(1).sum(1) for p, q in ((both(v), w), (v, both(w))))
        torch.testing.assert_close(left, right, atol=1e-11, rtol=0)
    exact = y.flatten(1) @ torch.linalg.pinv(dense(operator), rtol=1e-9).T
    torch.testing.assert_close(plus(y).flatten(1), exact, atol=1e-10, rtol=0)


@EACH
@pytest.mark.parametrize(("a", "b"), [(0.7, 0.3), (2.0, 0.0)])
def test_solve(operator, a, b):
    _, y = draws(operator)
    m = dense(operator)
    y = y if b else operator.A(operator.A_dagger(y))  # what can be reached
    exact = torch.linalg.pinv(a * m @ m.T + b * torch.eye(len(m)).double(), rtol=1e-9) @ y.flatten(1).T
    for v in (a, torch.full((3, 1, 1, 1), a, dtype=torch.float64)):
        torch.testing.assert_close(solved(operator, y, v, b).flatten(1), exact.T, atol=1e-9, rtol=0)

    class Bare:  # deepinv's three methods and nothing else
        A, A_adjoint, A_dagger = operator.A, operator.A_adjoint, operator.A_dagger

    assert isinstance(Bare(), LinearOperator)
    assert not isinstance(Bare(), Solvable)
    torch.testing.assert_close(solved(Bare(), y, a, b).flatten(1), exact.T, atol=1e-8, rtol=0)


def test_what_each_operator_is():
    x = Noise(range(3)).normal((3, *SHAPE), "x").double()
    blurred = OPERATORS["blur"].A(x)
    exact = sum(
        float(GAUSS[i, j]) * x.roll((i - 1, j - 1), (2, 3)) for i in range(3) for j in range(3)
    )  # the kernel's middle in place
    torch.testing.assert_close(blurred, exact, atol=1e-12, rtol=0)
    means = x.reshape(3, 2, 3, 2, 2, 2).mean((3, 5))
    torch.testing.assert_close(OPERATORS["downsample"].A(x), means, atol=1e-14, rtol=0)
    torch.testing.assert_close(OPERATORS["matrix"].A(x), x.flatten(1) @ DEFICIENT[:4].T, atol=1e-12, rtol=0)
    assert OPERATORS["blur, singular"].A(x - x.roll(1, 2)).abs().max() > 0.1
    checker = (-1.0) ** torch.arange(4).double().expand(1, 2, 6, 4)
    assert OPERATORS["blur, singular"].A(checker).abs().max() < 1e-12


def test_conjugate_gradients_row_by_row():
    """Rows of very different sizes and a singular matrix: each is as if alone."""
    m = DEFICIENT @ DEFICIENT.T
    y = (m @ torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()).T
    y = y * torch.tensor([[1e-6], [1.0], [0.0]]).double()
    found = conjugate_gradients(lambda v: v @ m, y)
    torch.testing.assert_close(found @ m, y, atol=1e-9, rtol=1e-9)
    alone = torch.cat([conjugate_gradients(lambda v: v @ m, row[None]) for row in y])
    torch.testing.assert_close(found, alone, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mask(mask=torch.tensor([0.5])), "a mask is of 0 and 1"),
        (lambda: Downsample(factor=0), "at least 1"),
        (lambda: Downsample(factor=4).A(torch.zeros(1, 1, 6, 8)), "no whole blocks of 4"),
        (lambda: Blur(kernel=torch.ones(3)), r"kernel \[h, w\]"),
        (lambda: Blur(kernel=torch.ones(3, 9)).A(torch.zeros(1, 1, 6, 8)), "larger than the picture"),
        (lambda: Matrix(torch.ones(2, 5), (2, 2)), r"a matrix \[rows, size\]"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(InputError, match=message):
        make()
