"""How well a text-to-image model follows captions of the tableau world: its pictures are read by the world's oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core import InputError
from ..data.tableau import EVALUATION, SHAPES, Claims, Descriptive, Law, Scenes, Tableau, holds, paint, parse
from ..data.tableau.claims import KINDS
from ..data.tableau.oracle import read, score
from ..data.tableau.relations import SLACK
from ..measure import (
    Figure,
    Judge,
    alignment,
    clip_score,
    diversity,
    frechet_distance,
    validity,
)
from ..pipeline import Pipeline
from .evaluation import CHUNK, Evaluation, Say
from .geneval import TASKS, prompts

EACH = 64  # pictures of each caption that leaves much open
OPEN = SHAPES[:4]  # what those are of: "a circle", ...
PLACES = 4  # bins of x and of y, for diversity
BARS = {  # what a model of this world should reach
    "one_object": 0.97,
    "two_objects_related": 0.85,
    "three_or_four_objects": 0.60,
    "valid": 0.97,
    "diversity": 0.9,
}
FARTHEST = 3.0  # times the Frechet distance of two real halves


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Captions, what they claim, and the scenes that they were written of."""

    texts: list[str]
    claims: list[Claims]
    scenes: Scenes


def unseen(n: int, law: Law | None = None) -> Asked:
    """Return `n` captions of scenes that no training shows, which say every attribute of every object.

    Since all objects are mentioned, their number is claimed too: another one beside them is wrong.
    """
    law = Law() if law is None else law
    data = Tableau(size=n, seed=EVALUATION, law=law, styles=(Descriptive(),), weights=(1.0,))
    written, scenes = data.captions(range(n)), data.scenes(range(n))
    claims = [replace(c.claims, number=k) for c, k in zip(written, scenes.count.tolist(), strict=True)]
    return Asked(texts=[c.text for c in written], claims=claims, scenes=scenes)


def follow(
    pipe: Pipeline, n: int, judge: Judge | None = None, seed: int = 0, say: Say = lambda what, done, of: None
) -> Evaluation:
    """Return how well `pipe` follows `n` captions of scenes that it was not trained on, and how well their pictures do.

    The figures beside (`real`) are those of the painted scenes after a round trip through the pipeline's codec: what a
    perfect model would reach. A picture is right where everything that its caption says of objects holds, as the
    oracle reads it; the ground is counted apart. Where there is a `judge`, its distance of features and its score too.
    Raises `InputError` for another model than one of this world's pictures.
    """
    side = pipe.shape[-1] * pipe.coded.factor
    if len(pipe.shape) != 3 or pipe.shape[-2] != pipe.shape[-1] or "tokens" not in pipe.denoiser.cond:
        raise InputError("captions of the tableau world are for models of square pictures that read its words")
    if n < 50:
        raise InputError(f"n={n} captions are too few to tell anything: give at least 50")
    common, rare = unseen(n), unseen(n // 4, Law(common=False, held_out=True))
    drawn = [_drawn(pipe, asked.texts, seed, say, "sampling") for asked in (common, rare)]
    real = [pipe.coded.decode(pipe.coded.encode(x)).clamp(-1, 1) for x in _painted(common, rare, side)]
    say("reading pictures", 0, 1)
    model, perfect = (_followed(x, (common, rare)) for x in (drawn, real))
    each = max(8, n // 16)
    for task in TASKS:
        texts = prompts(task, each, seed)
        reading = read(_drawn(pipe, texts, seed + n, say, task))
        right = holds([parse(t) for t in texts], reading.scenes, SLACK)
        model.append(replace(alignment(right), name=f"task_{task}"))
    model.append(_diversity(pipe, seed, say))
    if judge is not None:
        both = _judged(judge, drawn[0], real[0], _painted(common, rare, side)[0], common.texts)
        model, perfect = model + both.model, perfect + both.real
    return Evaluation(model=model, real=perfect)


def bars(found: Evaluation) -> dict[str, tuple[float, bool]]:
    """Return the bar of each figure of the model that has one, and whether it is reached."""
    real = {f.name: f.value for f in found.real}
    out = {f.name: (BARS[f.name], f.value >= BARS[f.name]) for f in found.model if f.name in BARS}
    for f in found.model:
        if f.name == "frechet_distance" and f.name in real:
            out[f.name] = (FARTHEST * real[f.name], f.value <= FARTHEST * real[f.name])
    return out


def _painted(common: Asked, rare: Asked, side: int) -> list[Tensor]:
    return [paint(asked.scenes, side) for asked in (common, rare)]


def _drawn(
    pipe: Pipeline, texts: Sequence[str], seed: int, say: Say, what: str, guidance: float | None = None
) -> Tensor:
    """Return one picture of each text, [n, 3, S, S] in [-1, 1]."""
    parts: list[Tensor] = []
    for start in range(0, len(texts), CHUNK):
        some = list(texts[start : start + CHUNK])
        parts.append(pipe(some, n=1, seed=seed + start, guidance=guidance).pixels.float().cpu().clamp(-1, 1))
        say(what, start + len(some), len(texts))
    return torch.cat(parts)


def _followed(pictures: Sequence[Tensor], asked: tuple[Asked, Asked]) -> list[Figure]:
    """Return the figures of the captions, those of common combinations and those of combinations held out."""
    readings = [read(x) for x in pictures]
    common, (reading, rest) = asked[0], readings
    bare = [replace(c, ground=None) for c in common.claims]
    right = holds(bare, reading.scenes, SLACK)
    count = common.scenes.count
    related = torch.tensor([bool(c.relations) for c in common.claims])
    groups = {
        "one_object": count == 1,
        "two_objects_related": (count == 2) & related,
        "three_or_four_objects": count >= 3,
        "all_captions": count >= 1,
    }
    figures = [replace(alignment(right[rows]), name=name) for name, rows in groups.items() if bool(rows.any())]
    rare = holds([replace(c, ground=None) for c in asked[1].claims], rest.scenes, SLACK)
    figures.append(replace(alignment(rare), name="held_out_combinations"))
    single = asked[1].scenes.count == 1
    if bool(single.any()):
        figures.append(replace(alignment(rare[single]), name="held_out_one_object"))
    scores = score(reading, common.claims)
    for k, kind in enumerate(KINDS):
        said, held = (int(counts[:, k].sum()) for counts in (scores.said, scores.right))
        if said:
            figures.append(replace(alignment(torch.arange(said) < held), name=f"claims_of_{kind}"))
    return [*figures, replace(validity(reading.valid), name="valid")]


def _diversity(pipe: Pipeline, seed: int, say: Say) -> Figure:
    """Return how varied is what a caption leaves open, without guidance: the mean over a few captions."""
    found: list[Figure] = []
    data = Tableau(size=40 * EACH, seed=EVALUATION, styles=(), weights=())
    real = data.scenes(range(len(data)))
    for shape in OPEN:
        x = _drawn(pipe, [f"a {shape}"] * EACH, seed, say, "diversity", guidance=1.0)
        mine, its = (_open(scenes, shape) for scenes in (read(x).scenes, real))
        if len(mine) >= 2:
            found.append(diversity(mine, its[: len(mine)]))
    value = sum(f.value for f in found) / len(found) if found else 0.0
    base = found[0] if found else alignment(torch.zeros(1, dtype=torch.bool))
    note = f"the mean over {', '.join(f'a {s}' for s in OPEN)}; pictures without one are left out"
    return replace(base, name="diversity", value=value, error=None, note=note)


def _open(scenes: Scenes, shape: str) -> Tensor:
    """Return int64[n, 6] of each scene that has a `shape`: number of objects, the first one's attributes and place."""
    has = (scenes.shape == SHAPES.index(shape)) & scenes.present
    rows = has.any(1).nonzero()[:, 0]
    at = (rows, has[rows].int().argmax(1))
    place = [(v[at] * PLACES).long().clamp(0, PLACES - 1) for v in (scenes.x, scenes.y)]
    columns = [scenes.count[rows], scenes.colour[at], scenes.size[at], scenes.texture[at], *place]
    return torch.stack([*columns, scenes.ground[rows]], 1)


def _judged(judge: Judge, x: Tensor, real: Tensor, painted: Tensor, texts: Sequence[str]) -> Evaluation:
    """Return the judge's figures of pictures `x`, and of `real` ones, against other painted ones."""
    extract = judge.extractor()
    other = unseen(2 * len(x), Law())
    reference = extract.features(paint(other.scenes[len(x) :], painted.shape[-1]).split(CHUNK))
    sides = [extract.features(v.split(CHUNK)) for v in (x, painted)]
    return Evaluation(
        model=[frechet_distance(sides[0], reference), clip_score(judge, x, texts)],
        real=[frechet_distance(sides[1], reference), clip_score(judge, real, texts)],
    )
