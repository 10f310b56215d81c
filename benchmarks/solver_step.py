"""P1 and P2: what a solver's step costs around a model that costs nothing, against diffusers' schedulers.

P2 also with `compile=True`, of which the first call is not counted.

The model alternates between two fixed outputs. Ours is the whole `sample` call; the peer is its documented loop,
`set_timesteps` and then `scheduler.step` over `scheduler.timesteps`. Outputs are compared on the same
discrete schedule, prediction and grid.
"""

from __future__ import annotations

import functools

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from harness import compare, finish

import sfumato as sf

STEPS = 50
torch.set_num_threads(1)


class Fixed:
    """A denoiser that says one of two fixed tensors in turn: no arithmetic at all, as in the peer's loop."""

    def __init__(self, schedule, outputs):
        self.cond = {}
        self.schedule, self.outputs, self.turn = schedule, outputs, 0

    def __call__(self, x, t):
        self.turn ^= 1
        return self.outputs[self.turn ^ 1]


def main():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    schedule = sf.Table.from_betas(betas)
    linear = {"beta_start": 1e-4, "beta_end": 0.02, "prediction_type": "sample", "timestep_spacing": "trailing"}
    peers = {
        "DDIM": (DDIMScheduler(clip_sample=False, **linear), sf.solvers.DDIM(), (10, 10)),
        "DPM++2M": (
            DPMSolverMultistepScheduler(final_sigmas_type="zero", lower_order_final=False, **linear),
            sf.solvers.DPMpp2M(),
            (12, 12),
        ),
        "DPM++3M": (  # as it is shipped, so that the outputs can be compared; DPMpp3M costs the same
            DPMSolverMultistepScheduler(solver_order=3, final_sigmas_type="zero", lower_order_final=False, **linear),
            sf.solvers.DPMpp3MShipped(),
            (12, 12),
        ),
        "UniPC": (
            UniPCMultistepScheduler(final_sigmas_type="zero", lower_order_final=False, **linear),
            sf.solvers.UniPC(),
            (30, 30),
        ),
    }
    for shape, repeat in (((1, 2), 40), ((64, 2), 40), ((64, 4, 64, 64), 1)):
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        outputs = [torch.randn(shape, generator=torch.Generator().manual_seed(1 + i)) for i in range(2)]
        for name, (scheduler, solver, (goal_small, goal_large)) in peers.items():
            scheduler.set_timesteps(STEPS)
            grid = sf.grids.trailing(schedule, STEPS)
            denoiser = Fixed(schedule, outputs)
            x_t = noise * grid_sigma(schedule, grid)

            def peer(scheduler=scheduler, x_t=x_t, repeat=repeat, outputs=outputs):
                for _ in range(repeat):
                    x = x_t
                    scheduler.set_timesteps(STEPS)
                    for i, t in enumerate(scheduler.timesteps):
                        x = scheduler.step(outputs[i % 2], t, x).prev_sample
                return x

            def ours(compiled, denoiser=denoiser, solver=solver, grid=grid, x_t=x_t, repeat=repeat):
                for _ in range(repeat):
                    x = sf.sample(denoiser, solver=solver, grid=grid, seeds=range(len(x_t)), x=x_t, compile=compiled)
                return x

            def error(compiled, scheduler=scheduler, solver=solver, outputs=outputs, grid=grid, x_t=x_t):
                # at the end both are x0 itself, so the states are compared one step before
                scheduler.set_timesteps(STEPS)
                x = x_t
                for i, t in enumerate(scheduler.timesteps[:-1]):
                    x = scheduler.step(outputs[i % 2], t, x).prev_sample
                run = {"solver": solver, "grid": grid[:-1], "seeds": range(len(x_t)), "x": x_t, "compile": compiled}
                return relative(sf.sample(Fixed(schedule, outputs), **run), x)

            goal = goal_small if len(shape) == 2 else goal_large
            number = "P1" if len(shape) == 2 else "P2"
            title = f"{number} {name} step, {'x'.join(map(str, shape))}"
            for compiled in (False,) if len(shape) == 2 else (False, True):
                compare(
                    title + ", compiled" * compiled,
                    peer=peer,
                    ours=functools.partial(ours, compiled),
                    floor=goal / 2,
                    goal=goal,
                    error=functools.partial(error, compiled),
                )
    finish()


def grid_sigma(schedule, grid):
    return schedule(float(grid[0]))[1]


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


if __name__ == "__main__":
    main()
