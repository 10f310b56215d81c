"""Captions and prompts to claims: a reader of everything that `captions` writes, and of plain prompts.

Words are read one by one. Adjectives wait for their noun; a noun ends an object, a definite one ("the ring") means an
earlier object where one fits. A relation stands between its two objects (in Chinese, after them). Colours of grounds
are no colours of objects, so what is said of the ground is known by its words.
"""

from __future__ import annotations

from functools import cache

from ...conditioning.words import Words
from .claims import ATTRIBUTES, Claims, GroundClaim, Mention
from .scene import MAX_OBJECTS
from .words import FORMS, LEXICON, WORDS


def parse(text: str) -> Claims:
    """Return what `text` says; words that say nothing here are in `unknown`."""
    words = _tokenizer().spell(text).words
    reader = _Reader()
    i = 0
    while i < len(words):
        form = next((f for f in FORMS if words[i : i + len(f)] == f), None)
        if form is not None:
            reader.relate(FORMS[form])
            i += len(form)
        else:
            reader.read(words[i])
            i += 1
    reader.stop()
    return reader.claims()


@cache
def _tokenizer() -> Words:
    return Words(vocabulary=WORDS)


class _Reader:
    """What has been read so far."""

    def __init__(self) -> None:
        self.mentions: list[Mention] = []
        self.relations: set[tuple[str, int, int]] = set()
        self.number: int | None = None
        self.kind: str | None = None
        self.shades: list[str] = []
        self.ground = False
        self.unknown: list[str] = []
        self.waiting: dict[str, str] = {}  # adjectives before their noun
        self.amount: int | None = None
        self.definite = self.exactly = self.joined = self.backdrop = False
        self.last: int | None = None  # the object named last
        self.subject: int | None = None  # of the relation that was read last
        self.open: tuple[str, int] | None = None  # a relation whose object is still to come
        self.before: int | None = None  # the object before a Chinese "at"

    def read(self, word: str) -> None:
        """Take one word."""
        kind, value = LEXICON.get(word, ("", ""))
        joined, self.joined = self.joined, kind == "and"
        if kind in ATTRIBUTES and kind != "shape":
            self.waiting[kind] = str(value)
        elif kind == "number":
            self.amount = int(value)
        elif kind == "the":
            self.definite = True
        elif kind == "exactly":
            self.exactly = True
        elif kind in ("shape", "shapes"):
            self.noun(str(value), many=kind == "shapes")
        elif kind == "ground":
            self.stop(named=True)
            self.backdrop, self.amount, self.definite = True, None, False
        elif kind == "kind":
            self.kind, self.ground = str(value), True
        elif kind == "shade":
            self.stop(named=True)
            self.shades.append(str(value))
        elif kind == "at":
            self.before = self.last
        elif kind == "behind" and self.before is not None and self.last is not None:
            self.relations.add((str(value), self.before, self.last))
            self.before = None
        elif kind == "stop":
            self.stop()
        elif not kind:
            self.unknown.append(word)
        else:
            self.joined = kind == "and" or (joined and kind == "filler")

    def relate(self, name: str) -> None:
        """Begin a relation of the object named last, or, after "and", of the subject of the one before."""
        subject = self.subject if self.joined and self.subject is not None else self.last
        if subject is not None:
            self.open, self.subject = (name, subject), subject
        self.joined = False

    def noun(self, shape: str, many: bool) -> None:
        """End an object, or, for a bare number of objects, the statement how many there are."""
        said = dict(self.waiting) | ({"shape": shape} if shape else {})
        amount = self.amount
        if not said and amount is not None and (self.exactly or amount > 1):
            self.number = amount
        else:
            number = amount if amount is not None else 1 + many
            found = self.earlier(said) if self.definite else None
            if found is None:
                found = len(self.mentions)
                self.mentions.append(Mention(number=min(number, MAX_OBJECTS), **said))
            if self.open is not None and self.open[1] != found:
                self.relations.add((self.open[0], self.open[1], found))
            self.open, self.last = None, found
        self.waiting, self.amount = {}, None
        self.definite = self.exactly = self.backdrop = False

    def earlier(self, said: dict[str, str]) -> int | None:
        """Return the object that is described by exactly these words, else the first of which they are part."""
        same = (k for k, m in enumerate(self.mentions) if m.said == said)
        part = (k for k, m in enumerate(self.mentions) if said.items() <= m.said.items())
        return next(same, next(part, None))

    def stop(self, named: bool = False) -> None:
        """End a phrase: a waiting "plain" belongs to the ground if that was named (before it, or just now)."""
        if named:
            self.ground = True
        if (named or self.backdrop) and self.waiting.get("texture") == "plain":
            self.kind = "plain"
            del self.waiting["texture"]

    def claims(self) -> Claims:
        """Return what was said."""
        return Claims(
            mentions=tuple(self.mentions),
            relations=frozenset(self.relations),
            number=self.number,
            ground=GroundClaim(kind=self.kind, colours=tuple(self.shades[:2])) if self.kind or self.shades else None,
            unknown=tuple(self.unknown),
        )
