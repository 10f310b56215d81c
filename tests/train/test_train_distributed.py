"""Two real processes train the model that one process trains, whole or sliced, and one process takes over."""

from __future__ import annotations

import os
import subprocess
import sys

import torch
from train_toy import config, denoiser, points

from sfumato.core import LearnedVariance, Preconditioned, VPLinear
from sfumato.objectives import VLB, Denoising, Importance
from sfumato.train import DDP, FSDP, Run, Trainer, latest_checkpoint, read_metrics

PARALLEL = {"ddp": DDP(), "fsdp": FSDP(), "importance": DDP()}


def train(run: Run, kind: str, steps: int) -> Trainer:
    settings = config(steps=steps, parallel=PARALLEL[kind], accumulation=2)
    model, objective = denoiser(dropout=0.0), Denoising()
    if kind == "importance":  # it draws its steps by the losses that all processes have seen
        net = denoiser(dropout=0.0, outputs=4).net
        model, objective = Preconditioned(net, VPLinear(), LearnedVariance()), Importance(objective=VLB(T=4), keep=3)
    made = Trainer(model, objective, points(), settings, run, quiet=True)
    made.train()
    return made


def test_two_processes_train_the_model_of_one_and_one_process_takes_over(tmp_path):
    alone = {kind: Run.create(tmp_path / "alone", kind) for kind in ("ddp", "importance")}
    alone["fsdp"] = alone["ddp"]
    for kind in ("ddp", "importance"):
        train(alone[kind], kind, 24)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*launcher, __file__, str(tmp_path)],
        check=True,
        timeout=900,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    for kind in PARALLEL:
        (run,) = (Run(path) for path in (tmp_path / kind).iterdir())  # both processes wrote one run
        train(run, "importance" if kind == "importance" else "ddp", 24)  # one process, the last 12 steps
        ours, theirs = latest_checkpoint(run.checkpoints), latest_checkpoint(alone[kind].checkpoints)
        assert ours is not None
        assert theirs is not None
        assert ours.step == theirs.step == 24
        for part in ("model", "ema", "optim", *(["memory"] if kind == "importance" else [])):
            expected = theirs.read(part)
            for name, tensor in ours.read(part).items():
                torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6, msg=f"{part}/{name}")
        losses = [[line["loss"] for line in read_metrics(r)] for r in (run, alone[kind])]
        assert len(losses[0]) == 24
        torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-5, atol=0)


if __name__ == "__main__":
    for kind in PARALLEL:
        made = train(Run.create(sys.argv[1], kind), kind, 12)
        weight = made.model.net.first.weight
        if kind == "importance":
            seen = made.state.memory["count"]
            assert int(seen.sum()) == 12 * 8, "each process has the losses of both"
            assert int(seen.min()) >= 3, "and draws by them"
        local = weight.to_local() if kind == "fsdp" else weight
        assert len(local) == (8 if kind == "fsdp" else 16), "FSDP must hold half of the rows, DDP all"
        assert made.world.size == 2
