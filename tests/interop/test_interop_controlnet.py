"""ControlNets of U-Nets against diffusers' on the same weights: residuals, the steered host, both layouts of files."""

import pytest
import torch
from interop_parity import distance, halved, idle, ours, scrambled
from safetensors.torch import save_file

import sfumato as sf
from sfumato import InputError
from sfumato.control import Controlled
from sfumato.control.controlnet import ControlNetConfig, guessed, sd1_controlnet, sdxl_controlnet, trained_from
from sfumato.core import CheckpointError
from sfumato.interop.diffusers import latent_unet
from sfumato.interop.diffusers.controlnet import LAYOUT
from sfumato.interop.diffusers.folder import read_network
from sfumato.interop.links import read, write
from sfumato.interop.single import controlnet as single
from sfumato.nets.latent_unet import LatentUNetConfig, sd2
from sfumato.pipeline.folder import empty

diffusers = pytest.importorskip("diffusers")

TINY = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
HINTS = {"conditioning_embedding_out_channels": (4, 8, 12, 16)}
VARIANTS = {
    "sd1": {},
    "sd2": {"use_linear_projection": True, "attention_head_dim": (2, 4), "layers_per_block": 2},
    "averaged": {"global_pool_conditions": True},
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 10 + 6 * 256,
    },
}
# the released small ones: no transformer on the way down, one residual block in the middle; the others: less depth
SMALL = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "mid_block_type": "UNetMidBlock2D"}
VARIANTS["small"] = VARIANTS["sdxl"] | SMALL
VARIANTS["middling"] = VARIANTS["sdxl"] | {"transformer_layers_per_block": (1, 1)}
HOSTS = {"small": "sdxl", "middling": "sdxl"}
LARGE = ("sdxl", *HOSTS)


def _pair(name):
    theirs = scrambled(diffusers.ControlNetModel(**(TINY | HINTS | VARIANTS[name])), seed=1)
    return theirs, ours(LAYOUT, theirs)


def _host(name):
    changes = {k: v for k, v in VARIANTS[HOSTS.get(name, name)].items() if k != "global_pool_conditions"}
    changes = TINY | changes
    up = [kind.replace("Down", "Up") for kind in reversed(changes["down_block_types"])]
    theirs = scrambled(diffusers.UNet2DConditionModel(**changes, up_block_types=up, sample_size=8))
    return theirs, ours(latent_unet.LAYOUT, theirs)


def _inputs(name, rows=2):
    g = torch.Generator().manual_seed(0)
    x, hint = torch.randn(rows, 4, 8, 12, generator=g), torch.rand(rows, 3, 64, 96, generator=g)
    cond, more = {"context": torch.randn(rows, 7, 12, generator=g)}, {}
    if name in LARGE:
        cond |= {"pooled": torch.randn(rows, 10, generator=g), "sizes": torch.rand(rows, 6, generator=g) * 100}
        more = {"added_cond_kwargs": {"text_embeds": cond["pooled"], "time_ids": cond["sizes"]}}
    return x, torch.tensor([3.0, 700.0])[:rows], hint, cond, more


def _theirs(model, x, t, hint, cond, more, **settings):
    down, middle = model(x, t, cond["context"], hint, return_dict=False, **more, **settings)
    return [*down, middle]


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_same_residuals_and_the_same_steered_output_as_diffusers(name):
    theirs, control = _pair(name)
    host, net = _host(name)
    x, t, hint, cond, more = _inputs(name)
    expected = _theirs(theirs, x, t, hint, cond, more)
    got = control(x, t, hint=hint, **cond)
    assert len(got) == len(expected)
    assert all(distance(a, b) < 1e-5 for a, b in zip(got, expected, strict=True))
    half = halved(control)(x.bfloat16(), t, hint=hint, **cond)
    cast = {k: v.bfloat16() for k, v in cond.items()}
    less = {"added_cond_kwargs": {k: v.bfloat16() for k, v in more["added_cond_kwargs"].items()}} if more else {}
    peer = _theirs(halved(theirs), x.bfloat16(), t, hint.bfloat16(), cast, less)
    for a, b, c in zip(half, peer, expected, strict=True):
        assert distance(a.float(), c) < max(1e-2, 1.5 * distance(b.float(), c))

    # the whole: their host with 0.7 of their residuals, our denoiser at the times that these labels mean
    scaled = [0.7 * r for r in expected]
    out = host(
        x,
        t,
        cond["context"],
        down_block_additional_residuals=scaled[:-1],
        mid_block_additional_residual=scaled[-1],
        **more,
    ).sample
    plain = sf.Preconditioned(net, sf.Rectified(), sf.Eps(), sf.core.Plain())
    steered = Controlled(denoiser=plain, control=control, hint=hint, scale=0.7)
    moments = t.double() / 1000.0
    alpha, sigma = (v.float().view(-1, 1, 1, 1) for v in plain.schedule(moments))
    eps = (x - alpha * steered(x, moments, **cond)) / sigma
    assert distance(eps, out) < 2e-5
    assert distance((x - alpha * plain(x, moments, **cond)) / sigma, out) > 1e-3
    if name != "averaged":
        guess = _theirs(theirs, x, t, hint, cond, more, guess_mode=True)
        steered = Controlled(denoiser=plain, control=control, hint=hint, scale=guessed(len(got)))
        for a, b in zip(steered.residuals(x, moments, **cond), guess, strict=True):
            assert distance(a, b) < 2e-5


@pytest.mark.parametrize("name", ["sd1", "sdxl", "small"])
def test_every_weight_shows(name):
    _, control = _pair(name)
    x, t, hint, cond, _ = _inputs(name)
    assert not idle(control, lambda n: torch.cat([r.flatten(1) for r in n(x, t, hint=hint, **cond)], dim=1))


@torch.no_grad()
def test_the_names_of_the_authors_files():
    _, control = _pair("sd1")
    theirs = write(single.links(control), control.state_dict())
    shapes = {k: list(v.shape) for k, v in theirs.items()}
    # from the published layout: 8 convolutions over the hint at even places, one zero convolution a skip
    hint = [k for k in theirs if k.startswith("control_model.input_hint_block.") and k.endswith("weight")]
    assert [int(k.split(".")[2]) for k in hint] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert shapes["control_model.input_hint_block.14.weight"] == [16, 16, 3, 3]
    assert shapes["control_model.input_hint_block.4.weight"] == [8, 4, 3, 3]
    assert {k.split(".")[2] for k in theirs if ".zero_convs." in k} == {"0", "1", "2", "3"}
    assert shapes["control_model.middle_block_out.0.weight"] == [32, 32, 1, 1]
    assert shapes["control_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"] == [16, 12]
    assert shapes["control_model.time_embed.2.bias"] == [64]
    again, missing, unused = read(single.links(control), theirs)
    assert not missing
    assert not unused
    assert all(torch.equal(again[k], v) for k, v in control.state_dict().items())


@pytest.mark.parametrize(("config", "count"), [(sd1_controlnet(), 361_279_120), (sdxl_controlnet(), 1_251_014_160)])
def test_the_published_sizes(config, count):
    assert sum(p.numel() for p in empty(config, torch.float16).parameters()) == count


@torch.no_grad()
def test_a_fresh_copy_is_plain_bit_for_bit_and_silent_rows_are_left_alone():
    _, net = _host("sd1")
    x, t, hint, cond, _ = _inputs("sd1")
    plain = sf.Preconditioned(net, sf.VPCosine(), sf.Eps())
    fresh = trained_from(net)
    assert torch.equal(Controlled(denoiser=plain, control=fresh, hint=hint)(x, 0.5, **cond), plain(x, 0.5, **cond))
    control = _pair("sd1")[1]
    steered = Controlled(denoiser=plain, control=control, hint=hint[:1])
    guess = Controlled(denoiser=plain, control=control, hint=hint[:1], silent=("null",))  # two rows, one sample
    told = guess.playing(("cond", "null"))
    got, both, none = told(x, 0.5, **cond), steered(x, 0.5, **cond), plain(x, 0.5, **cond)
    torch.testing.assert_close(got[0], both[0])
    torch.testing.assert_close(got[1], none[1])
    assert distance(got[0], none[0]) > 1e-3
    torch.testing.assert_close(guess(x, 0.5, **cond), both)
    with pytest.raises(InputError, match="a picture in \\[0, 1\\], got none"):
        control(x, t, **cond)
    with pytest.raises(InputError, match="the hint must be 64 x 96 pixels, 8 times"):
        control(x, t, hint=hint[..., :32], **cond)
    with pytest.raises(InputError, match="gives 5 residuals, its host takes"):
        Controlled(denoiser=sf.Preconditioned(_host("sd2")[1], sf.VPCosine(), sf.Eps()), control=control, hint=hint)


@torch.no_grad()
def test_it_compiles_without_a_graph_break():
    _, control = _pair("sd1")
    x, t, hint, cond, _ = _inputs("sd1")
    compiled = torch.compile(control, backend="eager", fullgraph=True)
    for a, b in zip(compiled(x, t, hint=hint, **cond), control(x, t, hint=hint, **cond), strict=True):
        assert distance(a, b) < 1e-5  # eager runs fused kernels


def test_settings_that_are_not_known_are_refused():
    for change, says in (
        ({"controlnet_conditioning_channel_order": "bgr"}, "channel_order"),
        ({"a_setting_of_tomorrow": 3}, "a_setting_of_tomorrow"),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "mid_block_type"),
    ):
        with pytest.raises(InputError, match=says):
            LAYOUT.config(TINY | HINTS | change)


def test_a_folder_of_theirs(tmp_path):
    theirs, control = _pair("sdxl")
    theirs.save_pretrained(tmp_path)
    net = read_network(tmp_path)
    assert net.config == control.config
    assert all(torch.equal(net.state_dict()[k], v) for k, v in control.state_dict().items())


@torch.no_grad()
def test_one_file_of_the_authors_layout(tmp_path):
    unet = LatentUNetConfig(widths=(32, 64), transformers=(1, 0), heads=(8, 8), layers=1, context=12)
    control = scrambled(ControlNetConfig(unet=unet, hints=(4, 8, 12), hint_channels=1).build())
    for prefix in (single.PREFIX, ""):
        file = tmp_path / f"{prefix}c.safetensors"
        tensors = write(single.links(control, prefix), control.state_dict())
        save_file({k: v.contiguous() for k, v in tensors.items()}, file)
        net = single.read_controlnet(file)
        assert net.config == control.config
        assert all(torch.equal(net.state_dict()[k], v) for k, v in control.state_dict().items())
    for published in (sd1_controlnet(), ControlNetConfig(unet=sd2()), sdxl_controlnet()):
        made = empty(published, torch.float16)
        shapes = {k: tuple(v.shape) for k, v in write(single.links(made), made.state_dict()).items()}
        assert single.config(shapes) == published
    save_file({k: v.contiguous() for k, v in tensors.items()} | {"difference": torch.ones(1)}, file)
    with pytest.raises(InputError, match="holds differences"):
        single.read_controlnet(file)
    save_file({"a": torch.ones(1)}, file)
    with pytest.raises(CheckpointError, match="is it a ControlNet"):
        single.read_controlnet(file)
