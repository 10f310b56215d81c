"""Whether captions hold of pictures, claim by claim, and a table by task as in GenEval (arXiv 2310.11513)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....core import InputError
from ..claims import ATTRIBUTES, KINDS, Claims, Facts, facts
from ..scene import Scenes
from .read import Reading

TASKS = ("single object", "two objects", "counting", "colours", "position", "attribute binding", "other")
_Objects = tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Claims counted by kind for each of B pictures: how many are `said`, and how many are `right`, int64[B, kinds].

    The kinds are `sfumato.data.tableau.claims.KINDS`: shape, colour, size, texture, relation, count, ground.
    """

    said: Tensor
    right: Tensor

    def all(self) -> Tensor:
        """Return bool[B]: whether every claim holds."""
        return (self.said == self.right).all(1)

    def share(self, kind: str) -> float:
        """Return the share of the claims of a kind that hold; nan where there is none."""
        if kind not in KINDS:
            raise InputError(f"there is no kind of claim {kind!r}; known: {', '.join(KINDS)}")
        said, right = (counts[:, KINDS.index(kind)].sum().item() for counts in (self.said, self.right))
        return right / said if said else float("nan")


def score(seen: Reading | Scenes, claims: Sequence[Claims]) -> Scores:
    """Return which of the `claims` about each picture hold of what is seen.

    Objects that are mentioned are matched to objects that are seen by the assignment under which most claims hold (of
    two alike, the one with more shapes right), and relations are judged under it, with a slack of 0.03. An object that
    is mentioned and not there has every attribute wrong; "two stars" claims of its number that exactly two objects fit.
    Everything holds, `all`, exactly where `sfumato.data.tableau.holds` says so with that slack.

    Raises `InputError` where there is not one claim for each picture.
    """
    scenes = seen.scenes if isinstance(seen, Reading) else seen
    if len(claims) != len(scenes):
        raise InputError(f"{len(claims)} claims for {len(scenes)} pictures: give one for each")
    rows = [_scored(c, f) for c, f in zip(claims, facts(scenes), strict=True)]
    counts = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2, len(KINDS))
    return Scores(said=counts[:, 0], right=counts[:, 1])


def _scored(claims: Claims, known: Facts) -> tuple[list[int], list[int]]:
    """Return how many claims of each kind are said, and how many of them hold."""
    slots = [k for k, mention in enumerate(claims.mentions) for _ in range(mention.number)]
    there = [*range(len(known.objects)), *[None] * max(0, len(slots) - len(known.objects))]
    matched = (_matched(claims, known, slots, chosen) for chosen in itertools.permutations(there, len(slots)))
    best = max(matched, key=lambda counts: (sum(counts), counts[KINDS.index("shape")]))
    said, right = _counts(), dict(zip(KINDS, best, strict=True))
    for k in slots:
        for name in claims.mentions[k].said or ("count",):
            said[name] += 1
    said["relation"] = len(claims.relations)
    for mention in claims.mentions:
        if mention.number > 1:
            said["count"] += 1
            right["count"] += sum(map(mention.fits, known.objects)) == mention.number
    if claims.number is not None:
        said["count"] += 1
        right["count"] += claims.number == len(known.objects)
    if claims.ground is not None:
        if claims.ground.kind is not None:
            said["ground"] += 1
            right["ground"] += claims.ground.kind == known.ground.kind
        if claims.ground.colours:
            said["ground"] += 1
            right["ground"] += claims.ground.colours == known.ground.colours
    return list(said.values()), list(right.values())


def _counts() -> dict[str, int]:
    return dict.fromkeys(KINDS, 0)


def _matched(claims: Claims, known: Facts, slots: Sequence[int], chosen: _Objects) -> tuple[int, ...]:
    """Return how many claims of each kind hold where slot s is the object `chosen[s]`, None for one not there."""
    right = _counts()
    for k, i in zip(slots, chosen, strict=True):
        said = claims.mentions[k].said
        if i is None:
            continue
        for name in ATTRIBUTES:
            right[name] += name in said and known.objects[i][name] == said[name]
        right["count"] += not said
    for relation, a, b in claims.relations:
        pairs = itertools.product(*([i for k, i in zip(slots, chosen, strict=True) if k == m] for m in (a, b)))
        right["relation"] += all((relation, i, j) in known.near for i, j in pairs)
    return tuple(right.values())


def task(claims: Claims) -> str:
    """Return which of `TASKS` a caption sets: the first of those it fits, in the order in which this asks.

    Relations make it position; a stated number, counting; two mentions or more with a colour each and another
    attribute, attribute binding; two mentions, two objects; one with a colour, colours; one without, single object.
    """
    mentions = claims.mentions
    if claims.relations:
        return "position"
    if claims.number is not None or any(m.number > 1 for m in mentions):
        return "counting"
    if len(mentions) > 1 and all(m.colour is not None and len(m.said) > 1 for m in mentions):
        return "attribute binding"
    if len(mentions) == 2:
        return "two objects"
    if len(mentions) == 1:
        return "single object" if mentions[0].colour is None else "colours"
    return "other"


def table(seen: Reading | Scenes, claims: Sequence[Claims]) -> str:
    """Return, as the lines of a table, the share of pictures of which all holds, by task, and of claims, by kind."""
    scores, tasks = score(seen, claims), [task(c) for c in claims]
    whole = scores.all().tolist()
    lines = ["| task | pictures | all right |", "|---|---|---|"]
    for name in TASKS:
        right = [w for w, t in zip(whole, tasks, strict=True) if t == name]
        lines += _row(name, len(right), sum(right))
    lines += _row("all", len(whole), sum(whole))
    lines += ["", "| claims of | said | right |", "|---|---|---|"]
    for k, kind in enumerate(KINDS):
        lines += _row(kind, int(scores.said[:, k].sum()), int(scores.right[:, k].sum()))
    return "\n".join(lines)


def _row(name: str, n: int, right: int) -> Iterable[str]:
    return [f"| {name} | {n} | {right / n:.1%} |"] if n else []
