"""Captions say what they claim, claims hold of their scenes, and the parser reads every style back."""

from dataclasses import replace

import pytest
import torch

import sfumato as sf
from sfumato.data.tableau import words
from sfumato.data.tableau.captions import (
    AltText,
    Chinese,
    Descriptive,
    Paraphrased,
    Partial,
    Terse,
    Wrong,
    spoil,
)
from sfumato.data.tableau.claims import (
    ATTRIBUTES,
    Claims,
    Facts,
    GroundClaim,
    Mention,
    describe,
    facts,
    holds,
    matches,
    true,
)
from sfumato.data.tableau.parsing import parse
from sfumato.data.tableau.relations import RELATIONS, SLACK
from sfumato.data.tableau.sampling import sample_scenes
from sfumato.data.tableau.scene import COLOURS, GROUND_COLOURS, GROUNDS, SHAPES, SIZES, TEXTURES, cat, scene
from sfumato.data.tableau.wording import ChineseWords, Draws, English

N = 600
STYLES = [Terse(), Descriptive(), Partial(), Partial(low=1, high=1), Paraphrased(), Paraphrased(of=Descriptive())]
STYLES += [Chinese(), Chinese(of=Descriptive()), AltText(), AltText(of=Descriptive())]
WRONG = [Wrong(), Wrong(of=AltText()), Wrong(of=Partial()), Wrong(of=Terse()), Wrong(of=Chinese())]


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(range(N))


@pytest.mark.parametrize("style", STYLES + WRONG, ids=repr)
def test_what_is_written_is_read_back_and_holds_unless_it_is_wrong(style, scenes):
    captions = style.write(scenes, sf.Noise(range(N)))
    for caption in captions:
        assert parse(caption.text) == caption.claims, caption.text
        if AltText not in (type(style), type(getattr(style, "of", None))):
            assert parse(caption.text).unknown == ()
    claims = [c.claims for c in captions]
    for slack in (0.0, SLACK):
        assert bool(holds(claims, scenes, slack).all()) is (not isinstance(style, Wrong))
        assert bool(holds(claims, scenes, slack).any()) is (not isinstance(style, Wrong))
    assert all((c.wrong is None) is (not isinstance(style, Wrong)) for c in captions)
    assert len({c.text for c in captions}) > N / 3
    assert sf.from_config(sf.to_config(style)) == style


def test_a_caption_depends_on_its_seed_and_scene_alone(scenes):
    style = Paraphrased()
    some = style.write(scenes[5:9], sf.Noise(range(5, 9)))
    assert some == style.write(scenes[:20], sf.Noise(range(20)))[5:9]
    assert some != style.write(scenes[5:9], sf.Noise(range(6, 10)))
    with pytest.raises(sf.InputError, match="3 seeds for 2 scenes"):
        style.write(scenes[:2], sf.Noise(range(3)))


def test_a_wrong_caption_differs_from_the_truth_in_the_one_thing_that_it_names(scenes):
    kinds = set()
    for i, (known, draws) in enumerate(zip(facts(scenes), _draws(N), strict=True)):
        told = Descriptive().tell(known, draws)
        assert true(told, known)
        kind, claims = spoil(told, draws)
        kinds.add(kind)
        changed = {"relation": told.relations != claims.relations, "count": told.number != claims.number}
        changed["ground"] = told.ground != claims.ground
        for name in ATTRIBUTES:
            pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(told.mentions, claims.mentions, strict=True)]
            changed[name] = sum(a != b for a, b in pairs) == 1
            assert sum(a != b for a, b in pairs) <= 1
        assert [name for name, yes in changed.items() if yes] == [kind], i
    assert kinds == {*ATTRIBUTES, "relation", "count", "ground"}


def test_a_wrong_relation_is_not_one_that_nearly_holds():
    red, blue = (
        {"shape": s, "colour": c, "size": "small", "texture": "plain"} for s, c in (("ring", "red"), ("star", "blue"))
    )
    held = frozenset({("left of", 0, 1), ("right of", 1, 0)})
    near = held | {("right of", 0, 1), ("left of", 1, 0)}
    known = Facts(objects=(red, blue), relations=held, near=near, ground=GroundClaim(kind="plain", colours=("grey",)))
    kinds = set()
    for draws in _draws(300):
        caption = Wrong().compose(known, draws)
        assert not true(caption.claims, replace(known, relations=near))
        kinds.add(caption.wrong)
    assert "relation" not in kinds
    assert {"shape", "colour", "ground"} <= kinds


def test_partial_captions_keep_the_part_that_they_say(scenes):
    for p in (0.3, 0.8):
        captions = Partial(low=p, high=p).write(scenes, sf.Noise(range(N)))
        objects = sum(len(f.objects) for f in facts(scenes))
        for name in ATTRIBUTES:
            said = sum(m.number for c in captions for m in c.claims.mentions if name in m.said)
            assert said / objects == pytest.approx(p, abs=0.04)
    with pytest.raises(sf.InputError, match="low <= high"):
        Partial(low=0.9, high=0.3)


def test_every_way_of_saying_claims_comes_back_whatever_they_are():
    """Claims that no scene need satisfy, put into both languages with and without synonyms."""
    for i, draws in enumerate(_draws(1500)):
        claims = _any_claims(draws)
        language = (English(), English(synonyms=0.8), ChineseWords(), ChineseWords(synonyms=0.8))[i % 4]
        for text in (language.full(claims, draws), language.short(claims, draws)):
            assert parse(text) == claims, text


@pytest.mark.parametrize(
    ("text", "mentions", "relations", "more"),
    [
        (
            "two green stars left of a large red ring",
            (Mention(shape="star", colour="green", number=2), Mention(shape="ring", colour="red", size="large")),
            {("left of", 0, 1)},
            {},
        ),
        ("An orange disc", (Mention(shape="circle", colour="orange"),), (), {}),
        (
            "a red circle above a blue star and left of a moon",
            (Mention(shape="circle", colour="red"), Mention(shape="star", colour="blue"), Mention(shape="moon")),
            {("above", 0, 1), ("left of", 0, 2)},
            {},
        ),
        (
            "a red circle and a blue circle. the blue circle is within the ring",
            (Mention(shape="circle", colour="red"), Mention(shape="circle", colour="blue"), Mention(shape="ring")),
            {("inside", 1, 2)},
            {},
        ),
        ("exactly three objects", (), (), {"number": 3}),
        ("two shapes on gray", (), (), {"number": 2, "ground": GroundClaim(colours=("grey",))}),
        (
            "a solid pink heart on a solid backdrop",
            (Mention(shape="heart", colour="pink", texture="plain"),),
            (),
            {"ground": GroundClaim(kind="plain")},
        ),
        (
            "a gradient background from beige to clay",
            (),
            (),
            {"ground": GroundClaim(kind="graded", colours=("beige", "clay"))},
        ),
        (
            "一个红色圆形在一个大蓝色星形左边。背景是纹理灰色。",
            (Mention(shape="circle", colour="red"), Mention(shape="star", colour="blue", size="large")),
            {("left of", 0, 1)},
            {"ground": GroundClaim(kind="textured", colours=("grey",))},
        ),
        ("STOCK photo: yellow arrows!!", (Mention(shape="arrow", colour="yellow", number=2),), (), {}),
        ("", (), (), {}),
    ],
)
def test_plain_prompts_are_understood(text, mentions, relations, more):
    assert parse(text) == Claims(mentions=mentions, relations=frozenset(relations), **more)


def test_unknown_words_are_reported():
    assert parse("a red circle beside a sleeping cat").unknown == ("beside", "sleeping", "cat")


def test_claims_hold_exactly_when_some_choice_of_different_objects_fits():
    red = {"shape": "circle", "colour": "red", "size": "small"}
    s = scene(
        [
            red | {"x": 0.2, "y": 0.5},
            red | {"x": 0.5, "y": 0.5, "size": "large"},
            red | {"colour": "blue", "x": 0.8, "y": 0.52},
        ]
    )
    known = facts(s)[0]

    def says(text):
        return true(parse(text), known)

    assert says("a circle, a circle, a circle")
    assert not says("a circle, a circle, a circle, a circle")
    assert says("two red circles left of a blue circle")
    assert not says("two circles")  # there are three
    assert says("three circles")
    assert not says("two blue circles")
    assert not says("two red circles right of a blue circle")
    between = facts(
        scene([red | {"x": 0.2, "y": 0.5}, red | {"x": 0.8, "y": 0.5}, red | {"colour": "blue", "x": 0.5, "y": 0.5}])
    )
    assert not true(parse("two red circles left of a blue circle"), between[0])  # only one of them is
    assert not true(parse("a blue circle right of two red circles"), between[0])
    assert true(parse("a red circle left of a blue circle"), between[0])
    assert says("a red circle left of a red circle")
    assert says("a small red circle left of a large red circle")
    assert not says("a large red circle left of a small red circle")
    assert says("a large circle left of a small circle")
    assert says("exactly three objects")
    assert not says("exactly two objects")
    assert says("a circle on a plain grey background")
    assert not says("a circle on a textured background")
    assert not says("a circle on a clay background")
    assert not says("a square")
    assert not says("a red circle above a blue circle")
    assert len(list(matches(parse("a red circle"), known))) == 2


def test_slack_accepts_a_relation_that_misses_by_little():
    at = {"shape": "circle", "colour": "red", "size": "small", "y": 0.5}
    s = scene([at | {"x": 0.4}, at | {"shape": "square", "x": 0.53}])
    claim = [parse("a circle left of a square")]
    assert holds(claim, s).tolist() == [False]
    assert holds(claim, s, SLACK).tolist() == [True]
    assert holds(claim, scene([at | {"x": 0.4}, at | {"shape": "square", "x": 0.51}]), SLACK).tolist() == [False]
    with pytest.raises(sf.InputError, match="1 claims for 2 scenes"):
        holds(claim, cat([s, s]))


def test_the_list_of_words_is_closed_small_and_covers_the_vocabulary():
    assert len(words.WORDS) == len(set(words.WORDS)) <= 250
    assert set(words.NOUNS) == set(words.ZH["shape"]) == set(SHAPES)
    assert set(words.ADJECTIVES["colour"]) == set(words.ZH["colour"]) == set(COLOURS)
    assert set(words.ADJECTIVES["size"]) == set(words.ZH["size"]) == set(SIZES)
    assert set(words.ADJECTIVES["texture"]) == set(words.ZH["texture"]) == set(TEXTURES)
    assert set(words.GROUND_KINDS) == set(words.ZH["kind"]) == set(GROUNDS)
    assert set(words.PHRASES) == set(words.ZH["behind"]) == set(RELATIONS)
    assert set(words.ZH["shade"]) == set(GROUND_COLOURS)


def test_claims_can_be_written_as_json(scenes):
    told = Descriptive().write(scenes[:1], sf.Noise([0]))[0].claims
    plain = describe(told)
    assert plain["mentions"][0] == told.mentions[0].said | {"number": told.mentions[0].number}
    assert plain["ground"] == {"kind": told.ground.kind, "colours": told.ground.colours}


def _draws(n):
    rows = torch.rand(n, 600, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return [Draws(row) for row in rows.tolist()]


def _any_claims(draws):
    pools = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES}
    mentions = []
    for _ in range(int(draws.between(1, 5))):
        said = {name: draws.pick(pool) for name, pool in pools.items() if draws.chance(0.6)} or {"shape": "ring"}
        mention = Mention(number=1 + int(draws.between(0, 4) * draws.chance(0.3)), **said)
        if mention.said not in [m.said for m in mentions]:
            mentions.append(mention)
    pairs = [(i, j) for i in range(len(mentions)) for j in range(len(mentions)) if i != j]
    held = {(draws.pick(RELATIONS), *draws.pick(pairs)) for _ in range(2)} if pairs and draws.chance(0.7) else set()
    kind = draws.pick(GROUNDS) if draws.chance(0.5) else None
    colours = tuple(GROUND_COLOURS[c] for c in draws.order(len(GROUND_COLOURS))[: 2 if kind == "graded" else 1])
    ground = GroundClaim(kind=kind, colours=colours if kind is None or draws.chance(0.5) else ())
    claims = Claims(mentions=tuple(mentions), relations=frozenset(held), ground=ground if draws.chance(0.5) else None)
    return replace(claims, number=int(draws.between(1, 5))) if draws.chance(0.3) else claims
