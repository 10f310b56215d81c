"""The digits are scikit-learn's, to the bit, and the split is fair and fixed."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import sfumato as sf
from sfumato import data


def test_digits_are_the_published_levels():
    x0, y = data.digits()
    scans = load_digits()
    assert x0.shape == (1797, 1, 8, 8)
    assert x0.dtype == torch.float32
    assert np.array_equal((x0[:, 0].double().numpy() + 1) * 8, scans["images"])
    assert np.array_equal(y.numpy(), scans["target"])
    assert (x0.min(), x0.max()) == (-1, 1)


def test_parts_share_nothing_and_are_everything():
    inside, outside = data.Digits(), data.Digits(held_out=True)
    assert (len(inside), len(outside)) == (1437, 360)
    x0, y = data.digits()
    mask = data.split(y)
    for ds, mine in ((inside, ~mask), (outside, mask)):
        assert torch.equal(ds.rows.x0, x0[mine])
        assert torch.equal(ds.rows.cond["y"], y[mine])
    share = torch.bincount(outside.rows.cond["y"], minlength=10) / torch.bincount(y)
    assert ((share - 0.2).abs() * torch.bincount(y) <= 1).all()
    assert inside.fingerprint != outside.fingerprint


def test_the_split_is_fixed():
    # a changed split would make every published figure of the demo mean something else
    held_out = data.split(data.digits()[1]).nonzero().flatten()
    assert held_out[:8].tolist() == [3, 10, 13, 14, 33, 37, 42, 49]
    assert not torch.equal(data.split(data.digits()[1], seed=1).nonzero().flatten(), held_out)


def test_batches_are_rows():
    ds = data.Digits()
    batch = ds.batch([3, 1436, 3], sf.Noise([0, 1, 2]))
    assert torch.equal(batch.x0, ds.rows.x0[[3, 1436, 3]])
    assert torch.equal(batch.cond["y"], ds.rows.cond["y"][[3, 1436, 3]])
    assert ds.classes == tuple("0123456789")
    assert ds.shape == (1, 8, 8)
    assert sf.from_config(sf.to_config(ds), data.Dataset) == ds


def test_tensors_refuse_what_cannot_be_trained_on():
    x0 = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    ds = data.Tensors(x0, {"y": torch.arange(4)}, ["a", "b", "c", "d"])
    assert ds.classes == ("a", "b", "c", "d")
    assert torch.equal(ds.batch([2], sf.Noise([0])).cond["y"], torch.tensor([2]))
    with pytest.raises(sf.InputError, match="y has 3 rows for 4 samples"):
        data.Tensors(x0, {"y": torch.arange(3)})
    with pytest.raises(sf.InputError, match="no rows"):
        data.Tensors(x0[:0])
    with pytest.raises(sf.InputError, match="not finite"):
        data.Tensors(x0.log())
    assert data.Tensors(x0).fingerprint != data.Tensors(x0.double()).fingerprint
    assert data.Tensors(x0).fingerprint != data.Tensors(x0[[1, 0, 2, 3]]).fingerprint
