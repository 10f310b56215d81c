"""The U-Net of latent diffusion against diffusers' on the same weights, in every shape that released files have."""

import pytest
import torch
from interop_parity import distance, halved, idle, ours, scrambled

from sfumato import InputError
from sfumato.interop.diffusers.latent_unet import LAYOUT

diffusers = pytest.importorskip("diffusers")

SD1 = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
XL = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (1, 2, 4),
    "transformer_layers_per_block": (1, 2, 3),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
}
XL_VECTOR = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 32 + 6 * 256,
}
VARIANTS = {
    "sd1": {},
    "sd2": {"attention_head_dim": (2, 4), "use_linear_projection": True, "upcast_attention": True},
    "sdxl": XL | {"projection_class_embeddings_input_dim": 32 + 6 * 256, "layers_per_block": 2},
    "refiner": XL
    | {
        "projection_class_embeddings_input_dim": 2560,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "inpaint": {"in_channels": 9},
    "instruct": {"in_channels": 8},
    "depth": {"in_channels": 5},
    "upscaler": {"in_channels": 7, "num_class_embeds": 50, "only_cross_attention": (True, False)},
    "lcm": {"time_cond_proj_dim": 8},
    "pruned": {"mid_block_type": None},
    "scale-shift": {"resnet_time_scale_shift": "scale_shift"},
}


def _model(name):
    return scrambled(diffusers.UNet2DConditionModel(**(SD1 | VARIANTS[name])))


def _inputs(config, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, config.in_channels, 12, 20, generator=g)
    cond = {"context": torch.randn(2, 7, 16, generator=g)}
    theirs = {}
    if config.extra:
        cond["extra"] = torch.randn(2, config.extra, 12, 20, generator=g)
    if config.vector:
        cond["pooled"] = torch.randn(2, config.vector - 256 * config.sizes, generator=g)
        cond["sizes"] = torch.rand(2, config.sizes, generator=g) * 1024
        theirs["added_cond_kwargs"] = {"text_embeds": cond["pooled"], "time_ids": cond["sizes"]}
    if config.noise_levels:
        cond["noise_level"] = theirs["class_labels"] = torch.tensor([3, 49])
    if config.guidance_width:
        cond["guidance"] = torch.tensor([7.5, 3.0])
        theirs["timestep_cond"] = diffusers.LatentConsistencyModelPipeline.get_guidance_scale_embedding(
            None, cond["guidance"] - 1, config.guidance_width
        )
    return x, torch.tensor([3.0, 700.0]), cond, theirs


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_same_output_as_diffusers(name):
    theirs = _model(name)
    net = ours(LAYOUT, theirs)
    x, t, cond, more = _inputs(net.config)
    both = torch.cat([x, cond["extra"]], 1) if "extra" in cond else x
    expected = theirs(both, t, cond["context"], **more).sample
    assert distance(net(x, t, **cond), expected) < 1e-5
    half = halved(net)(x.bfloat16(), t, **cond).float()
    assert distance(half, expected) < max(1e-2, 1.5 * distance(_half(theirs, both, t, cond, more), expected))


def _half(theirs, x, t, cond, more):
    cast = lambda v: v.bfloat16() if v.dtype == torch.float32 else v
    more = {k: {n: cast(v) for n, v in m.items()} if isinstance(m, dict) else cast(m) for k, m in more.items()}
    return halved(theirs)(x.bfloat16(), t, cond["context"].bfloat16(), **more).sample.float()


@torch.no_grad()
def test_a_mask_hides_tokens_as_theirs_does():
    theirs = _model("sd1")
    net = ours(LAYOUT, theirs)
    x, t, cond, _ = _inputs(net.config)
    mask = torch.ones(2, 7)
    mask[0, 3:] = 0
    expected = theirs(x, t, cond["context"], encoder_attention_mask=mask).sample
    assert distance(net(x, t, **cond, context_mask=mask), expected) < 1e-5
    cut = net(x[:1], t[:1], context=cond["context"][:1, :3])
    assert distance(net(x, t, **cond, context_mask=mask)[:1], cut) < 1e-5


@pytest.mark.parametrize("name", ["sd1", "sdxl", "upscaler", "lcm"])
def test_every_weight_shows(name):
    net = ours(LAYOUT, _model(name))
    x, t, cond, _ = _inputs(net.config)
    assert idle(net, lambda n: n(x, t, **cond)) == []


@torch.no_grad()
def test_embed_and_condition_are_all_that_the_trunk_needs():
    for name in ("sdxl", "lcm"):
        net = ours(LAYOUT, _model(name))
        x, t, cond, _ = _inputs(net.config)
        assert torch.equal(net.trunk(x, net.embed(t), **net.condition(**cond)), net(x, t, **cond))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"down_block_types": ("AttnDownBlock2D", "DownBlock2D")}, "AttnDownBlock2D"),
        ({"attention_type": "gated"}, "gated"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"dual_cross_attention": True}, "dual_cross_attention"),
        ({"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}, "not mirrored"),
        ({"flip_sin_to_cos": False}, "flip_sin_to_cos"),
        ({"a_setting_of_tomorrow": 3}, "a_setting_of_tomorrow"),
    ],
)
def test_a_setting_that_is_not_known_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        LAYOUT.config(SD1 | change)


def test_it_compiles_without_a_graph_break():
    changes = {"block_out_channels": (16,), "down_block_types": ("CrossAttnDownBlock2D",), "norm_num_groups": 8}
    changes |= {"up_block_types": ("CrossAttnUpBlock2D",), "attention_head_dim": 2}
    net = LAYOUT.config(SD1 | XL_VECTOR | changes).build().eval()
    x, t, cond, _ = _inputs(net.config)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(net, backend="eager", fullgraph=True)(x, t, **cond)
        torch.testing.assert_close(compiled, net(x, t, **cond), rtol=1e-4, atol=1e-4)
