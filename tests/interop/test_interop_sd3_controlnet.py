"""ControlNets of Stable Diffusion 3 against diffusers' on the same weights, alone and inside of the host."""

import json

import pytest
import torch
from interop_parity import distance, halved, idle, ours, scrambled

import sfumato as sf
from sfumato import InputError
from sfumato.control import Controlled
from sfumato.interop.diffusers import mmdit
from sfumato.interop.diffusers.folder import read_network
from sfumato.interop.diffusers.sd3_controlnet import LAYOUT

diffusers = pytest.importorskip("diffusers")

HOST = {
    "sample_size": 8,
    "num_layers": 5,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 12,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 10,
    "in_channels": 4,
    "out_channels": 4,
    "pos_embed_max_size": 12,
}
TINY = HOST | {"num_layers": 2, "force_zeros_for_pooled_projection": False}
VARIANTS = {
    "sd3": {},
    "zeros": {"force_zeros_for_pooled_projection": True},
    "in-painting": {"extra_conditioning_channels": 1},
    "sd35-medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0,), "num_layers": 3},
    "sd35-large": {"joint_attention_dim": None, "use_pos_embed": False},
}
# of the last block's text, only what the image reads of it matters
DEAD = tuple(f"blocks.1.{part}" for part in ("text_mlp.", "attn.text.out.", "attn.text.q."))


def _inputs(config, rows=2):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(rows, 4, 12, 20, generator=g),
        torch.tensor([3.0, 700.0])[:rows],
        torch.randn(rows, 4 + config.extra, 12, 20, generator=g),
        {"context": torch.randn(rows, 7, 12, generator=g), "pooled": torch.randn(rows, 10, generator=g)},
    )


def _pair(name):
    theirs = scrambled(diffusers.SD3ControlNetModel(**(TINY | VARIANTS[name])), seed=1)
    return theirs, ours(LAYOUT, theirs)


def _host():
    theirs = scrambled(diffusers.SD3Transformer2DModel(**HOST))
    return theirs, ours(mmdit.LAYOUT, theirs)


def _theirs(model, config, x, t, hint, cond):
    pooled = torch.zeros_like(cond["pooled"]) if config.ignores_pooled else cond["pooled"]
    context = cond["context"] if config.context else None
    return model(x, hint, 1.0, context, pooled, t, return_dict=False)[0]


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_same_residuals_and_the_same_steered_output_as_diffusers(name):
    theirs, control = _pair(name)
    host, net = _host()
    x, t, hint, cond = _inputs(control.config)
    seen = x if control.patches is not None else host.pos_embed(x)
    expected = _theirs(theirs, control.config, seen, t, hint, cond)
    given = {key: value for key, value in cond.items() if key in control.cond}
    got = control(control.seen(net, x), t, hint=hint, **given)
    assert len(got) == len(expected)
    assert all(distance(a, b) < 1e-5 for a, b in zip(got, expected, strict=True))
    half = halved(control)(seen.bfloat16(), t, hint=hint, **given)
    cast = {key: value.bfloat16() for key, value in cond.items()}
    peer = _theirs(halved(theirs), control.config, seen.bfloat16(), t, hint.bfloat16(), cast)
    for a, b, c in zip(half, peer, expected, strict=True):
        assert distance(a.float(), c) < max(1e-2, 1.5 * distance(b.float(), c))

    # the whole: their host with 0.7 of their residuals, our denoiser at the times that these labels mean
    out = host(x, cond["context"], cond["pooled"], t, block_controlnet_hidden_states=[0.7 * r for r in expected]).sample
    plain = sf.Preconditioned(net, sf.Rectified(), sf.Flow())
    steered = Controlled(denoiser=plain, control=control, hint=hint, scale=0.7)
    moments = t.double() / 1000.0
    velocity = (x - steered(x, moments, **cond)) / moments.float().view(-1, 1, 1, 1)
    assert distance(velocity, out) < 1e-5
    assert distance((x - plain(x, moments, **cond)) / moments.float().view(-1, 1, 1, 1), out) > 1e-3


def test_every_weight_shows_but_what_nobody_reads():
    _, control = _pair("sd3")
    x, t, hint, cond = _inputs(control.config)
    assert all(name.startswith(DEAD) for name in idle(control, lambda n: torch.cat(n(x, t, hint=hint, **cond), dim=1)))


@pytest.mark.parametrize("older", [False, True])
@torch.no_grad()
def test_a_folder_of_theirs_is_read(tmp_path, older):
    theirs, control = _pair("sd35-medium")
    theirs.save_pretrained(tmp_path)
    if older:
        config = json.loads((tmp_path / "config.json").read_text()) | {"_class_name": "ControlNetSD3Model"}
        (tmp_path / "config.json").write_text(json.dumps(config))
    net = read_network(tmp_path)
    assert net.config == control.config
    assert all(torch.equal(value, control.state_dict()[name]) for name, value in net.state_dict().items())


def test_the_older_name_of_the_class_and_settings_that_are_not_known():
    assert "ControlNetSD3Model" in LAYOUT.aliases
    for change, says in (
        ({"pos_embed_type": None}, "pos_embed_type"),
        ({"caption_projection_dim": 7}, "is not the width"),
        ({"a_setting_of_tomorrow": 3}, "a_setting_of_tomorrow"),
    ):
        with pytest.raises(InputError, match=says):
            LAYOUT.config(TINY | change)
