"""Feature sets know where they come from, survive the disk, and refuse what does not fit."""

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import sfumato as sf
from sfumato.measure import Extractor, FeatureSet, Resize, frechet_distance, kernel_distance


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class _Net(nn.Module):
    def __init__(self, width=5, p=0.0):
        super().__init__()
        self.linear, self.drop = nn.Linear(12, width), nn.Dropout(p)

    def forward(self, x):
        return self.drop(self.linear(x.flatten(1)))

    def hidden(self, x):
        return self.linear(x.flatten(1)).relu()


def _net(seed=0, **options):
    torch.manual_seed(seed)
    return _Net(**options).eval()


def test_hash_is_that_of_the_rows_and_streaming_keeps_it():
    x = _normal(300, 4)
    whole = FeatureSet.points(x)
    assert whole.hash == hashlib.sha256(x.numpy().tobytes()).hexdigest()
    streamed = FeatureSet.streamed(x.split(7), network="identity")
    assert (streamed.hash, streamed.n, streamed.d) == (whole.hash, 300, 4)
    assert torch.equal(streamed.moments.covariance, whole.moments.covariance)
    y = x.clone()
    y[5, 1] += 1e-6
    assert FeatureSet.points(y).hash != whole.hash
    y = FeatureSet.points(_normal(50, 4, seed=1))
    assert frechet_distance(y, streamed) == frechet_distance(y, whole)
    with pytest.raises(sf.InputError, match="moments alone"):
        kernel_distance(y, streamed, size=20)


def test_extractor_runs_the_network_in_batches():
    net, x = _net(), _normal(40, 3, 2, 2)
    extractor = Extractor(net)
    kept = extractor.features(x.split(16))
    with torch.no_grad():
        torch.testing.assert_close(kept.values, net(x))
    assert (kept.n, kept.d, kept.network, kept.resize) == (40, 5, extractor.id, "none")
    assert not kept.values.requires_grad
    moments = extractor.moments(x.split(16))
    assert moments.values is None
    assert moments.hash == kept.hash
    assert extractor.moments(x.split(16), dtype=torch.float32).moments.dtype == torch.float32


def test_identity_follows_weights_structure_and_method():
    net = _net()
    other = _net(seed=1)
    bumped = _net()
    with torch.no_grad():
        bumped.linear.bias[0] += 1e-6
    ids = [Extractor(n).id for n in (net, other, bumped, _net(p=0.5), net.hidden, nn.Sequential(net))]
    assert len(set(ids)) == len(ids)
    assert Extractor(_net()).id == ids[0]
    assert Extractor(net.hidden).id == ids[4]
    assert Extractor(lambda x: x.flatten(1), name="pixels").id == "pixels"
    assert Extractor(net, name="judge").id.startswith("judge:")
    with pytest.raises(sf.InputError, match="name"):
        Extractor(lambda x: x.flatten(1))


def test_extractor_refuses_what_would_be_wrong():
    x = _normal(8, 3, 2, 2)
    net = _net(p=0.5)
    extractor = Extractor(net.hidden)
    net.train()
    with pytest.raises(sf.InputError, match="eval"):
        extractor.features([x])
    with pytest.raises(sf.InputError, match=r"\[8, d\]"):
        Extractor(lambda x: x, name="maps").features([x])
    with pytest.raises(sf.InputError, match="finite"):
        Extractor(lambda x: x.flatten(1) / 0, name="bad").features([x])


def test_sides_from_different_networks_or_filters_refuse():
    x = _normal(20, 3, 2, 2)
    a, b = Extractor(_net()).features([x]), Extractor(_net(seed=1)).features([x])
    with pytest.raises(sf.InputError, match="network"):
        frechet_distance(a, b)
    c = Extractor(_net(), resize=Resize(size=2, filter="box")).features([x])
    assert c.resize == "pillow-box-2"
    with pytest.raises(sf.InputError, match="resize"):
        frechet_distance(a, c)


def test_resize_is_pillows_filter_in_float():
    x = _normal(2, 3, 8, 8)
    small = Resize(size=4, filter="box")(x)
    torch.testing.assert_close(small, x.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5)))
    flat = Resize()(torch.full((1, 1, 16, 16), 0.123))
    assert flat.shape == (1, 1, 299, 299)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.123))
    # antialiased: an alternating pattern shrinks to its mean, where point sampling would keep one phase
    stripes = torch.tensor([-1.0, 1.0]).repeat(32).expand(1, 1, 64, 64)
    assert Resize(size=8)(stripes)[..., 1:-1].abs().max() < 0.02
    with pytest.raises(sf.InputError, match="bicubic"):
        Resize(filter="cubic")(x)


@pytest.mark.parametrize("keep", [True, False])
def test_disk_round_trip(tmp_path, keep):
    x = _normal(60, 6)
    made = (
        FeatureSet.of([x], network="n:1", resize="r") if keep else FeatureSet.streamed([x], network="n:1", resize="r")
    )
    path = tmp_path / "reference.safetensors"
    made.save(path)
    again = FeatureSet.load(path)
    assert (again.n, again.network, again.resize, again.hash, again.d) == (60, "n:1", "r", made.hash, 6)
    assert torch.equal(again.moments.covariance, made.moments.covariance)
    assert again.moments.dtype == torch.float64
    assert (again.values is not None) == keep
    samples = FeatureSet.of([_normal(50, 6, seed=1)], network="n:1", resize="r")
    assert frechet_distance(samples, again) == frechet_distance(samples, made)
    if keep:
        assert kernel_distance(samples, again, size=50) == kernel_distance(samples, made, size=50)
    with pytest.raises(sf.InputError, match="exists"):
        made.save(path)


def test_float32_moments_stay_marked_on_disk(tmp_path):
    path = tmp_path / "reference.safetensors"
    FeatureSet.streamed([_normal(60, 6)], network="n", dtype=torch.float32).save(path)
    assert FeatureSet.load(path).moments.dtype == torch.float32


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "reference.safetensors"
    FeatureSet.points(_normal(60, 6)).save(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(data)
    with pytest.raises(sf.CheckpointError, match="damaged"):
        FeatureSet.load(bad)
    tensors = load_file(path)
    save_file(tensors, tmp_path / "plain.safetensors")
    with pytest.raises(sf.CheckpointError, match="not a feature set"):
        FeatureSet.load(tmp_path / "plain.safetensors")
    with pytest.raises(sf.CheckpointError):
        FeatureSet.load(tmp_path / "absent.safetensors")


def test_halves_are_disjoint_seeded_and_of_the_asked_size():
    x = torch.arange(101.0)[:, None]
    a, b = FeatureSet.points(x).halves(seed=3)
    assert (a.n, b.n) == (50, 50)
    assert len(set(a.rows[:, 0].tolist()) | set(b.rows[:, 0].tolist())) == 100
    again = FeatureSet.points(x).halves(seed=3)
    assert (again[0].hash, again[1].hash) == (a.hash, b.hash)
    assert FeatureSet.points(x).halves(seed=4)[0].hash != a.hash
    assert [h.n for h in FeatureSet.points(x).halves(n=7)] == [7, 7]
    with pytest.raises(sf.InputError, match="at most 50"):
        FeatureSet.points(x).halves(n=51)


def test_bad_rows_are_refused():
    with pytest.raises(sf.InputError, match="at least one"):
        FeatureSet.of([], network="n")
    with pytest.raises(sf.InputError, match="same number"):
        FeatureSet.of([torch.zeros(2, 3), torch.zeros(2, 4)], network="n")
    with pytest.raises(sf.InputError, match="shape"):
        FeatureSet.points(torch.zeros(2, 3, 4))
    np.testing.assert_array_equal(FeatureSet.points(torch.arange(4).reshape(2, 2)).rows, [[0, 1], [2, 3]])
