"""A part of the world that is small enough to list, and its exact conditional denoiser: the teacher without error.

Whatever is measured with a trained model (samplers, guidance, editing, inversion, distillation) can be measured here on
a denoiser that is right to rounding. It has no attention and lacks a network's smoothness: its figures are points of
reference, not promises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from ...core import InputError, Noise, Schedule, check_cond, fold, register
from .claims import Claims, Facts, facts, true
from .paint import paint
from .scene import COLOURS, GROUND_COLOURS, MAX_OBJECTS, RADII, SHAPES, SIZES, Scenes, number

_TINY = 1e-300  # the variance at sigma = 0: only the nearest scene is left
_MOST = 20_000  # scenes


@register
@dataclass(frozen=True, kw_only=True)
class SubWorld:
    """Every scene of `objects` plain, unturned objects on a lattice of `places` x `places`, on plain grounds, once.

    Every object has each of `shapes`, `colours` and `sizes`; two objects stand on different places, and which is named
    first makes no difference, so no scene occurs twice. `grain` is the standard deviation of noise on the pictures:
    without it a picture is a point, and the exact flow takes it to a latent of far too small a variance.
    The defaults are 4,704 scenes of one object; `SubWorld.pairs()` has 5,832 of two.

    Raises `InputError` for words that are not in the vocabulary, more than two objects, and more than 20,000 scenes.
    """

    objects: int = 1
    side: int = 24
    shapes: tuple[str, ...] = ("circle", "square", "triangle", "star")
    colours: tuple[str, ...] = ("red", "yellow", "green", "blue")
    sizes: tuple[str, ...] = ("small", "medium")
    grounds: tuple[str, ...] = ("beige", "slate", "mauve")
    places: int = 7
    margin: float = 0.27
    grain: float = 0.0

    def __post_init__(self) -> None:
        for words, known, what in self._words:
            for word in words:
                number(known, word, what)
        if self.objects not in (1, 2):
            raise InputError(f"a sub-world has 1 or 2 objects, got {self.objects}")
        if self.places < 1 or not 0 < self.margin <= 0.5 or self.grain < 0:
            raise InputError("a sub-world needs places >= 1, 0 < margin <= 0.5 and grain >= 0")
        if len(self._table) > _MOST:
            raise InputError(f"{len(self._table)} scenes are too many to list; {_MOST} at most: give fewer values")

    @classmethod
    def pairs(cls, **settings: Any) -> SubWorld:
        """Return the sub-world of two small objects of three shapes and colours on 3 x 3 places and two grounds."""
        few: dict[str, Any] = {
            "objects": 2,
            "shapes": ("circle", "square", "triangle"),
            "colours": ("red", "green", "blue"),
            "sizes": ("small",),
            "grounds": ("beige", "slate"),
            "places": 3,
            "margin": 0.2,
        }
        return cls(**(few | settings))

    @property
    def _words(self) -> tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...]:
        return (
            (self.shapes, SHAPES, "shape"),
            (self.colours, COLOURS, "colour"),
            (self.sizes, SIZES, "size"),
            (self.grounds, GROUND_COLOURS, "ground colour"),
        )

    @cached_property
    def _table(self) -> Tensor:
        """int64[n, objects, 5]: of each object shape, colour, size, place, and the ground, as places in their lists."""
        counts = [len(self.shapes), len(self.colours), len(self.sizes), self.places**2, len(self.grounds)]
        one = torch.cartesian_prod(*(torch.arange(k) for k in counts)).view(-1, len(counts))
        if self.objects == 1:
            return one[:, None]
        if len(one) ** 2 > 100 * _MOST**2:
            raise InputError(f"pairs of {len(one)} objects are too many to list: give fewer values")
        first, second = one[:, None], one[None]
        earlier = (first[..., 3] < second[..., 3]) & (first[..., 4] == second[..., 4])
        i, j = earlier.nonzero().unbind(1)
        return torch.stack([one[i], one[j]], 1)

    @cached_property
    def scenes(self) -> Scenes:
        """All scenes."""
        n = len(self._table)
        shape, colour, size, ground = (torch.tensor([known.index(w) for w in words]) for words, known, _ in self._words)
        columns = self._table.unbind(2)
        line = torch.linspace(self.margin, 1 - self.margin, self.places) if self.places > 1 else torch.tensor([0.5])

        def spread(values: Tensor) -> Tensor:
            return torch.cat([values, values.new_zeros(n, MAX_OBJECTS - self.objects)], 1)

        nothing = torch.zeros(n, dtype=torch.int64)
        sizes = size[columns[2]]
        return Scenes(
            count=torch.full((n,), self.objects),
            shape=spread(shape[columns[0]]),
            colour=spread(colour[columns[1]]),
            size=spread(sizes),
            texture=spread(torch.zeros_like(sizes)),
            x=spread(line[columns[3] % self.places]),
            y=spread(line[columns[3] // self.places]),
            radius=spread(torch.tensor(RADII)[sizes]),
            turn=spread(torch.zeros(n, self.objects)),
            ground=nothing,
            ground_colour=ground[columns[4][:, 0]][:, None].expand(-1, 2).clone(),
            ground_angle=nothing.float(),
            ground_seed=nothing,
        )

    @cached_property
    def points(self) -> Tensor:
        """The pictures of all scenes without grain, float64[n, 3, side, side] in [-1, 1]."""
        return paint(self.scenes, self.side).double()

    @cached_property
    def _facts(self) -> list[Facts]:
        return facts(self.scenes)

    def __len__(self) -> int:
        return len(self._table)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one picture."""
        return (3, self.side, self.side)

    @property
    def cond(self) -> Mapping[str, Any]:
        """`allowed`, bool[B, n]: the scenes that a picture may show; true for all is its null value."""
        return {"allowed": True}

    def allowed(self, claims: Sequence[Claims]) -> Tensor:
        """Return bool[B, n]: which scenes each caption holds of, the condition of the denoiser.

        Raises `InputError` for a caption that holds of none.
        """
        out = torch.tensor([[true(c, known) for known in self._facts] for c in claims], dtype=torch.bool)
        none = (~out.any(1)).nonzero()[:, 0].tolist()
        if none:
            raise InputError(f"caption {none[0]} holds of no scene of this sub-world: {claims[none[0]]}")
        return out

    def sample(self, n: int, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return n pictures drawn with replacement, grain included; draw i depends on (seed, i) alone."""
        noise = Noise([fold("sub-world", seed, i) for i in range(n)])
        index = (noise.uniform("scene") * len(self)).long()
        return (self.points[index] + self.grain * noise.normal((n, *self.shape), "grain").double()).to(dtype)

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest scene of each picture [B, 3, S, S], int64[B], and how far it is.

        int64[B], and the mean squared distance, float64[B].
        """
        flat, points = x.double().flatten(1), self.points.flatten(1)
        square = flat.square().sum(1, keepdim=True) - 2 * flat @ points.T + points.square().sum(1)
        least, index = square.min(1)
        return index, least.clamp(min=0) / flat.shape[1]

    def denoiser(self, schedule: Schedule) -> Teacher:
        """Return the exact denoiser under a schedule."""
        return Teacher(world=self, schedule=schedule)

    def posterior_mean(self, x: Tensor, alpha: Any, sigma: Any, cond: Mapping[str, Tensor]) -> Tensor:
        """Return E[x_0 | x, cond], float64[B, D], for x [B, D] = alpha x_0 + sigma eps.

        With m = sum_i w_i p_i over the allowed pictures p_i, v = alpha^2 grain^2 + sigma^2 and
        w_i ~ exp((alpha x . p_i - alpha^2 |p_i|^2 / 2) / v), it is m + alpha grain^2 / v (x - alpha m).
        """
        points = self.points.flatten(1).to(x.device)
        fit = alpha * (x @ points.T) - 0.5 * alpha**2 * points.square().sum(1)
        allowed = cond.get("allowed")
        if allowed is not None:
            if allowed.shape != fit.shape or not bool(allowed.any(1).all()):
                raise InputError(f"allowed must be bool[{len(x)}, {len(self)}] with a scene in each row")
            fit = fit.masked_fill(~allowed.to(x.device), -torch.inf)
        spread = alpha**2 * self.grain**2 + sigma**2
        spread = spread.clamp(min=_TINY) if isinstance(spread, Tensor) else max(spread, _TINY)
        mean = ((fit - fit.amax(1, keepdim=True)) / spread).softmax(1) @ points
        return mean + alpha * self.grain**2 / spread * (x - alpha * mean)


@dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
    """E[x_0 | x_t, allowed] of a `SubWorld`, in float64 by two matrix products, returned in the dtype of x.

    It takes `allowed`, from `SubWorld.allowed`. Rows agree to rounding whatever the batch.
    """

    world: SubWorld
    schedule: Schedule

    @property
    def cond(self) -> Mapping[str, Any]:
        """The sub-world's condition."""
        return self.world.cond

    def __call__(self, x: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        """Return E[x_0 | x_t = x, cond]."""
        check_cond(self.cond, cond)
        if x.shape[1:] != self.world.shape:
            raise InputError(f"x has shape {tuple(x.shape)}, but a picture here has shape {self.world.shape}")
        alpha, sigma = self.schedule(cast(Any, t))
        if isinstance(t, Tensor):
            if t.shape != x.shape[:1]:
                raise InputError(f"t has shape {tuple(t.shape)} for {len(x)} rows: give a float or one time a row")
            alpha, sigma = (cast(Tensor, v).double().to(x.device)[:, None] for v in (alpha, sigma))
        mean = self.world.posterior_mean(x.double().flatten(1), alpha, sigma, cond)
        return mean.unflatten(1, x.shape[1:]).to(x.dtype)
