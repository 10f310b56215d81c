"""Words of a closed list: every rule by example, that reading undoes writing, and that nothing is dropped unsaid."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato import InputError
from sfumato.conditioning import Conditioner, Words
from sfumato.core import from_config, to_config

ENGLISH = ("a", "red", "circle", "left", "of", "alt-text", "3", ",", "it's")
CHINESE = ("红", "红色", "圆", "圆形", "的", "左边", "在")
WORDS = Words(vocabulary=ENGLISH + CHINESE, length=8)

READ = {
    "a red circle": ["a", "red", "circle"],
    "  A\tRed\nCIRCLE ": ["a", "red", "circle"],
    "a red, circle.": ["a", "red", ",", "circle"],
    "redcircle": ["redcircle"],
    "alt-text it's": ["alt-text", "it's"],
    "it\u2019s": ["it's"],
    "3 circle": ["3", "circle"],
    "33": ["33"],
    "红色圆形": ["红色", "圆形"],
    "红圆": ["红", "圆"],
    "圆形在红的左边": ["圆形", "在", "红", "的", "左边"],
    "a红色circle": ["a", "红色", "circle"],
    "绿圆": ["绿", "圆"],
    "R\uff45d": ["red"],
    "": [],
    " .!? ": [],
}


@pytest.mark.parametrize("text", READ)
def test_the_rules(text):
    assert list(WORDS.spell(text).words) == READ[text]


def test_numbers_are_places_in_the_list():
    assert WORDS.count == 2 + len(WORDS.vocabulary)
    tokens = WORDS(["circle a pear red", None, ""]).cond["tokens"]
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [[4, 2, 1, 3, 0, 0, 0, 0], [0] * 8, [0] * 8]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(ENGLISH), max_size=8))
def test_reading_undoes_writing(words):
    row = WORDS.tokens([" ".join(words)])[0]
    assert [WORDS.vocabulary[i - 2] for i in row.tolist() if i] == words


def test_what_is_not_read_is_said():
    known, unknown = WORDS(["a red circle"]), WORDS(["a mauve blob, mauve", "a red circle"])
    assert known.notes == ()
    assert unknown.notes == ("not among the words that this model knows: mauve, blob",)
    (note,) = WORDS(["a a a a a a a a red circle"]).notes
    assert note == "only the first 8 words are read, left out: red, circle"
    assert WORDS(["a a a a a a a a"]).notes == ()
    (many,) = WORDS([" ".join(f"w{i}" for i in range(8)) + " x y"]).notes[:1]
    assert many.endswith("w7 and 2 more")


def test_it_is_a_conditioner_and_data():
    assert isinstance(WORDS, Conditioner)
    assert from_config(json.loads(json.dumps(to_config(WORDS)))) == WORDS
    assert WORDS.described("red") == "red"
    assert WORDS.described(None) is None


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: WORDS([3]), "in words"),
        (lambda: WORDS(["a" * 10_001]), "10000"),
        (lambda: Words(vocabulary=("a", "b", "a")), "'a' stands in the vocabulary twice"),
        (lambda: Words(vocabulary=("Red",)), "'Red' is not one word"),
        (lambda: Words(vocabulary=("two words",)), "'two words' is not one word"),
        (lambda: Words(vocabulary=()), "needs a word"),
        (lambda: Words(vocabulary=("a",), length=0), "length=0"),
    ],
)
def test_what_is_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()
