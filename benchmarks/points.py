"""P3: sampling 2-D points in 50 DDIM steps with a perceptron of width 128, against diffusers' loop on the same network.

The peer does what its users do: a scheduler step a time step, and the network whole, time embedding included. Ours is
`sf.sample`, eager and with `compile=True`, of which the first call's processor time is printed; the compiler starts
from an empty folder. Both visit the same 50 of 1000 indices, from the same start; outputs are compared.
"""

import os
import tempfile

import torch
from harness import compare, finish

import sfumato as sf
from sfumato.core import Noise

STEPS = 50
SIZES = ((1, (2.0, 3.0), (4.8, 6.0)), (64, (1.6, 2.1), (2.2, 2.7)))  # points; floor and goal, eager and compiled


def peer_run(net, scheduler, x):
    scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t.float().expand(len(x))), t, x).prev_sample
    return x


def seconds(run):
    """The seconds of processor time of one call, the compiler's processes among them."""
    start = sum(os.times()[:4])
    run()
    return sum(os.times()[:4]) - start


def main():
    from diffusers import DDIMScheduler

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = sf.nets.MLPConfig(width=128, layers=3).build().eval()
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    schedule = sf.Table.from_betas(scheduler.betas)
    denoiser = sf.Preconditioned(net, schedule, sf.Eps(), sf.Plain(scale=1000.0, shift=-1.0))
    solver, grid = sf.solvers.DDIM(), sf.grids.trailing(schedule, STEPS)
    for points, *bars in SIZES:
        seeds = Noise(range(points))
        start = seeds.normal((points, 2), "start")
        peer = lambda start=start: peer_run(net, scheduler, start)
        for compiled, (floor, goal) in zip((False, True), bars, strict=True):
            ours = lambda start=start, seeds=seeds, compiled=compiled: sf.sample(
                denoiser, solver=solver, grid=grid, seeds=seeds, x=start, compile=compiled
            )

            def error(peer=peer, ours=ours):
                expected = peer()
                return float((ours() - expected).abs().max() / expected.abs().max())

            if compiled:
                print(f"first call of the compiled run: {seconds(ours):.1f} s")
            compare(
                f"P3 50 steps, MLP 128, {points} points" + ", compiled" * compiled,
                peer=peer,
                ours=ours,
                floor=floor,
                goal=goal,
                rounds=31,
                error=error,
            )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        main()
    finish()
