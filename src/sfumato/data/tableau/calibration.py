"""What the exact teacher does: points of reference for editing, guidance and few steps, as a table.

`python -m sfumato.data.tableau.calibration` measures all rows, in some minutes on one core.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...core import Noise, VPCosine, grids, sample
from ...guidance import ClassifierFree
from ...solvers import DDIM
from .exact import SubWorld
from .parsing import parse

SCHEDULE = VPCosine()
START = 0.995  # of every run: the cosine has no signal at all above
CLEAN = {
    1: 0.02,
    2: 0.01,
}  # the mean squared distance to the nearest scene below which a picture of 1 or 2 objects is clean
WIDE = {"shape", "colour", "size", "place", "ground"}


def drawn(
    world: SubWorld, caption: str, seeds: Sequence[int], steps: int, scale: float = 1.0, start: float = START
) -> Tensor:
    """Return one picture of `caption` a seed, by `steps` steps of DDIM on the exact teacher, guided by `scale`."""
    allowed = world.allowed([parse(caption)]).expand(len(seeds), -1)
    denoiser = ClassifierFree(denoiser=world.denoiser(SCHEDULE), scale=scale)
    shape = (len(seeds), *world.shape)
    grid = grids.uniform(SCHEDULE, steps, start=start)
    return sample(denoiser, shape, solver=DDIM(), grid=grid, seeds=seeds, cond={"allowed": allowed})


def attributes(world: SubWorld, pictures: Tensor) -> dict[str, Tensor]:
    """Return what the nearest scenes are, int64[B] by name: of the first object, its place and the ground."""
    scenes = world.scenes[world.nearest(pictures)[0]]
    place = (scenes.x[:, 0] * 1000).round().long() * 1000 + (scenes.y[:, 0] * 1000).round().long()
    values = {name: getattr(scenes, name)[:, 0] for name in ("shape", "colour", "size")}
    return values | {"place": place, "ground": scenes.ground_colour[:, 0]}


def one_step(world: SubWorld, t: float, n: int = 256) -> float:
    """Return the share of scenes that E[x_0 | x_t] without a caption still shows, for x_t from the scenes themselves.

    t is counted as in alpha = cos(pi t / 2).
    """
    angle = torch.tensor(torch.pi * t / 2, dtype=torch.float64)
    alpha, sigma = angle.cos().item(), angle.sin().item()
    index = (Noise(range(n)).uniform("calibration") * len(world)).long()
    x = alpha * world.points[index] + sigma * Noise(range(n)).normal((n, *world.shape), "calibration").double()
    mean = world.posterior_mean(x.flatten(1), alpha, sigma, {})
    return float((world.nearest(mean.unflatten(1, world.shape))[0] == index).double().mean())


def few_steps(
    world: SubWorld, caption: str, scale: float, steps: Sequence[int], n: int = 64
) -> Iterator[tuple[int, float, float]]:
    """Yield (steps, the share of clean pictures, the share that ends at the scene of 100 steps)."""
    end = world.nearest(drawn(world, caption, range(n), 100, scale))[0]
    for k in steps:
        index, residual = world.nearest(drawn(world, caption, range(n), k, scale))
        yield k, float((residual < CLEAN[world.objects]).double().mean()), float((index == end).double().mean())


def swap(world: SubWorld, before: str, after: str, scale: float, n: int = 64, shift: int = 0) -> dict[str, float]:
    """Return how often the caption `after` gives what `before` gave with the same seed, by attribute.

    `shift` is added to the seeds of `after`: another seed is what chance keeps.
    """
    old = attributes(world, drawn(world, before, range(n), 50, scale))
    new = attributes(world, drawn(world, after, range(shift, shift + n), 50, scale))
    return {name: float((old[name] == new[name]).double().mean()) for name in old}


def main() -> None:
    """Print the table."""
    one, two = SubWorld(), SubWorld.pairs()
    print("| what | measured |\n|---|---|")
    times = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    shares = " / ".join(f"{one_step(one, t):.0%}" for t in times)
    print(f"| the scene read from E[x₀ given x_t] of a real picture, t = {' / '.join(map(str, times))} | {shares} |")
    for world, caption in ((one, "a red circle"), (two, "a red circle and a blue square")):
        for scale in (1.0, 3.0):
            steps, clean, same = zip(*few_steps(world, caption, scale, (1, 2, 4, 8, 16)), strict=True)
            name = f"{world.objects} object{'s' * (world.objects > 1)}, w = {scale:g}"
            print(f"| {name}: clean at {' / '.join(map(str, steps))} steps | {' / '.join(f'{c:.0%}' for c in clean)} |")
            print(f"| {name}: the scene of 100 steps | {' / '.join(f'{e:.0%}' for e in same)} |", flush=True)
    for before, after in (("a red circle", "a blue circle"), ("a red circle", "a red square")):
        for scale, shift in ((1.0, 0), (3.0, 0), (1.0, 10_000)):
            kept = swap(one, before, after, scale, shift=shift)
            seed = "same seed" if not shift else "another seed"
            shares = ", ".join(f"{name} {share:.0%}" for name, share in kept.items())
            print(f"| {before} to {after}, {seed}, w = {scale:g}: kept | {shares} |", flush=True)
    for scale in (1.0, 3.0):
        kept = swap(one, "a red circle", "a red circle", scale, shift=10_000)
        print(f"| two seeds of one caption, w = {scale:g}: agree in size | {kept['size']:.0%} |")


if __name__ == "__main__":
    main()
