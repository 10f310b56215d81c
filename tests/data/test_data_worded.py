"""Captions as numbers: the rows are the data's, and the fingerprint knows the words."""

import json
from dataclasses import replace

import pytest
import torch

from sfumato import InputError
from sfumato.conditioning import Words
from sfumato.core import Noise, from_config, to_config
from sfumato.data import Captions, Digits, Tensors, Worded

TEXTS = ["red circle", "", "blue thing", "圆 red"]
WORDS = Words(vocabulary=("red", "blue", "circle", "圆"), length=3)


def captioned(**more):
    x0 = torch.arange(4.0).reshape(4, 1, 1, 1)
    return Tensors(x0, {"caption": Captions().cond(TEXTS)["caption"]} | more)


def test_captions_become_tokens():
    data = Worded(data=captioned(y=torch.arange(4)), words=WORDS)
    batch = data.batch([3, 0, 2], Noise(range(3)))
    assert batch.x0.flatten().tolist() == [3.0, 0.0, 2.0]
    assert batch.cond["tokens"].tolist() == [[5, 2, 0], [2, 4, 0], [3, 1, 0]]
    assert batch.cond["y"].tolist() == [3, 0, 2]
    assert set(batch.cond) == {"tokens", "y"}
    assert (len(data), data.shape, data.codec, data.conditioner) == (4, (1, 1, 1), None, WORDS)


def test_wrong_captions_too():
    data = Worded(data=captioned(wrong=Captions().cond(TEXTS[::-1])["caption"]), words=WORDS)
    assert data.batch([0], Noise([0])).cond["wrong"].tolist() == [[5, 2, 0]]


def test_the_fingerprint_is_the_datas_and_the_words():
    data = Worded(data=captioned(), words=WORDS)
    assert data.fingerprint == replace(data, data=captioned()).fingerprint
    assert data.fingerprint != replace(data, words=replace(WORDS, length=4)).fingerprint
    assert data.fingerprint != Worded(data=captioned(y=torch.arange(4)), words=WORDS).fingerprint


def test_data_without_captions_is_refused():
    with pytest.raises(InputError, match="this data has \\['y'\\]"):
        Worded(data=Digits(), words=WORDS).batch([0], Noise([0]))


def test_written_and_read_back():
    data = Worded(data=Digits(held_out=True), words=WORDS)
    assert from_config(json.loads(json.dumps(to_config(data)))) == data
