"""Hunyuan-DiT: exact counts, its positions, padding and skips, what is computed once a run, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import sfumato as sf
from sfumato import InputError
from sfumato.core import from_config, to_config
from sfumato.nets.blocks.rotary import rotated
from sfumato.nets.hunyuan_dit import HunyuanDiTConfig, TurnedAttention, hunyuan_dit_1, hunyuan_dit_1_2, positions
from sfumato.pipeline.folder import empty

TINY = HunyuanDiTConfig(
    out_channels=4,
    width=16,
    layers=6,
    heads=2,
    hidden=24,
    context=12,
    tokens=3,
    context_2=8,
    tokens_2=4,
    pooled=6,
)


def build(config=TINY, seed=0):
    net = config.build().eval()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    return net


def inputs(config=TINY, height=4, width=6):
    g = torch.Generator().manual_seed(1)
    cond = {
        "context": torch.randn(2, 3, 12, generator=g),
        "context_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]),
        "context_2": torch.randn(2, 4, 8, generator=g),
        "context_2_mask": torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]]),
    }
    if config.styles:
        cond["sizes"] = torch.tensor([[1024.0, 768, 512, 640, 3, 17], [512, 512, 1024, 1024, 0, 5]])
    return torch.randn(2, 4, height, width, generator=g), torch.tensor([3.0, 700.0]), cond


@pytest.mark.parametrize(
    ("config", "parameters"), [(hunyuan_dit_1(), 1_516_534_048), (hunyuan_dit_1_2(), 1_499_952_032)]
)
def test_published_parameter_counts(config, parameters):
    assert sum(p.numel() for p in empty(config, torch.float32).parameters()) == parameters
    assert from_config(to_config(config)) == config


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (64, 64), (40, 64), (64, 36), (6, 1)])
def test_a_grid_is_fitted_into_the_middle_of_a_square(rows, columns):
    longer = max(rows, columns)
    covered = [round(32 * n / longer) for n in (rows, columns)]
    start = [round((32 - n) / 2) for n in covered]
    grid = [np.linspace(s, s + c, n, endpoint=False) for s, c, n in zip(start, covered, (rows, columns), strict=True)]
    cos, sin = positions(rows, columns, 32, 16)
    for r in (0, rows - 1):
        for c in (0, columns - 1):
            angles = [grid[1][c] * 10_000 ** (-i / 4) for i in range(4)]
            angles += [grid[0][r] * 10_000 ** (-i / 4) for i in range(4)]
            np.testing.assert_allclose(cos[r * columns + c], np.cos(angles), atol=1e-5)
            np.testing.assert_allclose(sin[r * columns + c], np.sin(angles), atol=1e-5)


@torch.no_grad()
def test_attention_is_written_out_head_by_head():
    attention = TurnedAttention(16, 2)
    g = torch.Generator().manual_seed(0)
    for p in attention.parameters():
        p.copy_(torch.randn(p.shape, generator=g))
    x, turn = torch.randn(1, 6, 16, generator=g), positions(2, 3, 32, 8)

    def normed(layer, h):
        return torch.nn.functional.layer_norm(h, (8,), layer.weight, layer.bias, 1e-6)

    heads = []
    for i in range(2):
        part = slice(8 * i, 8 * i + 8)
        q = rotated(normed(attention.norm_q, attention.q(x)[..., part]), turn)
        k = rotated(normed(attention.norm_k, attention.k(x)[..., part]), turn)
        heads.append((q @ k.mT * 8**-0.5).softmax(-1) @ attention.v(x)[..., part])
    torch.testing.assert_close(attention(x, turn), attention.out(torch.cat(heads, -1)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_masked_tokens_are_replaced_and_not_hidden():
    net = build()
    x, t, cond = inputs()
    whole = net(x, t, **cond)
    other = cond | {"context": cond["context"].clone()}
    other["context"][0, 2] = 7.0
    assert torch.equal(net(x, t, **other), whole)  # what stood at a masked place is not read
    net.padding[2] += torch.randn(12, generator=torch.Generator().manual_seed(3))
    changed = net(x, t, **cond)
    assert not torch.allclose(changed[0], whole[0], atol=1e-3)  # but its learned vector is
    torch.testing.assert_close(changed[1], whole[1])


@torch.no_grad()
def test_skips_join_the_first_outputs_with_the_last_blocks():
    net = build()
    assert [block.skip is not None for block in net.blocks] == [False] * 4 + [True] * 2
    x, t, cond = inputs()
    seen = {}
    for i, block in enumerate(net.blocks):
        block.register_forward_hook(lambda m, args, out, i=i: seen.update({i: (args[4], out)}))
    net(x, t, **cond)
    assert torch.equal(seen[4][0], seen[1][1])  # the last one in is the first one out
    assert torch.equal(seen[5][0], seen[0][1])


@torch.no_grad()
def test_a_prepared_run_is_the_plain_one_and_the_style_is_the_first_by_default():
    net = build()
    x, _, cond = inputs()
    denoiser = sf.Preconditioned(net, sf.VPLinear(), sf.V())
    prepared = sf.core.prepare(denoiser, [0.3, 0.7])
    for t in (0.3, 0.7):
        expected = denoiser(x, t, **cond, style=torch.tensor([0, 0]))
        assert (prepared(x, t, **cond) - expected).norm() < 1e-5 * expected.norm()


@torch.no_grad()
def test_a_style_is_a_row_of_its_table():
    net = build(replace(TINY, styles=3))
    x, t, cond = inputs()
    chosen = net(x, t, **cond, style=torch.tensor([2, 1]))
    assert torch.equal(net(x, t, **cond, style=2)[0], chosen[0])
    net.style.weight[0] = net.style.weight[2].clone()
    torch.testing.assert_close(net(x, t, **cond)[0], chosen[0])
    net.style.weight[0] = net.style.weight[1].clone()
    torch.testing.assert_close(net(x, t, **cond)[1], chosen[1])
    assert not torch.allclose(net(x, t, **cond)[0], chosen[0], atol=1e-3)


def test_compiles_without_a_break():
    net = build(replace(TINY, layers=4))
    x, t, cond = inputs()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net, backend="eager", fullgraph=True)(x, t, **cond), net(x, t, **cond))


def test_initialisation_gives_zero():
    torch.manual_seed(0)
    x, t, cond = inputs()
    assert not TINY.build()(x, t, **cond).any()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: HunyuanDiTConfig(layers=5), "even"),
        (lambda: HunyuanDiTConfig(width=1400), "width"),
        (lambda: HunyuanDiTConfig(context_2=100), "context_2"),
        (lambda: build().condition(**inputs()[2] | {"sizes": None}), "sizes"),
        (lambda: build().condition(**inputs()[2] | {"context": torch.zeros(2, 4, 12)}), "context "),
        (lambda: build().condition(**inputs()[2] | {"context_2": None}), "context_2"),
        (lambda: build()(torch.zeros(2, 4, 5, 4), torch.zeros(1), **inputs()[2]), "multiples of 2"),
        (lambda: build()(torch.zeros(2, 3, 4, 4), torch.zeros(1), **inputs()[2]), "B, 4, H, W"),
    ],
)
def test_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()
