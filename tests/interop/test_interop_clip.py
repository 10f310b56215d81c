"""x0_hat clipped in each step, and the variance of a step: what a scheduler of theirs says of it is kept."""

import json
import math

import diffusers
import pytest
import tiny_folders
import torch
from interop_parity import scrambled

import sfumato as sf
from sfumato.core import Step
from sfumato.interop.diffusers.sampler import sampler
from sfumato.interop.diffusers.scheduler import contract
from sfumato.interop.diffusers.writing import write_pipeline
from sfumato.solvers import DDPM, DDPMLearned

SIDE = 8


def pixels(scheduler, folder, channels=3):
    """Write a U-Net on pixels whose x0_hat leaves [-1, 1], and return (their pipeline, ours)."""
    net = diffusers.UNet2DModel(
        sample_size=SIDE,
        out_channels=channels,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=8,
        attention_head_dim=8,
    )
    theirs = tiny_folders.quiet(diffusers.DDIMPipeline(unet=scrambled(net, 3, scale=0.1), scheduler=scheduler))
    theirs.save_pretrained(folder)
    return theirs, sf.load(folder)


@torch.no_grad()
def stepped(theirs, x, steps):
    """Return the end of their DDIM from `x`, each step from the clipped x0_hat, as ours and as OpenAI's code is."""
    theirs.scheduler.set_timesteps(steps)
    for t in theirs.scheduler.timesteps:
        x = theirs.scheduler.step(theirs.unet(x, t).sample, t, x, use_clipped_model_output=True).prev_sample
    return x


SAID = {
    "the default": {},
    "another range": {"clip_sample_range": 0.5},
    "a threshold of 1": {"clip_sample": False, "thresholding": True},
    "none": {"clip_sample": False},
}
BOUND = {"the default": 1.0, "another range": 0.5, "a threshold of 1": 1.0, "none": None}


@pytest.mark.parametrize("kind", SAID)
def test_a_model_of_pixels_is_clipped_step_by_step_as_its_scheduler_says(kind, tmp_path):
    theirs, pipe = pixels(diffusers.DDIMScheduler(**SAID[kind]), tmp_path / "m")
    assert pipe.defaults.clip == BOUND[kind]
    x = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    expected = stepped(theirs, x, 5)
    scale = float(expected.abs().max())
    assert (scale <= BOUND[kind] + 1e-6) if BOUND[kind] else scale > 2  # otherwise nothing was clipped
    made = pipe(n=2, steps=5, start=x).tensor
    torch.testing.assert_close(made, expected, atol=2e-4 * max(1.0, scale), rtol=0)
    if BOUND[kind]:
        free = pipe.with_defaults(clip=None)(n=2, steps=5, start=x).tensor
        assert float((free - made).abs().max()) > 0.5


def test_the_clip_goes_around_guidance():
    config = sf.nets.DiTConfig(size=4, channels=3, patch=2, layers=1, width=16, heads=2, num_classes=3)
    net = scrambled(config.build(), 1, scale=0.3)
    denoiser = sf.Preconditioned(net, sf.VPLinear(), sf.Eps(), sf.Plain(scale=1000.0, shift=-1.0))
    pipe = sf.Pipeline(denoiser=denoiser, shape=(3, 4, 4), defaults=sf.pipeline.Defaults(clip=0.25))
    for guidance in (1.0, 6.0):
        made = pipe(1, n=2, steps=3, guidance=guidance).tensor
        free = pipe.with_defaults(clip=None)(1, n=2, steps=3, guidance=guidance).tensor
        assert float(made.abs().max()) <= 0.25 + 1e-6 < float(free.abs().max())


@pytest.mark.parametrize("kind", ["DDPMScheduler", "DDIMScheduler"])
def test_what_a_folder_says_of_clipping_and_variances_goes_round(kind, tmp_path):
    more = {"variance_type": "fixed_large"} if kind == "DDPMScheduler" else {}
    scheduler = getattr(diffusers, kind)(clip_sample_range=2.0, **more)
    pipe = pixels(scheduler, tmp_path / "theirs")[1] if kind == "DDIMScheduler" else None
    if pipe is None:
        theirs = pixels(diffusers.DDIMScheduler(), tmp_path / "ddim")[0]
        tiny_folders.quiet(diffusers.DDPMPipeline(unet=theirs.unet, scheduler=scheduler)).save_pretrained(
            tmp_path / "theirs"
        )
        pipe = sf.load(tmp_path / "theirs")
    write_pipeline(pipe, tmp_path / "ours")
    said = json.loads((tmp_path / "ours" / "scheduler" / "scheduler_config.json").read_text())
    back = getattr(diffusers, kind).from_config(said)
    assert said["_class_name"] == kind
    for key in ("clip_sample", "clip_sample_range", "variance_type", "thresholding", "beta_start", "timestep_spacing"):
        assert back.config.get(key) == scheduler.config.get(key), key
    assert sf.load(tmp_path / "ours").defaults == pipe.defaults
    pipe.save(tmp_path / "own")
    assert sf.load(tmp_path / "own").defaults == pipe.defaults


class Ones:
    """Noise that is one everywhere: what a step adds to its mean is then its standard deviation."""

    def increment(self, x, t, s):
        return torch.ones_like(x)


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_small_log", "fixed_large"])
def test_the_variance_of_a_step_is_the_one_that_the_scheduler_names(kind):
    theirs = diffusers.DDPMScheduler(variance_type=kind)
    theirs.set_timesteps(10)
    said = contract(theirs.config | {"_class_name": "DDPMScheduler"})
    x = torch.zeros(1, 2, dtype=torch.float64)
    for t in theirs.timesteps[:-1].tolist():
        ends = (t + 1) / 1000, (t - 100 + 1) / 1000
        told = [v for end in ends for v in map(float, said.schedule(end))]
        std = said.solver.step(lambda x, t: torch.zeros_like(x), x, Step(0, 1, *ends, *told), None, Ones(), {})[0]
        variance = float(theirs._get_variance(t))
        expected = variance if kind.endswith("log") else math.sqrt(variance)
        assert float(std[0, 0]) == pytest.approx(expected, rel=1e-4)


def test_a_learned_variance_is_sampled_with(tmp_path):
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range")
    theirs = pixels(diffusers.DDIMScheduler(), tmp_path / "six", channels=6)[0]
    diffusers.DDPMPipeline(unet=theirs.unet, scheduler=scheduler).save_pretrained(tmp_path / "m")
    pipe = sf.load(tmp_path / "m")
    assert pipe.defaults.solver == DDPMLearned()
    assert pipe(n=1, steps=3).tensor.abs().max() <= 1
    write_pipeline(pipe, tmp_path / "ours")
    said = json.loads((tmp_path / "ours" / "scheduler" / "scheduler_config.json").read_text())
    assert (said["variance_type"], said["clip_sample"]) == ("learned_range", True)


def test_a_pipeline_class_that_never_clips_does_not_start_to(tmp_path):
    """Theirs turns the clip off and an offset of 0 into 1 in the pipelines of Stable Diffusion 1, whatever is said."""
    scheduler = diffusers.DDIMScheduler(**tiny_folders.BETAS, clip_sample=False, steps_offset=1)
    theirs = tiny_folders.sd(scheduler=scheduler)
    theirs.save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"clip_sample": True, "steps_offset": 0}))
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "m", safety_checker=None)
    assert (loaded.scheduler.config.clip_sample, loaded.scheduler.config.steps_offset) == (False, 1)
    pipe = sf.load(tmp_path / "m")
    assert (pipe.defaults.clip, pipe.defaults.grid) == (None, "leading")
    with pytest.raises(sf.InputError, match=r"StableDiffusionPipeline never clips, and clip=1\.0 would be lost"):
        write_pipeline(pipe.with_defaults(clip=1.0), tmp_path / "ours")


def test_what_cannot_be_clipped_as_it_says_is_refused():
    with pytest.raises(sf.InputError, match=r"sample_max_value=1\.5 is not read"):
        contract({"_class_name": "DDPMScheduler", "thresholding": True, "sample_max_value": 1.5})
    with pytest.raises(sf.InputError, match="a flow's configuration cannot say clip=1"):
        sampler(sf.Rectified(), sf.Flow(), sf.solvers.Euler(), "flow", 1.0)
    with pytest.raises(sf.InputError, match=r"Defaults\.clip=0 must be positive"):
        sf.pipeline.Defaults(clip=0)
    assert contract({"_class_name": "DPMSolverMultistepScheduler", "clip_sample": True}).clip is None  # it has none
    assert DDPM().variance == 0


def test_a_clip_is_a_part_of_the_models_hash(tmp_path):
    pipe = pixels(diffusers.DDIMScheduler(), tmp_path)[1]
    assert pipe.defaults.clip == 1.0
    hashes = {pipe.with_defaults(clip=clip).sha256() for clip in (None, 1.0, 2.0)}
    assert len(hashes) == 3
    assert pipe.sha256() in hashes
