"""Measuring a pipeline against data: its samples and, as a perfect model, real rows, against one reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from ..core import Batch, InputError, Noise
from ..data import Dataset
from ..measure import (
    Extractor,
    FeatureSet,
    Figure,
    Resize,
    coverage,
    density,
    frechet_distance,
    kernel_distance,
    mmd2,
    nearest_distance,
    precision,
    recall,
    sliced_wasserstein,
)
from ..measure.classifier import Classifier, ClassifierConfig, fit_classifier
from ..pipeline import Pipeline

CHUNK = 250  # samples at a time
MOST = 10_000  # real rows that are looked at
FEATURES = (frechet_distance, precision, recall, density, coverage)
POINTS = (sliced_wasserstein, mmd2, nearest_distance)
Say = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The figures of a model's samples, and of as many real rows (none where no part of the data was held out)."""

    model: list[Figure]
    real: list[Figure]


def evaluate(
    pipe: Pipeline, data: Dataset, n: int, seed: int = 0, say: Say = lambda what, done, of: None
) -> Evaluation:
    """Return the figures of `n` samples of `pipe` against the held-out part of `data` (all of it where there is none).

    Classes are asked for as the reference has them. Points are measured as they are. Pictures with classes are
    measured by the features of a small classifier, trained here on the part that is not the reference, others by
    their pixels at 8 x 8. Raises `InputError` for data of another shape or other classes than the model's.
    """
    if data.shape != pipe.shape or (pipe.classes is not None and data.classes != pipe.classes):
        raise InputError(
            f"the data is {data.shape} with classes {data.classes}, the model {pipe.shape} with {pipe.classes}: "
            "evaluate it against the data that it was trained on"
        )
    if n < 2:
        raise InputError(f"n={n} samples cannot be measured: give at least 2")
    held = held_out(data)
    reference = rows(held or data, MOST)
    other = None if held is None else rows(data, MOST)
    asked = [None] * n if pipe.classes is None else [int(reference.cond["y"][i % len(reference.x0)]) for i in range(n)]
    drawn = []
    for start in range(0, n, CHUNK):
        drawn.append(pipe(asked[start : start + CHUNK], n=1, seed=seed + start).tensor.cpu())
        say("sampling", min(start + CHUNK, n), n)
    x = torch.cat(drawn)
    real = None if other is None or len(other.x0) < n else other.x0[_spread(len(other.x0), n)]
    if len(pipe.shape) == 1:
        sets = [FeatureSet.points(v) if v is not None else None for v in (x, real, reference.x0)]
        return _measure(POINTS, *sets)
    extract, reader = _extractor(pipe, other or reference, say)
    sets = [None if v is None else extract.features(v.split(CHUNK)) for v in (x, real, reference.x0)]
    found = _measure(FEATURES, *sets)
    if reader is None or pipe.classes is None:
        return found
    shares = [_recognised(reader, extract, x, torch.tensor(cast("list[int]", asked)))]
    if held is not None:
        shares.append(_recognised(reader, extract, reference.x0, reference.cond["y"]))
    return Evaluation(model=[shares[0], *found.model], real=[*shares[1:], *found.real])


def held_out(data: Dataset) -> Dataset | None:
    """Return the part of `data` that a model trained on it has not seen, None where the data has none."""
    if is_dataclass(data) and any(f.name == "held_out" for f in fields(data)):
        return cast(Dataset, replace(cast(Any, data), held_out=True))
    return None


def rows(data: Dataset, most: int) -> Batch:
    """Return the rows of `data`, at most `most` of them, spread evenly."""
    index = list(range(len(data))) if len(data) <= most else _spread(len(data), most)
    return data.batch(index, Noise(index))


def _spread(total: int, n: int) -> list[int]:
    return [i * total // n for i in range(n)]


def _extractor(pipe: Pipeline, train: Batch, say: Say) -> tuple[Extractor, Classifier | None]:
    channels, height, width = pipe.shape
    if pipe.classes is None or height != width or height < 4:
        return Extractor(lambda x: x.flatten(1), name="pixels", resize=Resize(size=8)), None
    say("training the classifier that reads the samples", 0, 1)
    config = ClassifierConfig(classes=len(pipe.classes), in_channels=channels, size=height)
    reader = fit_classifier(train.x0, train.cond["y"], config)
    return Extractor(reader.features), reader


def _measure(metrics: Sequence[Any], x: Any, real: Any, reference: Any) -> Evaluation:
    every = [*metrics]
    found: list[list[Figure]] = []
    for side in (x, real):
        figures = [] if side is None else [metric(side, reference) for metric in every]
        if side is not None and FEATURES[0] in metrics:
            size = min(side.n, reference.n)
            figures.insert(1, kernel_distance(side, reference, subsets=10, size=min(size, 100)))
        found.append(figures)
    return Evaluation(model=found[0], real=found[1])


def _recognised(reader: Classifier, extract: Extractor, x: Tensor, y: Tensor) -> Figure:
    return Figure(
        name="class_recognised",
        value=reader.accuracy(x, y),
        better="higher",
        n=len(x),
        n_reference=0,
        network=extract.id,
        resize="none",
        reference="",
    )
