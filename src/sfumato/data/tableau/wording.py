"""Claims put into words, in English or Chinese, so that `parse` gives the same claims back.

Everything that is left open (the order of statements, synonyms, whether a relation stands between its objects or in a
sentence of its own) is decided by the `Draws` of a caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from .claims import Claims, GroundClaim, Mention
from .words import (
    ADJECTIVES,
    ANY_NOUN,
    GROUND_KINDS,
    GROUND_NOUNS,
    GROUND_SHADES,
    NOUNS,
    NUMBERS,
    PHRASES,
    ZH,
    ZH_ANY,
    ZH_AT,
    ZH_EXACTLY,
    ZH_GROUND,
    ZH_NUMBERS,
)

T = TypeVar("T")


class Draws:
    """The random choices of one caption: uniform numbers, used up in order."""

    def __init__(self, uniform: Sequence[float]) -> None:
        self._left = iter(uniform)

    def chance(self, probability: float) -> bool:
        """Return true with `probability`."""
        return next(self._left) < probability

    def between(self, low: float, high: float) -> float:
        """Return a uniform number."""
        return low + (high - low) * next(self._left)

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of `choices`."""
        return choices[int(next(self._left) * len(choices))]

    def order(self, n: int) -> list[int]:
        """Return 0 .. n - 1 in a random order."""
        keys = [next(self._left) for _ in range(n)]
        return sorted(range(n), key=keys.__getitem__)


@dataclass(frozen=True, kw_only=True)
class English:
    """English with a paraphrase in place of the usual word with probability `synonyms`."""

    synonyms: float = 0.0

    def short(self, claims: Claims, draws: Draws) -> str:
        """Return a list without articles: "red circle left of small blue star, two moons"."""
        parts: list[str] = []
        inline = _inline(claims)
        for k, mention in enumerate(claims.mentions):
            phrase = self.noun(mention, draws, article=False)
            if k - 1 in inline:
                parts[-1] += f" {self._relation(inline[k - 1], draws)} {phrase}"
            else:
                parts.append(phrase)
        if claims.ground is not None:
            parts.append(f"{self._ground(claims.ground, draws)} {self._word(GROUND_NOUNS, draws)}")
        if claims.number is not None:
            parts.append(f"exactly {self._count(claims.number, draws)}")
        return ", ".join(parts + [self._apart(claims, r, draws) for r in _rest(claims, inline)])

    def full(self, claims: Claims, draws: Draws) -> str:
        """Return sentences: objects first, one by one or in a list, then what is left to say of them."""
        inline = _inline(claims) if draws.chance(0.6) else {}
        nouns = [self.noun(mention, draws) for mention in claims.mentions]
        ground = "" if claims.ground is None else _article(self._ground(claims.ground, draws))
        noun = self._word(GROUND_NOUNS, draws)
        sentences: list[str] = []
        if inline:
            for k, mention in enumerate(claims.mentions):
                if k in inline:
                    verb = "is" if mention.number == 1 else "are"
                    sentences.append(f"{nouns[k]} {verb} {self._relation(inline[k], draws)} {nouns[k + 1]}")
                elif k - 1 not in inline:
                    sentences.append(f"there {'is' if mention.number == 1 else 'are'} {nouns[k]}")
        elif nouns:
            listed = ", ".join(nouns[:-1]) + " and " + nouns[-1] if len(nouns) > 1 else nouns[0]
            verb = "is" if claims.mentions[0].number == 1 else "are"
            sentences.append(
                (f"there {verb} {listed}", f"this picture shows {listed}", listed)[int(draws.between(0, 3))]
            )
        if ground and len(sentences) == 1 and draws.chance(0.6):
            sentences[0] += f" {draws.pick(('on', 'against'))} {ground} {noun}"
        elif ground:
            sentences.append(f"the {noun} is {ground.split(' ', 1)[1]}")
        if claims.number is not None:
            verb = "is" if claims.number == 1 else "are"
            sentences.append(f"there {verb} exactly {self._count(claims.number, draws)}")
        sentences += [self._apart(claims, r, draws) for r in _rest(claims, inline)]
        return " ".join(s[0].upper() + s[1:] + "." for s in sentences)

    def _apart(self, claims: Claims, relation: tuple[str, int, int], draws: Draws) -> str:
        name, i, j = relation
        verb = "is" if claims.mentions[i].number == 1 else "are"
        return f"{self.again(claims, i, draws)} {verb} {self._relation(name, draws)} {self.again(claims, j, draws)}"

    def again(self, claims: Claims, k: int, draws: Draws) -> str:
        """Return the definite description of a mention, as short as it can be and still mean this one."""
        return "the " + self.noun(_reference(claims, k), draws, article=False, number=False)

    def noun(self, mention: Mention, draws: Draws, *, article: bool = True, number: bool = True) -> str:
        """Return a mention in words."""
        pairs = ANY_NOUN if mention.shape is None else NOUNS[mention.shape]
        said = mention.said
        words = [self._word(ADJECTIVES[a][said[a]], draws) for a in ("size", "texture", "colour") if a in said]
        words.append(self._word(pairs, draws)[mention.number > 1])
        phrase = " ".join(words)
        if mention.number > 1:
            return f"{NUMBERS[mention.number][0]} {phrase}" if number else phrase
        return _article(phrase) if article else phrase

    def _ground(self, ground: GroundClaim, draws: Draws) -> str:
        kind = [] if ground.kind is None else [self._word(GROUND_KINDS[ground.kind], draws)]
        shades = " to ".join(self._word(GROUND_SHADES[c], draws) for c in ground.colours)
        return " ".join([*kind, shades] if shades else kind)

    def _count(self, number: int, draws: Draws) -> str:
        word = "one" if number == 1 else NUMBERS[number][0]
        return f"{word} {self._word(ANY_NOUN, draws)[number > 1]}"

    def _relation(self, name: str, draws: Draws) -> str:
        return self._word(PHRASES[name], draws)

    def _word(self, choices: Sequence[T], draws: Draws) -> T:
        """Return the usual word, or by `synonyms` any of the choices."""
        return draws.pick(choices) if self.synonyms and draws.chance(self.synonyms) else choices[0]


@dataclass(frozen=True, kw_only=True)
class ChineseWords:
    """Chinese; a closed grammar without inflection. Relations stand behind their objects: A 在 B 左边."""

    synonyms: float = 0.0

    def short(self, claims: Claims, draws: Draws) -> str:
        """Return a list, without measure words where there is one of a kind."""
        return self._put(claims, draws, {}, measure=False)

    def full(self, claims: Claims, draws: Draws) -> str:
        """Return sentences."""
        return self._put(claims, draws, _inline(claims) if draws.chance(0.6) else {}, measure=True)

    def _put(self, claims: Claims, draws: Draws, inline: dict[int, str], measure: bool) -> str:
        nouns = [self._noun(m, draws, measure or m.number > 1) for m in claims.mentions]
        sentences: list[str] = []
        if inline:
            for k in range(len(nouns)):
                if k in inline:
                    sentences.append(nouns[k] + ZH_AT + nouns[k + 1] + self._behind(inline[k], draws))
                elif k - 1 not in inline:
                    sentences.append(("有" if measure else "") + nouns[k])
        elif nouns:
            listed = "、".join(nouns[:-1]) + "和" + nouns[-1] if len(nouns) > 1 and measure else "、".join(nouns)
            sentences.append(("图里有" if measure else "") + listed)
        if claims.ground is not None:
            kind = ZH["kind"][claims.ground.kind][0] if claims.ground.kind else ""
            shades = "到".join(ZH["shade"][c][0] for c in claims.ground.colours)
            sentences.append(f"{kind}{shades}的{ZH_GROUND}" if not measure else f"{ZH_GROUND}是{kind}{shades}")
        if claims.number is not None:
            sentences.append(f"{ZH_EXACTLY}有{ZH_NUMBERS[claims.number][0]}{ZH_ANY}")
        for name, i, j in _rest(claims, inline):
            first, second = (self._again(claims, k, draws) for k in (i, j))
            sentences.append(first + ZH_AT + second + self._behind(name, draws))
        return "。".join(sentences) + ("。" if measure else "")

    def _again(self, claims: Claims, k: int, draws: Draws) -> str:
        mention = claims.mentions[k]
        the = "那个" if mention.number == 1 else "那" + ZH_NUMBERS[mention.number][0]
        return the + self._noun(_reference(claims, k), draws, measure=False)

    def _noun(self, mention: Mention, draws: Draws, measure: bool) -> str:
        said = mention.said
        number = ZH_NUMBERS[mention.number][0] if measure else ""
        words = [self._word(ZH[a][said[a]], draws) for a in ("size", "texture", "colour") if a in said]
        return number + "".join(words) + (self._word(ZH["shape"][said["shape"]], draws) if "shape" in said else ZH_ANY)

    def _behind(self, name: str, draws: Draws) -> str:
        return self._word(ZH["behind"][name], draws)

    def _word(self, choices: Sequence[str], draws: Draws) -> str:
        return draws.pick(choices) if self.synonyms and draws.chance(self.synonyms) else choices[0]


Language = English | ChineseWords


def _inline(claims: Claims) -> dict[int, str]:
    """Return the relations that can stand between neighbours in the list: subject k, object k + 1, none shared."""
    out: dict[int, str] = {}
    for name, i, j in sorted(claims.relations):
        if j == i + 1 and not {i - 1, i, i + 1} & out.keys():
            out[i] = name
    return out


def _rest(claims: Claims, inline: dict[int, str]) -> list[tuple[str, int, int]]:
    return [r for r in sorted(claims.relations) if not (r[2] == r[1] + 1 and inline.get(r[1]) == r[0])]


def _reference(claims: Claims, k: int) -> Mention:
    """Return the fewest attributes of mention `k` that fit no other mention, its shape first; all if need be."""
    said, number = claims.mentions[k].said, claims.mentions[k].number
    others = [m.said for i, m in enumerate(claims.mentions) if i != k]
    order = [a for a in ("shape", "colour", "size", "texture") if a in said]
    for size in range(1, len(order)):
        part = {a: said[a] for a in order[:size]}
        if not any(part.items() <= other.items() for other in others):
            return Mention(number=number, **part)
    return claims.mentions[k]


def _article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
