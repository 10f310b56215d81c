"""Next-DiT: the published count, the sign of its flow, its start, compilation."""

import pytest
import torch

import sfumato as sf
from sfumato import InputError
from sfumato.core import from_config, to_config
from sfumato.nets.lumina import LuminaConfig, lumina_next
from sfumato.pipeline.folder import empty

TINY = LuminaConfig(width=48, layers=2, heads=4, kv_heads=2, context=10, multiple=16, base=4)


def _inputs(rows=2):
    g = torch.Generator().manual_seed(0)
    return torch.randn(rows, 4, 12, 8, generator=g), {"context": torch.randn(rows, 5, 10, generator=g)}


def _random(net):
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.2 + (p.ndim == 1) * 0.5)
    return net.eval()


def test_the_published_size():
    assert sum(p.numel() for p in empty(lumina_next(), torch.bfloat16).parameters()) == 1_754_898_976
    assert lumina_next().hidden == 6144
    assert from_config(to_config(TINY)) == TINY


@torch.no_grad()
def test_its_flow_is_that_of_every_other_network_here():
    net = _random(TINY.build())
    x, cond = _inputs()
    denoiser = sf.Preconditioned(net, sf.Rectified(), sf.Flow(), sf.FlowTime(scale=-1.0, shift=1.0))
    released = -net(x, torch.tensor([0.75]), **cond)  # x_0 - eps at the label 0.75, which is sigma = 0.25
    torch.testing.assert_close(denoiser(x, 0.25, **cond), x + 0.25 * released)


@torch.no_grad()
def test_a_fresh_network_gives_zero_and_its_blocks_are_identities():
    net = TINY.build()
    x, cond = _inputs()
    assert torch.equal(net(x, torch.tensor([0.5]), **cond), torch.zeros_like(x))
    seen = []
    net.blocks[1].register_forward_hook(lambda m, args, out: seen.append((args[0], out)))
    net(x, torch.tensor([0.5]), **cond)
    assert torch.equal(*seen[0])


@torch.no_grad()
def test_it_compiles_without_a_graph_break():
    net = _random(TINY.build())
    x, cond = _inputs()
    t = torch.tensor([0.1, 0.9])
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t, **cond), net(x, t, **cond))


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(InputError, match="multiple of 4 heads"):
        LuminaConfig(width=100)
    with pytest.raises(InputError, match="patches of 2 need"):
        TINY.build()(torch.zeros(1, 4, 7, 8), torch.tensor([0.5]), context=torch.zeros(1, 2, 10))
    with pytest.raises(InputError, match="needs context"):
        TINY.build()(torch.zeros(1, 4, 8, 8), torch.tensor([0.5]))
