"""Scores of captions against scenes written by hand, and against `holds`."""

import math
from dataclasses import replace

import pytest
import torch

import sfumato as sf
from sfumato.data.tableau import Claims, Mention, Partial, Tableau, Terse, Wrong, cat, holds, parse, scene
from sfumato.data.tableau.claims import KINDS
from sfumato.data.tableau.oracle import score, table, task
from sfumato.data.tableau.relations import SLACK


def thing(shape, colour, x, y, **more):
    return {"shape": shape, "colour": colour, "x": x, "y": y} | more


PAIR = scene([thing("circle", "red", 0.25, 0.5, size="small"), thing("star", "blue", 0.75, 0.5, texture="striped")])


def counted(text, scenes=PAIR, claims=None):
    scores = score(scenes, [claims or parse(text)])
    return {k: (r, s) for k, s, r in zip(KINDS, scores.said[0].tolist(), scores.right[0].tolist()) if s}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (
            "a small red circle and a striped blue star",
            {"shape": (2, 2), "colour": (2, 2), "size": (1, 1), "texture": (1, 1)},
        ),
        ("a red circle left of a blue star", {"shape": (2, 2), "colour": (2, 2), "relation": (1, 1)}),
        ("a red circle right of a blue star", {"shape": (2, 2), "colour": (2, 2), "relation": (0, 1)}),
        ("a blue circle and a red star", {"shape": (2, 2), "colour": (0, 2)}),
        ("a green heart", {"shape": (0, 1), "colour": (0, 1)}),
        ("a red circle, a blue star and a green heart", {"shape": (2, 3), "colour": (2, 3)}),
        ("two stars", {"shape": (1, 2), "count": (0, 1)}),
    ],
)
def test_claims_by_hand(text, right):
    assert counted(text) == right


def test_a_better_assignment_is_found_than_the_first():
    twins = scene([thing("star", "red", 0.8, 0.5), thing("star", "red", 0.2, 0.5), thing("ring", "blue", 0.5, 0.5)])
    assert counted("a red star left of a blue ring", twins)["relation"] == (1, 1)
    assert counted("a red star right of a blue ring", twins)["relation"] == (1, 1)
    assert counted("a red star above a blue ring", twins)["relation"] == (0, 1)


def test_numbers_and_grounds():
    some = cat([PAIR, scene([thing("star", "red", 0.2, 0.2), thing("star", "red", 0.8, 0.8)], {"colours": ["sage"]})])
    two = Claims(number=2, mentions=(Mention(shape="star", number=2),))
    scores = score(some, [two, two])
    assert scores.all().tolist() == [False, True]
    assert scores.share("count") == 3 / 4
    ground = parse("a star on a sage background").ground
    assert ground is not None
    assert score(some, [Claims(ground=ground)] * 2).all().tolist() == [False, True]
    assert math.isnan(scores.share("ground"))


def test_a_relation_may_fail_by_the_slack():
    near = scene([thing("circle", "red", 0.43, 0.5), thing("star", "blue", 0.43 + 0.13, 0.5)])
    far = scene([thing("circle", "red", 0.43, 0.5), thing("star", "blue", 0.43 + 0.11, 0.5)])
    claims = [parse("a red circle left of a blue star")] * 2
    assert score(cat([near, far]), claims).all().tolist() == [True, False]


@pytest.mark.parametrize("style", [Terse(), Partial(), Wrong()])
def test_everything_holds_where_it_is_said_to_hold(style):
    data = Tableau(size=300, styles=(style,), weights=(1.0,))
    scenes, claims = data.scenes(range(300)), [c.claims for c in data.captions(range(300))]
    assert torch.equal(score(scenes, claims).all(), holds(claims, scenes, SLACK))
    shifted = claims[1:] + claims[:1]  # captions of other scenes: mostly wrong
    right = score(scenes, shifted).all()
    assert torch.equal(right, holds(shifted, scenes, SLACK))
    assert right.float().mean() < 0.5


def test_tasks_and_their_table():
    asked = {
        "a star": "single object",
        "a red star": "colours",
        "a star and a ring": "two objects",
        "a red star and a blue ring": "attribute binding",
        "three stars": "counting",
        "a star above a ring": "position",
    }
    claims = [parse(text) for text in asked]
    assert [task(c) for c in claims] == list(asked.values())
    assert task(Claims()) == "other"
    lines = table(cat([PAIR] * len(asked)), claims)
    assert "| single object | 1 | 100.0% |" in lines
    assert "| counting | 1 | 0.0% |" in lines
    assert "| shape | 11 | 45.5% |" in lines  # 1/1, 1/1, 1/2, 0/2 (colours win), 1/3, 1/2
    assert "| colour | 3 | 66.7% |" in lines
    claims = [replace(c, unknown=("x",)) for c in claims]
    assert table(cat([PAIR] * len(asked)), claims) == lines


def test_what_does_not_fit_is_refused():
    with pytest.raises(sf.InputError, match="one for each"):
        score(PAIR, [])
    with pytest.raises(sf.InputError, match="kind"):
        score(PAIR, [parse("a star")]).share("beauty")
