"""DiffiT: time-dependent attention by its formula, identities without the time, windows, counts, hooks' grids."""

import math

import pytest
import torch
from torch.nn import functional as F

import sfumato as sf
from sfumato import InputError
from sfumato.core import from_config, to_config
from sfumato.nets.blocks.tmsa import TMSA, TimeBlock, differences, unwindowed, windowed
from sfumato.nets.blocks.transformer import SelfAttention
from sfumato.nets.diffit import DiffiTConfig, diffit_xl
from sfumato.nets.diffit_unet import DiffiTUNetConfig
from sfumato.nets.hooks import Moment, Subscriber, Subscriptions
from sfumato.pipeline.folder import empty

TINY = DiffiTConfig(size=8, width=16, layers=2, heads=2, num_classes=5)
PICTURES = DiffiTUNetConfig(
    channels=8, multipliers=(1, 2), layers=1, windows=(4, 2), head_width=4, groups=4, num_classes=5
)


def _random(net, seed=1):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    return net.eval()


def _inputs(net, side=8, rows=2):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(rows, net.config.channels if hasattr(net.config, "patch") else 3, side, side, generator=g)
    return x, torch.tensor([30.0, 700.0])[:rows], {"y": torch.tensor([3, 5])[:rows]}


@torch.no_grad()
def test_the_attention_is_the_papers_formula_place_by_place():
    w, width, heads, d = 3, 12, 2, 6
    attention = _random(TMSA(width, heads, w, 5))
    g = torch.Generator().manual_seed(2)
    x, c = torch.randn(2, 4, w * w, width, generator=g), torch.randn(2, 5, generator=g)
    spatial, temporal = attention.qkv.weight.chunk(3), attention.time.weight.chunk(3)
    biases = zip(attention.qkv.bias.chunk(3), attention.time.bias.chunk(3), strict=True)
    q, k, v = (
        x @ s.T + (c @ t.T)[:, None, None] + a + b for s, t, (a, b) in zip(spatial, temporal, biases, strict=True)
    )
    table = attention.bias.view(2 * w - 1, 2 * w - 1, heads)
    expected = torch.empty(2, 4, w * w, width)
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        for i in range(w * w):
            logits = torch.stack(
                [
                    (q[..., i, part] * k[..., j, part]).sum(-1) / math.sqrt(d)
                    + table[i // w - j // w + w - 1, i % w - j % w + w - 1, h]
                    for j in range(w * w)
                ],
                dim=-1,
            )
            expected[..., i, part] = (torch.softmax(logits, -1).unsqueeze(-1) * v[..., part]).sum(-2)
    expected = expected @ attention.out.weight.T + attention.out.bias
    torch.testing.assert_close(
        attention(x, attention.time(c), differences(w, x.device)), expected, rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_without_the_time_and_the_bias_it_is_plain_attention_and_the_times_keys_never_count():
    attention, plain = _random(TMSA(16, 2, 4, 6)), SelfAttention(16, 2)
    plain.qkv, plain.proj = attention.qkv, attention.out
    g = torch.Generator().manual_seed(2)
    x, c, index = torch.randn(3, 1, 16, 16, generator=g), torch.randn(3, 6, generator=g), differences(4, "cpu")
    timed = attention(x, attention.time(c), index)
    attention.time.weight[16:32] += 1.0  # of the keys
    attention.time.bias[16:32] += 1.0
    torch.testing.assert_close(attention(x, attention.time(c), index), timed, rtol=1e-4, atol=1e-5)
    attention.time.weight[:16] += 0.1  # of the queries
    assert not torch.allclose(attention(x, attention.time(c), index), timed, atol=1e-3)
    for p in (attention.time.weight, attention.time.bias, attention.bias):
        p.zero_()
    torch.testing.assert_close(attention(x, attention.time(c), index)[:, 0], plain(x[:, 0]), rtol=1e-5, atol=1e-6)
    assert torch.equal(attention(x, attention.time(c), index), attention(x, attention.time(0 * c), index))


def test_windows_go_there_and_back_and_know_nothing_of_each_other():
    x = torch.arange(2 * 3 * 4 * 8.0).view(2, 3, 4, 8)
    tokens = windowed(x, 2)
    assert tokens.shape == (2, 8, 4, 3)
    assert torch.equal(tokens[1, 5], x[1, :, 2:4, 2:4].flatten(1).T)  # the second row's second window
    assert torch.equal(unwindowed(tokens, 2, 4, 8), x)
    with pytest.raises(InputError, match="a grid of 4 x 8 does not divide into windows of 3 x 3"):
        windowed(x, 3)
    block = _random(TimeBlock(4, 2, 2, 5, 8))
    g = torch.Generator().manual_seed(3)
    h, c = torch.randn(1, 6, 4, 4, generator=g), torch.randn(1, 5, generator=g)
    other = h.clone()
    other[0, 2, 1] += 1.0
    index = differences(2, h.device)
    told = block.steer(c)
    moved = (block(h, told, index) - block(other, told, index)).abs().amax((0, 2, 3)) > 0
    assert moved.tolist() == [False, False, True, False, False, False]


def test_the_published_size_and_the_formula_of_the_count():
    d, layers, heads, side = 1152, 28, 16, 16
    block = 15 * d * d + 12 * d + (2 * side - 1) ** 2 * heads
    around = 16 * d + d + 256 * d + d + d * d + d + 1001 * d + 32 * d + 32
    net = empty(diffit_xl(), torch.bfloat16)
    count = sum(p.numel() for p in net.parameters())
    assert count == layers * block + around == 561_035_232  # the paper's 561 M
    assert from_config(to_config(diffit_xl(64))) == diffit_xl(64)


@torch.no_grad()
def test_the_trunk_by_its_formula():
    net = _random(TINY.build())
    x, t, cond = _inputs(net)
    c = net.embed(t) + net.label(cond["y"])
    h = F.conv2d(x, net.patches.weight.view(16, 4, 2, 2), net.patches.bias, stride=2).flatten(2).mT + net.positions
    for block in net.blocks:
        u = F.layer_norm(h, (16,), eps=1e-6).unsqueeze(1)
        h = h + block.attn(u, block.attn.time(c), differences(4, x.device))[:, 0]
        u = F.layer_norm(h, (16,), eps=1e-6)
        h = h + block.mlp.fc2(F.gelu(block.mlp.fc1(u), approximate="tanh"))
    y = net.out(F.silu(F.layer_norm(h, (16,), eps=1e-6)))
    expected = F.pixel_shuffle(y.unflatten(-1, (4, 8)).transpose(-1, -2).flatten(2).mT.unflatten(-1, (4, 4)), 2)
    torch.testing.assert_close(net(x, t, **cond), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [TINY, PICTURES], ids=["latent", "pictures"])
@torch.no_grad()
def test_rows_conditions_and_compilation(config):
    net = _random(config.build())
    x, t, cond = _inputs(net)
    y = net(x, t, **cond)
    torch.testing.assert_close(net(x[1:], t[1:], y=cond["y"][1:]), y[1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(x[1:], t[1:]), y[1:], rtol=1e-4, atol=1e-5)  # 5 is no class
    assert torch.equal(net.trunk(x, net.embed(t), **net.condition(**cond)), y)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t, **cond), y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [TINY, PICTURES], ids=["latent", "pictures"])
@torch.no_grad()
def test_bfloat16_is_near_float32_and_does_not_round_labels(config):
    net = _random(config.build())
    x, t, cond = _inputs(net)
    exact = net(x, t, **cond)
    net.to(torch.bfloat16)
    got = net(x.bfloat16(), t, **cond)
    assert got.dtype == torch.bfloat16
    assert (got.float() - exact).norm() < 1e-2 * exact.norm()
    assert not torch.equal(net(x.bfloat16(), t + 1, **cond)[1], got[1])  # 700 and 701 are one number in bfloat16


@pytest.mark.parametrize("config", [TINY, PICTURES], ids=["latent", "pictures"])
@torch.no_grad()
def test_who_looks_at_probabilities_sees_the_bias(config):
    class Look(Subscriber):
        def probs(self, p, site, now):
            return p

    net = _random(config.build())
    x, t, cond = _inputs(net)
    hooks = Subscriptions(net, [(lambda s: s.kind == "self", Look())]).at(Moment())
    torch.testing.assert_close(net(x, t, **cond, hooks=hooks), net(x, t, **cond), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [TINY, PICTURES], ids=["latent", "pictures"])
def test_every_weight_shows_but_the_keys_of_the_time(config):
    net = _random(config.build())
    x, t, cond = _inputs(net)
    with torch.enable_grad():
        y = net(x, t, **cond)
        (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    for name, p in net.named_parameters():
        slope = p.grad.abs()
        if name.endswith("attn.time.weight"):
            q, k, v = slope.chunk(3)
            assert float(k.max()) < 1e-4 * float(q.max())
            assert float(v.max()) > 0
        assert float(slope.max()) > 1e-6, name


@torch.no_grad()
def test_pictures_by_a_residual_block_and_the_levels_of_a_grid():
    net = _random(PICTURES.build())
    block = net.up[1].blocks[1]
    g = torch.Generator().manual_seed(4)
    x, c = torch.randn(2, 16, 8, 4, generator=g), torch.randn(2, 32, generator=g)
    inner = F.conv2d(
        F.silu(F.group_norm(x, 4, block.norm.weight, block.norm.bias)), block.conv.weight, block.conv.bias, padding=1
    )
    tokens = torch.stack([inner[..., i : i + 4, :].flatten(2).mT for i in (0, 4)], dim=1)
    told, places = block.block.steer(c), {4: differences(4, x.device)}
    tokens = block.block(tokens, told, places[4])
    grown = torch.cat([tokens[:, i].mT.unflatten(-1, (4, 4)) for i in range(2)], dim=-2)
    torch.testing.assert_close(block(x, iter([told]), places), block.shortcut(x) + grown, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="a grid of 6 x 6 does not divide into windows of 4 x 4"):
        net(torch.zeros(1, 3, 6, 6), torch.tensor([1.0]))
    denoiser = sf.Preconditioned(net, sf.VE(), sf.Karras(), sf.EDM())
    assert denoiser(torch.zeros(2, 3, 8, 8), 0.5).shape == (2, 3, 8, 8)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="multiple of patch"):
        DiffiTConfig(size=7)
    with pytest.raises(InputError, match="multiple of 4 and of heads"):
        DiffiTConfig(width=100)
    with pytest.raises(InputError, match="needs 2 entries"):
        DiffiTUNetConfig(multipliers=(1, 2), windows=(8,))
    with pytest.raises(InputError, match="head_width=48"):
        DiffiTUNetConfig(head_width=48)
    with pytest.raises(InputError, match=r"takes \[B, 4, 8, 8\]"):
        TINY.build()(torch.zeros(1, 4, 16, 16), torch.tensor([1.0]))
