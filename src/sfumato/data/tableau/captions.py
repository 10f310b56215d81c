"""Scenes to captions, in several styles, each with the claims that it makes.

A style decides what is said (`tell`) and how (`word`). Caption i is a pure function of (seed i, scene i, style), and
`parse(caption.text) == caption.claims` for every style.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch

from ...core import InputError, Noise, register
from .claims import ATTRIBUTES, Claims, Facts, GroundClaim, Mention, facts, true
from .parsing import parse
from .relations import CONVERSE, RELATIONS
from .scene import COLOURS, GROUND_COLOURS, GROUNDS, MAX_OBJECTS, SHAPES, SIZES, TEXTURES, Scenes
from .wording import ChineseWords, Draws, English
from .words import LEXICON

_DRAWS = 384  # uniform numbers a caption may use
_TRIES = 12  # to find something that is wrong
_VALUES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES}


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A text and what it says; `wrong` is the kind of the one claim that does not hold, None where all do."""

    text: str
    claims: Claims
    wrong: str | None = None


class Style(ABC):
    """One way of writing captions."""

    def write(self, scenes: Scenes, noise: Noise) -> list[Caption]:
        """Return one caption a scene, drawn from its row of `noise`.

        Raises `InputError` where there is not one seed for each scene.
        """
        if len(noise) != len(scenes):
            raise InputError(f"{len(noise)} seeds for {len(scenes)} scenes: give one for each")
        return [self.compose(f, d) for f, d in zip(facts(scenes), choices(noise), strict=True)]

    def compose(self, known: Facts, draws: Draws) -> Caption:
        """Return the caption of one scene."""
        claims = self.tell(known, draws)
        return Caption(text=self.word(claims, draws), claims=claims)

    @abstractmethod
    def tell(self, known: Facts, draws: Draws) -> Claims:
        """Return what is said of a scene, all of it true."""

    @abstractmethod
    def word(self, claims: Claims, draws: Draws) -> str:
        """Return the claims in words."""

    def keeps(self, said: Claims, claims: Claims) -> bool:
        """Return whether what a text says is what was to be said."""
        return said == claims


@register
@dataclass(frozen=True, kw_only=True)
class Terse(Style):
    """Shapes and colours, half of the sizes and textures, seldom the ground: "red circle left of small blue star"."""

    def tell(self, known: Facts, draws: Draws) -> Claims:
        """Return what is said of a scene, all of it true."""
        keep = {"shape": 1.0, "colour": 1.0, "size": 0.5, "texture": 0.5}
        return tell(known, draws, keep=keep, relation=0.4, ground=0.2, number=0.0)

    def word(self, claims: Claims, draws: Draws) -> str:
        """Return the claims in words."""
        return English().short(claims, draws)


@register
@dataclass(frozen=True, kw_only=True)
class Descriptive(Style):
    """Whole sentences that say every attribute, the ground, most relations (two at most), and often the number."""

    def tell(self, known: Facts, draws: Draws) -> Claims:
        """Return what is said of a scene, all of it true."""
        return tell(known, draws, keep=dict.fromkeys(ATTRIBUTES, 1.0), relation=0.8, ground=1.0, number=0.3)

    def word(self, claims: Claims, draws: Draws) -> str:
        """Return the claims in words."""
        return English().full(claims, draws)


@register
@dataclass(frozen=True, kw_only=True)
class Partial(Style):
    """Each attribute, and each object's relations and the ground, kept with a probability p drawn from [low, high]."""

    low: float = 0.3
    high: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise InputError(f"Partial keeps with probabilities 0 <= low <= high <= 1, got {self.low} and {self.high}")

    def tell(self, known: Facts, draws: Draws) -> Claims:
        """Return what is said of a scene, all of it true."""
        p = draws.between(self.low, self.high)
        return tell(known, draws, keep=dict.fromkeys(ATTRIBUTES, p), relation=p, ground=p / 2, number=p / 4)

    def word(self, claims: Claims, draws: Draws) -> str:
        """Return the claims in words."""
        return English().full(claims, draws) if draws.chance(0.5) else English().short(claims, draws)


@dataclass(frozen=True, kw_only=True)
class Rewording(Style):
    """A style that says what `of` would say, in words of its own."""

    of: Style

    def tell(self, known: Facts, draws: Draws) -> Claims:
        """Return what `of` says of a scene, all of it true."""
        return self.of.tell(known, draws)


@register
@dataclass(frozen=True, kw_only=True)
class Paraphrased(Rewording):
    """What `of` would say, three words in five by any of their paraphrases."""

    of: Style = Partial()

    def word(self, claims: Claims, draws: Draws) -> str:
        """Return the claims in words."""
        english = English(synonyms=0.6)
        return english.full(claims, draws) if draws.chance(0.6) else english.short(claims, draws)


@register
@dataclass(frozen=True, kw_only=True)
class Chinese(Rewording):
    """What `of` would say, in Chinese."""

    of: Style = Partial()

    def word(self, claims: Claims, draws: Draws) -> str:
        """Return the claims in words."""
        words = ChineseWords(synonyms=0.3)
        return words.full(claims, draws) if draws.chance(0.6) else words.short(claims, draws)


@register
@dataclass(frozen=True, kw_only=True)
class AltText(Rewording):
    """What `of` would say, as a web page would: typing errors, file names, words of no meaning.

    A misspelt word says nothing, so the claims are what is left; they hold (where they would not, nothing is misspelt).
    """

    of: Style = Terse()

    def compose(self, known: Facts, draws: Draws) -> Caption:
        """Return the caption of one scene."""
        claims = self.tell(known, draws)
        text = self.word(claims, draws)
        if not true(parse(text), known):
            text = _noisy(self.of.word(claims, draws), draws)
        return Caption(text=text, claims=parse(text))

    def word(self, claims: Claims, draws: Draws) -> str:
        """Return the claims in words, some misspelt, among others."""
        return _noisy(_misspelt(self.of.word(claims, draws), draws), draws)

    def keeps(self, said: Claims, claims: Claims) -> bool:
        """Return whether nothing is said that was not claimed: how many things, and no thing that was not there."""
        return len(said.mentions) == len(claims.mentions)


@register
@dataclass(frozen=True, kw_only=True)
class Wrong(Rewording):
    """What `of` would say with one claim changed, so that it does not hold, not even to within the oracle's slack."""

    of: Style = Descriptive()

    def compose(self, known: Facts, draws: Draws) -> Caption:
        """Return the caption of one scene."""
        near = replace(known, relations=known.near)
        told = self.tell(known, draws)
        for _ in range(_TRIES):
            kind, claims = spoil(told, draws)
            text = self.word(claims, draws)
            said = parse(text)
            if not true(said, near) and self.of.keeps(said, claims):  # two mentions may have become alike
                return Caption(text=text, claims=said, wrong=kind)
        n = len(known.objects)
        text = self.word(replace(told, number=n + 1 if n < MAX_OBJECTS else n - 1), draws)
        return Caption(text=text, claims=parse(text), wrong="count")

    def word(self, claims: Claims, draws: Draws) -> str:
        """Return the claims in words."""
        return self.of.word(claims, draws)


def tell(
    known: Facts, draws: Draws, *, keep: dict[str, float], relation: float, ground: float, number: float
) -> Claims:
    """Return true claims of a scene: attributes kept with the probabilities `keep`, and so on.

    Objects of which nothing is kept are not mentioned. Those that are described alike are counted, if the scene holds
    no other that is so. At most two relations are said, each between objects whose descriptions differ.
    """
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for i in draws.order(len(known.objects)):
        said = tuple((a, known.objects[i][a]) for a in ATTRIBUTES if draws.chance(keep[a]))
        if said:
            groups.setdefault(said, []).append(i)
    mentions: list[Mention] = []
    meant: list[list[int]] = []
    for said, members in groups.items():
        mention = Mention(number=len(members), **dict(said))
        exact = len(members) == 1 or sum(map(mention.fits, known.objects)) == len(members)
        mentions += [mention] if exact else [replace(mention, number=1)] * len(members)
        meant += [members] if exact else [[i] for i in members]
    held: set[tuple[str, int, int]] = set()
    single = [k for k, m in enumerate(mentions) if sum(m.said == other.said for other in mentions) == 1]
    pairs = [(a, b) for a in single for b in single if a < b]
    for k in draws.order(len(pairs)):
        a, b = pairs[k] if draws.chance(0.8) else pairs[k][::-1]
        names = [r for r in RELATIONS if all((r, i, j) in known.relations for i in meant[a] for j in meant[b])]
        if draws.chance(relation) and names and len(held) < 2:
            held.add((draws.pick(names), a, b))
    behind = known.ground if draws.chance(ground) else None
    if behind is not None and draws.chance(0.5):  # its colours alone, or both
        behind = replace(behind, kind=None) if draws.chance(0.5) else replace(behind, colours=())
    total = len(known.objects) if not mentions or draws.chance(number) else None
    return Claims(mentions=tuple(mentions), relations=frozenset(held), number=total, ground=behind)


def spoil(claims: Claims, draws: Draws) -> tuple[str, Claims]:
    """Return a kind and the claims with one of that kind changed: an attribute, a relation, the number, the ground."""
    kinds = ["relation"] * 4 * bool(claims.relations) + ["count"] * (claims.number is not None or not claims.mentions)
    kinds += ["ground"] * (claims.ground is not None) + [a for m in claims.mentions for a in m.said]
    kind = draws.pick(kinds)
    if kind == "relation":
        name, i, j = draws.pick(sorted(claims.relations))
        other = (CONVERSE.get(name, name), i, j) if name in CONVERSE else (name, j, i)
        return kind, replace(claims, relations=claims.relations - {(name, i, j)} | {other})
    if kind == "count":
        counts = [n for n in range(1, MAX_OBJECTS + 1) if n != claims.number]
        return kind, replace(claims, number=draws.pick(counts))
    if kind == "ground" and claims.ground is not None:
        return kind, replace(claims, ground=_other_ground(claims.ground, draws))
    k = draws.pick([k for k, m in enumerate(claims.mentions) if kind in m.said])
    mention = claims.mentions[k]
    value = draws.pick([v for v in _VALUES[kind] if v != getattr(mention, kind)])
    changed = replace(mention, **{kind: value})
    return kind, replace(claims, mentions=(*claims.mentions[:k], changed, *claims.mentions[k + 1 :]))


def _other_ground(ground: GroundClaim, draws: Draws) -> GroundClaim:
    if ground.kind is not None and (not ground.colours or draws.chance(0.5)) and len(ground.colours) < 2:
        kinds = [k for k in GROUNDS if k != ground.kind and (k != "graded" or not ground.colours)]
        return replace(ground, kind=draws.pick(kinds))
    first = draws.pick([c for c in GROUND_COLOURS if c not in ground.colours])
    return replace(ground, colours=(first, *ground.colours[1:]))


def choices(noise: Noise) -> list[Draws]:
    """Return the random choices of one caption for each row of `noise`."""
    normals = noise.normal((len(noise), _DRAWS), "tableau", "caption")
    return [Draws(row) for row in torch.special.ndtr(normals.clamp(-5, 5)).tolist()]


def _misspelt(text: str, draws: Draws) -> str:
    """Return `text` with two neighbouring letters changed over in about one adjective or noun of six."""
    words = text.split(" ")
    for k, word in enumerate(words):
        if len(word) > 3 and word.isalpha() and draws.chance(1 / 6):
            at = 1 + int(draws.between(0, len(word) - 2))
            typo = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
            words[k] = word if typo.lower() in LEXICON else typo
    return " ".join(words)


def _noisy(text: str, draws: Draws) -> str:
    """Return `text` among words of no meaning, as file names and shops have them."""
    front = draws.pick(("", "", f"IMG{int(draws.between(1000, 9999))} ", "clipart: ", "free download ", "DSC "))
    back = draws.pick(("", "", " jpg", " wallpaper hd", " | stock photo", " vector art", " best price", " #art"))
    return front + text + back
