"""Optimisers beside PyTorch's objects and beside the singular value decomposition that Muon's formula names."""

import copy
import re

import pytest
import torch
from torch import nn
from train_toy import config, denoiser, digest, points, trainer

from sfumato.core import InputError
from sfumato.objectives import Denoising
from sfumato.train import FSDP, AdamW, Muon, Run, Trainer
from sfumato.train.distributed import World
from sfumato.train.optimisers import orthogonal
from sfumato.train.state import State

MUON = Muon(matrices=("first.weight",), weight_decay=0.1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 6)
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.more = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(6, 9), nn.Linear(9, 4)])})

    def forward(self, i):
        h = self.table(i)
        for block in self.blocks:
            h = h + torch.tanh(block(h))
        first, last = self.more["blocks"]
        return last(torch.tanh(first(h)))


@pytest.mark.parametrize("shape", [(3, 12, 12), (2, 20, 12), (2, 12, 20)])
def test_orthogonal_keeps_the_singular_vectors_and_evens_out_the_values(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    assert s.min() / s.max() < 0.2, "they must differ for this to tell anything"
    middle = u.mT @ orthogonal(x).float() @ vh.mT
    values = middle.diagonal(dim1=1, dim2=2)
    assert 0.68 < values.min() < values.max() < 1.22
    assert (middle - torch.diag_embed(values)).abs().max() < 0.02  # what bfloat16 leaves
    many = torch.cat((x, 100 * x.flip(0)))
    assert torch.equal(orthogonal(many)[: len(x)], orthogonal(x)), "no matrix knows of the others"


def test_muon_is_pytorchs_on_matrices_in_blocks_and_adamw_on_the_rest(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)  # theirs rounds on every device, ours on some
    torch.manual_seed(0)
    ours = Net()
    theirs = copy.deepcopy(ours)
    matrices = [p for n, p in theirs.named_parameters() if "blocks" in n and p.ndim == 2]
    rest = [p for n, p in theirs.named_parameters() if "blocks" not in n or p.ndim != 2]
    assert len(matrices) == 5
    muon = torch.optim.Muon(matrices, lr=0.03, weight_decay=0.2, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(rest, lr=0.03, betas=(0.8, 0.95), weight_decay=0.1)
    law = Muon(momentum=0.9, weight_decay=0.2, rest=AdamW(betas=(0.8, 0.95), weight_decay=0.1))
    trained = dict(ours.named_parameters())
    memories = law.memories(trained)
    i, target = torch.arange(5), torch.randn(5, 4)
    for _ in range(12):
        for net in (ours, theirs):
            net.zero_grad()
            (net(i) - target).square().mean().backward()
        law.step([(n, p, memories[n]) for n, p in trained.items()], 0.03)
        muon.step()
        adam.step()
    for (name, p), q in zip(trained.items(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-5, msg=name)
    assert (trained["blocks.0.weight"] - Net().blocks[0].weight).abs().max() > 0.1


def test_a_kernel_is_the_matrix_of_its_rows():
    law, generator = Muon(matrices=("*",)), torch.Generator().manual_seed(2)
    kernel, matrix = (nn.Parameter(torch.zeros(shape)) for shape in ((6, 4, 3, 3), (6, 36)))
    memories = law.memories({"kernel": kernel, "matrix": matrix})
    for _ in range(3):
        matrix.grad = torch.randn(6, 36, generator=generator)
        kernel.grad = matrix.grad.view(6, 4, 3, 3)
        law.step([("kernel", kernel, memories["kernel"]), ("matrix", matrix, memories["matrix"])], 0.1)
    assert torch.equal(kernel.detach().flatten(1), matrix.detach())
    singular = torch.linalg.svdvals(matrix.detach())
    assert singular.max() < 3 * 0.1 * 0.2 * 6 * 1.22


def test_a_step_has_the_size_of_adams():
    p = nn.Parameter(torch.zeros(30, 50))
    law = Muon(matrices=("p",))
    p.grad = torch.randn(30, 50, generator=torch.Generator().manual_seed(2))
    law.step([("p", p, law.memories({"p": p})["p"])], 1e-2)
    # rms = 0.2 sqrt(50) lr sqrt(30 / (30 50)): 0.2 lr where all singular values are 1, as Adam's first steps about are
    assert p.detach().square().mean().sqrt() == pytest.approx(0.2e-2, rel=0.25)


def test_a_run_with_muon_goes_on_bit_for_bit(tmp_path):
    whole, cut = (Run.create(tmp_path, name) for name in ("whole", "cut"))
    trainer(whole, optimiser=MUON).train()
    trainer(cut, optimiser=MUON, steps=23).train()
    trainer(cut, optimiser=MUON).train()
    assert digest(cut) == digest(whole)
    other = Run.create(tmp_path, "other")
    trainer(other).train()
    assert digest(other) != digest(whole)
    with pytest.raises(InputError, match="started with train"):
        trainer(cut).train()


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match=re.escape("no matrix that is trained is named like ['*blocks.*.weight']")):
        Trainer(denoiser(), Denoising(), points(), config(optimiser=Muon()), quiet=True)
    for settings in ({"momentum": 1.0}, {"matrices": ()}, {"weight_decay": -1.0}):
        with pytest.raises(InputError, match="Muon"):
            Muon(**settings)
    world = World()
    world.size = 2
    with pytest.raises(InputError, match="Muon needs whole matrices, and FSDP slices them: use DDP"):
        State(denoiser().net, config(optimiser=MUON, parallel=FSDP()), world)
