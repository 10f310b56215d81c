"""P10: optimiser, averages and clipping of a 9 M network. P11: a training step on points, the whole Trainer's loop.

Peers, for the same work on the same weights, data order aside:
- diffusers' way (its train_unconditional script): DDPMScheduler.add_noise, AdamW, clip_grad_norm_, and its EMAModel;
- smalldiffusion's way: a sigma from its table for each row, Adam, and an average kept by PyTorch's AveragedModel.

Run: python benchmarks/train_toy.py
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from harness import compare, finish
from torch import Tensor, nn

from sfumato.core import Eps, Preconditioned, VPLinear
from sfumato.data import Tensors
from sfumato.nets import MLPConfig
from sfumato.objectives import Denoising
from sfumato.train import TrainConfig, Trainer
from sfumato.train.distributed import World
from sfumato.train.state import State

torch.set_num_threads(1)
BATCH, STEPS, ROWS = 256, 200, 10_000


class Many(nn.Module):
    """9 M parameters in 180 tensors, as a small U-Net has them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(316, 316) for _ in range(90))
        self.cond: dict[str, Any] = {}


def gradients(net: nn.Module) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(p.shape, generator=generator) for p in net.parameters()]


def optimiser_and_average() -> None:
    from diffusers.training_utils import EMAModel

    theirs, mine = Many(), Many()
    mine.load_state_dict(theirs.state_dict())
    peer_optimiser = torch.optim.AdamW(theirs.parameters(), lr=1e-4, weight_decay=0.0)
    peer_average = EMAModel(theirs.parameters(), decay=0.9999, min_decay=0.9999)
    settings = TrainConfig(
        steps=1 << 20, batch_size=16, lr=1e-4, ema=(16 / -torch.log2(torch.tensor(0.9999)).item(),), ema_ramp=None
    )
    state = State(mine, settings, World())
    grads = {theirs: gradients(theirs), mine: gradients(mine)}

    def put(net: nn.Module) -> None:
        for p, g in zip(net.parameters(), grads[net], strict=True):
            p.grad = g  # clipping scales it in place, the same for both

    def peer() -> None:
        for _ in range(5):
            put(theirs)
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            peer_optimiser.step()
            peer_optimiser.zero_grad()
            peer_average.step(theirs.parameters())

    def ours() -> None:
        for _ in range(5):
            put(mine)
            state.update(1.0)
            state.tally.step += 1

    def error() -> float:
        return max(
            float((a - b).detach().abs().max()) for a, b in zip(theirs.parameters(), mine.parameters(), strict=True)
        )

    compare("P10 clip + AdamW + EMA, 9 M parameters", peer=peer, ours=ours, floor=1.8, goal=2.2, error=error, bar=1e-5)


def build() -> nn.Module:
    torch.manual_seed(0)
    return MLPConfig(width=128).build()


def trainer(net: nn.Module, data: Tensor, steps: int = STEPS) -> Trainer:
    settings = TrainConfig(steps=steps, batch_size=BATCH, lr=1e-3, ema=(16_000.0,), ema_ramp=None)
    return Trainer(Preconditioned(net, VPLinear(), Eps()), Denoising(), Tensors(data), settings, quiet=True)


def diffusers_loop(net: nn.Module, data: Tensor) -> Any:
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, TensorDataset

    scheduler = DDPMScheduler()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0)
    average = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True)
    loader = DataLoader(TensorDataset(data), batch_size=BATCH, shuffle=True, drop_last=True)
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1.0)

    def run() -> float:
        step, total = 0, 0.0
        while True:
            for (clean,) in loader:
                noise = torch.randn(clean.shape)
                times = torch.randint(0, 1000, (len(clean),)).long()
                noisy = scheduler.add_noise(clean, noise, times)
                loss = F.mse_loss(net(noisy, times.float()), noise)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimiser.step()
                rates.step()
                optimiser.zero_grad()
                average.step(net.parameters())
                total += loss.detach().item()
                step += 1
                if step == STEPS:
                    return total / STEPS

    return run


def smalldiffusion_loop(net: nn.Module, data: Tensor) -> Any:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
    from torch.utils.data import DataLoader, TensorDataset

    sigmas = torch.logspace(-2, 1, 200)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9999))
    loader = DataLoader(TensorDataset(data), batch_size=BATCH, shuffle=True, drop_last=True)

    def run() -> float:
        step, total = 0, 0.0
        while True:
            for (clean,) in loader:
                sigma = sigmas[torch.randint(len(sigmas), (len(clean),))].unsqueeze(-1)
                noise = torch.randn_like(clean)
                optimiser.zero_grad()
                noisy = (clean + sigma * noise) / (1 + sigma**2).sqrt()
                loss = nn.MSELoss()(net(noisy, sigma.squeeze(-1).log()), noise)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimiser.step()
                average.update_parameters(net)
                total += loss.item()
                step += 1
                if step == STEPS:
                    return total / STEPS

    return run


def step_on_points() -> None:
    data = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(1))
    base = build()
    for name, loop, floor, goal in (
        ("diffusers", diffusers_loop, 1.15, 1.25),
        ("smalldiffusion", smalldiffusion_loop, 1.25, 1.4),
    ):
        losses: dict[str, float] = {}
        peer = loop(copy.deepcopy(base), data)

        def theirs(peer: Any = peer, losses: dict[str, float] = losses) -> None:
            losses["peer"] = peer()

        def ours(losses: dict[str, float] = losses) -> None:
            losses["ours"] = trainer(copy.deepcopy(base), data).train().loss

        compare(
            f"P11 {STEPS} steps of 256 points, MLP 128, against {name}", peer=theirs, ours=ours, floor=floor, goal=goal
        )


if __name__ == "__main__":
    optimiser_and_average()
    step_on_points()
    finish()
