"""Faster kernels against the formulas that they stand for."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sfumato.nets.blocks import attend as attending
from sfumato.nets.blocks import kernels
from sfumato.nets.blocks.kernels import Conv2d, Halves, PackedConv2d, PackedHalves, linear_geglu, packed
from sfumato.nets.latent_unet import LatentUNetConfig

DTYPES = {torch.float32: 1e-6, torch.bfloat16: 1e-2}
LAST = torch.channels_last
RULE = kernels.fuses_linear

pytestmark = pytest.mark.usefixtures("fused")


def distance(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def made_for(dtype):
    """Return whether this processor has packed layers of `dtype`."""
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", DTYPES)
def test_geglu_is_its_formula(dtype):
    torch.manual_seed(0)
    layer, x = Halves(24, 2 * 40).to(dtype), drawn(3, 7, 24).to(dtype)
    w, b = layer.weight.double(), layer.bias.double()
    value, gate = (x.double() @ w.mT + b).chunk(2, dim=-1)
    formula = (value * 0.5 * gate * (1 + torch.erf(gate / 2**0.5))).detach()
    assert distance(linear_geglu(layer, x).detach(), formula) < DTYPES[dtype]  # the plain way
    with torch.no_grad():
        assert distance(linear_geglu(layer, x), formula) < DTYPES[dtype]
        fast = packed(nn.Sequential(layer))[0]
        assert isinstance(fast, PackedHalves) == made_for(dtype)
        assert distance(linear_geglu(fast, x), formula) < DTYPES[dtype]
    if not made_for(dtype):
        return
    with pytest.raises(RuntimeError, match="no derivatives"):
        linear_geglu(fast, x)


def test_geglu_is_differentiated_through_the_plain_way():
    layer, x = Halves(4, 6).double(), drawn(2, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: linear_geglu(layer, x), (x,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), (3, 2, 0)])
def test_packed_convolutions_give_the_same_output(dtype, kernel, stride, padding):
    torch.manual_seed(0)
    layer = Conv2d(8, 12, kernel, stride=stride, padding=padding).to(dtype)
    fast = packed(nn.Sequential(layer))[0]
    assert isinstance(fast, PackedConv2d) == made_for(dtype)
    if not made_for(dtype):
        return
    laid = []
    for size in ((9, 12), (40, 16)):
        for form in (LAST, torch.contiguous_format):
            x = drawn(2, 8, *size).to(dtype).contiguous(memory_format=form)
            with torch.no_grad():
                got, expected = fast(x), F.conv2d(x, layer.weight, layer.bias, stride, padding)
            assert distance(got, expected) < DTYPES[dtype]
            assert got.is_contiguous(memory_format=LAST)
            laid.append(fast.weight)  # for this grid: a wrong one's layout is right, and many times slower
    assert laid[0] is laid[1]
    assert laid[2] is laid[3]
    assert laid[1] is not laid[2]
    with pytest.raises(RuntimeError, match="no derivatives"):
        fast(x)


def test_convolutions_that_are_more_are_not_packed():
    class More(nn.Conv2d):
        pass

    layers = [More(4, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, padding_mode="circular", padding=1)]
    net = nn.Sequential(*layers)
    assert packed(net) is net


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_weights_beside_few_places(dtype, monkeypatch):
    torch.manual_seed(0)
    layer = Conv2d(720, 720, 3, padding=1).to(dtype)
    x = drawn(1, 720, 3, 4).to(dtype).contiguous(memory_format=LAST)
    seen = []
    plain = nn.Conv2d._conv_forward
    monkeypatch.setattr(
        nn.Conv2d, "_conv_forward", lambda self, x, *rest: (seen.append(x.is_contiguous()), plain(self, x, *rest))[1]
    )
    with torch.no_grad():
        got = layer(x)
        expected = F.conv2d(x.float(), layer.weight.float(), layer.bias.float(), padding=1)
    assert seen == [True]  # not in channels last
    assert distance(got, expected) < DTYPES[dtype]
    assert got.is_contiguous(memory_format=LAST)
    assert layer(x).requires_grad  # recorded as it came
    assert seen == [True, False]


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_unet_gives_the_same_output(dtype):
    torch.manual_seed(0)
    net = LatentUNetConfig(widths=(32, 64), transformers=(1, 0), heads=(2, 2), context=24, groups=8).build()
    for p in net.parameters():
        p.data += 0.02 * drawn(*p.shape)
    net = net.to(dtype).eval()
    fast = packed(net)
    assert sum(isinstance(m, PackedHalves) for m in fast.modules()) == (6 if made_for(dtype) else 0)
    assert fast.down[0].blocks[0].res.norm1.weight is net.down[0].blocks[0].res.norm1.weight  # shared, not copied
    x, context = drawn(2, 4, 8, 12).to(dtype), drawn(2, 5, 24).to(dtype)
    with torch.no_grad():
        got, expected = (n(x, torch.tensor([300.0]), context=context) for n in (fast, net))
    assert distance(got, expected) < {torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]


@pytest.mark.parametrize("count", [1 << 13, 1 << 16, 1 << 20])  # some queries of a head, some heads, all
@pytest.mark.parametrize("keys", [300, 77])
def test_attention_in_blocks_is_its_formula(count, keys, monkeypatch):
    monkeypatch.setattr(attending, "_LOGITS", count)
    q, k, v = (drawn(2, n, 3, 8, seed=i).bfloat16().transpose(1, 2) for i, n in enumerate((300, keys, keys)))
    weights = torch.softmax(q.double() @ k.double().mT / 8**0.5, dim=-1)
    with torch.no_grad():
        got = attending._in_blocks(q, k, v)
    assert got.shape == q.shape
    assert distance(got, weights @ v.double()) < 1e-2


def test_attention_goes_in_blocks_where_that_is_faster_alone(monkeypatch):
    monkeypatch.setattr(attending, "_multiplies_bf16", lambda: True)
    monkeypatch.setattr(attending, "_in_blocks", lambda q, k, v: "blocks")
    q = drawn(1, 2, 256, 32).bfloat16()
    with torch.no_grad():
        assert attending.attend(q, q, q) == "blocks"
        for other in (q.float(), q[:, :, :128]):
            assert torch.is_tensor(attending.attend(other, other, other))
        assert torch.is_tensor(attending.attend(q, q, q, torch.ones(256, 256, dtype=torch.bool)))
        assert torch.is_tensor(attending.attend(q.repeat(2, 1, 1, 1), q, q))  # one row of keys for all
        monkeypatch.setattr(attending, "_multiplies_bf16", lambda: False)
        assert torch.is_tensor(attending.attend(q, q, q))
    monkeypatch.setattr(attending, "_multiplies_bf16", lambda: True)
    assert torch.is_tensor(attending.attend(q, q, q.requires_grad_()))


@pytest.mark.parametrize("wide", [True, False])
def test_with_avx2_alone_linear_layers_in_float32_stay_as_they_are(monkeypatch, wide):
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: wide)
    rule = RULE.__wrapped__  # what it said before is kept
    monkeypatch.setattr(kernels, "fuses_linear", rule)
    net = nn.Sequential(nn.Linear(8, 8), nn.Conv2d(8, 8, 3))
    assert [type(layer).__name__ for layer in packed(net)] == ["PackedLinear" if wide else "Linear", "PackedConv2d"]
    assert rule(torch.bfloat16) == made_for(torch.bfloat16)
