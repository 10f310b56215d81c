"""T2I-Adapters against diffusers' on the same weights: features, the steered U-Net, whole pictures."""

import diffusers
import pytest
import tiny_folders
import torch
from interop_parity import distance, halved, idle, ours, scrambled
from test_interop_control_pictures import SOLVERS, TOLD, _distance, _ours, _picture

import sfumato as sf
from sfumato import InputError
from sfumato.control import Controlled
from sfumato.control.t2i_adapter import LightT2IAdapterConfig, T2IAdapterConfig, sdxl_adapter
from sfumato.interop.diffusers import latent_unet
from sfumato.interop.diffusers.folder import read_network
from sfumato.interop.diffusers.t2i_adapter import LAYOUT
from sfumato.pipeline.folder import empty
from sfumato.pipeline.steering import ByAdapter

HOSTS = {
    "sd1": ((16, 24, 32, 32), ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)),
    "sdxl": ((16, 24, 32), ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2),
}
VARIANTS = {
    "full": ("sd1", {"channels": [16, 24, 32, 32]}),
    "grey": ("sd1", {"channels": [16, 24, 32, 32], "in_channels": 1, "num_res_blocks": 1}),
    "light": ("sd1", {"channels": [16, 24, 32], "adapter_type": "light_adapter", "num_res_blocks": 4}),
    "xl": ("sdxl", {"channels": [16, 24, 32, 32], "adapter_type": "full_adapter_xl", "downscale_factor": 16}),
}


def _pair(name):
    theirs = scrambled(diffusers.T2IAdapter(**VARIANTS[name][1]), seed=2)
    return theirs, ours(LAYOUT, theirs)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_same_features_and_the_same_steered_output_as_diffusers(name):
    theirs, adapter = _pair(name)
    g = torch.Generator().manual_seed(0)
    hint = torch.rand(2, adapter.config.hint_channels, 128, 192, generator=g)
    expected = theirs(hint)
    assert all(distance(a, b) < 1e-5 for a, b in zip(adapter(hint), expected, strict=True))
    half, peer = halved(adapter)(hint.bfloat16()), halved(theirs)(hint.bfloat16())
    for a, b, c in zip(half, peer, expected, strict=True):
        assert distance(a.float(), c) < max(1e-2, 1.5 * distance(b.float(), c))
    odd = torch.rand(1, len(hint[0]), 5 * adapter.config.patch, 7 * adapter.config.patch, generator=g)
    assert all(distance(a, b) < 1e-5 for a, b in zip(adapter(odd), theirs(odd), strict=True))
    widths, down = HOSTS[VARIANTS[name][0]]
    model = diffusers.UNet2DConditionModel(
        block_out_channels=widths,
        down_block_types=down,
        up_block_types=[kind.replace("Down", "Up") for kind in reversed(down)],
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    host = scrambled(model)
    net = ours(latent_unet.LAYOUT, host)
    x, t, context = (
        torch.randn(2, 4, 16, 24, generator=g),
        torch.tensor([3.0, 700.0]),
        torch.randn(2, 7, 12, generator=g),
    )
    out = host(x, t, context, down_intrablock_additional_residuals=[0.7 * f for f in expected]).sample
    plain = sf.Preconditioned(net, sf.Rectified(), sf.Eps(), sf.core.Plain())
    steered = Controlled(denoiser=plain, control=adapter, hint=hint, scale=0.7)
    moments = t.double() / 1000.0
    alpha, sigma = (v.float().view(-1, 1, 1, 1) for v in plain.schedule(moments))
    assert distance((x - alpha * steered(x, moments, context=context)) / sigma, out) < 2e-5
    assert distance((x - alpha * plain(x, moments, context=context)) / sigma, out) > 1e-3


def test_every_weight_shows():
    for name in ("full", "light"):
        _, adapter = _pair(name)
        hint = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        assert not idle(adapter, lambda net, hint=hint: torch.cat([f.flatten() for f in net(hint)]))


@pytest.mark.parametrize("name", ["full", "light"])
@torch.no_grad()
def test_it_compiles_without_a_graph_break(name):
    _, adapter = _pair(name)
    hint = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(adapter, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(hint), adapter(hint))


@pytest.mark.parametrize(
    ("config", "count"),
    [(T2IAdapterConfig(), 77_369_280), (sdxl_adapter(), 79_028_160), (LightT2IAdapterConfig(), 18_689_200)],
)
def test_the_published_sizes(config, count):
    assert sum(p.numel() for p in empty(config, torch.float16).parameters()) == count


@pytest.mark.parametrize("solver", SOLVERS)
def test_pictures(solver, tmp_path):
    made = diffusers.T2IAdapter(channels=[32, 64], num_res_blocks=1, downscale_factor=2)
    theirs = tiny_folders.sd(
        "StableDiffusionAdapterPipeline", adapter=scrambled(made, 3), requires_safety_checker=False
    )
    theirs.adapter.save_pretrained(tmp_path / "adapter")
    tiny_folders.sd().save_pretrained(tmp_path / "model")
    pipe = sf.load(tmp_path / "model")
    cls, changes = SOLVERS[solver]
    theirs.scheduler = cls.from_config(theirs.scheduler.config, **changes)
    x, hint = tiny_folders.start((1, 4, 8, 8)), _picture()
    expected = theirs(
        "a red cat", image=hint, negative_prompt="ugly", **TOLD, latents=x.clone(), adapter_conditioning_scale=0.6
    ).images  # always an array of rows and columns here
    expected = torch.from_numpy(expected).permute(0, 3, 1, 2)
    control = [ByAdapter(net=read_network(tmp_path / "adapter"), hint=hint, scale=0.6)]
    out = _ours(pipe, theirs, x, solver=solver, control=control)
    assert _distance(out, expected) < 0.5
    assert _distance(_ours(pipe, theirs, x, solver=solver), expected) > 4
    assert pipe.again(out.settings(), control=control, start=x).request["control"] == out.request["control"]


def test_what_does_not_fit_is_refused():
    _, adapter = _pair("full")
    with pytest.raises(InputError, match="H, W multiples of 8"):
        adapter(torch.zeros(1, 3, 20, 16))
    with pytest.raises(InputError, match=r"must name levels 1\.\.3"):
        T2IAdapterConfig(halved=(0,))
    with pytest.raises(InputError, match="adapter_type='other'"):
        LAYOUT.config({"adapter_type": "other"})
