"""Steered pipelines against diffusers': the same files, pictures, noise and times give the same pictures."""

import diffusers
import pytest
import tiny_folders
import torch
from interop_parity import scrambled
from PIL import Image

import sfumato as sf
from sfumato import InputError
from sfumato.interop.diffusers.folder import read_network
from sfumato.pipeline.steering import ByControlNet

SOLVERS = {
    "ddim": (diffusers.DDIMScheduler, {"set_alpha_to_one": True}),
    "dpm++2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
}
TOLD = {"num_inference_steps": 6, "guidance_scale": 5.0, "output_type": "pt"}


def _picture(seed=0):
    g = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (16, 16, 3), generator=g, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def _controlnet(path, seed, **changes):
    unet = {k: v for k, v in tiny_folders.UNET.items() if k not in ("sample_size", "up_block_types")}
    # one halving, as the tiny autoencoder
    made = diffusers.ControlNetModel(**unet, conditioning_embedding_out_channels=(8, 16), **changes)
    theirs = scrambled(made, seed, scale=0.05)
    theirs.save_pretrained(path)
    return theirs, read_network(path)


def _ours(pipe, theirs, x, **more):
    grid = tiny_folders.times(theirs.scheduler, 6)
    return pipe("a red cat", n=1, negative="ugly", guidance=5.0, grid=grid, start=x, **more)


def _distance(out, expected):
    assert expected.std() > 0.05
    return float(((out.pixels + 1).clamp(0, 2) * 127.5 - expected * 255).abs().max())


@pytest.mark.parametrize("solver", SOLVERS)
def test_controlnets_one_and_two(solver, tmp_path):
    one, ours = _controlnet(tmp_path / "one", 1)
    two, other = _controlnet(tmp_path / "two", 2)
    theirs = tiny_folders.sd("StableDiffusionControlNetPipeline", controlnet=one, requires_safety_checker=False)
    tiny_folders.sd().save_pretrained(tmp_path / "model")
    pipe = sf.load(tmp_path / "model")
    cls, changes = SOLVERS[solver]
    theirs.scheduler = cls.from_config(theirs.scheduler.config, **changes)
    x, first, second = tiny_folders.start((1, 4, 8, 8)), _picture(0), _picture(1)
    plain = _ours(pipe, theirs, x, solver=solver)
    told = {"prompt": "a red cat", "negative_prompt": "ugly", **TOLD}
    expected = theirs(
        **told, image=first, latents=x.clone(), controlnet_conditioning_scale=0.8, control_guidance_end=0.7
    ).images
    control = [ByControlNet(net=ours, hint=first, scale=0.8, end=0.7)]
    out = _ours(pipe, theirs, x, solver=solver, control=control)
    assert _distance(out, expected) < 0.5
    assert _distance(plain, expected) > 4
    again = pipe.again(out.settings(), control=control, start=x)
    assert again.request["control"] == out.request["control"]
    assert torch.equal(again.pixels, out.pixels)
    with pytest.raises(InputError, match="control: the picture to make again was made from one"):
        pipe.again(out.settings(), start=x)
    with pytest.raises(InputError, match="control is not the one"):
        pipe.again(out.settings(), start=x, control=[ByControlNet(net=ours, hint=second, scale=0.8, end=0.7)])

    guess = theirs(**told, image=first, latents=x.clone(), guess_mode=True).images
    out = _ours(pipe, theirs, x, solver=solver, control=[ByControlNet(net=ours, hint=first, guess=True)])
    assert _distance(out, guess) < 0.5

    both = diffusers.StableDiffusionControlNetPipeline(**(theirs.components | {"controlnet": [one, two]}))
    both.set_progress_bar_config(disable=True)
    expected = both(
        **told,
        image=[first, second],
        latents=x.clone(),
        controlnet_conditioning_scale=[0.8, 0.5],
        control_guidance_start=[0.0, 0.3],
        control_guidance_end=[1.0, 1.0],
    ).images
    control = [
        ByControlNet(net=ours, hint=first, scale=0.8),
        ByControlNet(net=other, hint=second, scale=0.5, start=0.3),
    ]
    assert _distance(_ours(pipe, theirs, x, solver=solver, control=control), expected) < 0.5


def test_what_cannot_be_is_refused(tmp_path):
    _, ours = _controlnet(tmp_path / "one", 1)
    theirs = tiny_folders.sd()
    theirs.save_pretrained(tmp_path / "model")
    pipe = sf.load(tmp_path / "model")
    with pytest.raises(InputError, match=r"a hint must be \[B, 3, 16, 16\]"):
        pipe("cat", steps=2, control=[ByControlNet(net=ours, hint=torch.zeros(1, 3, 8, 8))])
    pipe.memory = ("slices",)
    with pytest.raises(InputError, match="neither of the memory savers"):
        pipe("cat", steps=2, control=[ByControlNet(net=ours, hint=_picture())])
