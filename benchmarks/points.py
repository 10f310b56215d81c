"""P3: sampling 2-D points in 50 DDIM steps with a perceptron of width 128, against diffusers' loop on the same network.

The peer does what its users do: a scheduler step a time step, and the network whole, time embedding included. Ours is
`sf.sample`, eager. Both visit the same 50 of 1000 indices, from the same start; outputs are compared.
"""

import torch
from harness import compare, finish

import sfumato as sf
from sfumato.core import Noise

STEPS = 50
SIZES = ((1, 2.0, 3.0), (64, 1.6, 2.1))  # points, floor, goal


def peer_run(net, scheduler, x):
    scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t.float().expand(len(x))), t, x).prev_sample
    return x


def main():
    from diffusers import DDIMScheduler

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = sf.nets.MLPConfig(width=128, layers=3).build().eval()
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    schedule = sf.Table.from_betas(scheduler.betas)
    denoiser = sf.Preconditioned(net, schedule, sf.Eps(), sf.Plain(scale=1000.0, shift=-1.0))
    solver, grid = sf.solvers.DDIM(), sf.grids.trailing(schedule, STEPS)
    for points, floor, goal in SIZES:
        seeds = Noise(range(points))
        start = seeds.normal((points, 2), "start")
        peer = lambda start=start: peer_run(net, scheduler, start)
        ours = lambda start=start, seeds=seeds: sf.sample(denoiser, solver=solver, grid=grid, seeds=seeds, x=start)

        def error(peer=peer, ours=ours):
            expected = peer()
            return float((ours() - expected).abs().max() / expected.abs().max())

        compare(
            f"P3 50 steps, MLP 128, {points} points",
            peer=peer,
            ours=ours,
            floor=floor,
            goal=goal,
            rounds=31,
            error=error,
        )


if __name__ == "__main__":
    main()
    finish()
