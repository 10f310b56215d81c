"""The likelihood of a pipeline on data: bits per dimension by the probability-flow ODE."""

from __future__ import annotations

from ..core import InputError, device_of, fold, grids
from ..data import Dataset
from ..measure import Figure, Likelihood, Rademacher, log_likelihood
from ..measure.likelihood import join
from ..pipeline import Pipeline
from .evaluation import CHUNK, Say, held_out, rows

STEPS = 16  # of Kutta's method: on digits, 50 steps change the result by a fifth of its standard error
LOW = 0.002  # the last noise level: far below the width of a pixel's level


def bits_per_dim(
    pipe: Pipeline, data: Dataset, n: int, seed: int = 0, say: Say = lambda what, done, of: None, *, steps: int = STEPS
) -> Figure:
    """Return the bits per dimension of at most `n` rows of the held-out part of `data` (of all where there is none).

    Given their conditions, with one Rademacher probe a row. Data on a lattice (`data.bin`) is dequantised uniformly,
    which makes the figure an upper bound; for other data it is that of the density. Ctrl-C gives the figure of the rows
    that are done, where there are any. Raises `InputError` for data of another shape than the model's.
    """
    if data.shape != pipe.shape:
        raise InputError(f"the data is {data.shape}, the model {pipe.shape}: give the data that it was trained on")
    measured = held_out(data) or data
    batch = rows(measured, n)
    schedule, device, count = pipe.denoiser.schedule, device_of(pipe.denoiser), len(batch.x0)
    grid = grids.log_snr(schedule, steps + 1, sigma_min=LOW)
    parts: list[Likelihood] = []
    note = ""
    say("likelihood", 0, count)
    try:
        for start in range(0, count, CHUNK):
            part = slice(start, start + CHUNK)
            x = batch.x0[part].to(device)
            cond = {key: value[part].to(device) for key, value in batch.cond.items() if key in pipe.denoiser.cond}
            seeds = [fold("likelihood", seed, start + i) for i in range(len(x))]

            def told(done: int, of: int, start: int = start, size: int = len(x)) -> None:
                say("likelihood", start + size * done // of, count)

            trace = Rademacher()
            parts.append(
                log_likelihood(
                    pipe.denoiser, x, grid=grid, trace=trace, seeds=seeds, cond=cond, bin=data.bin, callback=told
                )
            )
    except KeyboardInterrupt:
        if not parts:
            raise
        note = f"stopped before the other {count - sum(p.draws.shape[1] for p in parts)} rows; "
    found = join(parts)
    kind = "of the density" if data.bin is None else f"an upper bound: dequantised in bins of {data.bin:g}"
    return Figure(
        name="bits_per_dim",
        value=found.bits_per_dim,
        better="lower",
        error=found.bits_error,
        n=found.draws.shape[1],
        n_reference=0,
        network="probability-flow ODE",
        resize="none",
        reference=measured.fingerprint,
        settings=f"RK4, {steps} steps of ln s to {LOW}, 1 Rademacher probe, bin {data.bin}",
        note=f"{note}{kind}; {found.mean:.5g} ± {found.error:.2g} nats a row",
    )
