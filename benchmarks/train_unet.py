"""P9, P10: one training step of a U-Net of 9.0 M parameters on 16 pictures of 3x32x32, against diffusers' usual loop.

The peer: noise, `DDPMScheduler.add_noise`, `UNet2DModel`, mean squared error, backward, `clip_grad_norm_`, `AdamW`,
`EMAModel`. Ours: the `Denoising` objective, backward, the trainer's update: clipping, optimiser and average. P9's
first rows are the same network (heads of 8) on the same weights, the next our default one (heads of 64) against the
peer's default; P10 is clipping, optimiser and average alone. The error is that of the gradient of a fixed loss against
the float32 gradient of the peer's network of the same head width.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from diffusers_unet import converted, ours, peer
from harness import compare, finish

import sfumato as sf
from sfumato.core import Batch, Noise
from sfumato.nets.unet import small
from sfumato.objectives import Denoising
from sfumato.train import TrainConfig
from sfumato.train.distributed import World
from sfumato.train.state import State

BATCH, LR, CLIP = 16, 2e-4, 1.0
F32, BF16 = torch.float32, torch.bfloat16


def pair(head_width):
    """Return (diffusers' network, ours) with heads of that width and the same random weights."""
    torch.manual_seed(0)
    config = replace(small(), head_width=head_width)
    theirs = peer(config)
    return theirs, ours(config, theirs.state_dict())


class Peer:
    """The loop of diffusers' training scripts."""

    def __init__(self, net, dtype):
        from diffusers import DDPMScheduler
        from diffusers.training_utils import EMAModel

        self.net, self.dtype = net.train(), dtype
        self.scheduler = DDPMScheduler()
        self.optimiser = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=0.0)
        self.ema = EMAModel(net.parameters(), decay=0.9999)

    def step(self, x0):
        noise = torch.randn_like(x0)
        t = torch.randint(0, 1000, (len(x0),))
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != F32):
            out = self.net(self.scheduler.add_noise(x0, noise, t), t).sample
            loss = F.mse_loss(out.float(), noise)
        loss.backward()
        self.update()
        self.optimiser.zero_grad()
        return loss.item()

    def update(self):
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self.optimiser.step()
        self.ema.step(self.net.parameters())


class Ours:
    """What `Trainer` does in a step."""

    def __init__(self, net, dtype):
        config = TrainConfig(steps=1000, batch_size=BATCH, lr=LR, clip=CLIP)
        self.dtype = dtype
        self.denoiser = sf.Preconditioned(net.train(), sf.VPLinear(), sf.Eps())
        self.objective = Denoising()
        self.state = State(net, config, World())
        self.seed = 0

    def step(self, x0):
        noise = Noise(range(self.seed, self.seed + len(x0)))
        self.seed += len(x0)
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != F32):
            losses = self.objective(self.denoiser, Batch(x0, {}), noise)
        loss = losses.mean()
        loss.backward()
        self.state.update(loss.item())


def gradient(net, dtype, config=None):
    """Return the gradient of one fixed loss as one vector in the order of our parameters (`config`: of a peer)."""
    generator = torch.Generator().manual_seed(1)
    x, target = (torch.randn(4, 3, 32, 32, generator=generator) for _ in range(2))
    net.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype != F32):
        out = net(x, torch.tensor([10.0, 300.0, 600.0, 990.0]))
    F.mse_loss(getattr(out, "sample", out).float(), target).backward()
    grads = {n: p.grad.clone() for n, p in net.named_parameters()}
    net.zero_grad()
    if config is not None:
        grads = converted(config, grads)
    return torch.cat([grads[n].flatten() for n in sorted(grads)])


def main():
    torch.set_num_threads(1)
    x0 = torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    rows = (
        ("P9 same network, float32", F32, 8, 1.0, 1.05),
        ("P9 same network, bf16 over its float32", BF16, 8, 1.4, 1.55),
        ("P9 default network, float32", F32, 64, 1.15, 1.25),
        ("P9 default network, bf16 over its float32", BF16, 64, 1.6, 1.9),
    )
    distance = lambda a, b: float((a - b).norm() / b.norm())
    for name, dtype, width, floor, goal in rows:
        theirs, net = pair(width)
        exact = gradient(theirs, F32, net.config)
        bar = 1e-5 if dtype == F32 else distance(gradient(theirs, dtype, net.config), exact)
        error = distance(gradient(net, dtype), exact)
        baseline, own = Peer(pair(8)[0], F32), Ours(net, dtype)
        compare(
            name,
            peer=lambda baseline=baseline: baseline.step(x0),
            ours=lambda own=own: own.step(x0),
            floor=floor,
            goal=goal,
            error=lambda error=error: error,
            bar=bar,
        )

    theirs, net = pair(8)
    for network in (theirs, net):
        for p in network.parameters():
            p.grad = torch.randn_like(p)
    baseline, own = Peer(theirs, F32), Ours(net, F32)
    zero_grad = own.state.optimiser.zero_grad
    own.state.optimiser.zero_grad = lambda set_to_none=True: None  # the same gradients every round, for both
    compare(
        "P10 clip + optimiser + EMA",
        peer=baseline.update,
        ours=lambda: own.state.update(1.0),
        rounds=21,
        floor=1.8,
        goal=2.2,
    )
    zero_grad()


if __name__ == "__main__":
    main()
    finish()
