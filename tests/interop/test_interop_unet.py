"""The pixel-space U-Nets against diffusers' class on the same weights: DDPM's, ADM's and that of consistency models."""

import pytest
import torch
from interop_parity import distance, halved, idle, ours, scrambled

from sfumato import InputError
from sfumato.interop.diffusers.unet import LAYOUT
from sfumato.nets.unet import adm_64, adm_256
from sfumato.pipeline.folder import empty

diffusers = pytest.importorskip("diffusers")

DDPM = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "norm_num_groups": 8,
    "norm_eps": 1e-6,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "downsample_padding": 0,
}
ADM = {
    "block_out_channels": (16, 32, 32),
    "layers_per_block": 2,
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "attention_head_dim": 8,
    "norm_num_groups": 8,
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 8,
}
VARIANTS = {
    "ddpm": DDPM,
    "adm": ADM | {"num_class_embeds": 5, "out_channels": 6},
    "consistency-lsun": ADM | {"resnet_time_scale_shift": "default"},
    "plain": {**DDPM, "attention_head_dim": 8, "flip_sin_to_cos": True, "freq_shift": 0, "downsample_padding": 1},
}


def _case(name):
    theirs = scrambled(diffusers.UNet2DModel(**VARIANTS[name]))
    g = torch.Generator().manual_seed(0)
    size = (12, 8) if name != "ddpm" else (8, 8)
    cond = {"y": torch.tensor([3, 0])} if "num_class_embeds" in VARIANTS[name] else {}
    return theirs, torch.randn(2, 3, *size, generator=g), torch.tensor([3.0, 700.0]), cond


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_same_output_as_diffusers(name):
    theirs, x, t, cond = _case(name)
    net = ours(LAYOUT, theirs)
    expected = theirs(x, t, class_labels=cond.get("y")).sample
    assert distance(net(x, t, **cond), expected) < 1e-5
    half = halved(theirs)(x.bfloat16(), t, class_labels=cond.get("y")).sample.float()
    assert distance(halved(net)(x.bfloat16(), t, **cond).float(), expected) < max(1e-2, 1.5 * distance(half, expected))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_weight_shows(name):
    theirs, x, t, cond = _case(name)
    silent = idle(ours(LAYOUT, theirs), lambda n: n(x, t, **cond))
    assert silent == []


def test_a_network_without_a_null_class_asks_for_labels():
    theirs, x, t, _ = _case("adm")
    net = ours(LAYOUT, theirs)
    assert net.cond == {"y": None}
    with pytest.raises(InputError, match=r"knows no null class: give labels y in 0\.\.4"):
        net(x, t)


@pytest.mark.parametrize(
    ("config", "count"),
    [(adm_64(), 295_904_454), (adm_256(), 553_838_086), (adm_256(num_classes=None), 552_814_086)],
)
def test_adms_networks_have_the_published_counts(config, count):
    assert sum(p.numel() for p in empty(config, torch.float32).parameters()) == count


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"down_block_types": ("SkipDownBlock2D", "AttnDownBlock2D")}, "SkipDownBlock2D"),
        ({"up_block_types": ("UpBlock2D", "AttnUpBlock2D")}, "not mirrored"),
        ({"downsample_type": "resnet"}, "both kinds"),
        ({"time_embedding_type": "fourier"}, "fourier"),
        ({"attn_norm_num_groups": 4}, "attn_norm_num_groups"),
        ({"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
    ],
)
def test_a_setting_that_is_not_known_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        LAYOUT.config(DDPM | change)
