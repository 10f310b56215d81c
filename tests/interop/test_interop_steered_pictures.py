"""Steered pipelines of SDXL and Stable Diffusion 3 against diffusers': whole pictures from the same files and noise."""

import math

import diffusers
import pytest
import tiny_folders
import tiny_text
from interop_parity import scrambled
from safetensors.torch import save_file
from test_interop_control_pictures import TOLD, _distance, _picture
from test_interop_folder import FLOWS, unrounded
from test_interop_ip_adapter import EMBEDDING, _draw, _encoder, _extractor

import sfumato as sf
from sfumato.conditioning.vision import read_image_tower
from sfumato.interop.diffusers.folder import read_network
from sfumato.interop.ip_adapter import read_ip_adapter
from sfumato.pipeline.steering import ByAdapter, ByControlNet, ByImage

SOLVERS = {
    "ddim": (diffusers.DDIMScheduler, {"set_alpha_to_one": True, "clip_sample": False}),
    "dpm++2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
}
ALL = ["ddim", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dpm++2m", "unipc"))]
SIZE = {"height": 16, "width": 16}
SAID = {"prompt": "a red cat", "negative_prompt": "ugly", **TOLD}
XL = {k: v for k, v in tiny_folders.UNET.items() if k not in ("sample_size", "up_block_types")}
XL |= {k: v for k, v in tiny_folders.XL_UNET.items() if k != "up_block_types"}
XL |= {"cross_attention_dim": 2 * tiny_text.WIDTH, "projection_class_embeddings_input_dim": 24 + 256 * 6}
CONTROLS = {
    "full": {},
    "small": {"down_block_types": ("DownBlock2D",) * 2, "mid_block_type": "UNetMidBlock2D"},
}


def ask(pipe, scheduler, x, solver, **more):
    grid = tiny_folders.times(scheduler, 6)
    return pipe("a red cat", n=1, negative="ugly", guidance=5.0, grid=grid, start=x, solver=solver, **more)


def xl_pipe(tmp_path, **changes):
    tiny_folders.xl(unet_changes=changes).save_pretrained(tmp_path / "model")
    return sf.load(tmp_path / "model")


def xl_controlnet(path, kind, seed=1):
    made = diffusers.ControlNetModel(**(XL | CONTROLS[kind]), conditioning_embedding_out_channels=(8, 16))
    theirs = scrambled(made, seed, scale=0.05)
    theirs.save_pretrained(path)
    return theirs, read_network(path)


def with_solver(pipe, solver):
    cls, changes = SOLVERS[solver]
    pipe.scheduler = cls.from_config(pipe.scheduler.config, **changes)


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("kind", ["full", "small"])
def test_sdxl_with_a_controlnet(kind, solver, tmp_path):
    theirs, ours = xl_controlnet(tmp_path / "control", kind)
    peer, pipe = tiny_folders.xl("StableDiffusionXLControlNetPipeline", controlnet=theirs), xl_pipe(tmp_path)
    with_solver(peer, solver)
    x, hint = tiny_folders.start((1, 4, 8, 8)), _picture()
    window = {"controlnet_conditioning_scale": 0.8, "control_guidance_end": 0.7}
    expected = peer(**SAID, **SIZE, image=hint, latents=x.clone(), **window).images
    control = [ByControlNet(net=ours, hint=hint, scale=0.8, end=0.7)]
    assert _distance(ask(pipe, peer.scheduler, x, solver, control=control), expected) < 0.5
    assert _distance(ask(pipe, peer.scheduler, x, solver), expected) > 2


@pytest.mark.parametrize("solver", ALL)
def test_sdxl_with_an_adapter(solver, tmp_path):
    made = diffusers.T2IAdapter(
        channels=[32, 64, 64], num_res_blocks=1, downscale_factor=4, adapter_type="full_adapter_xl"
    )
    adapter = scrambled(made, 3)
    three = {"block_out_channels": (32, 64, 64), "attention_head_dim": (2, 4, 4)}
    three |= {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")}
    three |= {"up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")}
    three |= {"transformer_layers_per_block": (1, 1, 2)}
    adapter.save_pretrained(tmp_path / "adapter")
    peer = tiny_folders.xl("StableDiffusionXLAdapterPipeline", adapter=adapter, unet_changes=three)
    pipe = xl_pipe(tmp_path, **three)
    with_solver(peer, solver)
    x, hint = tiny_folders.start((1, 4, 8, 8)), _picture()
    window = {"adapter_conditioning_scale": 0.6, "adapter_conditioning_factor": 0.7}
    expected = peer(**SAID, **SIZE, image=hint, latents=x.clone(), **window).images
    control = [ByAdapter(net=read_network(tmp_path / "adapter"), hint=hint, scale=0.6, end=0.7)]
    assert _distance(ask(pipe, peer.scheduler, x, solver, control=control), expected) < 0.5
    assert _distance(ask(pipe, peer.scheduler, x, solver), expected) > 2


def ip_file(path, unet, width):
    """Write an adapter of the base kind for a U-Net of theirs that reads tokens of `width`."""
    tensors = {"proj.weight": _draw(4 * width, EMBEDDING, seed=1), "proj.bias": _draw(4 * width, seed=2)}
    tensors |= {"norm.weight": 1 + _draw(width, seed=3), "norm.bias": _draw(width, seed=4)}
    tensors = {"image_proj." + name: t for name, t in tensors.items()}
    names = [n.removesuffix(".processor") for n in unet.attn_processors]
    stages = [[n for n in names if n.startswith(stage)] for stage in ("down", "up", "mid")]
    for number, name in enumerate(n for stage in stages for n in stage):
        if name.endswith("attn2"):
            rows = unet.get_submodule(name).to_k.out_features
            for which in "kv":
                tensors[f"ip_adapter.{number}.to_{which}_ip.weight"] = _draw(rows, width, seed=number + ord(which))
    save_file(tensors, path)


@pytest.mark.parametrize("solver", ALL)
def test_sdxl_with_a_picture_for_a_prompt_and_a_controlnet(solver, tmp_path):
    encoder = _encoder()
    encoder.save_pretrained(tmp_path / "image_encoder")
    net, ours = xl_controlnet(tmp_path / "control", "full")
    parts = {"image_encoder": encoder, "feature_extractor": _extractor(), "controlnet": net}
    peer, pipe = tiny_folders.xl("StableDiffusionXLControlNetPipeline", **parts), xl_pipe(tmp_path)
    ip_file(tmp_path / "ip.safetensors", peer.unet, 2 * tiny_text.WIDTH)
    peer.load_ip_adapter(str(tmp_path), subfolder="", weight_name="ip.safetensors", image_encoder_folder=None)
    peer.set_ip_adapter_scale(0.7)
    with_solver(peer, solver)
    x, hint, shown = tiny_folders.start((1, 4, 8, 8)), _picture(), _picture(5)
    expected = peer(**SAID, **SIZE, image=hint, ip_adapter_image=shown, latents=x.clone()).images
    adapter = read_ip_adapter(tmp_path / "ip.safetensors", pipe.denoiser.net).adapter
    like = ByImage(adapter=adapter, image=shown, tower=read_image_tower(tmp_path / "image_encoder"), scale=0.7)
    both = [like, ByControlNet(net=ours, hint=hint)]
    assert _distance(ask(pipe, peer.scheduler, x, solver, control=both), expected) < 0.5
    for one in both:
        assert _distance(ask(pipe, peer.scheduler, x, solver, control=[one]), expected) > 2


@pytest.mark.parametrize("solver", FLOWS)
def test_sd3_with_a_controlnet(solver, tmp_path, monkeypatch):
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    base = tiny_folders.sd3()
    base.save_pretrained(tmp_path / "model")
    pipe = sf.load(tmp_path / "model")
    shape = {k: v for k, v in base.transformer.config.items() if not k.startswith("_") and k != "out_channels"}
    net = scrambled(diffusers.SD3ControlNetModel(**(shape | {"num_layers": 1})), 1, scale=0.05)
    net.save_pretrained(tmp_path / "control")
    # one of theirs that was read from a file knows whether it is told zeros instead of the pooled text
    net = diffusers.SD3ControlNetModel.from_pretrained(tmp_path / "control").eval()
    peer = tiny_folders.quiet(diffusers.StableDiffusion3ControlNetPipeline(**base.components, controlnet=net))
    x, hint = tiny_folders.start((1, *pipe.shape)), _picture()
    asked = {"n": 1, "negative": "ugly", "guidance": 5.0, "start": x, "solver": solver}
    if FLOWS[solver] is None:
        asked["steps"] = 6
    else:
        peer.scheduler = unrounded(FLOWS[solver])(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        )
        peer.scheduler.set_timesteps(6)
        levels = [float(s) for s in peer.scheduler.sigmas]
        inverse = pipe.denoiser.schedule.inverse
        asked["grid"] = [inverse(math.log((1 - s) / s)) if s > 0 else 0.0 for s in levels]
    window = {"controlnet_conditioning_scale": 0.8, "control_guidance_end": 0.7}
    expected = peer(**SAID, **SIZE, control_image=hint, latents=x.clone(), **window).images
    control = [ByControlNet(net=read_network(tmp_path / "control"), hint=hint, scale=0.8, end=0.7)]
    out = pipe("a red cat", control=control, **asked)
    assert _distance(out, expected) < 0.5
    assert _distance(pipe("a red cat", **asked), expected) > 1
