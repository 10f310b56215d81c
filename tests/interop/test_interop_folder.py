"""Whole pipelines against diffusers': the same folder, noise and times give the same pictures."""

import diffusers
import pytest
import tiny_folders

import sfumato as sf

SOLVERS = {
    "ddim": (diffusers.DDIMScheduler, {"set_alpha_to_one": True}),
    "dpm++2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
}


def saved(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "model")
    return sf.load(tmp_path / "model")


def levels(out):
    """Return pictures as numbers in 0..255."""
    return (out.pixels + 1).clamp(0, 2) * 127.5


def distance(ours, theirs):
    assert theirs.std() > 0.05  # a picture, not a plane
    return float((levels(ours) - theirs * 255).abs().max())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_stable_diffusion(solver, kind, tmp_path):
    scheduler = diffusers.DDIMScheduler(**tiny_folders.BETAS, clip_sample=False, steps_offset=1, prediction_type=kind)
    theirs = tiny_folders.sd(scheduler=scheduler)
    pipe = saved(theirs, tmp_path)
    assert isinstance(pipe.denoiser.prediction, sf.Eps if kind == "epsilon" else sf.V)
    cls, changes = SOLVERS[solver]
    theirs.scheduler = cls.from_config(theirs.scheduler.config, **changes)
    x = tiny_folders.start((2, 4, 8, 8))
    told = {"num_inference_steps": 6, "guidance_scale": 5.0, "output_type": "pt", "latents": x.clone()}
    expected = theirs(["a red cat", "the dog"], negative_prompt=["ugly", "blurry"], **told).images
    grid = tiny_folders.times(theirs.scheduler, 6)
    out = pipe(
        ["a red cat", "the dog"], n=1, negative=["ugly", "blurry"], guidance=5.0, grid=grid, solver=solver, start=x
    )
    assert distance(out, expected) < 0.1
