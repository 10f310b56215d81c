"""Questions about captions: the answers are what the captions' parser reads, and nothing is lost on the way."""

from dataclasses import replace

import pytest

from sfumato import InputError
from sfumato.core import Noise, from_config, to_config
from sfumato.data import text
from sfumato.data.tableau import Claims, Mention, Tableau, parse
from sfumato.data.tableau.claims import ATTRIBUTES, GroundClaim
from sfumato.data.tableau.examined import EACH, PAIRS, WHOLE, Examined, answers
from sfumato.data.tableau.relations import RELATIONS
from sfumato.data.tableau.scene import COLOURS, GROUND_COLOURS, GROUNDS, SHAPES, SIZES, TEXTURES

WORLD = Tableau(size=400, side=16)
VALUES = (SHAPES, COLOURS, SIZES, TEXTURES)


def read_back(row):
    """Return the claims that a row of answers says."""
    each, rest = [row[4 * k : 4 * k + 4] for k in range(5)], row[20:]
    mentions = []
    for *said, number in zip(*each, strict=True):
        looks = {n: v[i - 1] for n, v, i in zip(ATTRIBUTES, VALUES, said, strict=True) if i}
        if number:
            mentions.append(Mention(number=number, **looks))
    relations = set()
    for answer, (i, j) in zip(rest[:6], ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)), strict=True):
        if answer:
            back, name = divmod(answer - 1, len(RELATIONS))
            relations.add((RELATIONS[name], *((j, i) if back else (i, j))))
    number, kind, *colours = rest[6:]
    named = tuple(GROUND_COLOURS[c - 1] for c in colours if c)
    ground = GroundClaim(kind=GROUNDS[kind - 1] if kind else None, colours=named) if kind or named else None
    return Claims(mentions=tuple(mentions), relations=frozenset(relations), number=number or None, ground=ground)


def test_answers_say_all_that_captions_do():
    data = Examined(data=WORLD)
    batch = data.batch(range(400), Noise(range(400)))
    assert batch.x0.shape == (400, *data.shape)
    for caption, row in zip(text(batch.cond["caption"]), batch.x0.tolist(), strict=True):
        assert read_back(row) == parse(caption), caption


def test_every_answer_is_one_of_its_question():
    counts = [n for kind, times in ((EACH, 4), (PAIRS, 6), (WHOLE, 1)) for n in kind for _ in range(times)]
    rows = Examined(data=WORLD).batch(range(400), Noise(range(400))).x0
    assert all(int(column.max()) < n for column, n in zip(rows.T, counts, strict=True))
    assert (rows.amax(0) > 0).all(), "every question has been answered by something"
    assert answers([Claims()]).tolist() == [[0] * len(counts)]


def test_it_is_data_and_what_is_refused():
    data = Examined(data=WORLD)
    assert from_config(to_config(data)) == data
    assert len(data) == 400
    assert data.fingerprint != WORLD.fingerprint
    with pytest.raises(InputError, match="styles"):
        Examined(data=replace(WORLD, styles=(), weights=()))
