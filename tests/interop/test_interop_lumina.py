"""Lumina-Next's transformer against diffusers' on the same weights, at the size of training and beyond it."""

import math
from dataclasses import replace

import pytest
import torch
from interop_parity import distance, halved, idle, ours, scrambled

from sfumato import InputError
from sfumato.interop.diffusers.lumina import LAYOUT

diffusers = pytest.importorskip("diffusers")
embeddings = pytest.importorskip("diffusers.models.embeddings")

TINY = {
    "sample_size": 8,
    "hidden_size": 48,
    "num_layers": 2,
    "num_attention_heads": 4,
    "num_kv_heads": 2,
    "multiple_of": 16,
    "cross_attention_dim": 10,
}
VARIANTS = {
    "next": {},
    "as many keys": {"num_kv_heads": 4, "learn_sigma": False},
    "narrower": {"ffn_dim_multiplier": 0.5, "norm_eps": 1e-3, "patch_size": 4, "sample_size": 16, "in_channels": 3},
}
SIZES = {"of training": (8, 8), "beyond": (16, 24), "below": (4, 8)}


def _model(name="next"):
    return scrambled(diffusers.LuminaNextDiT2DModel(**(TINY | VARIANTS[name])))


def _inputs(config, size=(16, 24), rows=2):
    g = torch.Generator().manual_seed(0)
    mask = torch.ones(rows, 7)
    mask[0, :3] = 0  # the padding is on the left
    scale = config.patch // 2
    x = torch.randn(rows, config.channels, size[0] * scale, size[1] * scale, generator=g)
    return x, {"context": torch.randn(rows, 7, config.context, generator=g), "context_mask": mask}


def _theirs(model, x, label, cond, watershed=1.0):
    """Return their network's output as their pipeline asks for it: sizes and times decide the rotations."""
    k = model.config
    n = x.shape[2] * x.shape[3] / k.patch_size**2
    base = k.sample_size // k.patch_size
    factor = math.sqrt(n) / base
    early = float(label[0]) < watershed
    turn = embeddings.get_2d_rotary_pos_embed_lumina(
        k.hidden_size // k.num_attention_heads,
        32,
        32,
        linear_factor=factor if early else 1.0,
        ntk_factor=1.0 if early else factor,
    )
    more = {"base_sequence_length": base**2}
    y = model(x, label, cond["context"], cond["context_mask"], turn, cross_attention_kwargs=more).sample
    return -y[:, : x.shape[1]]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_same_output_as_diffusers(name, size):
    theirs = _model(name)
    net = ours(LAYOUT, theirs)
    x, cond = _inputs(net.config, size)
    label = torch.tensor([0.31, 0.87])
    expected = _theirs(theirs, x, label, cond)
    assert distance(net(x, label, **cond), expected) < 1e-5
    half = halved(net)(x.bfloat16(), label, **cond).float()
    cast = cond | {"context": cond["context"].bfloat16()}
    peer = _theirs(halved(theirs), x.bfloat16(), label, cast).float()
    assert distance(half, expected) < max(1e-2, 1.5 * distance(peer, expected))


@torch.no_grad()
def test_the_watershed_decides_how_places_are_scaled_row_by_row():
    theirs = _model()
    net = ours(LAYOUT, theirs)
    net.config = replace(net.config, watershed=0.3)
    x, cond = _inputs(net.config)
    labels = torch.tensor([0.29, 0.3])
    expected = torch.cat(
        [
            _theirs(theirs, x[i : i + 1], labels[i : i + 1], {k: v[i : i + 1] for k, v in cond.items()}, 0.3)
            for i in range(2)
        ]
    )
    assert distance(net(x, labels, **cond), expected) < 1e-5
    assert distance(net(x, labels[:1], **cond)[0], expected[0]) < 1e-5


@torch.no_grad()
def test_hidden_tokens_do_not_count_and_a_text_without_any_is_finite():
    net = ours(LAYOUT, _model())
    x, cond = _inputs(net.config)
    label = torch.tensor([0.5])
    cut = net(x[:1], label, context=cond["context"][:1, 3:])
    assert distance(net(x, label, **cond)[:1], cut) < 1e-5
    nothing = cond | {"context_mask": torch.zeros(2, 7)}
    assert torch.isfinite(net(x, label, **nothing)).all()


def test_every_weight_shows_but_the_padding():
    net = ours(LAYOUT, _model("as many keys"))
    x, cond = _inputs(net.config)
    # keys of the text do not turn: a bias of theirs shifts all logits of a query alike
    constant = [f"blocks.{i}.cross.norm_k.bias" for i in range(2)]
    assert idle(net, lambda n: n(x, torch.tensor([0.31, 0.87]), **cond)) == ["pad", *constant]


@torch.no_grad()
def test_embed_and_condition_are_all_that_the_trunk_needs():
    net = ours(LAYOUT, _model())
    x, cond = _inputs(net.config)
    t = torch.tensor([0.2, 0.9])
    assert torch.equal(net.trunk(x, net.embed(t), **net.condition(**cond)), net(x, t, **cond))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"qk_norm": False}, "qk_norm=False"),
        ({"num_kv_heads": 3}, "kv_heads=3"),
        ({"a_setting_of_tomorrow": 3}, "a_setting_of_tomorrow"),
    ],
)
def test_a_setting_that_is_not_known_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        LAYOUT.config(TINY | change)
