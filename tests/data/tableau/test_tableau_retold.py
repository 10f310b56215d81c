"""Captions drawn anew: always true of the picture beside them, never the same twice, and x_0 is the data's."""

from dataclasses import replace

import pytest
import torch

from sfumato import InputError
from sfumato.codecs import AutoencoderKLConfig, save_codec
from sfumato.core import Noise, from_config, to_config
from sfumato.data import Digits, Latents, text
from sfumato.data.tableau import Tableau, holds, parse
from sfumato.data.tableau.retold import Retold

WORLD = Tableau(size=48, side=16)
ROWS = [5, 40, 7, 0, 31, 12]


def latents(tmp_path):
    torch.manual_seed(0)
    codec = AutoencoderKLConfig(widths=(8, 16), layers=1, groups=4, middle=False, scale=1.0).build()
    coder = save_codec(codec, tmp_path / "codec")
    return Latents(path=str(tmp_path / "latents"), coder=str(coder), data=WORLD, shard=20)


def test_captions_are_true_and_new_each_time():
    data = Retold(data=WORLD)
    first, second = (data.batch(ROWS, Noise(range(s, s + 6))) for s in (0, 100))
    assert first.x0.equal(WORLD.batch(ROWS, Noise(range(6))).x0)
    told = [text(batch.cond["caption"]) for batch in (first, second)]
    scenes = WORLD.scenes(ROWS)
    for captions in told:
        assert bool(holds([parse(t) for t in captions], scenes).all())
    assert sum(a != b for a, b in zip(*told, strict=True)) >= 5
    again = data.batch(ROWS, Noise(range(6)))
    assert again.cond["caption"].equal(first.cond["caption"])


def test_over_latents(tmp_path):
    inner = latents(tmp_path)
    data = Retold(data=inner)
    data.prepare()
    batch = data.batch(ROWS, Noise(range(6)))
    assert batch.x0.equal(inner.batch(ROWS, Noise(range(6))).x0)
    assert batch.cond["caption"].equal(Retold(data=WORLD).batch(ROWS, Noise(range(6))).cond["caption"])
    assert data.shape == (4, 8, 8)
    assert data.codec is inner.codec
    assert data.fingerprint != inner.fingerprint


def test_it_is_data_and_what_is_refused():
    data = Retold(data=WORLD)
    assert from_config(to_config(data)) == data
    with pytest.raises(InputError, match="not Digits"):
        Retold(data=Digits())
    with pytest.raises(InputError, match="styles"):
        Retold(data=replace(WORLD, styles=(), weights=()))


def test_styles_have_weights_of_their_own():
    chinese = Retold(data=WORLD, weights=(0.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    told = text(chinese.batch(ROWS, Noise(range(6))).cond["caption"])
    assert not any(t.isascii() for t in told)
    assert chinese.fingerprint != Retold(data=WORLD).fingerprint
    with pytest.raises(InputError, match="2 weights for 6 styles"):
        Retold(data=WORLD, weights=(1.0, 1.0))
