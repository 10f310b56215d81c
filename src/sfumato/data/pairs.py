"""Pairs of noise and what a model makes of it: the data that a flow is straightened with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..core import Denoiser, InputError, Noise, Solver, fold, sample
from .dataset import Tensors


def pairs(
    denoiser: Denoiser,
    n: int,
    shape: Sequence[int],
    *,
    solver: Solver,
    grid: Tensor,
    seed: int = 0,
    cond: Mapping[str, Tensor] | None = None,
    chunk: int = 1000,
) -> Tensors:
    """Return `n` rows (x_0, cond["eps"]): eps is noise and x_0 where the flow takes it (arXiv 2209.03003, sec. 2).

    Train on them with `objectives.Denoising(coupling=objectives.Given())`. `shape` is that of one x_0, `cond` has a row
    for each pair. The pairs carry the error of `solver` on `grid`: 50 steps of Heun or more are right.
    Raises `InputError` for a solver that draws noise: its ends do not belong to their starts.
    """
    if solver.stochastic:
        raise InputError(f"{solver} draws noise, so that an end does not belong to its start: give a deterministic one")
    cond = {} if cond is None else dict(cond)
    starts, ends = list[Tensor](), list[Tensor]()
    for rows in torch.arange(n).split(chunk):
        noise = Noise([fold("pairs", seed, i) for i in rows.tolist()])
        given = {k: v[rows] for k, v in cond.items()}
        starts.append(noise.normal((len(rows), *shape), "start"))  # as `sample` draws it
        ends.append(sample(denoiser, starts[-1].shape, solver=solver, grid=grid, seeds=noise, cond=given).cpu())
    return Tensors(torch.cat(ends), {"eps": torch.cat(starts), **cond})
