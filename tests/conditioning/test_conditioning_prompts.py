"""The syntax of prompts: every rule by example, and that reading undoes writing."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato import InputError
from sfumato.conditioning import Verbatim, Weighted
from sfumato.conditioning.prompts import Piece, written

READ = {
    "a cat": [[("a cat", 1.0)]],
    "": [[("", 1.0)]],
    "a (cat)": [[("a ", 1.0), ("cat", 1.1)]],
    "((cat))": [[("cat", 1.1 * 1.1)]],
    "[cat] hat": [[("cat", 1 / 1.1), (" hat", 1.0)]],
    "(cat:1.3)": [[("cat", 1.3)]],
    "(cat: .5 )": [[("cat", 0.5)]],
    "(cat:-1)": [[("cat", -1.0)]],
    "a (b (c:1.5) d:2) e": [[("a ", 1.0), ("b ", 2.0), ("c", 3.0), (" d", 2.0), (" e", 1.0)]],
    "([a]:2)": [[("a", 2 * (1 / 1.1))]],
    r"a \(b\) \[c\] \\": [[("a (b) [c] \\", 1.0)]],
    r"(a\)b:1.2)": [[("a)b", 1.2)]],
    "x (a:1.0) y": [[("x a y", 1.0)]],
    "close) it] 1:2) all": [[("close) it] 1:2) all", 1.0)]],
    "never (closed": [[("never ", 1.0), ("closed", 1.1)]],
    "never [closed": [[("never ", 1.0), ("closed", 1 / 1.1)]],
    "(1:2:3)": [[("1:2", 3.0)]],
    "(a:1.2.3)": [[("a:1.2.3", 1.1)]],
    "a BREAK b": [[("a", 1.0)], [("b", 1.0)]],
    "(a BREAK b:1.2) c": [[("a", 1.2)], [("b", 1.2), (" c", 1.0)]],
    "a\nBREAK\nb BREAK": [[("a", 1.0)], [("b", 1.0)], [("", 1.0)]],
    "BREAKFAST": [[("BREAKFAST", 1.0)]],
    r"BREA\K": [[("BREAK", 1.0)]],
}


@pytest.mark.parametrize("prompt", READ)
def test_the_rules(prompt):
    read = Weighted().read(prompt)
    found = [[(text, pytest.approx(weight, rel=1e-15)) for text, weight in section] for section in read.sections]
    assert found == READ[prompt]
    assert read.notes == ()
    assert Weighted().read(written(read.sections)) == read


# texts that meet at a BREAK lose the white space there, and neighbours of one weight are one piece
CHARACTERS = st.text(alphabet=st.sampled_from("ab ()[]\\:1.3,é\nBREAK"), min_size=1, max_size=8)
WEIGHT = st.one_of(st.just(1.0), st.floats(-50, 50).map(lambda w: round(w, 3)), st.floats(1e-12, 1e12))
PIECE = st.builds(Piece, CHARACTERS, WEIGHT)


def normal(pieces):
    """Return pieces as reading gives them, or None where they are not."""
    ends = pieces[0].text.lstrip() == pieces[0].text and pieces[-1].text.rstrip() == pieces[-1].text
    return tuple(pieces) if ends and all(a.weight != b.weight for a, b in pairwise(pieces)) else None


SECTION = st.lists(PIECE, min_size=1, max_size=4).map(normal).filter(bool)


@given(st.lists(SECTION, min_size=1, max_size=3).map(tuple))
@settings(max_examples=300, deadline=None)
def test_reading_undoes_writing(sections):
    read = Weighted().read(written(sections)).sections
    assert [[p.text for p in s] for s in read] == [[p.text for p in s] for s in sections]
    for one, other in zip(read, sections, strict=True):
        assert [p.weight for p in one] == pytest.approx([p.weight for p in other], rel=1e-6, abs=1e-19)


@given(st.text(alphabet="ab()[]\\:. 1BREAK", max_size=40))
@settings(max_examples=300, deadline=None)
def test_every_text_is_read_and_writing_it_changes_nothing(prompt):
    read = Weighted().read(prompt)
    again = Weighted().read(written(read.sections))
    assert [[p.text for p in s] for s in again.sections] == [[p.text for p in s] for s in read.sections]


def test_verbatim_takes_brackets_as_they_are_and_says_so():
    assert Verbatim().read("a (cat)").sections == ((Piece("a (cat)"),),)
    assert Verbatim().read("a (cat)").notes == ()
    assert "(cat:1.3)" in Verbatim().read("a (cat:1.3)").notes[0]


@pytest.mark.parametrize("syntax", [Verbatim(), Weighted()])
@pytest.mark.parametrize(
    ("prompt", "match"), [("a" * 10_001, "10001 characters"), ("a\0b", "no text"), ("\ud800", "no text")]
)
def test_what_no_tokenizer_reads_is_refused(syntax, prompt, match):
    with pytest.raises(InputError, match=match):
        syntax.read(prompt)


def test_weights_beyond_all_numbers_are_refused():
    with pytest.raises(InputError, match="fewer brackets"):
        Weighted().read("(" * 9000 + "a")
