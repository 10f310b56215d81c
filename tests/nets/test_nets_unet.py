import copy
import dataclasses
import importlib.util
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from sfumato.core import InputError, from_config, to_config
from sfumato.nets.blocks.conv import AddTime, Attention, Downsample, ScaleShiftTime, attend
from sfumato.nets.blocks.embedding import Fourier, Sinusoidal
from sfumato.nets.unet import UNetConfig, ddpm_256, ddpm_cifar, digits, small

TINY = UNetConfig(channels=16, multipliers=(1, 2), layers=1, attention=(1,), head_width=8, groups=4)
VARIANTS = {
    "plain": TINY,
    "two levels of attention, uneven widths": dataclasses.replace(TINY, multipliers=(1, 1.5, 2), attention=(0, 2)),
    "one head, DDPM's embedding and padding": dataclasses.replace(
        TINY,
        layers=2,
        head_width=None,
        eps=1e-6,
        embedding=Sinusoidal(dim=16, sin_first=True, shift=1),
        padding=(0, 1),
    ),
    "scale and shift": dataclasses.replace(TINY, time=ScaleShiftTime(), in_channels=1, out_channels=2),
    "classes": dataclasses.replace(TINY, num_classes=5),
    "ddpm": dataclasses.replace(ddpm_cifar(), channels=64, embedding=Sinusoidal(dim=64, sin_first=True, shift=1)),
}


def shared():
    path = Path(__file__).parents[2] / "benchmarks" / "diffusers_unet.py"
    spec = importlib.util.spec_from_file_location("diffusers_unet", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scrambled(config, seed=0, scale=0.1):
    """A network whose every parameter is N(0, scale^2), so that no branch is silent."""
    generator = torch.Generator().manual_seed(seed)
    net = config.build().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * scale)
    return net


def inputs(config, batch=3, size=(8, 8), seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, config.in_channels, *size, generator=generator)
    c_noise = torch.tensor([0.0, 37.5, 999.0, 500.0])[:batch]
    cond = {} if config.num_classes is None else {"y": torch.tensor([3, 0, 5, 1])[:batch]}
    return x, c_noise, cond


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("build", [ddpm_cifar, ddpm_256, small, digits])
def test_number_of_parameters(build):
    with torch.device("meta"):
        count = sum(p.numel() for p in build().build().parameters())
    assert (
        count
        == {"ddpm_cifar": 35_746_307, "ddpm_256": 113_673_219, "small": 8_952_067, "digits": 285_921}[build.__name__]
    )


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", VARIANTS)
def test_same_output_as_diffusers_on_the_same_weights(name, grad):
    pytest.importorskip("diffusers")
    config = VARIANTS[name]
    torch.manual_seed(0)
    peer = shared().peer(config).eval()
    with torch.no_grad():
        for p in peer.parameters():
            p.add_(torch.randn_like(p), alpha=0.05)
    net = shared().ours(config, peer.state_dict()).eval()
    size = (16, 24) if name == "ddpm" else (12, 20)
    x, c_noise, cond = inputs(config, size=size)
    kept = x.clone()
    with torch.set_grad_enabled(grad):
        out = net(x, c_noise, **cond)
        expected = peer(x, c_noise, class_labels=cond.get("y")).sample
        assert relative(out, expected) < 1e-5
        assert torch.equal(x, kept)
        if grad:
            out.square().mean().backward()
            expected.square().mean().backward()
            grads = {n: p.grad for n, p in peer.named_parameters()}
            for n, g in shared().converted(config, grads).items():
                assert relative(net.get_parameter(n).grad, g) < 1e-4, n


def test_sizes_that_do_not_divide():
    net = scrambled(VARIANTS["two levels of attention, uneven widths"])
    x, c_noise, _ = inputs(TINY, size=(7, 13))
    with torch.no_grad():
        assert net(x, c_noise).shape == x.shape
        ddpm = scrambled(VARIANTS["one head, DDPM's embedding and padding"])
        assert ddpm(x, c_noise).shape == x.shape


def test_downsample_pads_where_it_says():
    # a kernel that picks its centre shows which places of the grid the output reads
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    picked = {}
    for padding in ((1, 1), (0, 1)):
        layer = Downsample(1, padding)
        with torch.no_grad():
            layer.conv.weight.zero_()[..., 1, 1] = 1
            picked[padding] = layer(x)[0, 0].tolist()
    assert picked == {(1, 1): [[0, 2], [8, 10]], (0, 1): [[5, 7], [13, 15]]}


@pytest.mark.parametrize("head_width", [2, 8, 64, None])
@pytest.mark.parametrize("size", [(3, 5), (16, 16)])
@pytest.mark.parametrize("grad", [False, True])
def test_attention_is_its_formula(head_width, size, grad):
    torch.manual_seed(0)
    layer = Attention(64, head_width=head_width, groups=4, eps=1e-5).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p) * 0.3)
    x = torch.randn(5, 64, *size, dtype=torch.float64)
    d = head_width or 64
    with torch.no_grad():
        q, k, v = (layer.norm(x).flatten(2).mT @ layer.qkv.weight.T + layer.qkv.bias).split(64, -1)
        heads = []
        for i in range(64 // d):
            one = slice(i * d, (i + 1) * d)
            heads.append(torch.softmax(q[..., one] @ k[..., one].mT / math.sqrt(d), -1) @ v[..., one])
        expected = x + (torch.cat(heads, -1) @ layer.out.weight.T + layer.out.bias).mT.reshape(x.shape)
        single = copy.deepcopy(layer).float()(x.float())
    with torch.set_grad_enabled(grad):
        assert relative(layer(x), expected) < 1e-12
    assert relative(single.double(), expected) < 2e-6


@pytest.mark.parametrize(("heads", "d"), [(8, 8), (2, 64)])
def test_attention_trains_in_bf16_by_other_kernels_of_the_same_formula(heads, d):
    torch.manual_seed(0)
    exact = [torch.randn(3, heads, 50, d, dtype=torch.float64) for _ in range(3)]
    half = [v.bfloat16().requires_grad_() for v in exact]
    exact = [v.detach().double().requires_grad_() for v in half]
    q, k, v = exact
    expected = torch.softmax(q @ k.mT / math.sqrt(d), -1) @ v
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = attend(*half)
        assert out.dtype == torch.bfloat16
        assert ((out - expected).norm() / expected.norm()).item() < 5e-3
        grads = torch.autograd.grad(out.double().square().sum(), half)
        for g, e in zip(grads, torch.autograd.grad(expected.square().sum(), exact, retain_graph=True)):
            assert ((g - e).norm() / e.norm()).item() < 1e-2


def test_every_layout_and_dtype_computes_the_same_network():
    config = dataclasses.replace(small(), channels=32, num_classes=3)
    torch.manual_seed(0)
    net = config.build()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.03)
    x, c_noise, _ = inputs(config, size=(16, 16))
    y = torch.tensor([0, 1, 2])
    expected = net(x, c_noise, y=y)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), net.conv_in.weight)
    distance = lambda a, b: ((a - b).norm() / b.norm()).item()
    with torch.no_grad():
        assert distance(net(x, c_noise, y=y), expected) < 1e-5
        assert net(x, c_noise, y=y).is_contiguous()
        half = copy.deepcopy(net).bfloat16()(x.bfloat16(), c_noise, y=y)
        assert half.dtype == torch.bfloat16
        assert distance(half.float(), expected) < 2e-2
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x, c_noise, y=y)
    assert distance(out.float(), expected) < 2e-2
    (grad,) = torch.autograd.grad(out.float().square().sum(), net.conv_in.weight)
    assert distance(grad, expected_grad) < 5e-2


@pytest.mark.parametrize("time", [AddTime(), ScaleShiftTime()])
def test_a_row_does_not_depend_on_the_others(time):
    config = dataclasses.replace(TINY, time=time, num_classes=5)
    net = scrambled(config)
    x, c_noise, cond = inputs(config)
    with torch.no_grad():
        before = net(x, c_noise, **cond)
        x[1:] += 1e3
        c_noise[1:] += 100
        cond["y"][1:] = 2
        after = net(x, c_noise, **cond)
    assert relative(after[:1], before[:1]) < 1e-6
    assert relative(after[1:], before[1:]) > 1e-2


def test_one_noise_label_for_all_rows_is_that_label_repeated():
    net = scrambled(dataclasses.replace(TINY, num_classes=5))
    x, c_noise, cond = inputs(net.config)
    one, many = c_noise[1:2], c_noise[1:2].expand(3)
    with torch.no_grad():
        expected = net(x, many, **cond)
        assert relative(net(x, one, **cond), expected) < 1e-6
        assert relative(net.trunk(x, net.embed(c_noise)[1:2], **cond), expected) < 1e-6
        assert relative(net(x, one), net(x, many)) < 1e-6


def test_no_class_is_the_null_row():
    net = scrambled(dataclasses.replace(TINY, num_classes=5))
    x, c_noise, _ = inputs(TINY)
    assert net.cond == {"y": 5}
    with torch.no_grad():
        null = net(x, c_noise, y=torch.full((3,), 5))
        assert relative(net(x, c_noise), null) < 1e-6
        assert relative(net(x, c_noise, y=5), null) < 1e-6
        assert relative(net(x, c_noise, y=torch.tensor([5, 5, 0]))[2], null[2]) > 1e-3
        with pytest.raises(InputError, match="y"):
            net(x, c_noise, y=torch.tensor([6, 0, 0]))
    unconditional = scrambled(TINY)
    assert unconditional.cond == {}
    with pytest.raises(InputError, match="num_classes"):
        unconditional(x, c_noise, y=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_starts_near_zero_and_every_parameter_learns(name):
    config = dataclasses.replace(VARIANTS[name], dropout=0.0)
    torch.manual_seed(0)
    net = config.build()
    x, c_noise, cond = inputs(config, batch=4, size=(16, 16))
    if cond:
        cond["y"] = torch.tensor([0, 1, 2, 5])
    out = net(x, c_noise, **cond)
    assert out.abs().max() < 1e-3
    middle = torch.randn(2, config.widths[-1], 4, 4)
    assert relative(net.middle[0].attention(middle), middle) < 1e-3
    optimiser = torch.optim.SGD(net.parameters(), lr=1.0)
    target = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    (out - target).square().mean().backward()
    optimiser.step()
    optimiser.zero_grad()
    (net(x, c_noise, **cond) - target).square().mean().backward()
    for n, p in net.named_parameters():
        if n == "label.table.weight":
            assert p.grad[[0, 1, 2, 5]].abs().amin() > 0
            assert p.grad[3:5].abs().max() == 0
        elif n.endswith("qkv.bias"):
            # the softmax does not see a shift of all keys: the bias of k has no gradient but rounding
            q, k, v = p.grad.chunk(3)
            assert q.abs().max() > 0
            assert v.abs().max() > 0
            assert k.abs().max() <= 1e-3 * q.abs().max()
        else:
            assert p.grad.abs().max() > 0, n


def test_initial_weights_have_the_published_variance():
    torch.manual_seed(0)
    net = small().build()
    modules = dict(net.named_modules())

    def variance(weight, fan_in, fan_out, scale=1.0):
        expected = 2 * scale / (fan_in + fan_out)
        assert weight.var().item() == pytest.approx(expected, rel=0.08)
        assert weight.abs().max().item() <= math.sqrt(3 * expected) * (1 + 1e-6)

    block = modules["down.1.blocks.0.res"]
    variance(block.conv1.weight, 64 * 9, 128 * 9)
    variance(block.conv2.weight, 128 * 9, 128 * 9, 1e-10)
    variance(block.shortcut.weight, 64, 128)
    variance(modules["noise.mlp.0"].weight, 64, 256)
    attention = modules["middle.0.attention"]
    for rows in attention.qkv.weight.chunk(3):
        variance(rows, 128, 128)
    variance(attention.out.weight, 128, 128, 1e-10)
    for rows in net.time.weight.split(net.splits):
        variance(rows, 256, len(rows))
    variance(net.conv_out.weight, 64 * 9, 3 * 9, 1e-10)
    assert all((p == 0).all() for n, p in net.named_parameters() if n.endswith("bias"))


def test_dropout_acts_in_training_alone():
    net = scrambled(dataclasses.replace(TINY, dropout=0.5))
    x, c_noise, _ = inputs(TINY)
    with torch.no_grad():
        assert torch.equal(net(x, c_noise), net(x, c_noise))
        net.train()
        assert relative(net(x, c_noise), net(x, c_noise)) > 1e-2


@pytest.mark.parametrize("grad", [False, True])
def test_compiles_without_a_graph_break(grad):
    net = scrambled(dataclasses.replace(TINY, num_classes=5))
    x, c_noise, cond = inputs(net.config)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    with torch.set_grad_enabled(grad):
        assert relative(compiled(x, c_noise, **cond), net(x, c_noise, **cond)) < 1e-5


@pytest.mark.parametrize("config", [*VARIANTS.values(), ddpm_256(), small(num_classes=3), digits()])
def test_configuration_round_trip(config):
    assert from_config(to_config(config), UNetConfig) == config
    assert config.build is not None


def test_fourier_embedding_is_taken():
    net = scrambled(dataclasses.replace(TINY, embedding=Fourier(count=8, scale=1.0)))
    assert isinstance(net.noise.mlp[0], nn.Linear)
    assert net.noise.mlp[0].in_features == 16


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"groups": 5}, "groups"),
        ({"attention": (2,)}, "attention"),
        ({"padding": (1, 0)}, "padding"),
        ({"head_width": 12}, "head_width"),
    ],
)
def test_impossible_shapes_are_refused(change, word):
    with pytest.raises(InputError, match=word):
        dataclasses.replace(TINY, **change).build()
