"""Stable Diffusion 3's transformer against diffusers' on the same weights, in a folder and in a single file."""

import pytest
import torch
from interop_parity import distance, halved, idle, ours, scrambled

import sfumato as sf
from sfumato import InputError
from sfumato.guidance import ClassifierFree, SkipLayer
from sfumato.interop.diffusers.mmdit import LAYOUT
from sfumato.nets.hooked import Hooked
from sfumato.nets.hooks import Moment, Subscriptions
from sfumato.nets.skip import Skip

diffusers = pytest.importorskip("diffusers")

TINY = {
    "sample_size": 8,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 12,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 10,
    "in_channels": 4,
    "out_channels": 4,
    "pos_embed_max_size": 12,
}
VARIANTS = {
    "sd3": {},
    "sd35-large": {"qk_norm": "rms_norm"},
    "sd35-medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
    "patches": {"patch_size": 4, "in_channels": 3, "out_channels": 6, "dual_attention_layers": (2,)},
}
DEAD = ("blocks.2.attn.text.q.", "blocks.2.attn.text.norm_q.")


def _model(name):
    return scrambled(diffusers.SD3Transformer2DModel(**(TINY | VARIANTS[name])))


def _inputs(config, rows=2):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(rows, config.channels, 12, 20, generator=g),
        torch.tensor([3.0, 700.0, 250.5])[:rows],
        {
            "context": torch.randn(rows, 7, config.context, generator=g),
            "pooled": torch.randn(rows, config.pooled, generator=g),
        },
    )


def _theirs(model, x, t, cond, **more):
    return model(x, cond["context"], cond["pooled"], t, **more).sample


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_same_output_as_diffusers(name):
    theirs = _model(name)
    net = ours(LAYOUT, theirs)
    x, t, cond = _inputs(net.config)
    expected = _theirs(theirs, x, t, cond)
    assert distance(net(x, t, **cond), expected) < 1e-5
    half = halved(net)(x.bfloat16(), t, **cond).float()
    cast = {key: value.bfloat16() for key, value in cond.items()}
    peer = _theirs(halved(theirs), x.bfloat16(), t, cast).float()
    assert distance(half, expected) < max(1e-2, 1.5 * distance(peer, expected))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_weight_shows_but_the_queries_that_nobody_reads(name):
    net = ours(LAYOUT, _model(name))
    x, t, cond = _inputs(net.config)
    assert all(weight.startswith(DEAD) for weight in idle(net, lambda n: n(x, t, **cond)))


@torch.no_grad()
def test_embed_and_condition_are_all_that_the_trunk_needs():
    net = ours(LAYOUT, _model("sd35-medium"))
    x, t, cond = _inputs(net.config)
    assert torch.equal(net.trunk(x, net.embed(t), **net.condition(**cond)), net(x, t, **cond))
    one = net(x, t[:1], **cond)
    assert distance(one, net(x, t[:1].expand(2), **cond)) < 1e-6


@pytest.mark.parametrize("layers", [(0,), (0, 1), (1, 2)])
@torch.no_grad()
def test_skipped_blocks_are_skipped_as_theirs_are(layers):
    theirs = _model("sd35-medium")
    net = ours(LAYOUT, theirs)
    x, t, cond = _inputs(net.config)
    hooks = Subscriptions(net, [(lambda s: s.kind == "block" and s.order in layers, Skip())]).at(Moment())
    expected = _theirs(theirs, x, t, cond, skip_layers=list(layers))
    assert distance(net(x, t, **cond, hooks=hooks), expected) < 1e-5


@torch.no_grad()
def test_skip_layer_guidance_is_that_of_their_pipeline():
    theirs = _model("sd35-medium")
    net = ours(LAYOUT, theirs)
    x, t, cond = _inputs(net.config)
    t = t[1:].expand(2)
    null = {key: value.flip(1) for key, value in cond.items()}
    text, nothing = _theirs(theirs, x, t, cond), _theirs(theirs, x, t, null)
    skipped = _theirs(theirs, x, t, cond, skip_layers=[0, 1])
    expected = nothing + 4.0 * (text - nothing) + 2.5 * (text - skipped)

    plain = sf.Preconditioned(net, sf.Rectified(), sf.Flow(), sf.FlowTime())
    bad = Hooked(denoiser=plain, subscribe=[(lambda s: s.kind == "block" and s.order in (0, 1), Skip())])
    guided = SkipLayer(denoiser=ClassifierFree(denoiser=plain, scale=4.0, null=null), bad=bad, scale=2.5)
    assert distance((x - guided(x, 0.7, **cond)) / 0.7, expected) < 1e-5
    run = {"solver": sf.solvers.Euler(), "grid": sf.grids.uniform(plain.schedule, 2), "seeds": [1, 2], "cond": cond}
    by_hand = x
    for k, (now, then) in enumerate(((1.0, 0.5), (0.5, 0.0))):
        assert run["grid"][k] == now
        by_hand = by_hand + (then - now) / now * (by_hand - guided(by_hand, now, **cond))
    torch.testing.assert_close(sf.sample(guided, x=x, **run), by_hand, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_table_of_positions_is_theirs_and_its_centre_is_used():
    fresh = diffusers.SD3Transformer2DModel(**TINY)
    net = LAYOUT.config(TINY).build()
    torch.testing.assert_close(net.patches.table.flatten(0, 1), fresh.pos_embed.pos_embed[0], rtol=1e-5, atol=1e-5)
    x = torch.zeros(1, 4, 4, 8)
    net.patches.matrix.bias.data.zero_()
    assert torch.equal(net.patches(x)[0].view(2, 4, 32), net.patches.table[5:7, 4:8])
    with pytest.raises(InputError, match="beyond the table of 12 x 12"):
        net.patches(torch.zeros(1, 4, 26, 8))
    with pytest.raises(InputError, match="multiples of 2"):
        net.patches(torch.zeros(1, 4, 7, 8))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"qk_norm": "layer_norm"}, "qk_norm='layer_norm'"),
        ({"caption_projection_dim": 16}, "is not the width 32"),
        ({"pos_embed_max_size": 0}, "pos_embed_max_size"),
        ({"dual_attention_layers": (3,)}, "names block 3"),
        ({"a_setting_of_tomorrow": 3}, "a_setting_of_tomorrow"),
    ],
)
def test_a_setting_that_is_not_known_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        LAYOUT.config(TINY | change)


def test_a_condition_that_is_missing_or_of_another_width_is_refused():
    net = LAYOUT.config(TINY).build()
    x, t, cond = _inputs(net.config)
    with pytest.raises(InputError, match=r"needs pooled \[B, 10\], got none"):
        net(x, t, context=cond["context"])
    with pytest.raises(InputError, match=r"needs context \[B, T, 12\], got \[2, 7, 3\]"):
        net(x, t, context=cond["context"][..., :3], pooled=cond["pooled"])
