"""U-ViT: exact counts, the paper written out, and what is refused."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from sfumato import InputError
from sfumato.core import from_config, to_config
from sfumato.interop.links import read, write
from sfumato.interop.single import uvit as single
from sfumato.nets.blocks.embedding import Sinusoidal, sinusoidal
from sfumato.nets.uvit import UViTConfig, uvit_h, uvit_l, uvit_m, uvit_s
from sfumato.pipeline.folder import empty

TINY = UViTConfig(size=8, width=16, layers=5, heads=2, num_classes=4)


def build(config=TINY, seed=0):
    net = config.build().eval()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    return net


def inputs(config=TINY):
    g = torch.Generator().manual_seed(1)
    cond = {"y": torch.tensor([1, 4])} if config.num_classes else {}
    if config.context:
        cond["context"] = torch.randn(2, config.tokens, config.context, generator=g)
    return torch.randn(2, config.channels, 8, 8, generator=g), torch.tensor([3.0, 700.0]), cond


@pytest.mark.parametrize(
    ("config", "millions"),
    [(uvit_s(), 44), (replace(uvit_s(), layers=17), 58), (uvit_m(), 131), (uvit_l(), 287), (uvit_h(), 501)],
)
def test_published_parameter_counts(config, millions):
    count = sum(p.numel() for p in empty(config, torch.float32).parameters())
    assert round(count / 1e6) == millions
    d, p, rows = config.width, config.patch, 0 if config.num_classes is None else config.num_classes + 1
    pixels, half = config.channels * p * p, config.layers // 2
    exact = config.layers * (12 * d * d + 10 * d) + half * (2 * d * d + d)  # qkv without biases; two norms
    exact += pixels * d + d + d * pixels + pixels + 2 * d + rows * d
    exact += ((config.size // p) ** 2 + 1 + (rows > 0)) * d
    exact += (9 * config.channels + 1) * config.channels if config.smooth else 0
    assert count == exact
    assert from_config(to_config(config)) == config


def written_out(net, x, t, y=None, context=None):
    """The network of the paper's figure 1, by PyTorch's own layers."""
    k = net.config
    weight = net.patches.weight.unflatten(1, (k.channels, k.patch, k.patch))
    h = F.conv2d(x, weight, net.patches.bias, stride=k.patch).flatten(2).transpose(1, 2)
    tokens = [sinusoidal(t, k.width)[:, None].to(x.dtype)]
    tokens = tokens if y is None else [net.label.table.weight[y][:, None], *tokens]
    tokens = tokens if context is None else [*tokens, net.text(context)]
    h = torch.cat([*tokens, h], 1) + net.positions
    kept = []
    for i, block in enumerate(net.blocks):
        if i > k.layers // 2:
            h = F.linear(torch.cat([h, kept.pop()], -1), block.skip.weight, block.skip.bias)
        attention = torch.nn.MultiheadAttention(k.width, k.heads, batch_first=True)
        state = {"in_proj_weight": block.attention.qkv.weight, "in_proj_bias": torch.zeros(3 * k.width)}
        attention.load_state_dict(
            state | {"out_proj.weight": block.attention.proj.weight, "out_proj.bias": block.attention.proj.bias}
        )
        attention.to(x.dtype)
        u = F.layer_norm(h, (k.width,), block.norm_1.weight, block.norm_1.bias, 1e-5)
        h = h + attention(u, u, u, need_weights=False)[0]
        u = F.layer_norm(h, (k.width,), block.norm_2.weight, block.norm_2.bias, 1e-5)
        u = F.linear(u, block.mlp[0].weight, block.mlp[0].bias)
        u = 0.5 * u * (1 + torch.erf(u / 2**0.5))
        h = h + F.linear(u, block.mlp[2].weight, block.mlp[2].bias)
        if i < k.layers // 2:
            kept.append(h)
    h = net.out(F.layer_norm(h, (k.width,), net.norm_out.weight, net.norm_out.bias, 1e-5))[
        :, -((k.size // k.patch) ** 2) :
    ]
    image = torch.zeros_like(x)
    for n, token in enumerate(h.transpose(0, 1)):
        i, j = divmod(n, k.size // k.patch)
        patch = token.reshape(-1, k.patch, k.patch, k.channels).permute(0, 3, 1, 2)
        image[:, :, i * k.patch : (i + 1) * k.patch, j * k.patch : (j + 1) * k.patch] = patch
    return net.smooth(image) if k.smooth else image


VARIANTS = {
    "class": TINY,
    "plain": replace(TINY, num_classes=None, smooth=False, channels=4),
    "text": replace(TINY, num_classes=None, context=6, tokens=3),
}


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_is_the_paper_written_out(name):
    net = build(VARIANTS[name])
    x, t, cond = inputs(net.config)
    expected = written_out(net, x, t, **cond)
    got = net(x, t, **cond)
    assert (got - expected).norm() < 1e-5 * expected.norm()
    assert torch.equal(net.trunk(x, net.embed(t), **net.condition(**cond)), got)
    one = net.trunk(x, net.embed(t[:1]), **net.condition(**cond))
    assert (one - net(x, t[:1].expand(2), **cond)).norm() < 1e-5 * one.norm()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_weight_shows(name):
    net = build(VARIANTS[name])
    x, t, cond = inputs(net.config)
    net(x, t, **cond).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 1e-5 for p in net.parameters())


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_bfloat16_is_no_further_off_than_pytorchs_own_layers(name):
    net = build(VARIANTS[name])
    x, t, cond = inputs(net.config)
    exact = net(x, t, **cond)
    net.to(torch.bfloat16)
    cond |= {"context": cond["context"].bfloat16()} if "context" in cond else {}
    got, other = net(x.bfloat16(), t, **cond), written_out(net, x.bfloat16(), t, **cond)
    assert got.dtype == torch.bfloat16
    off, theirs = ((y.float() - exact).norm() / exact.norm() for y in (got, other))
    assert off < min(1e-2, 1.5 * theirs)
    assert not torch.equal(net(x.bfloat16(), t + 1, **cond)[1], got[1])  # 700 and 701 are one number in bfloat16


def test_compiles_without_a_break():
    net = build(replace(TINY, layers=3))
    x, t, cond = inputs()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net, backend="eager", fullgraph=True)(x, t, **cond), net(x, t, **cond))


def test_the_null_class_is_the_default():
    net = build()
    x, t, _ = inputs()
    assert net.cond == {"y": 4}
    with torch.no_grad():
        assert torch.equal(net(x, t), net(x, t, y=torch.tensor([4, 4])))


def _original(k):
    """The names and shapes of the authors' code, written out from its modules."""
    d, p = k.width, k.patch
    half = k.layers // 2
    pixels = p * p * k.channels
    shapes = {
        "patch_embed.proj.weight": (d, k.channels, p, p),
        "patch_embed.proj.bias": (d,),
        "pos_embed": (1, 2 + (k.size // p) ** 2, d),
        "label_emb.weight": (k.num_classes + 1, d),
        "norm.weight": (d,),
        "norm.bias": (d,),
        "decoder_pred.weight": (pixels, d),
        "decoder_pred.bias": (pixels,),
    }
    if k.smooth:
        shapes |= {"final_layer.weight": (k.channels, k.channels, 3, 3), "final_layer.bias": (k.channels,)}
    ways = [f"{way}_blocks.{i}" for way in ("in", "out") for i in range(half)]
    for block in [*ways, "mid_block"]:
        pairs = {"attn.proj": (d, d), "mlp.fc1": (4 * d, d), "mlp.fc2": (d, 4 * d), "norm1": (d,), "norm2": (d,)}
        pairs |= {"skip_linear": (d, 2 * d)} if block.startswith("out") else {}
        shapes |= {f"{block}.{n}.weight": s for n, s in pairs.items()}
        shapes |= {f"{block}.{n}.bias": s[:1] for n, s in pairs.items()} | {f"{block}.attn.qkv.weight": (3 * d, d)}
    return shapes


def test_the_authors_layout_is_read_without_a_copy_and_written_back():
    k = UViTConfig(size=8, width=512, layers=3, num_classes=9)
    net = k.build()
    state = write(single.links(net), net.state_dict())
    shapes = {name: tuple(v.shape) for name, v in state.items()}
    assert shapes == _original(k)
    assert single.config(shapes) == k
    tensors, missing, unused = read(single.links(net), state)
    assert (missing, unused) == ([], [])
    assert all(v.data_ptr() == net.state_dict()[n].data_ptr() for n, v in tensors.items())
    assert single.config(_original(uvit_h())) == uvit_h()
    with pytest.raises(InputError, match="no row for none"):
        single.config(shapes | {"label_emb.weight": (1000, 512)})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: UViTConfig(layers=4), "odd"),
        (lambda: UViTConfig(size=9), "size"),
        (lambda: UViTConfig(heads=7), "heads"),
        (lambda: UViTConfig(time=Sinusoidal(dim=16)), "dim 16"),
        (lambda: build()(torch.zeros(1, 3, 8, 9), torch.zeros(1)), "3, 8, 8"),
        (lambda: build(VARIANTS["plain"]).condition(y=torch.tensor([1])), "no classes"),
        (lambda: build().condition(context=torch.zeros(1, 3, 6)), "no text"),
        (lambda: build(VARIANTS["text"]).condition(), "needs a context"),
    ],
)
def test_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()
