"""Rotary positions are complex rotations, they depend on differences of places alone, and are the released ones."""

import pytest
import torch

from sfumato.nets.blocks.rotary import frequencies, rotated, rotation, rotation_2d


def _randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_each_pair_is_multiplied_by_a_complex_number():
    x, angles = _randn(2, 3, 5, 8), _randn(5, 4, seed=1)
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    expected = torch.view_as_real(pairs * torch.exp(1j * angles.double())).flatten(-2)
    torch.testing.assert_close(rotated(x, rotation(angles)).double(), expected, rtol=1e-6, atol=1e-6)
    assert rotated(x.bfloat16(), rotation(angles)).dtype == torch.bfloat16


def test_compiled_and_differentiated_it_is_the_same():
    x, turn = _randn(2, 5, 3, 8).transpose(1, 2), rotation(_randn(5, 4, seed=1))
    compiled = torch.compile(rotated, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, turn), rotated(x, turn))
    x.requires_grad_()
    (slope,) = torch.autograd.grad(rotated(x, turn).square().sum(), x)
    torch.testing.assert_close(slope, 2 * x.detach())  # a rotation keeps lengths


def test_frequencies_fall_from_one_by_equal_factors():
    w = frequencies(4, theta=16.0)
    torch.testing.assert_close(w, torch.tensor([1.0, 0.5, 0.25, 0.125]))


def test_products_of_queries_and_keys_depend_on_differences_of_places():
    q, k = _randn(16, seed=2), _randn(16, seed=3)
    rows, columns = torch.arange(4.0), torch.arange(6.0)

    def products(dr, dc):
        turn = rotation_2d(rows + dr, columns + dc, 16)
        return rotated(q.expand(24, 16), turn) @ rotated(k.expand(24, 16), turn).T

    there = products(0.0, 0.0)
    torch.testing.assert_close(products(5.0, -3.0), there, rtol=1e-5, atol=1e-5)
    assert abs(there[0, 1] - there[0, 6]) > 1e-3  # a column further is not a row further
    torch.testing.assert_close(there[0, 7], there[8, 15], rtol=1e-5, atol=1e-5)


def test_the_rotation_of_a_grid_is_that_of_released_models():
    peer = pytest.importorskip("diffusers.models.embeddings")
    cos, sin = peer.get_2d_rotary_pos_embed(16, ((1, 2), (5, 9)), (4, 6))
    rows = 1 + (5 * 3 / 4 - 1) * torch.arange(4.0) / 3
    columns = 2 + (9 * 5 / 6 - 2) * torch.arange(6.0) / 5
    turn = rotation_2d(rows, columns, 16)
    x = _randn(1, 2, 24, 16)
    torch.testing.assert_close(rotated(x, turn), peer.apply_rotary_emb(x, (cos, sin)), rtol=1e-5, atol=1e-5)
