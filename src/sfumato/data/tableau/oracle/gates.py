"""The oracle's own error, measured on clean pictures, after a round trip, and on pictures that are not of the world."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ....core import Noise, fold
from .. import shapes
from ..claims import ATTRIBUTES
from ..paint import grounds, paint, visible
from ..relations import SLACK, within
from ..sampling import Law, sample_scenes
from ..scene import COLOURS, MAX_OBJECTS, Scenes, palette
from .read import read

SINGLE = Law(counts=(1.0, 0.0, 0.0, 0.0))
CROWDED = Law(counts=(0.0, 0.35, 0.2, 0.15))
TURN = 0.15  # radians within which a turn is right
_FIRST = 1 << 40  # the seeds of the gates begin here, away from those of data sets


def scenes(n: int, law: Law, what: str) -> Scenes:
    """Return n scenes of a law; `what` keeps those of one gate from those of another."""
    return sample_scenes([_FIRST + fold("oracle", what, i) % _FIRST for i in range(n)], law)


def matched(seen: Scenes, truth: Scenes) -> Tensor:
    """Return int64[B, M], which object of `seen` each object of `truth` is.

    The assignment of least distance, where another colour counts as much as the whole side, is taken; what has no
    partner is given a place that holds no object.
    """
    away = torch.hypot(truth.x[:, :, None] - seen.x[:, None], truth.y[:, :, None] - seen.y[:, None])
    away = away + (truth.colour[:, :, None] != seen.colour[:, None])
    both, one = truth.present[:, :, None] & seen.present[:, None], truth.present[:, :, None] ^ seen.present[:, None]
    away = away * both + 10.0 * one
    orders = torch.tensor(list(itertools.permutations(range(MAX_OBJECTS))))
    slots = torch.arange(MAX_OBJECTS)
    return orders[torch.stack([away[:, slots, o].sum(1) for o in orders], 1).argmin(1)]


def objects_right(seen: Scenes, truth: Scenes, side: int) -> dict[str, Tensor]:
    """Return bool[B, M] for each attribute, the place and the turn: which objects of the truth are seen so.

    A place is right within a pixel, a turn within 0.15 radians, and always where an object has none.
    """
    which = matched(seen, truth)
    there = seen.present.gather(1, which) & truth.present
    got = {name: value.gather(1, which) for name, value in seen.arrays().items() if value.shape == seen.x.shape}
    right = {name: (got[name] == getattr(truth, name)) & there for name in ATTRIBUTES}
    right["place"] = (torch.hypot(got["x"] - truth.x, got["y"] - truth.y) * side < 1) & there
    order = torch.tensor(shapes.SYMMETRY)[truth.shape]
    period = 2 * math.pi / order.clamp(min=1)
    off = ((got["turn"] - truth.turn + period / 2).remainder(period) - period / 2).abs()
    right["turn"] = ((off < TURN) | (order == 0)) & there
    return right


def pictures_right(seen: Scenes, truth: Scenes, side: int) -> dict[str, Tensor]:
    """Return bool[B] for the number of objects, the ground with its colours, and for everything, turns left aside."""
    objects = objects_right(seen, truth, side)
    every = torch.stack([objects[name] for name in (*ATTRIBUTES, "place")]).all(0) | ~truth.present
    count = seen.count == truth.count
    ground = (seen.ground == truth.ground) & (seen.ground_colour == truth.ground_colour).all(1)
    return {"count": count, "ground": ground, "all": every.all(1) & count & ground}


def agreement(seen: Scenes, truth: Scenes, side: int) -> dict[str, float]:
    """Return the shares that are read right: of objects by attribute, of relations, and of pictures.

    A relation of the truth is right where it is read with the slack.
    """
    out = {name: _share(right[truth.present]) for name, right in objects_right(seen, truth, side).items()}
    which, rows = matched(seen, truth), torch.arange(len(truth))[:, None, None]
    # what is in front of what is asked of the objects in the order in which they were read as painted
    told = within(seen, (SLACK,))[0].movedim(1, 3)[rows, which[:, :, None], which[:, None]].movedim(3, 1)
    out["relation"] = _share(told[within(truth, (0.0,))[0]])
    return out | {name: _share(right) for name, right in pictures_right(seen, truth, side).items()}


def _share(right: Tensor) -> float:
    return right.double().mean().item() if right.numel() else float("nan")


def softened(pictures: Tensor, deviation: float = 0.7, grain: float = 0.03) -> Tensor:
    """Return pictures blurred by a Gaussian of `deviation` pixels, with noise: a stand-in for a codec's round trip."""
    place = torch.arange(-3, 4).float()
    kernel = torch.exp(-(place**2) / (2 * deviation**2))
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
    padded = F.pad(pictures, (3, 3, 3, 3), mode="replicate").flatten(0, 1)[:, None]
    blurred = F.conv2d(padded, kernel[None, None]).view_as(pictures)
    return blurred + grain * Noise(range(len(pictures))).like(blurred, "softened")


def halfway(truth: Scenes, side: int) -> Tensor:
    """Return pictures whose first object has a colour half way to another's, four on in the list."""
    other = truth.colour.clone()
    other[:, 0] = (other[:, 0] + 4) % len(COLOURS)
    return (paint(truth, side) + paint(replace(truth, colour=other), side)) / 2


def morphed(truth: Scenes, side: int) -> Tensor:
    """Return pictures of single plain objects half way between two shapes: the mean of both distances is the edge."""
    back, centre = grounds(truth, side), (torch.arange(side) + 0.5) / side
    x, y, radius, turn = (getattr(truth, name)[:, 0, None, None] for name in ("x", "y", "radius", "turn"))
    dx, dy = (centre[None, None, :] - x) / radius, (centre[None, :, None] - y) / radius
    u, v = turn.cos() * dx + turn.sin() * dy, turn.cos() * dy - turn.sin() * dx
    every = torch.stack([shapes.distance(k, u, v) for k in range(len(shapes.NAMES))], 1)
    first = truth.shape[:, 0]
    rows = torch.arange(len(truth))
    mean = (every[rows, first] + every[rows, (first + 1) % len(shapes.NAMES)]) / 2
    cover = (0.5 - mean * radius * side).clamp(0, 1)[:, None]
    return torch.lerp(back, palette()[0][truth.colour[:, 0], 0][:, :, None, None].expand_as(back), cover)


def halved(truth: Scenes, side: int) -> Tensor:
    """Return pictures without the right half of the first object."""
    seen = visible(truth, side)[:, 0]
    right = (torch.arange(side) + 0.5) / side > truth.x[:, 0, None]
    gone = (seen * right[:, None])[:, None]
    bare = replace(truth, count=truth.count - 1)
    return torch.lerp(paint(truth, side), grounds(bare, side), (gone > 0).float())


def ghostly(truth: Scenes, side: int) -> Tensor:
    """Return pictures of scenes of two objects, the second at an opacity of 0.3."""
    return torch.lerp(paint(replace(truth, count=truth.count - 1), side), paint(truth, side), 0.3)


def strangers(n: int, side: int) -> dict[str, Tensor]:
    """Return n pictures each that are not of the world, by name: noise, blank ones, and ones altered by a hair."""
    noise = Noise(range(n))
    single = scenes(n, SINGLE, "altered")
    plain = replace(single, texture=torch.zeros_like(single.texture))
    tint = torch.stack([noise.uniform("blank", c) for c in range(3)], 1).float() * 2 - 1
    return {
        "noise": noise.normal((n, 3, side, side), "noise").clamp(-1, 1),
        "blank": tint[:, :, None, None].expand(-1, -1, side, side).contiguous(),
        "a ground alone": grounds(single, side),
        "colour half way to another": halfway(single, side),
        "shape half way to another": morphed(plain, side),
        "half an object missing": halved(single, side),
        "a ghost at 30 % opacity": ghostly(scenes(n, Law(counts=(0.0, 1.0, 0.0, 0.0)), "ghost"), side),
    }


def rate(n: int, side: int) -> float:
    """Return the pictures read in a second of processor time, of scenes as the law has them."""
    pictures = paint(scenes(n, Law(), "rate"), side)
    read(pictures[:32])
    start = time.process_time()
    read(pictures)
    return n / (time.process_time() - start)


def thresholds(n: int, side: int, trip: Callable[[Tensor], Tensor] = softened) -> tuple[float, float]:
    """Return the 99th percentiles of `residual` and `worst` of n pictures after a round trip that are read right."""
    truth = scenes(n, Law(), "thresholds")
    seen = read(trip(paint(truth, side)))
    good = pictures_right(seen.scenes, truth, side)["all"]
    high = [torch.quantile(value[good], 0.99).item() for value in (seen.residual, seen.worst)]
    return high[0], high[1]


def table(n: int, sides: tuple[int, ...] = (32, 64), trip: Callable[[Tensor], Tensor] | None = None) -> str:
    """Return all gates as tables: n scenes each; `trip` takes pictures through a codec and back."""
    lines: list[str] = []
    trips = {"clean": lambda p: p, "blurred and noisy": softened} | ({"after the codec": trip} if trip else {})
    for side in sides:
        for name, way in trips.items():
            for law, which in ((SINGLE, "one object"), (CROWDED, "2 to 4 objects")):
                truth = scenes(n, law, which)
                seen = read(way(paint(truth, side)))
                shares = agreement(seen.scenes, truth, side)
                if not lines:
                    lines = ["| pictures | " + " | ".join(shares) + " | valid |", "|---" * (len(shares) + 2) + "|"]
                row = " | ".join(f"{100 * share:.2f}" for share in shares.values())
                lines.append(f"| {side} px, {which}, {name} | {row} | {100 * _share(seen.valid):.1f} |")
    kinds = {side: strangers(max(64, n // 4), side) for side in sides}
    lines += [
        "",
        "| not of the world | " + " | ".join(f"valid at {side} px" for side in sides) + " |",
        "|---" * (len(sides) + 1) + "|",
    ]
    for kind in kinds[sides[0]]:
        row = " | ".join(f"{100 * _share(read(kinds[side][kind]).valid):.1f} %" for side in sides)
        lines.append(f"| {kind} | {row} |")
    lines += ["", *(f"{side} px: {rate(256, side):.0f} pictures a second of processor time" for side in sides)]
    return "\n".join(lines)
