"""Latents on the disk are those of the codec, go on after an interruption, and refuse what something else made."""

import pickle
from dataclasses import fields

import pytest
import torch

import sfumato as sf
from sfumato.codecs import AutoencoderKLConfig, save_codec
from sfumato.core import Noise, fold
from sfumato.data import Latents, Tensors, text
from sfumato.data.labels import Captions

CONFIG = AutoencoderKLConfig(widths=(8, 16), layers=1, groups=4, middle=False, scale=1.0)


def pictures(rows=23, seed=0):
    x = torch.tanh(torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(seed)))
    words = [f"picture {i}" * (1 + i % 3) for i in range(rows)]
    return Tensors(x, Captions().cond(words) | {"y": torch.arange(rows)})


@pytest.fixture
def coder(tmp_path):
    torch.manual_seed(0)
    return str(save_codec(CONFIG.build(), tmp_path / "codec"))


def latents(tmp_path, coder, data=None, **changes):
    settings = {"path": str(tmp_path / "cache"), "coder": coder, "shard": 5, "data": data or pictures()}
    return Latents(**(settings | changes))


def test_rows_are_draws_of_the_posterior_with_their_conditions(tmp_path, coder):
    data = pictures()
    found = latents(tmp_path, coder, data).write()
    order, noise = [22, 3, 4, 17], Noise([7, 8, 9, 10])
    batch = found.batch(order, noise)
    with torch.no_grad():
        mean, deviation = found.codec.posterior(data.rows.x0[order])
    expected = mean + deviation * noise.like(mean, "posterior")
    assert torch.allclose(batch.x0, expected, atol=3e-3 * float(mean.abs().max()))
    assert batch.x0.shape[1:] == found.shape == (4, 4, 4)
    assert text(batch.cond["caption"]) == [text(data.rows.cond["caption"])[i] for i in order]
    assert batch.cond["y"].tolist() == order
    assert len(found) == 23
    again = found.batch(order, Noise([0, 0, 0, 0])).x0
    assert not torch.equal(again, batch.x0)
    means = latents(tmp_path / "b", coder, data, draw=False).write().batch(order, noise).x0
    assert torch.allclose(means, mean, atol=3e-3 * float(mean.abs().max()))


def test_writing_goes_on_where_it_stopped(tmp_path, coder):
    whole = latents(tmp_path / "whole", coder).write()

    class Stop(Exception):
        pass

    def stop(done, of):
        if done >= 10:
            raise Stop

    part = latents(tmp_path, coder)
    with pytest.raises(Stop):
        part.write(stop)
    with pytest.raises(sf.InputError, match=r"lacks 3 of 5 shards"):
        part.batch([0], Noise([0]))
    stamps = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()}
    assert sorted(stamps) == ["latents-00000.safetensors", "latents-00001.safetensors"]
    told = []
    part.write(lambda done, of: told.append((done, of)))
    assert told == [(5, 23), (10, 23), (15, 23), (20, 23), (23, 23)]
    assert all((tmp_path / "cache" / name).stat().st_mtime_ns == stamp for name, stamp in stamps.items())
    for p in (tmp_path / "cache").iterdir():
        assert p.read_bytes() == (tmp_path / "whole" / "cache" / p.name).read_bytes()
    assert torch.equal(part.batch(range(23), Noise(range(23))).x0, whole.batch(range(23), Noise(range(23))).x0)


def test_what_something_else_made_is_refused(tmp_path, coder):
    first = latents(tmp_path, coder).write()
    torch.manual_seed(1)
    other = str(save_codec(CONFIG.build(), tmp_path / "other"))
    for change in ({"coder": other}, {"data": pictures(seed=1)}, {"draw": False}, {"seed": 1}):
        changed = latents(tmp_path, **({"coder": coder} | change))
        assert changed.fingerprint != first.fingerprint
        for use in (changed.write, lambda changed=changed: changed.batch([0], Noise([0]))):
            with pytest.raises(sf.InputError, match="made by another codec, of other data"):
                use()
    # the same codec, elsewhere, is the same, and so is one whose decoder was trained on
    codec = first.codec
    with torch.no_grad():
        codec.decoder.conv_in.weight += 1.0
    save_codec(codec, tmp_path / "moved")
    assert latents(tmp_path, str(tmp_path / "moved")).batch([0], Noise([0])).x0.shape == (1, 4, 4, 4)


def test_a_damaged_shard_is_named_and_made_again(tmp_path, coder):
    latents(tmp_path, coder).write()
    shard = tmp_path / "cache" / "latents-00002.safetensors"
    good = shard.read_bytes()
    shard.write_bytes(good[:-7])
    with pytest.raises(sf.InputError, match="latents-00002"):
        latents(tmp_path, coder).batch([0], Noise([0]))
    shard.unlink()
    latents(tmp_path, coder).write()
    assert shard.read_bytes() == good


def test_the_crops_of_a_row_are_drawn_once(tmp_path, coder):
    class Noisy(Tensors):
        def batch(self, indices, noise):
            batch = super().batch(indices, noise)
            return batch._replace(x0=batch.x0 + 0.5 * noise.like(batch.x0, "augment"))

    data = Noisy(pictures().rows.x0)
    found = latents(tmp_path, coder, data, draw=False).write()
    with torch.no_grad():
        x = data.batch([9], Noise([fold("latents", 0, 9)])).x0
        mean = found.codec.posterior(x)[0]
    assert torch.allclose(found.batch([9], Noise([3])).x0, mean, atol=3e-3 * float(mean.abs().max()))


def test_a_row_that_is_not_there(tmp_path, coder):
    with pytest.raises(sf.InputError, match="row 23 of 23"):
        latents(tmp_path, coder).write().batch([23], Noise([0]))


def test_workers_are_handed_the_settings_alone(tmp_path, coder):
    found = latents(tmp_path, coder).write()
    found.batch([0], Noise([0]))
    assert set(found.__getstate__()) == {f.name for f in fields(found)}
    again = pickle.loads(pickle.dumps(found))
    assert "_shards" not in vars(again)
    assert again.batch([3, 9], Noise([1, 2])).x0.equal(found.batch([3, 9], Noise([1, 2])).x0)
