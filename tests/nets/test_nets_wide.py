"""Weights in half precision, computed with in float32: what a float32 copy gives, in the memory of half."""

import copy

import pytest
import torch
from test_nets_hunyuan_dit import TINY as HUNYUAN
from test_nets_hunyuan_dit import inputs as hunyuan_inputs
from test_nets_lumina import TINY as LUMINA
from test_nets_mmdit import TINY as MMDIT
from test_nets_pixart import TINY as PIXART
from torch import nn

import sfumato as sf
from sfumato.codecs import AutoencoderKLConfig
from sfumato.codecs.consistency_decoder import ConsistencyDecoderConfig
from sfumato.codecs.dvae import DVAEConfig
from sfumato.codecs.tiny import AutoencoderTinyConfig
from sfumato.codecs.vq import VQModelConfig
from sfumato.control.lora import Adapter, LoRA, attached
from sfumato.core.denoiser import net_dtype
from sfumato.nets import DiTConfig, LatentUNetConfig, UNetConfig, widened
from sfumato.nets.blocks import wide
from sfumato.nets.blocks.kernels import PackedConv2d, PackedLinear, packed

HALVES = (torch.bfloat16, torch.float16)
SAME = 1e-6  # libraries order their sums by where memory begins


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stirred(net, dtype=torch.bfloat16):
    """Return `net` in `dtype` with all of its weights at work."""
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.add_(0.1 * drawn(*p.shape, seed=i))
    return net.to(dtype).eval()


def distance(got, expected):
    return float((got - expected).norm() / expected.norm())


def floated(net):
    return copy.deepcopy(net).float()


T = torch.tensor([300.0])
TEXT = {"context": drawn(2, 5, 12)}
CLASSES = {"y": torch.tensor([0, 2])}
SMALL = UNetConfig(in_channels=3, out_channels=3, channels=16, head_width=8, groups=4, num_classes=3)
LATENT = LatentUNetConfig(widths=(8, 16), transformers=(1, 0), heads=(2, 2), context=12, groups=4)
DIT = DiTConfig(channels=3, size=8, width=32, layers=2, heads=2, num_classes=3)
CASES = {
    "U-Net": (SMALL, 3, CLASSES),
    "latent U-Net": (LATENT, 4, TEXT),
    "DiT": (DIT, 3, CLASSES),
    "MMDiT": (MMDIT, 4, TEXT | {"pooled": drawn(2, 10)}),
    "PixArt": (PIXART, 4, TEXT),
    "Hunyuan-DiT": (HUNYUAN, 4, hunyuan_inputs()[2]),
    "Lumina": (LUMINA, 4, {"context": drawn(2, 5, 10)}),
}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", CASES)
def test_it_gives_what_the_float32_copy_gives(name, dtype):
    config, channels, cond = CASES[name]
    net = stirred(config.build(), dtype)
    made, x = widened(net), drawn(2, channels, 8, 8)
    with torch.no_grad():
        expected = floated(net)(x, T, **cond)
        assert distance(made(x, T, **cond), expected) < SAME
        assert distance(net(x.to(dtype), T, **cond).float(), expected) > 100 * SAME
    assert net_dtype(made) == torch.float32
    assert net_dtype(net) == dtype
    assert not any(t.dtype in HALVES for t in (*made.parameters(), *made.buffers()))
    # as a run uses it, told ahead of its times and its text
    with torch.no_grad():
        runs = [
            sf.core.prepare(sf.Preconditioned(n, sf.VPCosine(), sf.Eps()), [0.7, 0.3])(x, 0.7, **cond)
            for n in (made, floated(net))
        ]
    assert distance(*runs) < SAME


def test_weights_are_shared_and_everything_else_is_small():
    net = stirred(LatentUNetConfig(widths=(32, 64), transformers=(1, 1), heads=(2, 2), context=64, groups=8).build())
    made = widened(net)
    layers = {k: m for k, m in net.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    for name, layer in layers.items():
        twin = made.get_submodule(name)
        assert twin.held.stored.data_ptr() == layer.weight.data_ptr()
        assert isinstance(twin, type(layer))
    own = sum(p.nbytes for p in made.parameters()) + made.down[0].blocks[0].res.conv1.held.room.nbytes
    assert own < 0.25 * sum(p.nbytes for p in net.parameters())
    net.conv_in.weight.data.zero_()  # follows it
    assert not made.conv_in.weight.any()


def test_layers_one_after_another_do_not_see_each_others_weights():
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)).bfloat16()
    made, x = widened(net), drawn(2, 6)
    first = made[0]
    with torch.no_grad():
        before = first(x)
        again = made(x)
        assert distance(first(x), before) < SAME
        assert distance(again, floated(net)(x)) < SAME
    # where a graph keeps the weight, each has its own
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    made(a).square().sum().backward()
    floated(net)(b).square().sum().backward()
    assert distance(a.grad, b.grad) < SAME
    with torch.inference_mode():
        inside = widened(net)
        assert distance(inside(x), again) < SAME
    with torch.no_grad():
        assert distance(inside(x), again) < SAME


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_weights_are_widened_into_one_piece_of_memory_and_lie_there_as_stored(form):
    made = widened(nn.Sequential(nn.Conv2d(4, 6, 3).to(memory_format=form), nn.Linear(5, 7)).half())
    for layer in made:
        held = layer.held
        with torch.no_grad():
            wide = held.wide()
        assert wide.data_ptr() == held.room.data_ptr() == made[0].held.room.data_ptr()
        assert wide.stride() == held.stored.stride()
        assert torch.equal(wide, held.stored.float())
        assert held.wide().data_ptr() != held.room.data_ptr()  # a graph may keep it
    held.stored = held.stored[:, ::2]  # with gaps: there is no such place in the memory
    with torch.no_grad():
        assert torch.equal(held.wide(), held.stored.float())


class Own(nn.Linear):
    """A layer with a way of its own to compute."""

    def forward(self, input):
        return super().forward(2 * input) + self.weight.sum()


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Conv1d(3, 4, 3), drawn(2, 3, 9)),
        (nn.Conv2d(4, 4, 3, groups=2, padding=1, padding_mode="circular"), drawn(2, 4, 5, 6)),
        (nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last), drawn(2, 4, 5, 6)),
        (nn.Conv3d(2, 3, 2), drawn(1, 2, 4, 4, 4)),
        (nn.Embedding(5, 4, padding_idx=1), torch.tensor([[0, 4], [1, 1]])),
        (nn.ConvTranspose2d(4, 3, 2), drawn(1, 4, 3, 3)),
        (nn.LayerNorm(6), drawn(2, 6)),
        (nn.MultiheadAttention(8, 2, batch_first=True), drawn(2, 3, 8)),
        (nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)), drawn(2, 6)),
        (Own(6, 3), drawn(2, 6)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_every_kind_of_layer(layer, x):
    net = layer.bfloat16().eval()
    given = (x, x, x) if isinstance(layer, nn.MultiheadAttention) else (x,)
    with torch.no_grad():
        got, expected = widened(net)(*given), floated(net)(*given)
    got, expected = (v[0] if isinstance(v, tuple) else v for v in (got, expected))
    assert got.dtype == torch.float32
    assert distance(got, expected) < SAME


def test_live_adapters_and_what_is_in_float32_already():
    net = stirred(DIT.build())
    adapter = Adapter(down=drawn(2, 32), up=drawn(96, 2, seed=1), scale=0.3)
    net = attached(net, [(LoRA({"blocks.0.attention.qkv": (adapter,)}), 1.0)])
    net.blocks[1].mlp.float()  # kept, as T5's second linear layers are
    x, y = drawn(2, 3, 8, 8), torch.tensor([0, 1])
    made = widened(net)
    kept = next(net.blocks[1].mlp.parameters())
    assert next(made.blocks[1].mlp.parameters()) is kept
    with torch.no_grad():
        assert distance(made(x, T, y=y), floated(net)(x, T, y=y)) < SAME


@pytest.mark.usefixtures("fused")
def test_a_wide_network_is_packed_in_float32():
    net = stirred(LATENT.build())
    made, x = widened(net), drawn(2, 4, 8, 8)
    fast = packed(made)
    assert any(isinstance(m, PackedLinear) for m in fast.modules())
    assert any(isinstance(m, PackedConv2d) for m in fast.modules())
    for name, module in fast.named_modules():  # what is not packed stays shared
        if "held" in module.__dict__:
            assert module.held.stored.data_ptr() == net.get_submodule(name).weight.data_ptr()
    with torch.no_grad():
        got, expected = fast(x, T, **TEXT), floated(net)(x, T, **TEXT)
    assert float((got - expected).norm() / expected.norm()) < 1e-5


CODECS = {
    "KL": AutoencoderKLConfig(widths=(8, 8), layers=1, latent=4, groups=2),
    "tiny": AutoencoderTinyConfig(width=8, encoder=(1, 1), decoder=(1, 1)),
    "VQ": VQModelConfig(widths=(8, 16), layers=1, groups=4, codes=50, scale=0.5),
    "dVAE": DVAEConfig(codes=7, width=16, multipliers=(1, 2), inner=8),
    "consistency": ConsistencyDecoderConfig(widths=(8,), groups=8, unet_widths=(8,), unet_groups=8, layers=1),
}


@pytest.mark.parametrize("name", CODECS)
def test_codecs(name):
    codec, x = stirred(CODECS[name].build()), drawn(1, 3, 16, 16).clamp(-1, 1)
    found = []
    with torch.no_grad():
        for one in (widened(codec), floated(codec)):
            z = one.encode(x)
            found.append((z, one.decode(z, sf.Noise([3])) if one.draws else one.decode(z)))
    for got, expected in zip(*found, strict=True):
        assert got.dtype == torch.float32
        assert distance(got, expected) < SAME


def test_what_is_native(monkeypatch):
    net = stirred(DIT.build())
    monkeypatch.setattr(wide, "emulated", lambda dtype: dtype == torch.bfloat16)
    with torch.no_grad():
        assert net_dtype(wide.native(net)) == torch.float32
        assert wide.native(floated(net)) is not None
        for other in (floated(net), copy.deepcopy(net).half(), copy.deepcopy(net).double()):
            assert wide.native(other) is other
        net.blocks[0].register_forward_hook(lambda *_: None)
        assert wide.native(net) is net  # somebody listens
    net.blocks[0]._forward_hooks.clear()
    assert wide.native(net) is net  # autograd records
    monkeypatch.setattr(wide, "emulated", lambda dtype: False)
    with torch.no_grad():
        assert wide.native(net) is net


def test_what_is_emulated():
    assert not wide.emulated(torch.float32)
    assert not wide.emulated(torch.float64)
    assert wide.emulated(torch.bfloat16) != torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert wide.emulated(torch.float16) != torch.ops.mkldnn._is_mkldnn_fp16_supported()
