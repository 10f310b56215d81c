"""A wrong caption beside each true one: it does not hold, and it is written as the true one is."""

from dataclasses import replace

import pytest

from sfumato import InputError
from sfumato.core import Noise, from_config, to_config
from sfumato.data import text
from sfumato.data.tableau import Chinese, Descriptive, Tableau, holds, parse
from sfumato.data.tableau.contrasted import Contrasted

DATA = Tableau(size=400, side=16)
ROWS = range(100, 300)


def test_the_true_one_holds_and_the_wrong_one_does_not():
    batch, scenes = Contrasted(data=DATA).batch(ROWS, Noise(ROWS)), DATA.scenes(ROWS)
    own = DATA.batch(ROWS, Noise(ROWS))
    assert batch.x0.equal(own.x0)
    assert batch.cond["caption"].equal(own.cond["caption"])
    true, wrong = ([parse(t) for t in text(batch.cond[key])] for key in ("caption", "wrong"))
    assert bool(holds(true, scenes).all())
    assert not bool(holds(wrong, scenes).any())


def test_both_are_in_one_style():
    data = Contrasted(data=replace(DATA, styles=(Descriptive(), Chinese()), weights=(0.5, 0.5)))
    batch = data.batch(ROWS, Noise(ROWS))
    han = [[any("\u4e00" <= c <= "\u9fff" for c in t) for t in text(batch.cond[key])] for key in ("caption", "wrong")]
    assert han[0] == han[1]
    assert 60 < sum(han[0]) < 140


def test_it_is_data():
    data = Contrasted(data=DATA)
    assert from_config(to_config(data)) == data
    assert (len(data), data.shape) == (400, (3, 16, 16))
    assert data.fingerprint not in (DATA.fingerprint, Contrasted(data=replace(DATA, seed=1)).fingerprint)
    with pytest.raises(InputError, match="styles"):
        Contrasted(data=replace(DATA, styles=(), weights=()))
