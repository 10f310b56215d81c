"""MMDiT: the published counts, the joint attention's formula, the block's identity at the start, compilation."""

import pytest
import torch

from sfumato import InputError
from sfumato.control.sd3_controlnet import SD3ControlNetConfig
from sfumato.core import from_config, to_config
from sfumato.nets.blocks.joint import JointAttention
from sfumato.nets.diffit import DiffiTConfig
from sfumato.nets.diffit_unet import DiffiTUNetConfig
from sfumato.nets.hooks import Moment, Subscriber, Subscriptions
from sfumato.nets.lumina import LuminaConfig
from sfumato.nets.mmdit import MMDiTConfig, sd3_medium, sd35_large, sd35_medium
from sfumato.pipeline.folder import empty

TINY = MMDiTConfig(
    channels=4,
    out_channels=4,
    layers=3,
    heads=2,
    head_width=8,
    context=12,
    pooled=10,
    positions=6,
    normed=True,
    dual=(0,),
)


def _inputs(rows=2):
    g = torch.Generator().manual_seed(0)
    cond = {"context": torch.randn(rows, 5, 12, generator=g), "pooled": torch.randn(rows, 10, generator=g)}
    return torch.randn(rows, 4, 8, 12, generator=g), torch.linspace(3, 900, rows), cond


@pytest.mark.parametrize(
    ("config", "count", "table"),
    [
        (sd3_medium(), 2_028_328_000, 192**2 * 1536),
        (sd35_medium(), 2_243_171_520, 384**2 * 1536),
        (sd35_large(), 8_056_627_520, 192**2 * 2432),
    ],
)
def test_the_published_sizes(config, count, table):
    net = empty(config, torch.bfloat16)
    assert sum(p.numel() for p in net.parameters()) == count
    assert {name: b.numel() for name, b in net.named_buffers()} == {"patches.table": table}
    assert from_config(to_config(config)) == config


@torch.no_grad()
def test_joint_attention_is_one_softmax_over_both():
    torch.manual_seed(0)
    attention = JointAttention(16, 2, normed=True)
    for p in attention.parameters():
        p.copy_(torch.randn_like(p) * 0.3 + (p.ndim == 1))
    x, text = torch.randn(3, 6, 16), torch.randn(3, 4, 16)

    def rms(u, weight):
        return u / (u.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    def heads(stream, c, which):
        layer = getattr(stream, which)
        u = (c @ layer.weight.T + layer.bias).view(3, -1, 2, 8).permute(0, 2, 1, 3)
        return u if which == "v" else rms(u, getattr(stream, f"norm_{which}").weight)

    both = ((attention.image, x), (attention.text, text))
    q, k, v = (torch.cat([heads(s, c, which) for s, c in both], 2) for which in "qkv")
    y = (torch.softmax(q @ k.mT / 8**0.5, -1) @ v).permute(0, 2, 1, 3).flatten(2)
    got = attention(x, text)
    torch.testing.assert_close(got[0], attention.image.out(y[:, :6]))
    torch.testing.assert_close(got[1], attention.text.out(y[:, 6:]))


@torch.no_grad()
def test_a_fresh_network_gives_zero_and_its_blocks_are_identities():
    net = TINY.build()
    x, t, cond = _inputs()
    assert torch.equal(net(x, t, **cond), torch.zeros_like(x))
    tokens, text = torch.randn(2, 6, 16), torch.randn(2, 5, 16)
    h, after = net.blocks[0](tokens, text, net.blocks[0].steer(torch.randn(2, 16)))
    assert torch.equal(h, tokens)
    assert torch.equal(after, text)
    assert net.blocks[2](tokens, text, net.blocks[2].steer(torch.randn(2, 16)))[1] is None


@torch.no_grad()
def test_it_compiles_without_a_graph_break():
    net = TINY.build().eval()
    for p in net.parameters():
        p.copy_(torch.randn_like(p) * 0.2)
    x, t, cond = _inputs()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t, **cond), net(x, t, **cond))


@pytest.mark.parametrize("config", [MMDiTConfig, LuminaConfig, DiffiTConfig, SD3ControlNetConfig, DiffiTUNetConfig])
def test_a_network_of_nothing_is_refused(config):
    for field in ("channels", "layers"):
        for value in (0, -1, "2", None):
            with pytest.raises(
                InputError, match=rf"{config.__name__}\.{field} must be a whole number of at least 1, got"
            ):
                config(**{field: value})


def test_a_dual_block_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"names block 24, there are 0\.\.23"):
        MMDiTConfig(dual=(24,))


@torch.no_grad()
def test_a_joint_site_holds_the_tokens_of_the_image_then_those_of_the_text():
    class Shapes(Subscriber):
        def __init__(self):
            self.seen = {}

        def note(self, event, site, tokens):
            self.seen[event, site.kind, site.level] = tokens

        def before(self, x, site, now):
            self.note("before", site, x.shape[1])

        def kv(self, q, k, v, mask, site, now):
            self.note("kv", site, (q.shape[2], k.shape[2], v.shape[2]))
            return q, k, v, mask

        def out(self, y, site, now):
            self.note("out", site, y.shape[1])
            return y

        def after(self, h, site, now):
            self.note("after", site, h.shape[1])
            return h

    net, shapes = TINY.build(), Shapes()
    x, t, cond = _inputs()
    net(x, t, **cond, hooks=Subscriptions(net, [(lambda s: True, shapes)]).at(Moment()))
    image, both = 24, 29
    joint = {"before": both, "kv": (both, both, both), "out": both}
    expected = {(event, "joint", i): value for event, value in joint.items() for i in (0, 1)}
    expected |= {("before", "joint", 2): both, ("kv", "joint", 2): (image, both, both), ("out", "joint", 2): image}
    expected |= {("before", "self", 0): image, ("kv", "self", 0): (image,) * 3, ("out", "self", 0): image}
    expected |= {("before", "block", i): both for i in range(3)}
    expected |= {("after", "block", i): both for i in (0, 1)} | {("after", "block", 2): image}
    assert shapes.seen == expected
